"""Means over larger cells of a global grid, weighted by area: conservative regridding of the first order.

On a grid of latitudes and longitudes the share of a source cell in a target cell is the product of the shares of its
band of latitude and its sector of longitude, so that regridding is a small sparse matrix on each side. The bounds of
cells lie half way between centres, at the poles at ±90 degrees; the area of a band is the difference of sines. These
are the conventions of WeatherBench 2 (``weatherbench2/regridding.py``, ConservativeRegridder).
"""

import numpy as np
import scipy.sparse
from jaxtyping import Float, Float32, Float64


def equiangular(degrees: float) -> tuple[Float64[np.ndarray, " y"], Float64[np.ndarray, " x"]]:
    """Centres of the cells of WeatherBench's grids: latitudes from south to north without poles, longitudes from 0."""
    height = round(180 / degrees)
    return (np.arange(height) + 0.5) * degrees - 90, np.arange(2 * height) * degrees


def latitude_weights(source: Float[np.ndarray, " n"], target: Float[np.ndarray, " m"]) -> scipy.sparse.csr_array:
    """Share of each source band (column) in the area of each target band (row); rows sum to 1."""
    source_bounds, target_bounds = (np.sin(np.radians(_latitude_bounds(centres))) for centres in (source, target))
    return _normalised(_overlap(target_bounds, source_bounds))


def longitude_weights(source: Float[np.ndarray, " n"], target: Float[np.ndarray, " m"]) -> scipy.sparse.csr_array:
    """Share of each source sector (column) in the width of each target sector (row); rows sum to 1."""
    source_bounds, target_bounds = (_longitude_bounds(centres) for centres in (source, target))
    # Sectors that reach across the meridian 0 overlap with those one turn before or after.
    return _normalised(sum(_overlap(target_bounds, source_bounds + turn) for turn in (-360, 0, 360)))


def regrid(
    field: Float[np.ndarray, "n_y n_x"], latitude: scipy.sparse.csr_array, longitude: scipy.sparse.csr_array
) -> Float32[np.ndarray, "m_y m_x"]:
    """Mean of a field over target cells, computed in float64; what is missing (NaN) is left out of a mean."""
    field = np.asarray(field, dtype=np.float64)
    known = ~np.isnan(field)
    if known.all():
        return _sandwich(field, latitude, longitude).astype(np.float32)
    total, share = (_sandwich(part, latitude, longitude) for part in (np.where(known, field, 0), known * 1.0))
    with np.errstate(invalid="ignore"):
        return (total / share).astype(np.float32)  # 0 / 0 is NaN: nothing is known


def _sandwich(field: np.ndarray, latitude: scipy.sparse.csr_array, longitude: scipy.sparse.csr_array) -> np.ndarray:
    return (longitude @ (latitude @ field).T).T


def _latitude_bounds(centres: np.ndarray) -> np.ndarray:
    inner = (centres[1:] + centres[:-1]) / 2
    first = np.copysign(90.0, centres[0] - centres[-1])  # the pole where the rows begin
    return np.concatenate([[first], inner, [-first]])


def _longitude_bounds(centres: np.ndarray) -> np.ndarray:
    inner = (centres[1:] + centres[:-1]) / 2
    seam = (centres[-1] - 360 + centres[0]) / 2
    return np.concatenate([[seam], inner, [seam + 360]])


def _overlap(target: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Length that each interval of the target (row) shares with each of the source (column), in either order."""
    (target_low, target_high), (source_low, source_high) = (
        (np.minimum(bounds[:-1], bounds[1:]), np.maximum(bounds[:-1], bounds[1:])) for bounds in (target, source)
    )
    upper = np.minimum(target_high[:, None], source_high)
    return np.maximum(upper - np.maximum(target_low[:, None], source_low), 0)


def _normalised(overlap: np.ndarray) -> scipy.sparse.csr_array:
    return scipy.sparse.csr_array(overlap / overlap.sum(axis=1, keepdims=True))
