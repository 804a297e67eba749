"""A pseudo-spectral solver of the vorticity equation on the unit square without borders, and what it starts from."""

import math

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

ALPHA, TAU = 2.5, 7.0  # of the random field: smoothness and inverse length scale


def random_field(size: int, seed: int, event: int) -> Float[Tensor, "y x"]:
    """Draw a periodic Gaussian random field of mean 0 with covariance tau^3 (-laplace + tau^2)^-alpha on [0, 1)^2.

    Each event draws from its own generator, so that more events leave the first ones as they are.
    """
    wave = 2 * math.pi * torch.fft.fftfreq(size, 1 / size, dtype=torch.float64)
    spectrum = TAU ** (ALPHA - 1) * (wave[:, None] ** 2 + wave**2 + TAU**2) ** (-ALPHA / 2)
    spectrum[0, 0] = 0
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, event]).generate_state(1)[0]))
    white = torch.randn(size, size, dtype=torch.complex128, generator=generator)
    return torch.fft.ifft2(math.sqrt(2) * size**2 * spectrum * white).real


def solve(
    vorticity: Float[Tensor, "batch y x"],
    forcing: Float[Tensor, "y x"],
    viscosity: float,
    time: float,
    n_steps: int,
) -> Float[Tensor, "batch y x"]:
    """Go on by a time with the vorticity equation on [0, 1)^2, in equal steps.

    dw/dt + u . grad w = viscosity laplace w + forcing, where u = (dpsi/dy, -dpsi/dx) and -laplace psi = w. Viscosity
    by Crank and Nicolson, transport and forcing explicitly, transport free of aliases by the two-thirds rule. In 32
    bits the viscosity of a short step would be lost on large scales.
    """
    size, time_step = vorticity.shape[-1], time / n_steps
    kind = {"dtype": vorticity.dtype, "device": vorticity.device}
    wave_y = 2 * math.pi * torch.fft.fftfreq(size, 1 / size, **kind)[:, None]
    wave_x = 2 * math.pi * torch.fft.rfftfreq(size, 1 / size, **kind)
    square = wave_y**2 + wave_x**2
    inverse = torch.where(square > 0, 1 / square.clamp(min=1), 0)
    largest = 2 * math.pi * size / 3
    kept = (wave_y.abs() <= largest) & (wave_x <= largest)
    force = time_step * torch.fft.rfft2(forcing)
    damped = 1 - 0.5 * time_step * viscosity * square
    divisor = 1 / (1 + 0.5 * time_step * viscosity * square)
    derive = torch.stack(
        torch.broadcast_tensors(1j * wave_y * inverse, -1j * wave_x * inverse, 1j * wave_x, 1j * wave_y)
    )

    def step(spectrum: Complex[Tensor, "batch y kx"]) -> Complex[Tensor, "batch y kx"]:
        u, v, along_x, along_y = torch.fft.irfft2(derive[:, None] * spectrum, s=(size, size))
        transport = torch.fft.rfft2(u * along_x + v * along_y)
        return (damped * spectrum + force - time_step * kept * transport) * divisor

    spectrum = torch.fft.rfft2(vorticity)
    for _ in range(n_steps):
        spectrum = step(spectrum)
    return torch.fft.irfft2(spectrum, s=(size, size))


def forcing_field(size: int) -> Float[Tensor, "y x"]:
    """Return the forcing 0.1 (sin 2 pi (x + y) + cos 2 pi (x + y)) on [0, 1)^2."""
    place = torch.arange(size, dtype=torch.float64) / size
    phase = 2 * math.pi * (place[:, None] + place)
    return 0.1 * (torch.sin(phase) + torch.cos(phase))
