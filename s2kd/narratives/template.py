"""The ``template`` backend: a deterministic describer that puts facts into sentences. It is no language model.

A backend is a function like `narrate`. Each sentence tells one fact, which holds a word, which carries direction, and a
number, which carries magnitude; the order of the sentences is fixed.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta

import numpy as np
import pandas as pd
from jaxtyping import Float
from tqdm import tqdm

from s2kd.dataset import Frames, Meta
from s2kd.narratives.calendar import Calendar, calendar
from s2kd.narratives.facts import Facts, View, climatology, facts, n_seen
from s2kd.narratives.fields import FieldFacts, Level, Motion, Plume
from s2kd.narratives.places import Spot
from s2kd.narratives.traffic import Flow, TrafficFacts

Sentences = dict[str, str]  # in order of the text, by the kind of fact that each tells

CALENDAR = ("calendar", "calendar ahead")  # kinds known from the clock alone, the same in every view
SLOPE = {"low": " slightly", "middle": "", "high": " steeply"}


def narrate(
    frames: Frames | Float[np.ndarray, "time channel y x"],
    times: pd.DatetimeIndex,
    windows: pd.DataFrame,
    meta: Meta,
    view: View,
) -> Iterator[Sentences]:
    """Yield the sentences of each window's narrative, in the order of ``windows``."""
    usual = climatology(frames, times, windows, meta)
    for start in tqdm(windows["start"], desc="narrate", unit="window", disable=None):
        seen = frames[start : start + n_seen(view, meta)]
        yield render(facts(seen, times[start].to_pydatetime(), meta, usual, view))


def narrate_calendar(times: pd.DatetimeIndex, windows: pd.DataFrame, meta: Meta) -> Iterator[Sentences]:
    """Yield the `CALENDAR` sentences of `narrate` alone; only a window's time is read."""
    tell = _traffic_calendar if meta.domain == "traffic" else _weather_calendar
    for start in windows["start"]:
        yield _capitals(tell(calendar(times[start].to_pydatetime(), meta)))


def render(facts: Facts) -> Sentences:
    """Put facts into sentences."""
    return _capitals(_traffic(facts) if isinstance(facts, TrafficFacts) else _field(facts))


# --- traffic -----------------------------------------------------------------------------------------------------


def _traffic_calendar(when: Calendar) -> Sentences:
    return {
        "calendar": f"{_span(when.now - when.start)} to {when.now:%A} {_date(when.now)}, {_today(when)}.",
        "calendar ahead": f"ahead to {_transition(when)}.",
    }


def _traffic(facts: TrafficFacts) -> Sentences:
    shares = ", ".join(f"{region} {share:.0f} %" for region, share in facts.concentration)
    sentences = _traffic_calendar(facts.calendar) if facts.calendar else {}
    if usual := facts.usual_ahead:
        sentences["usual ahead"] = (
            f"usual {facts.flows[0].channel} ahead {_count(usual.low)} at {_time(usual.low_time)} to "
            f"{_count(usual.peak)} at {_time(usual.peak_time)}."
        )
    sentences |= {
        **{f"flow {flow.channel}": f"{_flow(flow)}, peak {_peak(flow)}." for flow in facts.flows},
        "concentration": f"most flow: {shares}.",
        "outlier": f"most unusual: {facts.outlier.region}, {_above(facts.outlier.value)}.",
        "change": f"largest change: {facts.largest_change.region}, {_up(facts.largest_change.value)}.",
    }
    if balance := facts.balance:
        gained = "gained" if balance.value >= 0 else "lost"
        sentences["balance"] = f"{balance.region} {gained} most, {_count(abs(balance.value))}."
    for seen, ahead in zip(facts.flows, facts.ahead, strict=False):
        record = "new peak" if ahead.peak > seen.peak else "lower peak"
        sentences[f"flow {ahead.channel} ahead"] = f"ahead, {_flow(ahead)}, {record} {_peak(ahead)}."
    if change := facts.largest_change_ahead:
        sentences["change ahead"] = f"largest change ahead: {change.region}, {_up(change.value)}."
    return sentences


def _flow(flow: Flow) -> str:
    return (
        f"{flow.channel} {_tendency(flow.first, flow.now)}{SLOPE[flow.change]} from {_count(flow.first)} to "
        f"{_count(flow.now)}{_unit(flow.unit)}, {abs(flow.deviation):.0f} % "
        f"{'above' if flow.deviation >= 0 else 'below'} usual"
    )


def _peak(flow: Flow) -> str:
    return f"{_count(flow.peak)} at {_time(flow.peak_time)}"


def _count(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:.2g}"


def _above(value: float) -> str:
    return f"{_count(abs(value))} {'above' if value >= 0 else 'below'}"


def _up(value: float) -> str:
    return f"{'up' if value >= 0 else 'down'} {_count(abs(value))}"


# --- weather and fluids ------------------------------------------------------------------------------------------


def _weather_calendar(when: Calendar) -> Sentences:
    return {
        "calendar": f"{when.season}, {_span(when.now - when.start)} to {_date(when.now)}.",
        "calendar ahead": f"ahead to {_date(when.end)}.",
    }


def _field(facts: FieldFacts) -> Sentences:
    # A tenth of the standard deviation is enough for a single cell, a mean moves less.
    digits, unit = max(facts.levels[0].digits - 1, 0), _unit(facts.levels[0].unit)

    def value(spot: Spot) -> str:
        return f"{_number(spot.value, digits)}{unit}, {_place(spot)}"

    def change(spot: Spot) -> str:
        up = "up" if spot.value >= 0 else "down"
        return f"{up} {_number(abs(spot.value), digits)}{unit}, {_place(spot)}"

    steep = {"low": "weak", "middle": "moderate", "high": "strong"}[facts.steepness]
    detail = {"low": "poor", "middle": "moderate", "high": "rich"}[facts.detailed]
    side = "above" if facts.outlier.value >= 0 else "below"
    unusual = f"{_number(abs(facts.outlier.value), digits)}{unit} {side} usual, {_place(facts.outlier)}"
    gradient = f"{_number(facts.gradient.value, digits)}{unit} a cell, {_place(facts.gradient)}"
    pace = "holds" if facts.accelerates == "low" else "speeds up" if facts.acceleration >= 1 else "slows"
    sentences = {
        **(_weather_calendar(facts.calendar) if facts.calendar else {}),
        "mean": f"{_levels(facts.levels)}.",
        "plume": f"{_plume(facts.plume)}." if facts.plume else "",
        "highest": f"highest {value(facts.maximum)}." if facts.maximum else "",
        "lowest": f"lowest {value(facts.minimum)}." if facts.minimum else "",
        "outlier": f"most unusual: {unusual}.",
        "gradient": f"gradient {steep}, sharpest {gradient}.",
        "motion": f"{_motion(facts.motion)}.",
        "change": f"largest change: {change(facts.largest_change)}.",
        "pace": f"{facts.rising:.0f} % of the map rises; pace {pace}, {facts.acceleration:.2f} times.",
        "detail": f"fine detail {detail}, {facts.detail:.2g} % of power.",
    }
    if facts.motion_ahead and facts.largest_change_ahead:
        high, low = ("new" if new else "no new" for new in (facts.new_maximum, facts.new_minimum))
        top, bottom = facts.maximum_ahead, facts.minimum_ahead
        sentences |= {
            "mean ahead": f"ahead, {_levels(facts.levels_ahead)}.",
            "plume ahead": f"ahead, {_plume(facts.plume_ahead)}." if facts.plume_ahead else "",
            "highest ahead": f"ahead, highest {value(top)}, {high} maximum." if top else "",
            "lowest ahead": f"ahead, lowest {value(bottom)}, {low} minimum." if bottom else "",
            "motion ahead": f"ahead, {_motion(facts.motion_ahead)}.",
            "change ahead": f"largest change ahead: {change(facts.largest_change_ahead)}.",
        }
    return {kind: sentence for kind, sentence in sentences.items() if sentence}  # a flat map has no highest place


def _levels(levels: tuple[Level, ...]) -> str:
    means = [not level.balanced for level in levels]
    names = [
        f"{'' if before else 'mean '}{level.channel}" if is_mean else f"strength of {level.channel}"  # mean said once
        for level, is_mean, before in zip(levels, means, [False, *means], strict=False)
    ]
    return "; ".join(
        f"{name} {_tendency(level.first, level.last)}{SLOPE[level.change]} from "
        f"{_number(level.first, level.digits)} to {_number(level.last, level.digits)}{_unit(level.unit)}"
        for name, level in zip(names, levels, strict=True)
    )


def _plume(plume: Plume) -> str:
    tendency, widens = _tendency(plume.first_top, plume.top), _tendency(plume.first_width, plume.width)
    moves = "stays at" if tendency == "stays" else f"{tendency}{SLOPE[plume.rises]} from {plume.first_top:.0f} to"
    spreads = {"rises": "widens", "falls": "narrows", "stays": "keeps"}[widens]
    width = f"{plume.width}" if widens == "stays" else f"from {plume.first_width} to {plume.width}"
    side = "right" if plume.leans >= 0 else "left"
    return (
        f"plume top {moves} {plume.top:.0f} % of the height, {spreads} {width} columns, leans {side} "
        f"{abs(plume.leans):.1f}"
    )


def _motion(motion: Motion) -> str:
    speed = f"{motion.speed:.2f} cells a step"
    return f"anomalies stay in place, {speed}" if motion.still else f"anomalies move {motion.direction}, {speed}"


def _place(spot: Spot) -> str:
    return f"{spot.region} at {spot.position}" if spot.position else spot.region


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if digits <= 5 else f"{value:.3g}"


# --- words for both ----------------------------------------------------------------------------------------------


def _capitals(sentences: Sentences) -> Sentences:
    return {kind: sentence[0].upper() + sentence[1:] for kind, sentence in sentences.items()}


def _tendency(first: float | int, last: float | int) -> str:
    return "rises" if last > first else "falls" if last < first else "stays"


def _unit(unit: str) -> str:
    return "" if unit in ("", "1") else f" {unit}"


def _part_of_day(moment: datetime) -> str:
    return ("night", "morning", "afternoon", "evening")[moment.hour // 6]


def _time(moment: datetime | int) -> str:
    if isinstance(moment, int):
        return f"step {moment}"
    return f"{moment:%H:%M}" if moment.minute else f"{moment.hour} h"


def _date(moment: datetime) -> str:
    return f"{moment.day} {moment:%B} {_time(moment)}"


def _span(span: timedelta) -> str:
    seconds = round(span.total_seconds())
    for name, size, least in (("days", 86400, 2 * 86400), ("hours", 3600, 3600), ("minutes", 60, 60)):
        if seconds % size == 0 and seconds >= least:
            return f"{seconds // size} {name[:-1] if seconds == size else name}"
    return f"{seconds} seconds"


def _today(when: Calendar) -> str:
    day = when.today
    special = f", {day.holiday}, a public holiday" if day.holiday else f", {day.neighbour}" if day.neighbour else ""
    return f"{'weekend' if day.weekend else 'weekday'} {_part_of_day(when.now)}{special}"


def _transition(when: Calendar) -> str:
    if when.same_day:
        return f"{_time(when.end) if when.end.date() == when.now.date() else '24 h'} the same day"
    if when.last_day.weekend == when.today.weekend:
        change = "the weekend goes on" if when.last_day.weekend else "another weekday"
    else:
        change = "the weekend begins" if when.last_day.weekend else "the weekend ends"
    if when.holiday_ahead:
        change += f", with {when.holiday_ahead}, a public holiday"
    elif when.last_day.neighbour:
        change += f", {when.last_day.neighbour}"
    return f"{when.end:%A} {_time(when.end)}, {change}"
