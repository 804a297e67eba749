"""Scores of forecasts in physical units, as sums over windows that add up batch by batch, and what follows from them.

A ``*_sums`` function turns one batch into sums with one row a lead time; sums of several batches are added key by key;
a ``*_scores`` function turns any choice of rows (one lead time, or all) into scores. Give the sums float64 tensors: a
score over a million cells loses digits in float32. Where a score does not exist (no window, no such band on a small
grid, PSNR of an exact forecast) it is NaN or infinite, which ``s2kd.evaluation`` writes as null.

Channels are pooled as they are: where their units differ, the channel with the large numbers decides MSE and bands.

Cells whose target is NaN are missing and not scored: sums of errors count the others. SSIM and spectra need whole
images, in which a missing cell of the truth takes the forecast's value, so that it is no error; an image that is
missing as a whole does not count there either.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Complex128, Float, Float64, Int
from torch import Tensor

SSIM_WINDOW = 7  # cells; the uniform window of scikit-image's default, which OpenSTL's SSIM uses
BANDS = {"low": (0.0, 1 / 8), "mid": (1 / 8, 1 / 4), "high": (1 / 4, math.inf)}  # cycles a cell; ]from, to]
MAX_ANNULI = 48


# --- cell by cell ------------------------------------------------------------------------------------------------


def pixel_sums(
    predictions: Float64[Tensor, "batch time channel height width"],
    targets: Float64[Tensor, "batch time channel height width"],
    value_range: Float64[Tensor, "2 channel"],
    active: Bool[Tensor, "channel height width"] | None,
    weights: Float64[Tensor, " height"] | None = None,
) -> dict[str, Float64[Tensor, "time channel"]]:
    """Sum errors and SSIM over the windows of a batch, with the counts that turn the sums into means.

    SSIM is that of one channel of one frame, scaled so that ``value_range`` (rows: minimum and maximum of each channel
    over the training frames) becomes 0 to 1, unclipped: uniform 7 x 7 window, reflected at the border, K1 = 0.01,
    K2 = 0.03, dynamic range 1, in float32. It is NaN on a grid with fewer than 7 cells on a side. ``active`` marks
    cells whose errors are also summed apart; ``weights`` are those of ``latitude_weights``.
    """
    known, seen, truth = _known(predictions, targets)
    error = predictions - truth
    square = error.square()
    sums = {
        "images": seen.sum(0).double(),
        "cells": known.sum((0, 3, 4)).double(),
        "squared_error": square.sum((0, 3, 4)),
        "absolute_error": error.abs().sum((0, 3, 4)),
        "ssim": torch.where(seen, _ssim(predictions, truth, value_range), 0.0).sum(0),
    }
    if active is not None:
        sums["active_cells"] = (known & active).sum((0, 3, 4)).double()
        sums["squared_error_active"] = (square * active).sum((0, 3, 4))
    if weights is not None:
        sums["weight_latitude"] = known.sum((0, 4)).double() @ weights
        sums["squared_error_latitude"] = square.sum((0, 4)) @ weights
    return sums


def pixel_scores(
    sums: dict[str, Float64[Tensor, "time channel"]], value_range: Float64[Tensor, "2 channel"]
) -> dict[str, float]:
    """MSE, MAE, RMSE, SSIM and PSNR over everything in ``sums``; also of active cells and by latitude if summed.

    RMSE is the root of the MSE over all, not a mean of roots; in ``rmse_latitude`` the squares are weighted by
    ``latitude_weights`` (``compute_weighted_rmse`` of WeatherBench, whose root comes last as well). PSNR is
    10 log10(R² / MSE) in dB, with R = maximum − minimum of ``value_range`` and the MSE of each channel over all windows
    (an average over frames would be infinite as soon as one frame is exact), averaged over channels. SSIM is the
    average over frames and channels.
    """
    total = {key: value.sum() for key, value in sums.items()}
    mse = total["squared_error"] / total["cells"]
    channel_mse = sums["squared_error"].sum(0) / sums["cells"].sum(0)
    scores = {
        "mse": mse,
        "mae": total["absolute_error"] / total["cells"],
        "rmse": mse.sqrt(),
        "ssim": total["ssim"] / total["images"],
        "psnr": (10 * torch.log10(value_range.diff(dim=0).square() / channel_mse)).mean(),
    }
    if "active_cells" in sums:
        mse_active = total["squared_error_active"] / total["active_cells"]
        scores |= {"mse_active": mse_active, "rmse_active": mse_active.sqrt()}
    if "weight_latitude" in sums:
        scores["rmse_latitude"] = (total["squared_error_latitude"] / total["weight_latitude"]).sqrt()
    return {key: float(value) for key, value in scores.items()}


def latitude_weights(latitudes: Sequence[float]) -> Float64[Tensor, " height"]:
    """Weight of each row: the cosine of its latitude (degrees), over the mean of the cosines.

    Source: WeatherBench (arXiv 2002.00469; ``src/score.py`` of pangeo-data/WeatherBench). WeatherBench 2 (arXiv
    2308.15560; ``get_lat_weights``) takes the areas of cells that reach to the midpoints between rows and, at the ends,
    to the poles: the same numbers where rows are evenly spaced and end half a row from the poles, as at 5.625° and
    1.40625°, but wrong for a region.
    """
    cosines = torch.tensor(latitudes, dtype=torch.float64).deg2rad().cos()
    return cosines / cosines.mean()


def anomaly_sums(
    predictions: Float64[Tensor, "batch time channel height width"],
    targets: Float64[Tensor, "batch time channel height width"],
    usual: Float64[Tensor, "batch time channel height width"],
    weights: Float64[Tensor, " height"] | None,
) -> dict[str, Float64[Tensor, "time channel"]]:
    """Sum the products of what forecast and truth differ by from the climatology ``usual`` of the same times."""
    missing = targets.isnan()
    forecast, truth = ((frames - usual).masked_fill_(missing, 0.0) for frames in (predictions, targets))
    products = {"product": forecast * truth, "forecast": forecast.square(), "truth": truth.square()}
    rows = {name: product.sum((0, 4)) for name, product in products.items()}  # (time, channel, height)
    sums = {f"anomaly_{name}": row.sum(-1) for name, row in rows.items()}
    if weights is not None:
        sums |= {f"anomaly_{name}_latitude": row @ weights for name, row in rows.items()}
    return sums


def anomaly_scores(sums: dict[str, Float64[Tensor, "time channel"]]) -> dict[str, float]:
    """Anomaly correlation Σ f′ o′ / √(Σ f′² Σ o′²) of each channel, averaged over channels, f′ and o′ less the usual.

    ``acc`` weighs all cells alike, ``acc_latitude`` by ``latitude_weights``. 1 is perfect, 0 as good as chance; a
    forecast of the climatology has none. The sums run over cells and windows together, as in WeatherBench
    (``compute_weighted_acc``), where WeatherBench 2 averages the correlations of single frames. As in WeatherBench 2
    (``ACC``), the mean of the anomalies stays in, so that a forecast too warm everywhere is not perfect, and the
    climatology is not that of the test data: here it is the training mean at the time of day or week.
    """

    def correlation(suffix: str) -> float:
        names = ("product", "forecast", "truth")
        product, forecast, truth = (sums[f"anomaly_{name}{suffix}"].sum(0) for name in names)
        return float((product / (forecast * truth).sqrt()).mean())

    suffixes = ("", "_latitude") if "anomaly_product_latitude" in sums else ("",)
    return {f"acc{suffix}": correlation(suffix) for suffix in suffixes}


def _known(
    predictions: Float64[Tensor, "batch time channel height width"],
    targets: Float64[Tensor, "batch time channel height width"],
) -> tuple[
    Bool[Tensor, "batch time channel height width"],
    Bool[Tensor, "batch time channel"],
    Float64[Tensor, "batch time channel height width"],
]:
    """Cells that the truth has, images that have any of them, and the truth filled with the forecast elsewhere."""
    known = ~targets.isnan()
    return known, known.any(-1).any(-1), torch.where(known, targets, predictions)


def _ssim(
    predictions: Float64[Tensor, "batch time channel height width"],
    targets: Float64[Tensor, "batch time channel height width"],
    value_range: Float64[Tensor, "2 channel"],
) -> Float64[Tensor, "batch time channel"]:
    """Wang et al., Image Quality Assessment: From Error Visibility to Structural Similarity, 2004, equation 13."""
    if min(predictions.shape[-2:]) < SSIM_WINDOW:
        return torch.full(predictions.shape[:3], math.nan, dtype=torch.float64)
    low, high = value_range[:, :, None, None]
    x, y = (((images - low) / (high - low)).float() for images in (predictions, targets))
    mean_x, mean_y = _local_mean(x), _local_mean(y)
    variances = (_local_mean(x * x) - mean_x**2).clamp(min=0) + (_local_mean(y * y) - mean_y**2).clamp(min=0)
    covariance = _local_mean(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
    return (luminance * (2 * covariance + 0.03**2) / (variances + 0.03**2)).mean((-2, -1)).double()


def _local_mean(
    images: Float[Tensor, "batch time channel height width"],
) -> Float[Tensor, "batch time channel height width"]:
    """Mean over the 7 x 7 cells around each: row by row, then column by column, ten times as fast as a convolution."""
    reach = SSIM_WINDOW // 2
    padded = torch.nn.functional.pad(images.flatten(0, 1), (reach, reach, reach, reach), mode="reflect")
    sums = padded.unfold(-1, SSIM_WINDOW, 1).sum(-1).unfold(-2, SSIM_WINDOW, 1).sum(-1)
    return (sums / SSIM_WINDOW**2).view_as(images)


# --- by wavenumber -----------------------------------------------------------------------------------------------


def windowed_transform(fields: Float[Tensor, "*batch height width"]) -> Complex128[Tensor, "*batch height width"]:
    """F(z) = FFT2_ortho(w (z − μ_w) / √⟨w²⟩) of fields z under a Hann window w, with μ_w = Σ w z / Σ w.

    w is the product of a periodic (DFT-even) Hann window along y and one along x; ⟨w²⟩, its mean square, keeps white
    noise at its variance. The weighted mean is taken off, so that there is nothing at wavenumber 0. F is linear: the
    transform of an error is the difference of two transforms. Source: the
    spectral protocol of the TAM paper, which leaves open whether its Hann window is periodic or symmetric.
    """
    height, width = fields.shape[-2:]
    window = torch.outer(*(torch.hann_window(size, periodic=True, dtype=torch.float64) for size in (height, width)))
    mean = (window * fields).sum((-2, -1), keepdim=True) / window.sum()
    return torch.fft.fft2(window * (fields - mean) / window.square().mean().sqrt(), norm="ortho")


def power(transform: Complex128[Tensor, "*batch height width"]) -> Float64[Tensor, "*batch height width"]:
    """|F|² of each coefficient."""
    return transform.real.square() + transform.imag.square()


def wavenumbers(height: int, width: int) -> Float64[Tensor, "height width"]:
    """Length of the wave vector of each FFT2 coefficient in cycles a cell, 0 to √½."""
    y, x = (torch.fft.fftfreq(size, dtype=torch.float64) for size in (height, width))
    return torch.hypot(y[:, None], x[None, :])


def band_masks(height: int, width: int) -> Bool[Tensor, "band height width"]:
    """Coefficients in each of ``BANDS``; wavenumber 0 is in none."""
    k = wavenumbers(height, width)
    return torch.stack([(k > above) & (k <= to) for above, to in BANDS.values()])


def annuli(height: int, width: int) -> tuple[Float64[Tensor, " annulus"], Int[Tensor, "height width"]]:
    """Centres (cycles a cell) of uniform annuli over ]0, √½] and the annulus of each coefficient (−1: wavenumber 0).

    There are 48, or fewer on a small grid: an annulus is never narrower than the finer spacing of the coefficients.
    """
    n_annuli = max(1, min(MAX_ANNULI, math.floor(math.sqrt(0.5) * max(height, width))))
    step = math.sqrt(0.5) / n_annuli
    index = (wavenumbers(height, width) / step).ceil().long() - 1
    return (torch.arange(n_annuli, dtype=torch.float64) + 0.5) * step, index.clamp(max=n_annuli - 1)


def spectral_sums(
    predictions: Float64[Tensor, "batch time channel height width"],
    targets: Float64[Tensor, "batch time channel height width"],
) -> dict[str, Float64[Tensor, "time bin"]]:
    """Sum the power of forecast, truth and error over windows, channels and the coefficients of a band or annulus.

    The columns of ``band_*`` are ``BANDS`` (NaN where the grid has no coefficient in a band), those of ``annulus_*``
    the annuli; ``cells`` counts windows x channels x cells.
    """
    height, width = predictions.shape[-2:]
    _, seen, filled = _known(predictions, targets)
    forecast, truth = windowed_transform(predictions), windowed_transform(filled)
    transforms = {"forecast": forecast, "truth": truth, "error": forecast - truth}
    powers = {  # (time, height, width)
        name: (power(transform) * seen[..., None, None]).sum((0, 2)) for name, transform in transforms.items()
    }
    bands = band_masks(height, width)
    exists = bands.any(-1).any(-1)
    centres, annulus = annuli(height, width)
    in_annulus = annulus.flatten() == torch.arange(len(centres))[:, None]
    sums = {"cells": seen.sum((0, 2)).double()[:, None] * (height * width)}
    for name, total in powers.items():
        band_power = torch.einsum("tyx,byx->tb", total, bands.double())
        sums[f"band_{name}"] = torch.where(exists, band_power, math.nan)
        sums[f"annulus_{name}"] = total.flatten(1) @ in_annulus.double().T
    return sums


def spectral_scores(sums: dict[str, Float64[Tensor, "time bin"]]) -> dict[str, float]:
    """Band errors E_b and the error power of each band over everything in ``sums``.

    ``band_error_b`` = Σ|F(Ŷ) − F(Y)|² / Σ|F(Y)|² over the coefficients of band b: 0 is exact, 1 as wrong as a constant
    forecast; the difference is complex, so a shifted pattern counts as wrong. ``error_power_b`` is the numerator
    a cell (units²): by Parseval's theorem the bands add up to the MSE under the Hann window, less that of its mean.
    """
    error, truth = sums["band_error"].sum(0), sums["band_truth"].sum(0)
    return {f"band_error_{band}": float(value) for band, value in zip(BANDS, error / truth, strict=True)} | {
        f"error_power_{band}": float(value) for band, value in zip(BANDS, error / sums["cells"].sum(), strict=True)
    }


def radial_power(
    sums: dict[str, Float64[Tensor, "time bin"]], height: int, width: int
) -> dict[str, Float64[Tensor, " annulus"]]:
    """Mean |F|² a coefficient in each annulus (units²) of forecast, truth and error; NaN in an annulus without any."""
    centres, annulus = annuli(height, width)
    counts = torch.bincount(annulus[annulus >= 0], minlength=len(centres))
    n_fields = sums["cells"].sum() / (height * width)
    return {"wavenumber": centres} | {
        f"power_{name}": sums[f"annulus_{name}"].sum(0) / counts / n_fields for name in ("forecast", "truth", "error")
    }
