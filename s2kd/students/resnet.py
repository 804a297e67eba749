"""Residual network at full resolution with time in channels, the ResNet student of SDKD (arXiv 2507.02939)."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from s2kd.layers import forecast_head, group_norm
from s2kd.students.blocks import DropPath, rising


class ResidualBlock(nn.Module):
    """Pre-activation residual block (arXiv 1603.05027): (normalisation, GELU, 3 × 3 convolution) twice."""

    def __init__(self, width: int, drop_path: float) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            group_norm(width),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),  # the next norm has a bias
            group_norm(width),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
        )
        self.drop_path = DropPath(drop_path)

    def forward(self, latent: Float[Tensor, "batch width y x"]) -> Float[Tensor, "batch width y x"]:
        return latent + self.drop_path(self.branch(latent))


class ResNet(nn.Module):
    """``depth`` residual blocks of one width between two convolutions, none of which changes the grid.

    A forecast at a cell sees 2 · depth + 1 cells to every side. Code of SDKD's group widens in four stages, 64 to 512
    channels in 14 blocks (https://github.com/easylearningscores/BeamVQ); one width is the same at fewer parameters.
    """

    multiple = 1

    def __init__(
        self,
        n_steps_input: int,
        n_steps_output: int,
        n_channels: int,
        grid: tuple[int, int],
        width: int,
        depth: int,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.shape, self.feature_width = (n_steps_output, n_channels), width
        self.stem = nn.Conv2d(n_steps_input * n_channels, width, 3, padding=1)
        self.blocks = nn.Sequential(*[ResidualBlock(width, p) for p in rising(drop_path, depth)])
        self.norm = group_norm(width)
        self.head = forecast_head(width, n_steps_output * n_channels)

    def forward(
        self, scores: Float[Tensor, "batch time_in channel y x"]
    ) -> tuple[Float[Tensor, "batch time_out channel y x"], Float[Tensor, "batch width y x"]]:
        """Forecast, and the output of the last block."""
        features = self.blocks(self.stem(scores.flatten(1, 2)))
        return self.head(F.gelu(self.norm(features))).unflatten(1, self.shape), features
