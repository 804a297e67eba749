"""The half plane stands for the full plane: Parseval, and where a cosine lands."""

import math

import pytest
import torch

from s2kd.spectral import half_plane_mean, rfft2

SIZES = [(4, 6), (5, 7), (6, 5), (3, 2), (3, 1), (1, 8), (7, 14)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_parseval(height, width):
    torch.manual_seed(0)
    field = torch.randn(2, 3, height, width)
    power = half_plane_mean(rfft2(field).abs() ** 2, width)
    torch.testing.assert_close(power, (field**2).mean())


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_mean_magnitude_equals_that_of_the_full_plane(height, width):
    torch.manual_seed(0)
    field = torch.randn(2, 3, height, width)
    full = torch.fft.fft2(field, norm="ortho").abs().mean()
    torch.testing.assert_close(half_plane_mean(rfft2(field).abs(), width), full)


@pytest.mark.parametrize(("ky", "kx"), [(0, 1), (0, 3), (2, 1)])
def test_a_cosine_is_one_line(ky, kx):
    height, width = 6, 8
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    spectrum = rfft2(torch.cos(2 * math.pi * (ky * y / height + kx * x / width))).abs()
    wanted = torch.zeros(height, width // 2 + 1)
    wanted[ky, kx] = math.sqrt(height * width) / 2  # half the amplitude; its mirror image lies in the other half plane
    torch.testing.assert_close(spectrum, wanted, rtol=1e-5, atol=1e-5)


def test_a_constant_is_all_in_the_corner():
    spectrum = rfft2(torch.full((4, 6), 3.0))
    assert spectrum[0, 0].real == pytest.approx(3 * math.sqrt(24))
    assert spectrum.abs().sum() == pytest.approx(3 * math.sqrt(24))


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_half_precision_is_transformed_in_single(precision):
    field = torch.randn(2, 4, 6).to(precision)
    spectrum = rfft2(field)
    assert spectrum.dtype == torch.complex64
    assert torch.equal(spectrum, rfft2(field.float()))
