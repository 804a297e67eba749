"""MLP-Mixer (arXiv 2105.01601) with time in channels, the MLP-Mixer student of SDKD (arXiv 2507.02939)."""

from jaxtyping import Float
from torch import Tensor, nn

from s2kd.layers import forecast_head
from s2kd.students.blocks import DropPath, rising


class MixerBlock(nn.Module):
    """A perceptron over the cells, the same for every channel, then one over the channels, the same for every cell.

    Hidden widths ``width`` / 2 and 4 · ``width``, as in the paper's models.
    """

    def __init__(self, n_cells: int, width: int, drop_path: float) -> None:
        super().__init__()
        self.cell_norm = nn.LayerNorm(width)
        self.cells = perceptron(n_cells, max(1, width // 2))
        self.channel_norm = nn.LayerNorm(width)
        self.channels = perceptron(width, 4 * width)
        self.drop_path = DropPath(drop_path)

    def forward(self, latent: Float[Tensor, "batch cell width"]) -> Float[Tensor, "batch cell width"]:
        latent = latent + self.drop_path(self.cells(self.cell_norm(latent).mT).mT)
        return latent + self.drop_path(self.channels(self.channel_norm(latent)))


class MLPMixer(nn.Module):
    """Embed patches of ``stride`` × ``stride`` cells, ``depth`` mixer blocks, back to cells by pixel shuffle.

    The perceptrons over cells bind the weights to one grid, whose size also sets their number.
    """

    def __init__(
        self,
        n_steps_input: int,
        n_steps_output: int,
        n_channels: int,
        grid: tuple[int, int],
        width: int,
        stride: int,
        depth: int,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.shape = (n_steps_output, n_channels)
        self.multiple, self.feature_width = stride, width
        n_cells = -(-grid[0] // stride) * -(-grid[1] // stride)
        self.embed = nn.Conv2d(n_steps_input * n_channels, width, stride, stride=stride)
        self.blocks = nn.Sequential(*[MixerBlock(n_cells, width, p) for p in rising(drop_path, depth)])
        self.norm = nn.LayerNorm(width)
        self.head = forecast_head(width, n_steps_output * n_channels * stride**2)
        self.shuffle = nn.PixelShuffle(stride)

    def forward(
        self, scores: Float[Tensor, "batch time_in channel y x"]
    ) -> tuple[Float[Tensor, "batch time_out channel y x"], Float[Tensor, "batch width yl xl"]]:
        """Forecast, and the output of the last block on the latent grid."""
        embedded = self.embed(scores.flatten(1, 2))
        features = self.blocks(embedded.flatten(2).mT).mT.unflatten(2, embedded.shape[2:])
        normed = self.norm(features.flatten(2).mT).mT.unflatten(2, embedded.shape[2:])
        return self.shuffle(self.head(normed)).unflatten(1, self.shape), features


def perceptron(width: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
