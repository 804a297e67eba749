"""Facts of hand-made fields to the number, and what a view may and may not see."""

import dataclasses
from datetime import date, datetime, timedelta
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from s2kd.dataset import Meta
from s2kd.narratives.calendar import calendar, day
from s2kd.narratives.climatology import Climatology, filled, means
from s2kd.narratives.controls import CONSTANT, corrupt, donors, texts
from s2kd.narratives.facts import climatology, facts
from s2kd.narratives.fields import STILL, acceleration, detail_share, displacement, tapered_spectra
from s2kd.narratives.places import direction, region, region_names, region_sums
from s2kd.narratives.template import CALENDAR, narrate, render
from s2kd.params import Narrative
from s2kd.stage import UserError
from s2kd.windows import train_mask

NCEP = Path(__file__).parents[1] / "../shared/data/ncep_air_temperature_2013_2014.nc"
START = datetime(2001, 7, 2)  # a Monday


def meta_of(domain: str, channels: tuple[str, ...], shape: tuple[int, int], n_input: int = 12) -> Meta:
    height, width = shape
    globe = domain != "fluid"
    return Meta(
        dataset="made",
        title="Made by hand",
        domain=domain,
        country="US",
        channels=channels,
        units=tuple("K" for _ in channels),
        time_step=3600,
        start=START.isoformat(),
        n_frames=0,
        n_steps_input=n_input,
        n_steps_output=n_input,
        y_name="latitude" if globe else "y",
        x_name="longitude" if globe else "x",
        y=tuple(float(50 - k) for k in range(height)) if globe else tuple(k + 0.5 for k in range(height)),
        x=tuple(float(200 + k) for k in range(width)) if globe else tuple(k + 0.5 for k in range(width)),
        mean=tuple(1.0 for _ in channels),
        std=tuple(1.0 for _ in channels),
        period="none",
        missing="refuse",
        n_missing=0,
        nominal_time=False,
        licence="",
        citation="",
    )


WEATHER = meta_of("weather", ("air",), (24, 30))
FLUID = meta_of("fluid", ("density", "u"), (24, 24))
TRAFFIC = meta_of("traffic", ("in", "out"), (6, 9))


def blank(meta: Meta) -> Climatology:
    """Usual values of 0 and thirds below and above 1, so that numbers can be checked by hand."""
    hours, days = {"traffic": (24, 2), "weather": (24, 1), "fluid": (1, 1)}[meta.domain]
    n = len(meta.channels)
    bounds = np.tile([0.5, 1.0], (n, 1))
    names = ("change", "gradient", "detail", "acceleration", "rise")
    return Climatology(
        mean=np.zeros((hours, days, n, len(meta.y), len(meta.x)), np.float32),
        total=np.zeros((hours, days, n)),
        terciles={name: bounds for name in names},
    )


def moving_blob(meta: Meta, rows: float, columns: float) -> np.ndarray:
    """A Gaussian that starts left of and above the middle of the array, (time, 1, y, x), displaced each frame."""
    time = np.arange(meta.n_steps_input + meta.n_steps_output)[:, None, None]
    y, x = np.mgrid[: len(meta.y), : len(meta.x)]
    distance = (y - 10 - rows * time) ** 2 + (x - 10 - columns * time) ** 2
    return np.exp(-distance / 18).astype(np.float32)[:, None]


def random_record(meta: Meta, n_frames: int = 200) -> tuple[np.ndarray, pd.DatetimeIndex, pd.DataFrame]:
    rng = np.random.default_rng(0)
    frames = rng.gamma(2, 20, (n_frames, len(meta.channels), len(meta.y), len(meta.x))).astype(np.float32)
    length = meta.n_steps_input + meta.n_steps_output
    starts = np.arange(n_frames - length + 1)
    split = np.where(starts < 100, "train", "test")
    windows = pd.DataFrame({"id": starts, "start": starts, "split": split})
    return frames, pd.date_range(START, periods=n_frames, freq="h"), windows


# --- places ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("y_name", "y", "top", "down"),
    [
        ("latitude", (3.0, 2.0, 1.0), "northwest", "south"),
        ("latitude", (1.0, 2.0, 3.0), "southwest", "north"),
        ("y", (0.0, 1.0, 2.0), "lower left", "up"),
        ("y", (2.0, 1.0, 0.0), "upper left", "down"),
    ],
)
def test_rows_run_as_their_coordinate_says(y_name: str, y: tuple, top: str, down: str) -> None:
    meta = WEATHER.model_copy(update={"y_name": y_name, "y": y, "x": (0.0, 1.0, 2.0)})
    assert region(meta, 0, 0) == top == region_names(meta)[0]
    assert direction(meta, 1.0, 0.1) == down
    mirrored = meta.model_copy(update={"x": (2.0, 1.0, 0.0)})
    assert direction(meta, 0.0, 1.0) == direction(mirrored, 0.0, -1.0) == ("east" if y_name == "latitude" else "right")


def test_region_sums_agree_with_the_region_of_each_cell() -> None:
    meta = meta_of("traffic", ("flow",), (16, 32))
    field = np.random.default_rng(0).integers(0, 9, (16, 32)).astype(np.float64)
    by_hand = dict.fromkeys(region_names(meta), 0.0)
    for row in range(16):
        for column in range(32):
            by_hand[region(meta, row, column)] += field[row, column]
    assert dict(zip(region_names(meta), region_sums(field), strict=True)) == by_hand


# --- calendar ----------------------------------------------------------------------------------------------------


def test_days() -> None:
    assert day(date(2001, 7, 4), "US").holiday == "Independence Day"
    assert day(date(2001, 7, 3), "US").neighbour == "the day before Independence Day"
    assert day(date(2001, 7, 5), "US").neighbour == "the day after Independence Day"
    assert day(date(2001, 7, 4), None).holiday is None
    assert day(date(2001, 7, 7), "US").weekend
    assert not day(date(2001, 7, 6), "US").weekend
    assert day(date(2001, 7, 6), "EG").weekend  # Friday and Saturday
    with pytest.raises(UserError, match="Atlantis"):
        day(date(2001, 7, 4), "Atlantis")


@pytest.mark.parametrize(
    ("start", "today", "ahead"),
    [
        ("2001-07-06T06", "12 hours to Friday 6 July 18 h, weekday evening.", "Saturday 6 h, the weekend begins."),
        ("2001-07-08T06", "Sunday 8 July 18 h, weekend evening.", "Monday 6 h, the weekend ends."),
        ("2001-07-07T06", "Saturday 7 July 18 h, weekend evening.", "Sunday 6 h, the weekend goes on."),
        ("2001-07-10T00", "Tuesday 10 July 12 h, weekday afternoon.", "24 h the same day."),
        (
            "2001-07-03T03",
            "Tuesday 3 July 15 h, weekday afternoon, the day before Independence Day.",
            "Wednesday 3 h, another weekday, with Independence Day, a public holiday.",
        ),
        (
            "2001-07-04T03",
            "Wednesday 4 July 15 h, weekday afternoon, Independence Day, a public holiday.",
            "Thursday 3 h, another weekday, the day after Independence Day.",
        ),
    ],
)
def test_calendar_words(start: str, today: str, ahead: str) -> None:
    frames = np.ones((12, 2, 6, 9), np.float32)
    text = render(facts(frames, datetime.fromisoformat(start), TRAFFIC, blank(TRAFFIC), "history"))
    assert text["calendar"].endswith(today)
    assert text["calendar ahead"] == f"Ahead to {ahead}"


def test_calendar_of_instants_ends_at_the_last_stamp() -> None:
    when = calendar(START, WEATHER)
    assert when.now - when.start == timedelta(hours=11)
    assert when.end - when.now == timedelta(hours=12)
    assert when.season == "summer"
    southern = WEATHER.model_copy(update={"y": tuple(-10.0 - k for k in range(24))})
    assert calendar(START, southern).season == "winter"
    tropics = WEATHER.model_copy(update={"y": tuple(12.0 - k for k in range(24))})
    assert calendar(START, tropics).season == "northern summer"


# --- fields ------------------------------------------------------------------------------------------------------


def test_facts_of_a_ramp() -> None:
    meta = WEATHER
    y, x = np.mgrid[:24, :30]
    time = np.arange(24)[:, None, None]
    frames = (3 * x + 4 * y + 0.5 * time).astype(np.float32)[:, None]
    known = facts(frames, START, meta, blank(meta), "history_and_target")
    assert (known.levels[0].first, known.levels[0].last) == pytest.approx((89.5, 95))
    assert (known.maximum.value, known.maximum.region) == (184.5, "southeast")
    assert known.maximum.position == "27 N 131 W"
    assert (known.minimum.value, known.minimum.region, known.minimum.position) == (5.5, "northwest", "50 N 160 W")
    assert known.gradient.value == pytest.approx(5)
    assert known.largest_change.value == pytest.approx(5.5)
    assert known.outlier.value == known.maximum.value
    assert known.rising == 100
    assert known.acceleration == pytest.approx(1)
    assert known.accelerates == "low"
    assert known.levels_ahead[0].last == pytest.approx(101)
    assert known.maximum_ahead.value == 190.5
    assert known.new_maximum
    assert not known.new_minimum


@pytest.mark.parametrize(
    ("rows", "columns", "row_0_north", "row_0_south"),
    [
        (0.0, 0.5, "east", "east"),
        (0.4, 0.0, "south", "north"),
        (0.3, -0.3, "southwest", "northwest"),
    ],
)
def test_motion_of_a_blob(rows: float, columns: float, row_0_north: str, row_0_south: str) -> None:
    frames = moving_blob(WEATHER, rows, columns)
    upside_down = WEATHER.model_copy(update={"y": WEATHER.y[::-1]})
    for meta, expected in ((WEATHER, row_0_north), (upside_down, row_0_south)):
        motion = facts(frames, START, meta, blank(meta), "history").motion
        assert motion.direction == expected
        assert motion.speed == pytest.approx(np.hypot(rows, columns), rel=0.3)  # the taper holds it back
        assert not motion.still


def test_displacement_is_exact_for_whole_cells_far_from_the_edge() -> None:
    y, x = np.mgrid[:48, :48]
    frames = np.stack([np.exp(-((y - 22 - 2 * t) ** 2 + (x - 25 + 3 * t) ** 2) / 8) for t in range(2)])
    assert displacement(tapered_spectra(frames.astype(np.float32)), (48, 48)) == pytest.approx((2, -3), abs=0.15)


def test_a_standing_field_stays_in_place() -> None:
    motion = facts(moving_blob(WEATHER, 0, 0), START, WEATHER, blank(WEATHER), "history").motion
    assert motion.still
    assert motion.speed < STILL / 10
    still = facts(np.zeros((12, 1, 24, 30), np.float32), START, WEATHER, blank(WEATHER), "history")
    assert still.motion.speed == 0
    assert still.maximum is None  # a flat map has no highest place
    assert all(render(still).values())
    assert "highest" not in render(still)


def test_fine_detail_is_the_share_above_a_quarter_cycle_a_cell() -> None:
    x = np.arange(32) * np.ones((32, 1))
    for cycles, share in ((0.05, 0), (0.4, 100)):
        wave = np.cos(2 * np.pi * cycles * x).astype(np.float32)[None]
        assert detail_share(tapered_spectra(wave)[0], (32, 32)) == pytest.approx(share, abs=0.1)


def test_acceleration_compares_the_halves() -> None:
    value = np.array([0, 1, 2, 4, 6], np.float32)[:, None, None] * np.ones((3, 3), np.float32)
    assert acceleration(value) == pytest.approx(2)
    assert acceleration(value[:1]) == 1


@pytest.mark.parametrize("y", [(0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5), (7.5, 6.5, 5.5, 4.5, 3.5, 2.5, 1.5, 0.5)])
@pytest.mark.parametrize("mirrored", [False, True])
def test_facts_of_a_plume(y: tuple[float, ...], mirrored: bool) -> None:
    """On 8 x 10 cells, row 0 at the top in what is drawn here: a foot that becomes a stem with a leaning head."""
    drawn = np.zeros((2, 8, 10), np.float32)
    drawn[0, 6:, 4] = 2  # two cells high, one wide
    drawn[1, 3:, 4] = 2
    drawn[1, 2, 5:9] = 1
    drawn[1, 1, 0] = 0.1  # too faint
    ascending = y[0] < y[-1]
    frames = drawn[:, :: -1 if ascending else 1, :: -1 if mirrored else 1]
    x = tuple(range(10))
    meta = meta_of("fluid", ("density",), (8, 10), n_input=2)
    meta = meta.model_copy(update={"y": y, "x": x[::-1] if mirrored else x})
    known = facts(frames[:, None], START, meta, blank(meta), "history").plume
    assert (known.first_top, known.top, known.rises) == (25, 75, "high")
    assert (known.first_width, known.width) == (1, 5)
    upper, lower = drawn[1, :4].sum(axis=0), drawn[1, 4:].sum(axis=0)
    assert known.leans == pytest.approx((upper @ np.arange(10)) / upper.sum() - (lower @ np.arange(10)) / lower.sum())
    text = render(facts(frames[:, None], START, meta, blank(meta), "history"))["plume"]
    assert text == "Plume top rises steeply from 25 to 75 % of the height, widens from 1 to 5 columns, leans right 1.6."


def test_only_smoke_that_can_rise_has_a_plume() -> None:
    frames = np.ones((2, 1, 24, 24), np.float32)
    for update in ({"channels": ("vorticity",)}, {"y_name": "latitude"}, {"domain": "weather"}):
        meta = FLUID.model_copy(update={"channels": ("density",), "n_steps_input": 2, **update})
        assert facts(frames, START, meta, blank(meta), "history").plume is None
    smoky = FLUID.model_copy(update={"channels": ("density",), "n_steps_input": 2})
    assert facts(frames, START, smoky, blank(smoky), "history").plume.top == 100
    assert facts(0 * frames, START, smoky, blank(smoky), "history").plume is None


def test_the_level_of_a_channel_that_balances_is_its_strength() -> None:
    meta = FLUID.model_copy(update={"mean": (1.0, 0.001), "n_steps_input": 2})
    frames = np.ones((2, 2, 24, 24), np.float32)
    frames[:, 1, ::2], frames[1, 1] = -1, 3 * frames[1, 1]
    frames[1, 1, ::2] = -3
    density, u = facts(frames, START, meta, blank(meta), "history").levels
    assert (density.balanced, density.first, density.last) == (False, 1, 1)
    assert (u.balanced, u.first, u.last, u.change) == (True, 1, 3, "high")
    text = render(facts(frames, START, meta, blank(meta), "history"))["mean"]
    assert text == "Mean density stays slightly from 1.00 to 1.00 K; strength of u rises steeply from 1.0 to 3.0 K."


# --- missing values and time ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("meta", [TRAFFIC, WEATHER, FLUID], ids=lambda meta: meta.domain)
def test_missing_values_count_as_usual(meta: Meta) -> None:
    frames, times, windows = random_record(meta)
    usual = climatology(frames, times, windows, meta)
    gaps = np.random.default_rng(1).random(frames.shape) < 0.2
    gaps[:, 0, 0, 0] = True
    holey = np.where(gaps, np.nan, frames)
    meta = meta.model_copy(update={"n_missing": int(gaps.sum())})
    start, window = times[30].to_pydatetime(), slice(30, 54)
    whole = filled(holey[window], start, meta, usual)
    assert (whole[~gaps[window]] == frames[window][~gaps[window]]).all()
    hours = np.zeros(24, int) if meta.domain == "fluid" else (30 + np.arange(24)) % 24
    assert (whole[:, 0, 0, 0] == usual.mean[hours, 0, 0, 0, 0]).all()  # 3 July is a working day
    told = render(facts(holey[window], start, meta, usual, "history_and_target"))
    assert told == render(facts(whole, start, meta, usual, "history_and_target"))
    texts = list(narrate(holey, times, windows.iloc[::20], meta, "history_and_target"))
    assert not any("nan" in sentence for text in texts for sentence in text.values())


@pytest.mark.parametrize("meta", [TRAFFIC, WEATHER], ids=lambda meta: meta.domain)
def test_stamps_that_only_count_steps_are_not_read(meta: Meta) -> None:
    frames, times, windows = random_record(meta)
    nominal = meta.model_copy(update={"nominal_time": True})
    usual = climatology(frames, times, windows, nominal)
    assert usual.mean.shape[:2] == (1, 1)
    for view in ("history", "history_and_target"):
        told = render(facts(frames[:24], times[0].to_pydatetime(), nominal, usual, view))
        assert told == render(facts(frames[:24], datetime(1999, 12, 31, 5), nominal, usual, view))
        dated = render(
            facts(frames[:24], times[0].to_pydatetime(), meta, climatology(frames, times, windows, meta), view)
        )
        lost = {"calendar", "calendar ahead", "usual ahead"}
        assert list(told) == [kind for kind in dated if kind not in lost]
    if meta is TRAFFIC:
        peak = frames[:12, 0].sum(axis=(1, 2)).argmax() + 1
        assert f"peak {frames[peak - 1, 0].sum():.0f} at step {peak}." in told["flow inflow"]


# --- traffic -----------------------------------------------------------------------------------------------------


def test_facts_of_traffic() -> None:
    frames = np.zeros((12, 2, 6, 9), np.float32)
    frames[:, 0, 0, 0] = np.arange(1, 13) * 10  # arrivals in the northwest
    frames[7, 0, 0, 0] = 200
    frames[:, 1, 5, 8] = 30  # departures in the southeast
    usual = blank(TRAFFIC)
    usual.mean[11, 0, 0, 0, 0] = 96
    usual.total[11, 0, 0] = 96
    known = facts(frames, START, TRAFFIC, usual, "history")
    inflow, outflow = known.flows
    assert (inflow.first, inflow.now, inflow.peak, inflow.peak_time) == (10, 120, 200, START + timedelta(hours=7))
    assert inflow.deviation == pytest.approx(25)  # 120 against 96
    assert (inflow.change, outflow.change) == ("high", "low")
    assert known.concentration == (("northwest", 80), ("southeast", 20))
    assert (known.outlier.value, known.outlier.region) == (30, "southeast")
    assert (known.largest_change.value, known.largest_change.region) == (110, "northwest")
    assert (known.balance.value, known.balance.region) == (frames[:, 0].sum(), "northwest")
    one_way = TRAFFIC.model_copy(update={"channels": ("speed", "density")})
    assert facts(frames, START, one_way, usual, "history").balance is None


def test_usual_flow_ahead_is_that_of_the_training_frames() -> None:
    usual = blank(TRAFFIC)
    usual.total[:, 0, 0] = np.arange(24)
    known = facts(np.ones((12, 2, 6, 9), np.float32), START, TRAFFIC, usual, "history").usual_ahead
    assert (known.low, known.low_time) == (12, START + timedelta(hours=12))
    assert (known.peak, known.peak_time) == (23, START + timedelta(hours=23))


def test_means_use_training_frames_by_hour_and_kind_of_day() -> None:
    frames, times, windows = random_record(TRAFFIC)
    train = train_mask(len(frames), windows, 24)
    mean = means(frames, times, train, TRAFFIC)
    assert mean[5, 0] == pytest.approx(frames[[5, 29, 53, 77, 101]].mean(axis=0), rel=1e-5)  # 100 + 23 frames
    assert mean[5, 1] == pytest.approx(frames[:123].mean(axis=0), rel=1e-4)  # no weekend among them
    changed = frames.copy()
    changed[123:] += 1
    assert (means(changed, times, train, TRAFFIC) == mean).all()


@pytest.mark.parametrize("n_frames", [1, 7, 200])
@pytest.mark.parametrize("missing", [False, True])
def test_means_do_not_depend_on_the_blocks_they_are_summed_in(
    n_frames: int, missing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames, times, windows = random_record(WEATHER)
    frames += 1e4  # much larger than what varies
    meta = WEATHER
    if missing:
        frames[np.random.default_rng(1).random(frames.shape) < 0.3] = np.nan
        frames[:, 0, 0, 0] = np.nan
        meta = WEATHER.model_copy(update={"n_missing": int(np.isnan(frames).sum())})
    monkeypatch.setattr("s2kd.dataset.BLOCK_BYTES", n_frames * frames[0].nbytes)
    train = train_mask(len(frames), windows, 24)
    mean = means(frames, times, train, meta)
    seen = frames[train].astype(np.float64)
    every = np.ma.masked_invalid(seen).mean(axis=0).filled(np.nanmean(seen))  # by the channel where there is nothing
    for hour in range(24):
        at_hour = np.ma.masked_invalid(seen[times[train].hour == hour]).mean(axis=0)
        np.testing.assert_allclose(mean[hour, 0], np.where(np.ma.getmaskarray(at_hour), every, at_hour), rtol=1e-7)


# --- text --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("meta", [TRAFFIC, WEATHER, FLUID], ids=lambda meta: meta.domain)
def test_a_history_view_never_sees_the_target(meta: Meta) -> None:
    frames, times, windows = random_record(meta)
    usual = climatology(frames, times, windows, meta)
    window, start = frames[:24], times[0].to_pydatetime()
    other = window.copy()
    other[12:] = np.random.default_rng(1).gamma(2, 90, other[12:].shape)
    unseen = window.copy()
    unseen[12:] = np.nan
    history = render(facts(window, start, meta, usual, "history"))
    assert history == render(facts(other, start, meta, usual, "history"))
    assert history == render(facts(unseen, start, meta, usual, "history"))
    assert history == render(facts(window[:12], start, meta, usual, "history"))
    full = render(facts(window, start, meta, usual, "history_and_target"))
    changed = render(facts(other, start, meta, usual, "history_and_target"))
    n = len(history)
    assert list(full.items())[:n] == list(changed.items())[:n] == list(history.items())  # the target part comes after
    assert len(full) > n
    silent = {"plume ahead"}  # random smoke fills the map, whatever it is
    assert all(full[kind] != changed[kind] for kind in full.keys() - history.keys() - silent)


@pytest.mark.parametrize("meta", [TRAFFIC, WEATHER, FLUID], ids=lambda meta: meta.domain)
def test_narratives_repeat_and_differ_between_windows(meta: Meta) -> None:
    frames, times, windows = random_record(meta)
    windows = windows.iloc[::6]
    narratives = list(narrate(frames, times, windows, meta, "history"))
    assert narratives == list(narrate(frames, times, windows, meta, "history"))
    assert len({tuple(told.values()) for told in narratives}) == len(narratives) == len(windows)


def leaves(value: object, path: tuple = ()) -> list[tuple[tuple, object]]:
    """Paths and values of everything that nested facts hold."""
    if dataclasses.is_dataclass(value):
        parts = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    elif isinstance(value, tuple):
        parts = list(enumerate(value))
    else:
        return [(path, value)]
    return [leaf for key, part in parts for leaf in leaves(part, (*path, key))]


def replace(value: object, path: tuple, leaf: object) -> object:
    if not path:
        return leaf
    key, *rest = path
    if isinstance(value, tuple):
        return tuple(replace(part, tuple(rest), leaf) if k == key else part for k, part in enumerate(value))
    return dataclasses.replace(value, **{key: replace(getattr(value, key), tuple(rest), leaf)})


def another(value: object) -> object:
    if isinstance(value, bool):
        return not value
    if isinstance(value, datetime):
        return value + timedelta(hours=7)
    if isinstance(value, int | float):
        return value + 77 if isinstance(value, float) else value + 1
    if value in ("low", "middle", "high"):
        return "high" if value == "low" else "low"
    return "elsewhere"


@pytest.mark.parametrize("view", ["history", "history_and_target"])
@pytest.mark.parametrize("meta", [TRAFFIC, WEATHER, FLUID], ids=lambda meta: meta.domain)
def test_every_fact_reaches_the_text(meta: Meta, view: str) -> None:
    frames, times, windows = random_record(meta)
    usual = climatology(frames, times, windows, meta)
    known = facts(frames[120:144], datetime(2001, 7, 6, 9), meta, usual, view)
    for name in ("motion", "motion_ahead"):
        if getattr(known, name, None):
            moving = dataclasses.replace(getattr(known, name), still=False)  # so that its direction is told
            known = dataclasses.replace(known, **{name: moving})
    for name in ("plume", "plume_ahead"):
        if getattr(known, name, None):
            rising = dataclasses.replace(getattr(known, name), first_top=40.0, first_width=3)  # so that all is told
            known = dataclasses.replace(known, **{name: rising})
    text = render(known)
    silent = (
        {"season"} if meta.domain == "traffic" else {"weekend", "neighbour", "holiday", "holiday_ahead", "same_day"}
    )
    for path, value in leaves(known):
        if value is None or path[-1] in silent:
            continue
        assert render(replace(known, path, another(value))) != text, f"{'.'.join(map(str, path))} is not told"


def test_sentences_have_a_fixed_order_a_word_and_a_number() -> None:
    order = {
        "traffic": [
            "12 hours",
            "Ahead to",
            "Usual inflow",
            "Inflow",
            "Outflow",
            "Most flow",
            "Most unusual",
            "Largest",
        ],
        "weather": [
            "Summer",
            "Ahead to",
            "Mean",
            "Highest",
            "Lowest",
            "Most unusual",
            "Gradient",
            "Anomalies",
            "Largest change",
        ],
        "fluid": ["Mean", "Plume top", "Highest", "Lowest", "Most unusual", "Gradient", "Anomalies", "Largest change"],
    }
    for meta in (TRAFFIC, WEATHER, FLUID):
        frames, times, windows = random_record(meta)
        usual = climatology(frames, times, windows, meta)
        for start in range(0, 150, 30):
            text = render(facts(frames[start : start + 12], times[start].to_pydatetime(), meta, usual, "history"))
            text = list(text.values())
            beginnings = order[meta.domain]
            assert all(a.startswith(b) for a, b in zip(text, beginnings, strict=False)), text
            assert all(any(c.isdigit() for c in each) and any(c.isalpha() for c in each) for each in text)


def test_a_single_frame_and_many_channels_still_make_a_text() -> None:
    meta = meta_of("weather", tuple(f"c{k}" for k in range(7)), (9, 9), n_input=1)
    frames, times, windows = random_record(meta)
    text = " ".join(next(narrate(frames, times, windows, meta, "history_and_target")).values())
    assert "c2" in text
    assert "c3" not in text
    assert len(text.split()) < 200


# --- controls ----------------------------------------------------------------------------------------------------


@cache
def real_narratives(domain: str, view: str) -> list[dict[str, str]]:
    meta = {"traffic": TRAFFIC, "weather": WEATHER, "fluid": FLUID}[domain]
    return list(narrate(*random_record(meta), meta, view))


def controlled(meta: Meta, view: str = "history", text: str = "real", corruption: float = 0.0, seed: int = 0) -> list:
    _, times, windows = random_record(meta)
    params = Narrative(backend="template", view=view, text=text, corruption=corruption, seed=seed)
    return list(texts(lambda: iter(real_narratives(meta.domain, view)), times, windows, meta, params))


def never() -> None:
    raise AssertionError("no narrative is needed")


@pytest.mark.parametrize("view", ["history", "history_and_target"])
@pytest.mark.parametrize("meta", [TRAFFIC, WEATHER, FLUID], ids=lambda meta: meta.domain)
def test_every_control_says_what_it_should(meta: Meta, view: str) -> None:
    _, _, windows = random_record(meta)
    told = real_narratives(meta.domain, view)
    real = [" ".join(sentences.values()) for sentences in told]
    assert controlled(meta, view) == real

    shuffled, donor = controlled(meta, view, "shuffled"), donors(windows, 24, seed=0)
    assert shuffled == [real[row] for row in donor]
    assert all(a != b for a, b in zip(shuffled, real, strict=True))
    assert shuffled == controlled(meta, view, "shuffled") != controlled(meta, view, "shuffled", seed=1)

    corrupted = controlled(meta, view, corruption=1.0)
    for text, own, other in zip(corrupted, told, (told[row] for row in donor), strict=True):
        assert text == " ".join((own if kind in CALENDAR else other)[kind] for kind in own)
    assert corrupted == controlled(meta, view, corruption=1.0)

    if meta is not FLUID:
        spoken = controlled(meta, view, "calendar")
        assert spoken == [" ".join(sentences[kind] for kind in CALENDAR) for sentences in told]
        assert all(a.startswith(b) for a, b in zip(real, spoken, strict=True))


@pytest.mark.parametrize("text", ["none", "constant", "calendar"])
def test_a_control_without_facts_computes_none(text: str) -> None:
    _, times, windows = random_record(TRAFFIC)
    params = Narrative(backend="template", view="history", text=text, corruption=0, seed=0)
    told = list(texts(never, times, windows, TRAFFIC, params))
    assert len(told) == len(windows)
    if text != "calendar":
        assert set(told) == {{"none": "", "constant": CONSTANT["traffic"]}[text]}


def test_the_calendar_alone_is_the_same_whatever_the_frames_show() -> None:
    assert controlled(WEATHER, text="calendar")[30] == "Summer, 11 hours to 3 July 17 h. Ahead to 4 July 5 h."
    assert controlled(TRAFFIC, text="calendar")[30] == (
        "12 hours to Tuesday 3 July 18 h, weekday evening, the day before Independence Day. "
        "Ahead to Wednesday 6 h, another weekday, with Independence Day, a public holiday."
    )


def windows_of(**starts: np.ndarray) -> pd.DataFrame:
    """Windows whose starts are given by split."""
    rows = sorted((int(start), split) for split, each in starts.items() for start in each)
    return pd.DataFrame(rows, columns=["start", "split"]).rename_axis("id").reset_index()


def test_donors_are_a_permutation_within_the_split_that_shares_no_frame() -> None:
    n_steps = 24
    blocks = [np.arange(first, first + 145) for first in range(0, 20 * 168, 168)]
    windows = windows_of(train=np.concatenate(blocks[::2]), validation=blocks[1], test=blocks[3][:48])
    starts, split = windows["start"].to_numpy(), windows["split"].to_numpy()
    for seed in range(5):
        donor = donors(windows, n_steps, seed)
        assert sorted(donor) == list(range(len(windows)))
        assert (split[donor] == split).all()
        assert (np.abs(starts - starts[donor]) >= n_steps).all()
    lags, counts = np.unique((starts - starts[donor])[split == "train"], return_counts=True)
    assert counts.max() < 10  # no lag that a model could learn
    assert len(lags) > 500


@pytest.mark.parametrize("n", [2, 3, 10, 47])
def test_donors_in_a_short_split_are_half_of_it_away(n: int) -> None:
    """Of fewer than 48 windows in a row, the middle one overlaps all others."""
    windows = windows_of(train=np.arange(n))
    for seed in range(5):
        donor = donors(windows, 24, seed)
        assert sorted(donor) == list(range(n))
        assert np.abs(np.arange(n) - donor).min() == n // 2


def test_the_fraction_of_swapped_facts_is_exact_in_expectation_and_varies_by_window() -> None:
    n, kinds = 2000, ("a", "calendar", "b", "c", "d")
    own = [{kind: f"{kind} {row}" for kind in kinds} for row in range(n)]
    other = own[1:] + own[:1]

    def swapped(fraction: float, seed: int = 0) -> np.ndarray:
        mixed = corrupt(own, other, fraction, seed)
        return np.array([[text[kind] != mine[kind] for kind in kinds] for text, mine in zip(mixed, own, strict=True)])

    assert not swapped(0.0).any()
    assert not swapped(1.0)[:, 1].any()
    assert swapped(1.0)[:, [0, 2, 3, 4]].all()
    for fraction in (0.25, 0.5):
        facts = swapped(fraction)[:, [0, 2, 3, 4]]
        error = np.sqrt(fraction * (1 - fraction) / n)  # one standard error
        assert facts.mean(0) == pytest.approx(fraction, abs=4 * error)
        assert len(np.unique(facts, axis=0)) == 2**4  # every choice of facts occurs
    assert (swapped(0.5) >= swapped(0.25)).all()  # more corruption swaps what less does, and more
    assert (swapped(0.5) == swapped(0.5)).all()
    assert (swapped(0.5) != swapped(0.5, seed=1)).any()


def test_a_corrupted_history_is_the_same_in_both_views() -> None:
    for history, full in zip(
        controlled(WEATHER, "history", corruption=0.5),
        controlled(WEATHER, "history_and_target", corruption=0.5),
        strict=True,
    ):
        assert full.startswith(history)


def test_a_fact_that_the_other_window_lacks_is_left_out() -> None:
    told = [{"mean": "1.", "highest": "2."}, {"mean": "3."}]
    assert list(corrupt(told, told[::-1], 1.0, seed=0)) == [{"mean": "3."}, {"mean": "1."}]


def test_controls_that_cannot_be_are_the_users_mistake() -> None:
    with pytest.raises(UserError, match=r"corruption = 0\.5 .* but narrative\.text = 'shuffled'"):
        controlled(WEATHER, text="shuffled", corruption=0.5)
    with pytest.raises(UserError, match="made is a fluid, which has no calendar"):
        controlled(FLUID, text="calendar")
    with pytest.raises(UserError, match="made has no dates, hence no calendar"):
        controlled(WEATHER.model_copy(update={"nominal_time": True}), text="calendar")
    with pytest.raises(UserError, match="another window of the split, but 'test' has only one"):
        donors(windows_of(train=np.arange(100), test=np.array([200])), 24, seed=0)


def test_no_training_window_is_the_users_mistake() -> None:
    frames, times, windows = random_record(TRAFFIC)
    with pytest.raises(UserError, match="no training window"):
        climatology(frames, times, windows.assign(split="test"), TRAFFIC)


@pytest.mark.skipif(not NCEP.exists(), reason="../shared/data/ncep_air_temperature_2013_2014.nc is absent")
def test_westerlies_carry_anomalies_east() -> None:
    xr = pytest.importorskip("xarray")
    with xr.open_dataset(NCEP) as data:
        frames = data["air"].to_numpy().astype(np.float32)[:, None]
        meta = meta_of("weather", ("air",), (25, 53)).model_copy(
            update={
                "y": tuple(data["lat"].to_numpy().tolist()),
                "x": tuple(data["lon"].to_numpy().tolist()),
                "time_step": 21600.0,
            }
        )
        times = pd.DatetimeIndex(data["time"].to_numpy())
    starts = np.arange(0, 2896, 12)
    windows = pd.DataFrame({"id": np.arange(len(starts)), "start": starts, "split": "train"})
    usual = climatology(frames, times, windows, meta)
    motions = [
        facts(frames[start : start + 12], times[start].to_pydatetime(), meta, usual, "history").motion
        for start in starts
    ]
    moving = [motion.direction for motion in motions if not motion.still]
    assert len(moving) > 0.4 * len(starts)
    assert sum("east" in each for each in moving) > 0.95 * len(moving)
