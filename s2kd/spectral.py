"""Fourier transforms of latent features over space, or over time and space, as losses need them.

A real field is described by half of its frequencies; the other half mirrors it. Everything here works on that half and
weighs each frequency by the number of frequencies of the full plane that it stands for.
"""

import functools
import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

Axes = Literal["space", "space_time"]
Features = Float[Tensor, "batch step width yl xl"]

# Cells up to which a product with the matrix of the transform takes the place of ``torch.fft``, which spends its time
# on overhead where planes are small. Forward and backward of the complex loss in ms, fft → matrix, batch 32, one thread
# of a busy machine, the two in turns (with two threads the break-even lies at the same size):
#     width   4 × 8 = 32   7 × 14 = 98   8 × 16 = 128   10 × 20 = 200   12 × 24 = 288   16 × 32 = 512
#        64   1.1 → 0.5     2.7 → 1.8      3.2 → 2.8       12 → 10         14 → 19         22 → 71
#       128   2.2 → 1.1     9.0 → 7.9      9.7 → 9.5       20 → 24         29 → 50         39 → 145
#       192   3.3 → 1.4      10 → 5.5       12 → 14        19 → 45         50 → 92         68 → 180
DENSE_CELLS = 128


class Plane(NamedTuple):
    """The frequencies of a grid that describe a real field on it.

    Attributes:
        frequency: (step, y, x) index of each, in the spectrum of ``torch.fft.fftn``.
        count: how many frequencies of the full plane each stands for (2, 1 for its own mirror image, 0 for the mirror
            image of another one of the list).
        radius: spatial frequency, in cycles a cell.
        basis: cosines, then sines, of the frequencies on the cells, orthonormal; None where ``torch.fft`` is quicker.
    """

    frequency: Int[Tensor, "frequency 3"]
    count: Float[Tensor, " frequency"]
    radius: Float[Tensor, " frequency"]
    basis: Float[Tensor, "cell two_frequency"] | None


@functools.lru_cache(maxsize=16)
def half_plane(grid: tuple[int, int, int], device: torch.device, dense: bool | None = None) -> Plane:
    """The half plane of a grid (step, y, x); ``dense`` forces the choice that follows from its size."""
    n_steps, height, width = grid
    ranges = torch.arange(n_steps), torch.arange(height), torch.arange(width // 2 + 1)
    frequency = torch.cartesian_prod(*ranges)
    mirror = -frequency % torch.tensor(grid)
    # Only columns that are their own mirror image hold both members of a pair, of which the first one counts.
    order = torch.sign((mirror - frequency)[:, :2] @ torch.tensor([height, 1]))
    count = torch.where(mirror[:, 2] == frequency[:, 2], 1 + order, 2)
    basis = None
    if dense if dense is not None else math.prod(grid) <= DENSE_CELLS:
        frequency, count = frequency[count > 0], count[count > 0]
        cells = torch.cartesian_prod(*map(torch.arange, grid))
        turns = (cells.double() / torch.tensor(grid)) @ frequency.double().T  # not float: thousands of turns
        angles = 2 * math.pi * turns
        basis = torch.cat([angles.cos(), angles.sin()], 1) / math.sqrt(math.prod(grid))
        basis = basis.float().to(device)
    cycles = torch.minimum(frequency, torch.tensor(grid) - frequency)[:, 1:].double() / torch.tensor(grid[1:])
    radius = torch.hypot(*cycles.unbind(1)).float()  # rounded after, so that 3/15 and 3/20 make 1/4
    return Plane(frequency, count.float().to(device), radius.to(device), basis)


def fields(features: Features, axes: Axes) -> Float[Tensor, "row time yl xl"]:
    """The fields that are transformed one by one, in float32: planes (step 1), or sequences of planes."""
    if axes == "space":
        return features.float().flatten(0, 2).unsqueeze(1)
    return features.float().transpose(1, 2).flatten(0, 1)


def amplitude(rows: Float[Tensor, "row time yl xl"], plane: Plane) -> Float[Tensor, "row frequency"]:
    """Amplitude of the orthonormal transform at the frequencies of the half plane; its derivative at 0 is 0.

    In float32 whatever autocast says: half precision has no FFT on CPU, and too few digits for a transform.
    """
    if plane.basis is None:
        return torch.fft.rfftn(rows, dim=(1, 2, 3), norm="ortho").flatten(1).abs()
    with torch.autocast(rows.device.type, enabled=False):
        real, imaginary = (rows.flatten(1) @ plane.basis).chunk(2, dim=1)
    # The bound keeps the slope of the root finite; below it there is none, as in ``torch.abs`` of a complex zero.
    return (real * real + imaginary * imaginary).clamp_min(torch.finfo(torch.float32).tiny).sqrt()


def plane_mean(
    values: Float[Tensor, "row frequency"], plane: Plane, weight: Float[Tensor, " frequency"] | float = 1.0
) -> Float[Tensor, ""]:
    """Mean over rows and over the full plane of what is given on the half plane, times a weight of each frequency."""
    return (values.mean(0) * plane.count * weight).sum() / plane.count.sum()
