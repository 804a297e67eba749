"""Building blocks that teacher and students share. All of them keep the grid of a latent (batch, channel, y, x)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


def group_norm(width: int) -> nn.GroupNorm:
    """Normalise in 8 groups (fewer if 8 does not divide ``width``); independent of the batch, unlike BatchNorm."""
    return nn.GroupNorm(next(groups for groups in (8, 4, 2, 1) if width % groups == 0), width)


class Standardise(nn.Module):
    """Physical units to standard scores and back, by fixed statistics of the training frames.

    Args:
        mean: (phase, channel, y, x), physical units: what is usual at each time of the period, such as each hour of the
            week; one phase where no time differs.
        std: (channel, y, x), physical units: the deviation from it.
    """

    def __init__(self, mean: Float[Tensor, "phase channel y x"], std: Float[Tensor, "channel y x"]) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(
        self, frames: Float[Tensor, "batch time channel y x"], phase: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch time channel y x"]:
        """Standard scores of consecutive frames, of which the first has the phase ``phase`` (any integer).

        A missing value (NaN) takes the score of the usual, 0.
        """
        scores = (frames - self._usual(phase, frames.shape[1])) / self.std
        return scores.masked_fill(scores.isnan(), 0)

    def inverse(
        self, scores: Float[Tensor, "batch time channel y x"], phase: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch time channel y x"]:
        return scores.float() * self.std + self._usual(phase, scores.shape[1])

    def _usual(self, phase: Int[Tensor, " batch"], n_steps: int) -> Float[Tensor, "#batch #time channel y x"]:
        if len(self.mean) == 1:
            return self.mean[None]
        return self.mean[(phase[:, None] + torch.arange(n_steps, device=phase.device)) % len(self.mean)]


class ConvBlock(nn.Module):
    """Residual 3 × 3 convolution with group normalisation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = group_norm(width)
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, latent: Float[Tensor, "batch width y x"]) -> Float[Tensor, "batch width y x"]:
        return latent + F.gelu(self.conv(self.norm(latent)))


def forecast_head(width: int, n_outputs: int) -> nn.Conv2d:
    """1 × 1 convolution to standard scores that starts a tenth as large as usual: the first forecast is near the mean.

    Not at zero, where no gradient would pass to what comes before it. On flights, which are mostly noise, the teacher's
    validation error is 2 % less for it.
    """
    head = nn.Conv2d(width, n_outputs, 1)
    with torch.no_grad():
        head.weight.mul_(0.1)
        head.bias.zero_()
    return head


class Encoder(nn.Module):
    """Embed all input frames together: time goes into channels, ``stride`` × ``stride`` grid cells into a latent cell.

    A grid that ``stride`` does not divide is padded on the right and at the bottom by its edge; ``Decoder`` crops it.
    The learned position embedding binds the weights to one grid, as gridded geography does.
    """

    def __init__(
        self, n_steps: int, n_channels: int, grid: tuple[int, int], width: int, stride: int, depth: int
    ) -> None:
        super().__init__()
        self.padding = [0, -grid[1] % stride, 0, -grid[0] % stride]
        self.embed = nn.Conv2d(n_steps * n_channels, width, stride, stride=stride)
        self.position = nn.Parameter(0.02 * torch.randn(width, -(-grid[0] // stride), -(-grid[1] // stride)))
        self.blocks = nn.Sequential(*[ConvBlock(width) for _ in range(depth)])

    def forward(self, scores: Float[Tensor, "batch time channel y x"]) -> Float[Tensor, "batch width yl xl"]:
        stacked = F.pad(scores.flatten(1, 2), self.padding, mode="replicate")
        return self.blocks(self.embed(stacked) + self.position)


class Decoder(nn.Module):
    """Map a latent to all forecast frames at once, undoing the stride by pixel shuffle."""

    def __init__(self, n_steps: int, n_channels: int, grid: tuple[int, int], width: int, stride: int) -> None:
        super().__init__()
        self.grid, self.shape = grid, (n_steps, n_channels)
        self.head = forecast_head(width, n_steps * n_channels * stride**2)
        self.shuffle = nn.PixelShuffle(stride)

    def forward(self, latent: Float[Tensor, "batch width yl xl"]) -> Float[Tensor, "batch time channel y x"]:
        frames = self.shuffle(self.head(latent))[..., : self.grid[0], : self.grid[1]]
        return frames.unflatten(1, self.shape)
