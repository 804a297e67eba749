"""Fourier transforms of latent features over space."""

import torch
from jaxtyping import Complex, Float
from torch import Tensor


def rfft2(features: Float[Tensor, "*batch y x"]) -> Complex[Tensor, "*batch y kx"]:
    """Orthonormal 2-D FFT over space of a real field, half plane, in float32 (half precision has no FFT on CPU)."""
    return torch.fft.rfft2(features.float(), norm="ortho")


def half_plane_mean(spectrum: Float[Tensor, "*batch y kx"], width: int) -> Float[Tensor, ""]:
    """Mean over the full plane of a quantity that is even in frequency, given on the half plane of ``rfft2``.

    Columns other than 0 and, for even ``width``, the last stand for two columns of the full plane.

    Args:
        width: number of columns of the field before the transform.
    """
    count = torch.full((spectrum.shape[-1],), 2.0, device=spectrum.device)
    count[0] = 1
    if width % 2 == 0:
        count[-1] = 1
    return (spectrum * count).sum(-1).mean() / width
