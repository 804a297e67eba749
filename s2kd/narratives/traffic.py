"""Facts of traffic: flows against the usual, their tendency, where they concentrate and who gains.

No motion and no minima: flow patterns do not translate, and the least busy cells are empty in every window.
"""

from dataclasses import dataclass
from datetime import datetime

import numpy as np
from jaxtyping import Float

from s2kd.dataset import Meta
from s2kd.narratives.calendar import Calendar, calendar, has_calendar, stamps_of
from s2kd.narratives.climatology import Climatology, Grade, slots
from s2kd.narratives.places import Spot, region_names, region_sums


@dataclass(frozen=True)
class Flow:
    """One channel, summed over the map."""

    channel: str
    unit: str
    first: float
    now: float
    change: Grade  # of |now - first|
    deviation: float  # percent of the usual flow of the hour, by which the flow lies above it
    peak: float
    peak_time: datetime | int  # without dates the number of the frame in the window, from 1


@dataclass(frozen=True)
class UsualFlow:
    """What the first channel usually does in the hours to be forecast; from the training frames alone."""

    peak: float
    peak_time: datetime
    low: float
    low_time: datetime


@dataclass(frozen=True)
class TrafficFacts:
    calendar: Calendar | None  # of data with dates
    flows: tuple[Flow, ...]
    concentration: tuple[tuple[str, float], ...]  # regions that hold most of the flow now, and percent of it
    outlier: Spot  # the region that lies furthest from its usual flow now
    balance: Spot | None  # the region where arrivals minus departures over the input differ most from 0
    largest_change: Spot  # the region, from the first frame to now
    usual_ahead: UsualFlow | None  # of data with dates; else every time has the same usual
    ahead: tuple[Flow, ...]  # from now to the last frame to be forecast; empty in a history view
    largest_change_ahead: Spot | None


def traffic_facts(
    frames: Float[np.ndarray, "time channel y x"],
    start: datetime,
    meta: Meta,
    climatology: Climatology,
    described: tuple[int, ...],
) -> TrafficFacts:
    """Compute the facts of one window; ``frames`` are those that the view may see."""
    stamps, n_input = stamps_of(start, meta), meta.n_steps_input
    hours, days = slots(stamps, meta)
    dated = has_calendar(meta)
    when = stamps if dated else list(range(1, len(stamps) + 1))
    usual = climatology.total[hours, days]  # time channel
    now = n_input - 1
    totals = frames.sum(axis=(-2, -1), dtype=np.float64)
    regions = region_sums(frames)  # time channel 9
    names = region_names(meta)

    present = regions[now].sum(axis=0, dtype=np.float64)
    outlying = present - region_sums(climatology.mean[hours[now], days[now]]).sum(axis=0)
    largest = np.argsort(-present, kind="stable")[:2]
    balance = None
    if pair := in_and_out(meta):
        gains = (regions[:n_input, pair[0]] - regions[:n_input, pair[1]]).sum(axis=0)
        balance = _spot(gains, names)

    def flows(first: int, span: slice, compared: slice) -> tuple[Flow, ...]:
        deviations = deviation(totals[compared], usual[compared], climatology)
        return tuple(
            _flow(totals[first, c], totals[span, c], when[span], deviations[c], c, meta, climatology) for c in described
        )

    changed = present - regions[0].sum(axis=0)
    seen_ahead = len(frames) > n_input
    changed_ahead = regions[-1].sum(axis=0) - present if seen_ahead else None
    return TrafficFacts(
        calendar=calendar(start, meta) if dated else None,
        flows=flows(0, slice(n_input), slice(now, n_input)),
        concentration=tuple((names[i], 100 * float(present[i] / max(present.sum(), 1e-9))) for i in largest),
        outlier=_spot(outlying, names),
        balance=balance,
        largest_change=_spot(changed, names),
        usual_ahead=_usual(usual[n_input:, 0], stamps[n_input:]) if dated else None,
        ahead=flows(now, slice(n_input, None), slice(n_input, None)) if seen_ahead else (),
        largest_change_ahead=_spot(changed_ahead, names) if seen_ahead else None,
    )


def traffic_measures(
    frames: Float[np.ndarray, "time channel y x"], start: datetime, meta: Meta, climatology: Climatology
) -> dict[str, np.ndarray]:
    """Measure what is graded, per channel, over the input of one window (its time and the climatology play no part)."""
    return {"change": np.abs((frames[-1] - frames[0]).sum(axis=(-2, -1), dtype=np.float64))}


def deviation(
    totals: Float[np.ndarray, "time channel"], usual: Float[np.ndarray, "time channel"], climatology: Climatology
) -> Float[np.ndarray, " channel"]:
    """Percent by which totals lie above the usual; an empty hour counts as 1 % of the overall mean flow."""
    floor = 0.01 * climatology.total.mean(axis=(0, 1))
    return 100 * (totals.sum(axis=0) - usual.sum(axis=0)) / np.maximum(usual.sum(axis=0), np.maximum(floor, 1e-9))


def in_and_out(meta: Meta) -> tuple[int, int] | None:
    """Indices of the channels of arrivals and departures, if there is one of each by name."""
    names = [name.lower() for name in meta.channels]
    arrivals = [c for c, name in enumerate(names) if name in ("in", "inflow", "arrivals")]
    departures = [c for c, name in enumerate(names) if name in ("out", "outflow", "departures")]
    return (arrivals[0], departures[0]) if len(arrivals) == len(departures) == 1 else None


def _flow(
    first: float,
    totals: Float[np.ndarray, " time"],
    when: list[datetime] | list[int],
    deviation: float,
    c: int,
    meta: Meta,
    climatology: Climatology,
) -> Flow:
    now, peak = float(totals[-1]), int(totals.argmax())
    return Flow(
        channel={"in": "inflow", "out": "outflow"}.get(meta.channels[c], meta.channels[c]),
        unit=meta.units[c],
        first=float(first),
        now=now,
        change=climatology.grade("change", c, abs(now - first)),
        deviation=float(deviation),
        peak=float(totals[peak]),
        peak_time=when[peak],
    )


def _usual(totals: Float[np.ndarray, " time"], stamps: list[datetime]) -> UsualFlow:
    peak, low = int(totals.argmax()), int(totals.argmin())
    return UsualFlow(float(totals[peak]), stamps[peak], float(totals[low]), stamps[low])


def _spot(values: Float[np.ndarray, " 9"], names: tuple[str, ...]) -> Spot:
    index = int(np.abs(values).argmax())
    return Spot(float(values[index]), names[index])
