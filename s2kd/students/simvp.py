"""SimVP (arXiv 2206.05099, 2211.12509), written after OpenSTL's, whose parameter counts it has.

https://github.com/chengtan9907/OpenSTL, ``openstl/models/simvp_model.py`` and ``openstl/modules/simvp_modules.py``
(Apache 2.0). Where OpenSTL's name differs from ours, it stands in brackets below.
"""

import math
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from s2kd.layers import forecast_head
from s2kd.students.blocks import DropPath, rising

MLP_RATIO = 8


class SimVP(nn.Module):
    """Encoder of single frames → translator of all frames together → decoder of single frames, with a skip.

    The translator's last layer turns the latents of the input frames into those of the output frames. With as many
    outputs as inputs the model is OpenSTL's, and output frame i gets the skip of input frame i. Otherwise OpenSTL cuts
    or rolls out; here the skips are mixed linearly over time, at first the last input frame's for every output.

    Batch normalisation in the translator, as in OpenSTL: in training a window depends on the others of its batch, and
    over several processes statistics are each process's own.

    Args:
        translator: ``convmixer`` or ``gsta`` (``model_type``).
        encoder_width, encoder_depth: (``hid_S``, ``N_S``); every second layer of the encoder halves the grid.
        width, depth: of the translator (``hid_T``, ``N_T``).
    """

    def __init__(
        self,
        n_steps_input: int,
        n_steps_output: int,
        n_channels: int,
        grid: tuple[int, int],
        translator: str,
        encoder_width: int,
        encoder_depth: int,
        width: int,
        depth: int,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.encoder_width = encoder_width
        self.multiple, self.feature_width = 2 ** (encoder_depth // 2), n_steps_output * encoder_width
        halves = [layer % 2 == 1 for layer in range(encoder_depth)]
        widths = [n_channels] + [encoder_width] * encoder_depth
        self.encoder = nn.ModuleList(
            FrameConv(n_in, n_out, down=half) for (n_in, n_out), half in zip(pairwise(widths), halves, strict=True)
        )
        block = {"convmixer": ConvMixerBlock, "gsta": GatedAttentionBlock}[translator]
        widths = [n_steps_input * encoder_width, *[width] * (depth - 1), self.feature_width]
        layers: list[nn.Module] = []
        # OpenSTL's first block drops 1 % of its branches, its last ``drop_path``.
        for (n_in, n_out), p in zip(pairwise(widths), rising(drop_path, depth, first=0.01), strict=True):
            layers += [block(n_in, p)] + ([nn.Conv2d(n_in, n_out, 1)] if n_in != n_out else [])
        self.translator = nn.Sequential(*layers)
        self.skip = None
        if n_steps_output != n_steps_input:
            self.skip = nn.Parameter(torch.zeros(n_steps_output, n_steps_input))
            nn.init.ones_(self.skip[:, -1])
        self.decoder = nn.ModuleList(FrameConv(encoder_width, encoder_width, up=half) for half in halves[::-1])
        self.head = forecast_head(encoder_width, n_channels)

    def forward(
        self, scores: Float[Tensor, "batch time_in channel y x"]
    ) -> tuple[Float[Tensor, "batch time_out channel y x"], Float[Tensor, "batch width yl xl"]]:
        """Forecast, and the output of the translator: the latents of all output frames."""
        batch, n_steps = scores.shape[:2]
        skip = latent = self.encoder[0](scores.flatten(0, 1))  # (batch · time_in, encoder_width, y, x)
        for layer in self.encoder[1:]:
            latent = layer(latent)
        latent = latent.unflatten(0, (batch, n_steps)).flatten(1, 2)
        # Depth-wise convolutions on a CPU go back twice as fast with channels last in memory; nothing else changes.
        features = self.translator(latent.contiguous(memory_format=torch.channels_last))
        latent = features.unflatten(1, (-1, self.encoder_width)).flatten(
            0, 1
        )  # (batch · time_out, encoder_width, yl, xl)
        for layer in self.decoder[:-1]:
            latent = layer(latent)
        if self.skip is not None:
            skip = torch.einsum("oi,bi...->bo...", self.skip, skip.unflatten(0, (batch, n_steps))).flatten(0, 1)
        return self.head(self.decoder[-1](latent + skip)).unflatten(0, (batch, -1)), features


class FrameConv(nn.Module):
    """3 × 3 convolution, group normalisation, SiLU; halves or doubles the grid if asked (``ConvSC``)."""

    def __init__(self, n_in: int, n_out: int, down: bool = False, up: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_in, 4 * n_out if up else n_out, 3, stride=2 if down else 1, padding=1)
        self.shuffle = nn.PixelShuffle(2) if up else nn.Identity()
        self.norm = nn.GroupNorm(2, n_out)
        self.activation = nn.SiLU()
        nn.init.trunc_normal_(self.conv.weight, std=0.02)
        nn.init.zeros_(self.conv.bias)

    def forward(self, frame: Float[Tensor, "frame n_in y x"]) -> Float[Tensor, "frame n_out yl xl"]:
        return self.activation(self.norm(self.shuffle(self.conv(frame))))


class ConvMixerBlock(nn.Module):
    """ConvMixer (arXiv 2201.09792), kernel 11 (``ConvMixerSubBlock``).

    ``drop_path`` drops the branch over space, the one residual branch. OpenSTL ignores its own ``drop_path`` here.
    """

    def __init__(self, width: int, drop_path: float) -> None:
        super().__init__()
        self.space = nn.Sequential(
            nn.Conv2d(width, width, 11, padding=5, groups=width), nn.GELU(), nn.BatchNorm2d(width)
        )
        self.drop_path = DropPath(drop_path)
        self.channel = nn.Sequential(nn.Conv2d(width, width, 1), nn.GELU(), nn.BatchNorm2d(width))
        self.apply(initialise)

    def forward(self, latent: Float[Tensor, "batch width y x"]) -> Float[Tensor, "batch width y x"]:
        return self.channel(latent + self.drop_path(self.space(latent)))


class GatedAttentionBlock(nn.Module):
    """Gated spatio-temporal attention, gSTA (``GASubBlock``): a large-kernel gate over space, then a perceptron."""

    def __init__(self, width: int, drop_path: float) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.BatchNorm2d(width), LargeKernelGate(width))
        self.mlp = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.Conv2d(width, MLP_RATIO * width, 1),
            nn.Conv2d(MLP_RATIO * width, MLP_RATIO * width, 3, padding=1, groups=MLP_RATIO * width),
            nn.GELU(),
            nn.Conv2d(MLP_RATIO * width, width, 1),
        )
        self.gate_scale = nn.Parameter(torch.full((width, 1, 1), 1e-2))
        self.mlp_scale = nn.Parameter(torch.full((width, 1, 1), 1e-2))
        self.drop_path = DropPath(drop_path)
        self.apply(initialise)

    def forward(self, latent: Float[Tensor, "batch width y x"]) -> Float[Tensor, "batch width y x"]:
        latent = latent + self.drop_path(self.gate_scale * self.gate(latent))
        return latent + self.drop_path(self.mlp_scale * self.mlp(latent))


class LargeKernelGate(nn.Module):
    """A 21 × 21 depth-wise kernel as 5 × 5 and dilated 7 × 7, of which one half of the channels gates the other.

    (``SpatialAttention`` around ``AttentionModule``; with a shortcut of its own.)
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.Conv2d(width, width, 1), nn.GELU())
        self.space = nn.Sequential(
            nn.Conv2d(width, width, 5, padding=2, groups=width),
            nn.Conv2d(width, width, 7, padding=9, groups=width, dilation=3),
            nn.Conv2d(width, 2 * width, 1),
        )
        self.after = nn.Conv2d(width, width, 1)

    def forward(self, latent: Float[Tensor, "batch width y x"]) -> Float[Tensor, "batch width y x"]:
        values, gate = self.space(self.before(latent)).chunk(2, dim=1)
        return latent + self.after(torch.sigmoid(gate) * values)


def initialise(module: nn.Module) -> None:
    """Normal weights of variance 2 / fan-out, no bias."""
    if isinstance(module, nn.Conv2d):
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, 0.0, math.sqrt(2 / fan_out))
        nn.init.zeros_(module.bias)
