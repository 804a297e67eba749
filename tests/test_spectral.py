"""The half plane stands for the full plane, by either way of the transform: Parseval, and where a cosine lands."""

import math

import pytest
import torch

from s2kd.spectral import DENSE_CELLS, amplitude, fields, half_plane, plane_mean

GRIDS = [(1, 4, 6), (1, 5, 7), (1, 6, 5), (1, 3, 2), (1, 3, 1), (1, 1, 8), (1, 7, 14), (2, 4, 6), (3, 3, 4), (4, 5, 3)]
CPU = torch.device("cpu")
WAYS = pytest.mark.parametrize("dense", [False, True], ids=["fft", "matrix"])


def some_rows(grid: tuple[int, int, int]) -> torch.Tensor:
    return torch.randn(6, *grid, generator=torch.Generator().manual_seed(0))


@WAYS
@pytest.mark.parametrize("grid", GRIDS)
def test_amplitudes_are_those_of_torch(grid, dense):
    rows, plane = some_rows(grid), half_plane(grid, CPU, dense)
    full = torch.fft.fftn(rows, dim=(1, 2, 3), norm="ortho").abs()
    wanted = full[:, plane.frequency[:, 0], plane.frequency[:, 1], plane.frequency[:, 2]]
    torch.testing.assert_close(amplitude(rows, plane), wanted, rtol=1e-5, atol=1e-5)


@WAYS
@pytest.mark.parametrize("grid", GRIDS)
def test_every_frequency_and_its_mirror_image_are_counted_once(grid, dense):
    plane = half_plane(grid, CPU, dense)
    counts = torch.zeros(grid)
    for (step, y, x), count in zip(plane.frequency.tolist(), plane.count.tolist(), strict=True):
        if count:
            counts[step, y, x] += 1
        if count == 2:
            counts[-step % grid[0], -y % grid[1], -x % grid[2]] += 1
    assert torch.equal(counts, torch.ones(grid))


@WAYS
@pytest.mark.parametrize("grid", GRIDS)
def test_parseval(grid, dense):
    rows, plane = some_rows(grid), half_plane(grid, CPU, dense)
    torch.testing.assert_close(plane_mean(amplitude(rows, plane) ** 2, plane), (rows**2).mean())


@WAYS
@pytest.mark.parametrize("grid", GRIDS)
def test_weighted_mean_equals_that_of_the_full_plane(grid, dense):
    rows, plane = some_rows(grid), half_plane(grid, CPU, dense)
    y, x = torch.fft.fftfreq(grid[1])[:, None], torch.fft.fftfreq(grid[2])
    full = torch.fft.fftn(rows, dim=(1, 2, 3), norm="ortho").abs() * torch.hypot(y, x)
    torch.testing.assert_close(plane_mean(amplitude(rows, plane), plane, plane.radius), full.mean())


@WAYS
@pytest.mark.parametrize(("ky", "kx"), [(0, 1), (0, 3), (2, 1)])
def test_a_cosine_is_one_line(ky, kx, dense):
    height, width = 6, 8
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    plane = half_plane((1, height, width), CPU, dense)
    field = torch.cos(2 * math.pi * (ky * y / height + kx * x / width))[None, None]
    is_line = (plane.frequency == torch.tensor([0, ky, kx])).all(1)
    assert is_line.sum() == 1
    # Half the amplitude; its mirror image lies in the other half plane.
    wanted = torch.where(is_line, math.sqrt(height * width) / 2, 0.0)[None]
    torch.testing.assert_close(amplitude(field, plane), wanted, rtol=1e-5, atol=1e-5)


@WAYS
def test_both_ways_have_the_gradient_of_torch(dense):
    rows = some_rows((1, 5, 6)).requires_grad_()
    (wanted,) = torch.autograd.grad(torch.fft.fftn(rows, dim=(1, 2, 3), norm="ortho").abs().mean(), rows)
    plane = half_plane((1, 5, 6), CPU, dense)
    (got,) = torch.autograd.grad(plane_mean(amplitude(rows, plane), plane), rows)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)


@WAYS
def test_zero_has_the_derivative_zero(dense):
    rows = torch.zeros(2, 1, 4, 6, requires_grad=True)
    plane = half_plane((1, 4, 6), CPU, dense)
    plane_mean(amplitude(rows, plane), plane).backward()
    assert torch.equal(rows.grad, torch.zeros_like(rows))


def test_the_matrix_is_for_small_grids():
    assert half_plane((1, 1, DENSE_CELLS), CPU).basis is not None
    assert half_plane((1, 1, DENSE_CELLS + 1), CPU).basis is None


def test_fields_are_planes_or_sequences_of_planes():
    features = torch.randn(2, 3, 5, 4, 6)
    planes, sequences = fields(features, "space"), fields(features, "space_time")
    assert planes.shape == (30, 1, 4, 6)
    assert torch.equal(planes[7, 0], features[0, 1, 2])
    assert sequences.shape == (10, 3, 4, 6)
    assert torch.equal(sequences[7], features[1, :, 2])


@WAYS
@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_half_precision_is_transformed_in_single(precision, dense):
    features, plane = torch.randn(2, 1, 3, 4, 6).to(precision), half_plane((1, 4, 6), CPU, dense)
    wanted = amplitude(fields(features.float(), "space"), plane)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(amplitude(fields(features, "space"), plane), wanted)
