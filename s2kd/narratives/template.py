"""The ``template`` backend: a deterministic describer that puts facts into sentences. It is no language model.

A backend is a function like `narrate`. Each sentence holds a word, which carries direction, and a number, which carries
magnitude; the order of the sentences is fixed.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta

import numpy as np
import pandas as pd
from jaxtyping import Float

from s2kd.dataset import Meta
from s2kd.narratives.calendar import Calendar
from s2kd.narratives.facts import Facts, View, climatology, facts, n_seen
from s2kd.narratives.fields import FieldFacts, Level, Motion
from s2kd.narratives.places import Spot
from s2kd.narratives.traffic import Flow, TrafficFacts

SLOPE = {"low": " slightly", "middle": "", "high": " steeply"}


def narrate(
    frames: Float[np.ndarray, "time channel y x"],
    times: pd.DatetimeIndex,
    windows: pd.DataFrame,
    meta: Meta,
    view: View,
) -> Iterator[str]:
    """Yield one narrative a window, in the order of ``windows``."""
    usual = climatology(frames, times, windows, meta)
    for start in windows["start"]:
        seen = frames[start : start + n_seen(view, meta)]
        yield " ".join(render(facts(seen, times[start].to_pydatetime(), meta, usual, view)))


def render(facts: Facts) -> list[str]:
    """Put facts into sentences."""
    return _traffic(facts) if isinstance(facts, TrafficFacts) else _field(facts)


# --- traffic -----------------------------------------------------------------------------------------------------


def _traffic(facts: TrafficFacts) -> list[str]:
    when, usual, first = facts.calendar, facts.usual_ahead, facts.flows[0].channel
    sentences = [
        f"{_span(when.now - when.start)} to {when.now:%A} {_date(when.now)}, {_today(when)}.",
        f"Ahead to {_transition(when)}; usual {first} "
        f"{_count(usual.low)} at {_time(usual.low_time)} to {_count(usual.peak)} at {_time(usual.peak_time)}.",
        *(f"{_flow(flow)}, peak {_peak(flow)}." for flow in facts.flows),
        "Most flow: " + ", ".join(f"{region} {share:.0f} %" for region, share in facts.concentration) + ".",
        f"Most unusual: {facts.outlier.region}, {_above(facts.outlier.value)}.",
        f"Largest change: {facts.largest_change.region}, {_up(facts.largest_change.value)}.",
    ]
    if balance := facts.balance:
        sentences.append(
            f"{balance.region} {'gained' if balance.value >= 0 else 'lost'} most, {_count(abs(balance.value))}."
        )
    for seen, ahead in zip(facts.flows, facts.ahead, strict=False):
        record = "new peak" if ahead.peak > seen.peak else "lower peak"
        sentences.append(f"Ahead, {_flow(ahead)}, {record} {_peak(ahead)}.")
    if change := facts.largest_change_ahead:
        sentences.append(f"Largest change ahead: {change.region}, {_up(change.value)}.")
    return [_capital(sentence) for sentence in sentences]


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


def _field(facts: FieldFacts) -> list[str]:
    # A tenth of the standard deviation is enough for a single cell, a mean moves less.
    digits, unit = max(facts.levels[0].digits - 1, 0), _unit(facts.levels[0].unit)

    def value(spot: Spot) -> str:
        return f"{_number(spot.value, digits)}{unit}, {_place(spot)}"

    def extremes(*named: tuple[str, Spot | None, str]) -> list[str]:
        return [f"{name} {value(spot)}{record}." for name, spot, record in named if spot]

    def change(spot: Spot) -> str:
        up = "up" if spot.value >= 0 else "down"
        return f"{up} {_number(abs(spot.value), digits)}{unit}, {_place(spot)}"

    steep = {"low": "weak", "middle": "moderate", "high": "strong"}[facts.steepness]
    detail = {"low": "poor", "middle": "moderate", "high": "rich"}[facts.detailed]
    side = "above" if facts.outlier.value >= 0 else "below"
    unusual = f"{_number(abs(facts.outlier.value), digits)}{unit} {side} usual, {_place(facts.outlier)}"
    gradient = f"{_number(facts.gradient.value, digits)}{unit} a cell, {_place(facts.gradient)}"
    pace = "holds" if facts.accelerates == "low" else "speeds up" if facts.acceleration >= 1 else "slows"
    when = facts.calendar
    sentences = [
        *([f"{when.season}, {_span(when.now - when.start)} to {_date(when.now)}."] if when else []),
        f"mean {_levels(facts.levels)}.",
        *extremes(("highest", facts.maximum, ""), ("lowest", facts.minimum, "")),
        f"most unusual: {unusual}.",
        f"gradient {steep}, sharpest {gradient}.",
        f"{_motion(facts.motion)}.",
        f"largest change: {change(facts.largest_change)}.",
        f"{facts.rising:.0f} % of the map rises; pace {pace}, {facts.acceleration:.2f} times.",
        f"fine detail {detail}, {facts.detail:.2g} % of power.",
    ]
    if facts.motion_ahead and facts.largest_change_ahead:
        until = f", to {_date(when.end)}" if when else ""
        highest, lowest = ("new" if new else "no new" for new in (facts.new_maximum, facts.new_minimum))
        sentences += [
            f"ahead{until}, mean {_levels(facts.levels_ahead)}.",
            *extremes(
                ("ahead, highest", facts.maximum_ahead, f", {highest} maximum"),
                ("ahead, lowest", facts.minimum_ahead, f", {lowest} minimum"),
            ),
            f"ahead, {_motion(facts.motion_ahead)}.",
            f"largest change ahead: {change(facts.largest_change_ahead)}.",
        ]
    return [_capital(sentence) for sentence in sentences]


def _levels(levels: tuple[Level, ...]) -> str:
    return "; ".join(
        f"{level.channel} {_tendency(level.first, level.last)}{SLOPE[level.change]} from "
        f"{_number(level.first, level.digits)} to {_number(level.last, level.digits)}{_unit(level.unit)}"
        for level in levels
    )


def _motion(motion: Motion) -> str:
    speed = f"{motion.speed:.2f} cells a step"
    return f"anomalies stay in place, {speed}" if motion.still else f"anomalies move {motion.direction}, {speed}"


def _place(spot: Spot) -> str:
    return f"{spot.region} at {spot.position}" if spot.position else spot.region


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if digits <= 5 else f"{value:.3g}"


# --- words for both ----------------------------------------------------------------------------------------------


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


def _tendency(first: float, last: float) -> str:
    return "rises" if last > first else "falls" if last < first else "stays"


def _unit(unit: str) -> str:
    return "" if unit in ("", "1") else f" {unit}"


def _part_of_day(moment: datetime) -> str:
    return ("night", "morning", "afternoon", "evening")[moment.hour // 6]


def _time(moment: datetime) -> str:
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
