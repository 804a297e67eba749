"""Where on the map: the 3 × 3 regions, directions and positions in words, whichever way rows and columns run."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from s2kd.dataset import Meta

# Larger y first, then smaller x: as a map with north up is read.
COMPASS = (("northwest", "north", "northeast"), ("west", "centre", "east"), ("southwest", "south", "southeast"))
REGIONS = (("upper left", "top", "upper right"), ("left", "centre", "right"), ("lower left", "bottom", "lower right"))
MOVES = (("up left", "up", "up right"), ("left", "nowhere", "right"), ("down left", "down", "down right"))


@dataclass(frozen=True)
class Spot:
    """A value and where it stands; ``position`` (whole degrees of latitude and longitude) only on the globe."""

    value: float
    region: str
    position: str | None = None


def region(meta: Meta, row: int, column: int) -> str:
    """Name the third of the map, each way, that a cell lies in."""
    return _words(meta, REGIONS)[3 * row // len(meta.y)][3 * column // len(meta.x)]


def direction(meta: Meta, rows: float, columns: float) -> str:
    """Name the nearest of eight directions of a displacement given in cells of the array."""
    eighth = math.atan2(rows, columns) / (math.pi / 4)
    angle = round(eighth) * math.pi / 4
    return _words(meta, MOVES)[1 + round(math.sin(angle))][1 + round(math.cos(angle))]


def spot(meta: Meta, field: Float[np.ndarray, "y x"], index: int) -> Spot:
    """Describe the cell at a flat index, such as an argmax."""
    row, column = divmod(int(index), field.shape[1])
    position = None
    if meta.y_name == "latitude":
        latitude, longitude = meta.y[row], (meta.x[column] + 180) % 360 - 180
        position = f"{abs(latitude):.0f} {'SN'[latitude >= 0]} {abs(longitude):.0f} {'WE'[longitude >= 0]}"
    return Spot(float(field[row, column]), region(meta, row, column), position)


def region_sums(fields: Float[np.ndarray, "*any y x"]) -> Float[np.ndarray, "*any 9"]:
    """Sum over each of the nine regions, in the order of the array (see `region_names`)."""
    height, width = fields.shape[-2:]
    rows, columns = ([-(-third * size // 3) for third in range(3)] for size in (height, width))
    sums = np.add.reduceat(np.add.reduceat(fields, rows, axis=-2), columns, axis=-1)
    return sums.reshape(*fields.shape[:-2], 9)


def region_names(meta: Meta) -> tuple[str, ...]:
    """Names of the nine regions in the order of `region_sums`."""
    return tuple(name for row in _words(meta, REGIONS) for name in row)


def _words(meta: Meta, off_globe: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
    words = COMPASS if meta.y_name == "latitude" else off_globe
    if meta.y[1] > meta.y[0]:
        words = words[::-1]
    if meta.x[1] < meta.x[0]:
        words = tuple(row[::-1] for row in words)
    return words
