"""What the calendar says about a window: days, holidays and the span of the frames to be forecast.

The calendar of hours that are still to come is known in advance: to name it leaks no observation, so the narrative of
a ``history`` view names it too.
"""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cache

import holidays

from s2kd.dataset import Meta
from s2kd.stage import UserError


@dataclass(frozen=True)
class Day:
    weekend: bool
    holiday: str | None  # its name where the day is a public holiday
    neighbour: str | None  # "the day before New Year's Day", where the day itself is none


@dataclass(frozen=True)
class Calendar:
    """Times of a window: its counts end a time step after the last stamp, its instants at that stamp."""

    start: datetime
    now: datetime  # end of the input
    end: datetime  # end of the frames to be forecast
    today: Day  # the day that ``now`` falls on
    last_day: Day  # the day of the last frame to be forecast
    same_day: bool  # which is still today
    holiday_ahead: str | None  # the first public holiday among the days to be forecast, today left out
    season: str


def has_calendar(meta: Meta) -> bool:
    """Whether stamps are dates; those of a simulation, or of arrays without dates, only count steps."""
    return meta.domain != "fluid" and not meta.nominal_time


def calendar(start: datetime, meta: Meta) -> Calendar:
    """Read the calendar of the window whose first frame is stamped ``start``."""
    stamps = stamps_of(start, meta)
    tail = timedelta(seconds=meta.time_step) if meta.domain == "traffic" else timedelta(0)
    now = stamps[meta.n_steps_input - 1] + tail
    dates = sorted({moment.date() for moment in stamps[meta.n_steps_input :]})
    later = [day(date, meta.country).holiday for date in dates if date > now.date()]
    return Calendar(
        start=start,
        now=now,
        end=stamps[-1] + tail,
        today=day(now.date(), meta.country),
        last_day=day(dates[-1], meta.country),
        same_day=dates[-1] == now.date(),
        holiday_ahead=next((holiday for holiday in later if holiday), None),
        season=season(now, meta),
    )


def stamps_of(start: datetime, meta: Meta) -> list[datetime]:
    """Time stamps of all frames of a window, those to be forecast included."""
    step = timedelta(seconds=meta.time_step)
    return [start + k * step for k in range(meta.n_steps_input + meta.n_steps_output)]


def season(moment: datetime, meta: Meta) -> str:
    """Name the meteorological season; on a map that crosses the equator, the one of the northern hemisphere."""
    seasons = ("winter", "spring", "summer", "autumn")
    number = moment.month % 12 // 3
    if meta.y_name != "latitude" or min(meta.y) >= 0:
        return seasons[number]
    return seasons[(number + 2) % 4] if max(meta.y) <= 0 else f"northern {seasons[number]}"


@cache
def day(date: date, country: str | None) -> Day:
    """Tell what kind of day a date is; without a country no day is a holiday, and weekends are Saturday and Sunday."""
    known = public_holidays(country)
    if known is None:
        return Day(date.weekday() >= 5, None, None)
    neighbour = None
    if date not in known:
        for word, step in (("before", 1), ("after", -1)):
            if other := known.get(date + timedelta(days=step)):
                neighbour = f"the day {word} {other}"
                break
    return Day(date.weekday() in known.weekend, known.get(date), neighbour)


@cache
def public_holidays(country: str | None) -> holidays.HolidayBase | None:
    """Table of a country's holidays, in English where the package ``holidays`` has it."""
    if country is None:
        return None
    try:
        return holidays.country_holidays(country, language="en_US")
    except NotImplementedError:
        raise UserError(
            f"params.yaml: datasets.*.country = {country!r}: no such country; give its ISO 3166 code, such as US, "
            "or leave it empty"
        ) from None
