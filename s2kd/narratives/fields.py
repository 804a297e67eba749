"""Facts of weather and fluids: level, plume, extremes, gradient, motion, change and fine detail of a field."""

from dataclasses import dataclass
from datetime import datetime
from functools import cache

import numpy as np
from jaxtyping import Bool, Complex, Float
from scipy import fft

from s2kd.dataset import Meta
from s2kd.narratives.calendar import Calendar, calendar, has_calendar, stamps_of
from s2kd.narratives.climatology import Climatology, Grade, slots
from s2kd.narratives.places import Spot, direction, spot

STILL = 0.25  # cells a step below which a displacement is within the error of the estimate
BALANCED = 0.01  # of a channel's deviation: a mean so near to 0 tells nothing, such as of a velocity between walls
SMOKE = ("density", "smoke", "soot")  # names of a first channel whose plume is described
FAINT = 0.1  # of the densest smoke of a frame: what is less belongs to no plume


@dataclass(frozen=True)
class Level:
    """Level of one channel over the map, from the first to the last frame of a span."""

    channel: str
    balanced: bool  # then its mean tells nothing, and the level is its strength (root mean square)
    unit: str
    digits: int  # decimals that show a hundredth of the standard deviation, a tenth for a strength
    first: float
    last: float
    change: Grade  # of |last - first|


@dataclass(frozen=True)
class Motion:
    """Displacement of the anomalies."""

    direction: str
    speed: float  # cells a step
    still: bool


@dataclass(frozen=True)
class Plume:
    """Smoke that rises from its source, from the first to the last frame of a span."""

    first_top: float  # percent of the height
    top: float
    rises: Grade  # of |top - first_top|
    first_width: int  # columns that hold some of it
    width: int
    leans: float  # centre of mass in the upper half of the map less that in the lower, in columns to the right


@dataclass(frozen=True)
class FieldFacts:
    """All of the first channel, except `levels`, which has further channels too."""

    calendar: Calendar | None  # a simulation has no calendar
    levels: tuple[Level, ...]
    plume: Plume | None
    maximum: Spot | None  # of the last input frame; none where half the map lies at it
    minimum: Spot | None
    outlier: Spot  # where the last input frame lies furthest from the usual
    gradient: Spot  # per cell, in the last input frame
    steepness: Grade
    motion: Motion
    largest_change: Spot  # from the first to the last input frame
    rising: float  # percent of the map
    acceleration: float  # mean change a step in the second half of the input over that in the first
    accelerates: Grade  # of its distance from 1, as a ratio
    detail: float  # percent of the spectral power of the anomaly at more than a quarter cycle a cell
    detailed: Grade
    levels_ahead: tuple[Level, ...]  # first channel, from the last input frame to the last; empty in a history view
    plume_ahead: Plume | None  # the same
    maximum_ahead: Spot | None  # over all frames to be forecast
    minimum_ahead: Spot | None
    new_maximum: bool | None  # above every input frame
    new_minimum: bool | None
    motion_ahead: Motion | None
    largest_change_ahead: Spot | None


def field_facts(
    frames: Float[np.ndarray, "time channel y x"],
    start: datetime,
    meta: Meta,
    climatology: Climatology,
    described: tuple[int, ...],
) -> FieldFacts:
    """Compute the facts of one window; ``frames`` are those that the view may see."""
    n_input = meta.n_steps_input
    field, ahead = frames[:n_input, 0], frames[n_input - 1 :, 0]  # ahead: from the last input frame on
    anomalies = _anomalies(frames, start, meta, climatology)
    spectra = tapered_spectra(anomalies)
    steep = steepness(field[-1])
    detail = detail_share(spectra[n_input - 1], field.shape[1:])
    change = field[-1] - field[0]
    outlying = anomalies[n_input - 1]
    ratio = acceleration(anomalies[:n_input])
    levels_ahead, plume_ahead, maximum_ahead, minimum_ahead, motion_ahead, change_ahead = (), *[None] * 5
    new_maximum = new_minimum = None
    if len(frames) > n_input:
        levels_ahead = _levels(frames[n_input - 1 :], described[:1], meta, climatology)
        plume_ahead = plume(ahead, meta, climatology)
        highest, lowest = ahead[1:].max(axis=0), ahead[1:].min(axis=0)
        maximum_ahead = _extreme(highest, int(highest.argmax()), meta)
        minimum_ahead = _extreme(lowest, int(lowest.argmin()), meta)
        new_maximum, new_minimum = bool(highest.max() > field.max()), bool(lowest.min() < field.min())
        motion_ahead = _motion(spectra[n_input - 1 :], field.shape[1:], meta)
        change_ahead = spot(meta, ahead[-1] - ahead[0], int(np.abs(ahead[-1] - ahead[0]).argmax()))
    return FieldFacts(
        calendar=calendar(start, meta) if has_calendar(meta) else None,
        levels=_levels(frames[:n_input], described, meta, climatology),
        plume=plume(field, meta, climatology),
        maximum=_extreme(field[-1], int(field[-1].argmax()), meta),
        minimum=_extreme(field[-1], int(field[-1].argmin()), meta),
        outlier=spot(meta, outlying, int(np.abs(outlying).argmax())),
        gradient=spot(meta, steep, int(steep.argmax())),
        steepness=climatology.grade("gradient", 0, float(steep.max())),
        motion=_motion(spectra[:n_input], field.shape[1:], meta),
        largest_change=spot(meta, change, int(np.abs(change).argmax())),
        rising=100 * float((change > 0).mean()),
        acceleration=ratio,
        accelerates=climatology.grade("acceleration", 0, _distance(ratio)),
        detail=detail,
        detailed=climatology.grade("detail", 0, detail),
        levels_ahead=levels_ahead,
        plume_ahead=plume_ahead,
        maximum_ahead=maximum_ahead,
        minimum_ahead=minimum_ahead,
        new_maximum=new_maximum,
        new_minimum=new_minimum,
        motion_ahead=motion_ahead,
        largest_change_ahead=change_ahead,
    )


def field_measures(
    frames: Float[np.ndarray, "time channel y x"], start: datetime, meta: Meta, climatology: Climatology
) -> dict[str, np.ndarray]:
    """Measure what is graded over the input of one window: ``change`` per channel, the rest of the first channel."""
    anomalies = _anomalies(frames, start, meta, climatology)
    change = (frames[-1] - frames[0]).mean(axis=(-2, -1), dtype=np.float64)
    measured = {}
    if balanced := [c for c in range(len(change)) if _balances(c, meta)]:
        change[balanced] = np.subtract(*strength(frames[[-1, 0]][:, balanced]))
    if has_plume(meta):
        tops = [plume_top(frame, meta) for frame in frames[[0, -1], 0]]
        measured["rise"] = np.array([abs(tops[1] - tops[0])])
    return measured | {
        "change": np.abs(change),
        "acceleration": np.array([_distance(acceleration(anomalies))]),
        "gradient": steepness(frames[-1, 0]).max()[None],
        "detail": np.array([detail_share(tapered_spectra(anomalies[-1:])[0], anomalies.shape[1:])]),
    }


def strength(frames: Float[np.ndarray, "*any y x"]) -> Float[np.ndarray, "*any"]:
    """Root mean square over the map."""
    return np.sqrt(np.square(frames, dtype=np.float64).mean(axis=(-2, -1)))


def has_plume(meta: Meta) -> bool:
    """Whether the first channel is smoke that is free to rise: rows that stand above each other, not a map."""
    return meta.domain == "fluid" and meta.channels[0].lower() in SMOKE and meta.y_name != "latitude"


def plume(smoke: Float[np.ndarray, "time y x"], meta: Meta, climatology: Climatology) -> Plume | None:
    """Describe the smoke of the first and the last frame, unless the data have no plume or there is no smoke yet."""
    if not has_plume(meta) or smoke[-1].max() <= 0:
        return None
    first, now = (_upright(frame, meta) for frame in smoke[[0, -1]])
    halves, columns = np.array_split(now, 2), np.arange(now.shape[1])
    middles = [float(half.sum(axis=0) @ columns / half.sum()) for half in halves if half.sum() > 0]
    first_top, top = plume_top(smoke[0], meta), plume_top(smoke[-1], meta)
    return Plume(
        first_top=first_top,
        top=top,
        rises=climatology.grade("rise", 0, abs(top - first_top)),
        first_width=int(_smoky(first).any(axis=0).sum()),
        width=int(_smoky(now).any(axis=0).sum()),
        leans=middles[0] - middles[-1],  # 0 while it is in the lower half alone
    )


def plume_top(smoke: Float[np.ndarray, "y x"], meta: Meta) -> float:
    """Height of the upper edge of the highest row that holds smoke, in percent of the map's; 0 without smoke."""
    rows = np.flatnonzero(_smoky(_upright(smoke, meta)).any(axis=1))
    return 100 * (1 - int(rows[0]) / len(smoke)) if len(rows) else 0.0


def tapered_spectra(anomalies: Float[np.ndarray, "time y x"]) -> Complex[np.ndarray, "time ky kx"]:
    """Fourier-transform each frame under a Hann taper, padded by zeros to at least twice its size."""
    return fft.rfft2(anomalies * _taper(anomalies.shape[1:]), s=_padded(anomalies.shape[1:]))


def displacement(spectra: Complex[np.ndarray, "time ky kx"], shape: tuple[int, int]) -> tuple[float, float]:
    """Estimate the mean displacement a step in (rows, columns) by plain cross-correlation summed over pairs of frames.

    The whitened phase correlation would lock onto whatever stands still. The peak is refined by a parabola each way.
    The taper holds wide structures back: one with a standard deviation of an eighth of the map seems a quarter slower.
    """
    correlation = fft.irfft2((spectra[:-1].conj() * spectra[1:]).sum(axis=0), s=_padded(shape))
    row, column = np.unravel_index(correlation.argmax(), correlation.shape)
    if correlation[row, column] <= 0:  # nothing that could move, or a single frame
        return 0.0, 0.0
    around_row = correlation[[row - 1, row, (row + 1) % correlation.shape[0]], column]
    around_column = correlation[row, [column - 1, column, (column + 1) % correlation.shape[1]]]
    return tuple(
        float((peak + size / 2) % size - size / 2 + _parabola(*around.tolist()))
        for peak, size, around in zip((row, column), correlation.shape, (around_row, around_column), strict=True)
    )


def detail_share(spectrum: Complex[np.ndarray, "ky kx"], shape: tuple[int, int]) -> float:
    """Percent of the spectral power at more than a quarter cycle a cell."""
    power = (spectrum.real**2 + spectrum.imag**2) * _weights(shape)
    total = power.sum()
    return 100 * float(power[_fine(shape)].sum() / total) if total > 0 else 0.0


def steepness(field: Float[np.ndarray, "y x"]) -> Float[np.ndarray, "y x"]:
    """Length of the gradient, per cell, by central differences (one-sided at the edges)."""
    return np.hypot(*np.gradient(field))


def acceleration(anomalies: Float[np.ndarray, "time y x"]) -> float:
    """Mean absolute change a step in the second half of a span over that in the first; 1 where nothing changes."""
    steps = np.abs(np.diff(anomalies, axis=0)).mean(axis=(-2, -1))
    half = len(steps) // 2
    before, after = steps[:half].sum(), steps[len(steps) - half :].sum()
    return float(after / before) if before > 0 else 1.0


def _anomalies(frames, start: datetime, meta: Meta, climatology: Climatology) -> Float[np.ndarray, "time y x"]:
    hours, days = slots(stamps_of(start, meta)[: len(frames)], meta)
    return frames[:, 0] - climatology.mean[hours, days, 0]


def _levels(frames, described: tuple[int, ...], meta: Meta, climatology: Climatology) -> tuple[Level, ...]:
    firsts, lasts = frames[[0, -1]].mean(axis=(-2, -1), dtype=np.float64).tolist()

    def level(c: int) -> Level:
        balanced = _balances(c, meta)
        first, last = strength(frames[[0, -1], c]).tolist() if balanced else (firsts[c], lasts[c])
        return Level(
            channel=meta.channels[c],
            balanced=balanced,
            unit=meta.units[c],
            digits=max(0, int(np.ceil((1 if balanced else 2) - np.log10(meta.std[c] or 1)))),
            first=first,
            last=last,
            change=climatology.grade("change", c, abs(last - first)),
        )

    return tuple(level(c) for c in described)


def _balances(channel: int, meta: Meta) -> bool:
    return abs(meta.mean[channel]) < BALANCED * meta.std[channel]


def _upright(field: Float[np.ndarray, "y x"], meta: Meta) -> Float[np.ndarray, "y x"]:
    """Turn a field so that its rows run downwards and its columns to the right."""
    return field[:: 1 if meta.y[0] > meta.y[-1] else -1, :: 1 if meta.x[0] < meta.x[-1] else -1]


def _smoky(smoke: Float[np.ndarray, "y x"]) -> Bool[np.ndarray, "y x"]:
    return smoke > FAINT * max(float(smoke.max()), 0.0)


def _extreme(field: Float[np.ndarray, "y x"], index: int, meta: Meta) -> Spot | None:
    """Where the extreme stands, unless it stands nearly everywhere, as the zeros of a smoke's density do."""
    tied = np.abs(field - field.flat[index]) <= 0.01 * meta.std[0]
    return None if tied.mean() > 0.5 else spot(meta, field, index)


def _distance(ratio: float) -> float:
    return abs(float(np.log(max(ratio, 1e-6))))


def _motion(spectra, shape: tuple[int, int], meta: Meta) -> Motion:
    rows, columns = displacement(spectra, shape)
    speed = float(np.hypot(rows, columns))
    return Motion(direction(meta, rows, columns), speed, speed < STILL)


def _parabola(left: float, middle: float, right: float) -> float:
    """Offset of the summit of the parabola through three neighbours, the middle one the highest."""
    curvature = left - 2 * middle + right
    return float(0.5 * (left - right) / curvature) if curvature < 0 else 0.0


@cache
def _padded(shape: tuple[int, int]) -> tuple[int, int]:
    return fft.next_fast_len(2 * shape[0] - 1, real=True), fft.next_fast_len(2 * shape[1] - 1, real=True)


@cache
def _taper(shape: tuple[int, int]) -> Float[np.ndarray, "y x"]:
    # Without the zeros of the ends, which would blank out the outermost cells.
    return np.outer(*(np.hanning(size + 2)[1:-1] for size in shape)).astype(np.float32)


@cache
def _fine(shape: tuple[int, int]) -> np.ndarray:
    rows, columns = _padded(shape)
    return np.hypot(fft.fftfreq(rows)[:, None], fft.rfftfreq(columns)) > 0.25


@cache
def _weights(shape: tuple[int, int]) -> Float[np.ndarray, " kx"]:
    # Each column of a real transform stands for two, except the first and, at an even width, the last.
    columns = _padded(shape)[1]
    weights = np.full(columns // 2 + 1, 2, np.float32)
    weights[0] = 1
    if columns % 2 == 0:
        weights[-1] = 1
    return weights
