"""The vision-only student: frames in, forecast out. Nothing here knows of text or of a teacher."""

from jaxtyping import Float
from torch import Tensor, nn

from s2kd.layers import ConvMixerBlock, Decoder, Encoder, Standardise


class Student(nn.Module):
    """Visual encoder → translator of ConvMixer blocks → decoder (after SimVP, arXiv 2206.05099, with time in channels).

    Args:
        mean, std: (channel, y, x), see ``Standardise``.
        width, stride, encoder_depth, translator_depth, kernel_size: see ``student.model`` in ``params.yaml``.
    """

    def __init__(
        self,
        mean: Float[Tensor, "channel y x"],
        std: Float[Tensor, "channel y x"],
        n_steps_input: int,
        n_steps_output: int,
        width: int,
        stride: int,
        encoder_depth: int,
        translator_depth: int,
        kernel_size: int,
    ) -> None:
        super().__init__()
        n_channels, *grid = mean.shape
        self.standardise = Standardise(mean, std)
        self.encoder = Encoder(n_steps_input, n_channels, tuple(grid), width, stride, encoder_depth)
        self.translator = nn.Sequential(*[ConvMixerBlock(width, kernel_size) for _ in range(translator_depth)])
        self.decoder = Decoder(n_steps_output, n_channels, tuple(grid), width, stride)

    def features(self, inputs: Float[Tensor, "batch time_in channel y x"]) -> Float[Tensor, "batch width yl xl"]:
        """Latent that distillation compares with the teacher's: the output of the translator."""
        return self.translator(self.encoder(self.standardise(inputs)))

    def decode(self, features: Float[Tensor, "batch width yl xl"]) -> Float[Tensor, "batch time_out channel y x"]:
        return self.standardise.inverse(self.decoder(features))

    def forward(
        self, inputs: Float[Tensor, "batch time_in channel y x"]
    ) -> Float[Tensor, "batch time_out channel y x"]:
        """Forecast in physical units from frames in physical units."""
        return self.decode(self.features(inputs))
