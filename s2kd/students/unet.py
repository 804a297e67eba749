"""U-Net (arXiv 1505.04597) with time in channels."""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from s2kd.layers import forecast_head, group_norm


class UNet(nn.Module):
    """Two 3 × 3 convolutions a scale, width doubling with each halving of the grid, skips by concatenation.

    Three scales from width 16 have the 0.119 M and four from width 64 the 7.7 M parameters (12 → 12 steps, one channel)
    of the tiny and base student of TAM, the U-Net with published distillation gains of honest size. Group, not batch
    normalisation: what is learned depends neither on the make-up of a batch nor on the number of processes.
    """

    def __init__(
        self,
        n_steps_input: int,
        n_steps_output: int,
        n_channels: int,
        grid: tuple[int, int],
        width: int,
        n_scales: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.shape = (n_steps_output, n_channels)
        widths = [width * 2**scale for scale in range(n_scales)]
        self.multiple, self.feature_width = 2 ** (n_scales - 1), widths[-1]
        self.down = nn.ModuleList(
            convolutions(n_in, n_out, dropout) for n_in, n_out in pairwise([n_steps_input * n_channels, *widths])
        )
        self.pool = nn.MaxPool2d(2)
        self.grow = nn.ModuleList(nn.ConvTranspose2d(2 * n_out, n_out, 2, stride=2) for n_out in widths[-2::-1])
        self.up = nn.ModuleList(convolutions(2 * n_out, n_out, dropout) for n_out in widths[-2::-1])
        self.head = forecast_head(width, n_steps_output * n_channels)

    def forward(
        self, scores: Float[Tensor, "batch time_in channel y x"]
    ) -> tuple[Float[Tensor, "batch time_out channel y x"], Float[Tensor, "batch width yl xl"]]:
        """Forecast, and the bottleneck: the output of the coarsest scale."""
        latent, skips = self.down[0](scores.flatten(1, 2)), []
        for down in self.down[1:]:
            skips.append(latent)
            latent = down(self.pool(latent))
        features = latent
        for grow, up in zip(self.grow, self.up, strict=True):
            latent = up(torch.cat([skips.pop(), grow(latent)], dim=1))
        return self.head(latent).unflatten(1, self.shape), features


def convolutions(n_in: int, n_out: int, dropout: float) -> nn.Sequential:
    """Convolution, normalisation, GELU, twice; ``dropout`` drops whole channels in between."""
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, 3, padding=1, bias=False),  # the norm has a bias
        group_norm(n_out),
        nn.GELU(),
        nn.Dropout2d(dropout),
        nn.Conv2d(n_out, n_out, 3, padding=1, bias=False),
        group_norm(n_out),
        nn.GELU(),
    )
