"""TaxiBJ and TaxiBJ+ on files in their publishers' layouts, at the published counts where these are known."""

from pathlib import Path

import h5py
import holidays
import numpy as np
import pandas as pd
import pytest

from s2kd.params import Dataset, TaxiBJPlusSource, TaxiBJSource, TaxiBJYearsSource, load_params
from s2kd.sources import taxibj, taxibj_plus
from s2kd.stage import UserError
from s2kd.windows import make_windows

SHIPPED = Path(__file__).parent.parent / "params.yaml"


@pytest.fixture(scope="module")
def cluster():
    """A Dask cluster of one worker process."""
    from distributed import Client

    with Client(n_workers=1, threads_per_worker=2, processes=True, dashboard_address=None) as client:
        yield client


def windows_of(name: str, data) -> pd.DataFrame:
    """The windows that the shipped parameters cut out of what a source returns."""
    event, split = (data[key].values if key in data.coords else None for key in ("event", "split"))
    return make_windows(data.indexes["time"], load_params(f"datasets.{name}", SHIPPED), event, split)


def counts(windows: pd.DataFrame) -> dict[str, int]:
    return windows["split"].value_counts().to_dict()


def shipped(name: str, **changes):
    """The shipped source of a data set, with some fields changed."""
    dataset: Dataset = load_params(f"datasets.{name}", SHIPPED)
    return dataset.source.model_copy(update=changes)


# --- windows of OpenSTL --------------------------------------------------------------------------------------------


def write_windows(path: Path, n_train: int, n_test: int, save=np.savez, shape=(4, 2, 32, 32)) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    numbers = {"train": n_train, "test": n_test}
    held = {f"{name}_{split}": rng.uniform(-1, 1, (n, *shape)) for split, n in numbers.items() for name in "XY"}
    save(path, **held)
    return held


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_each_window_of_openstl_is_an_event_in_its_split(tmp_path, cluster, save):
    held = write_windows(tmp_path / "dataset.npz", 6, 2, save)
    for path in (tmp_path, tmp_path / "dataset.npz"):
        data = taxibj.load(TaxiBJSource(name="taxibj", path=str(path), n_train=6, n_test=2))
    expected = [
        step for split, n in (("train", 6), ("test", 2)) for i in range(n) for name in "XY"
        for step in (held[f"{name}_{split}"][i] + 1) / 2
    ]  # fmt: skip
    frames = data["frames"]
    np.testing.assert_allclose(cluster.compute(frames.data).result(), expected, atol=1e-6)
    assert (frames.dtype, frames.dims) == (np.float32, ("time", "channel", "y", "x"))
    assert data["event"].values.tolist() == np.repeat(np.arange(8), 8).tolist()
    assert data["split"].values.tolist() == ["train"] * 48 + ["test"] * 16
    assert data.attrs["nominal_time"] == 1
    assert data.indexes["time"][[0, 1, -1]].tolist() == [
        pd.Timestamp("2000-01-01"),
        pd.Timestamp("2000-01-01 00:30"),
        pd.Timestamp("2000-01-02 07:30"),
    ]
    assert (data["channel"].values.tolist(), data["units"].values.tolist()) == (["in", "out"], ["1", "1"])


def test_the_published_windows_of_openstl_are_cut_once_each(tmp_path):
    """At full count; 1,344 of the 20,461 training windows validate, and seven before them go."""
    numbers = {"train": 20461, "test": 500}
    empty = {f"{name}_{split}": np.zeros((n, 4, 2, 32, 32), np.int8) for split, n in numbers.items() for name in "XY"}
    np.savez_compressed(tmp_path / "dataset.npz", **empty)
    data = taxibj.load(shipped("taxibj", path=str(tmp_path)))
    windows = windows_of("taxibj", data)
    assert counts(windows) == {"train": 20461 - 1344 - 7, "validation": 1344, "test": 500}
    assert (windows["start"] % 8 == 0).all()
    assert (data["event"].values[windows["start"]] == data["event"].values[windows["start"] + 7]).all()


@pytest.mark.parametrize(
    ("shape", "n_train", "message"),
    [
        ((4, 2, 32, 32), 7, r"X_train holds 6 windows, and params.yaml says 7; correct the number there"),
        ((4, 2, 16, 8), 6, r"X_train has shape \(6, 4, 2, 16, 8\), not \(windows, 4, 2, 32, 32\)"),
        ((5, 2, 32, 32), 6, r"X_train has shape \(6, 5, 2, 32, 32\), not \(windows, 4, 2, 32, 32\)"),
    ],
)
def test_windows_of_another_shape_or_number_are_refused(tmp_path, shape, n_train, message):
    write_windows(tmp_path / "dataset.npz", 6, 2, shape=shape)
    with pytest.raises(UserError, match=message) as error:
        taxibj.load(TaxiBJSource(name="taxibj", path=str(tmp_path), n_train=n_train, n_test=2))
    assert str(tmp_path / "dataset.npz") in str(error.value)


def test_a_missing_or_truncated_archive_is_named(tmp_path):
    source = TaxiBJSource(name="taxibj", path=str(tmp_path), n_train=6, n_test=2)
    with pytest.raises(UserError, match=r"dataset.npz is missing"):
        taxibj.load(source)
    write_windows(tmp_path / "dataset.npz", 6, 2)
    (tmp_path / "dataset.npz").write_bytes((tmp_path / "dataset.npz").read_bytes()[:-5000])
    with pytest.raises(UserError, match=r"dataset.npz cannot be read as NumPy, .*truncated or corrupt"):
        taxibj.load(source)


# --- years of DeepST -----------------------------------------------------------------------------------------------


def stamps(day: str, slots=range(1, 49)) -> list[bytes]:
    return [f"{day}{slot:02d}".encode() for slot in slots]


def write_year(folder: Path, year: int, dates: list[bytes], **changes: np.ndarray) -> np.ndarray:
    data = np.random.default_rng(year).integers(0, 1293, (len(dates), 2, 32, 32)).astype(np.float64)
    with h5py.File(folder / f"BJ{year}_M32x32_T30_InOut.h5", "w") as stream:
        for name, values in ({"data": data, "date": np.array(dates)} | changes).items():
            stream.create_dataset(name, data=values)
    return data


def years(folder: Path, *numbers: int, meteorology: bool = False) -> TaxiBJYearsSource:
    return TaxiBJYearsSource(name="taxibj_years", path=str(folder), years=numbers, meteorology=meteorology)


def test_complete_days_are_kept_and_dated(tmp_path, cluster):
    """The second day of 2013 lacks its last slot, the fourth is absent; 2014 starts within a day."""
    dates = [*stamps("20130701"), *stamps("20130702", range(1, 48)), *stamps("20130703"), *stamps("20130705")]
    first = write_year(tmp_path, 13, dates)
    second = write_year(tmp_path, 14, [*stamps("20140301", range(20, 49)), *stamps("20140302")])
    data = taxibj.load(years(tmp_path, 13, 14))
    kept = np.r_[0:48, 95:143, 143:191]
    frames = cluster.compute(data["frames"].data).result()
    np.testing.assert_array_equal(frames, np.concatenate([first[kept], second[29:]]))
    assert frames.dtype == np.float32
    days = ["2013-07-01", "2013-07-03", "2013-07-05", "2014-03-02"]
    expected = np.concatenate([pd.date_range(day, periods=48, freq="30min") for day in days])
    assert data.indexes["time"].equals(pd.DatetimeIndex(expected))
    assert data.attrs["comment"] == "2 days that lack a half-hour are left out"
    assert "nominal_time" not in data.attrs
    assert data["units"].values.tolist() == ["taxis", "taxis"]


def test_no_window_spans_a_day_left_out(tmp_path):
    dates = [*stamps("20160101"), *stamps("20160102", range(2, 49)), *stamps("20160103")]
    dates += [*stamps("20160301"), *stamps("20160401")]
    write_year(tmp_path, 16, dates)
    data = taxibj.load(years(tmp_path, 16))
    windows = windows_of("taxibj_years", data)
    assert counts(windows) == {"train": 2 * (48 - 23), "validation": 48 - 23, "test": 48 - 23}
    times = data.indexes["time"].to_numpy()
    assert set(times[windows["start"] + 23] - times[windows["start"]]) == {np.timedelta64(23 * 30, "m")}


def test_negative_counts_become_zero(tmp_path):
    write_year(tmp_path, 13, stamps("20130701"), data=np.full((48, 2, 32, 32), -1.0))
    assert not taxibj.load(years(tmp_path, 13))["frames"].to_numpy().any()


def write_meteorology(folder: Path, dates: list[bytes], **changes: np.ndarray) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    weather = np.zeros((len(dates), 17))
    weather[np.arange(len(dates)), np.arange(len(dates)) % 17] = 1
    held = {
        "date": np.array(dates),
        "Temperature": rng.normal(size=len(dates)),
        "WindSpeed": rng.uniform(size=len(dates)),
        "Weather": weather,
    } | changes
    with h5py.File(folder / "BJ_Meteorology.h5", "w") as stream:
        for name, values in held.items():
            stream.create_dataset(name, data=values)
    return held


def test_meteorology_is_that_of_the_slot(tmp_path):
    write_year(tmp_path, 13, stamps("20130701"))
    dates = [*stamps("20130630"), *stamps("20130701", range(1, 47))]  # says nothing of the last hour
    held = write_meteorology(tmp_path, dates)
    held["Weather"][50] = 0
    write_meteorology(tmp_path, dates, **held)
    data = taxibj.load(years(tmp_path, 13, meteorology=True))
    np.testing.assert_allclose(data["temperature"].values[:46], held["Temperature"][48:], rtol=1e-6)
    np.testing.assert_allclose(data["wind_speed"].values[:46], held["WindSpeed"][48:], rtol=1e-6)
    assert np.isnan(data["temperature"].values[46:]).all()
    weather = data["weather"].values.tolist()
    assert weather[:4] == ["foggy", "sandstorm", "", "sunny"]  # kinds 48 % 17 = 14, 15, none, 17 % 17 = 0
    assert weather[46:] == ["", ""]
    assert data["temperature"].attrs["units"] == "degC"
    assert data["temperature"].dims == ("time",)
    write_meteorology(tmp_path, dates, Weather=np.zeros((94, 3)))
    with pytest.raises(UserError, match=r"BJ_Meteorology.h5: Weather has shape \(94, 3\), not \(94, 17\)"):
        taxibj.load(years(tmp_path, 13, meteorology=True))
    (tmp_path / "BJ_Meteorology.h5").unlink()
    with pytest.raises(UserError, match=r"BJ_Meteorology.h5 is missing"):
        taxibj.load(years(tmp_path, 13, meteorology=True))


def test_years_that_cannot_be_used_are_explained(tmp_path):
    with pytest.raises(UserError, match=r"BJ13_M32x32_T30_InOut.h5 is missing; put the files of https://.*DeepST"):
        taxibj.load(years(tmp_path, 13))
    write_year(tmp_path, 13, [*stamps("20130701"), b"2013-07-02"])
    with pytest.raises(UserError, match=r"date 2013-07-02 \(number 48\) is not year, month, day and slot"):
        taxibj.load(years(tmp_path, 13))
    write_year(tmp_path, 13, stamps("20130701"), data=np.zeros((48, 2, 16, 8)))
    with pytest.raises(UserError, match=r"data has shape \(48, 2, 16, 8\), not \(48, 2, 32, 32\)"):
        taxibj.load(years(tmp_path, 13))
    write_year(tmp_path, 13, stamps("20130701", range(1, 40)))
    with pytest.raises(UserError, match=r"BJ13_.*no day has all 48 half-hours"):
        taxibj.load(years(tmp_path, 13))
    write_year(tmp_path, 13, stamps("20130701"))
    write_year(tmp_path, 14, stamps("20130701"))
    with pytest.raises(UserError, match=r"2013-07-01 00:00:00 comes twice or out of order"):
        taxibj.load(years(tmp_path, 13, 14))
    path = tmp_path / "BJ13_M32x32_T30_InOut.h5"
    path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(UserError, match=r"BJ13_M32x32_T30_InOut.h5 cannot be read as HDF5, .*truncated or corrupt"):
        taxibj.load(years(tmp_path, 13))


def test_the_published_holidays_are_public_ones_and_weekends():
    """The days of BJ_Holiday.txt within the record: so ``country: CN`` makes the file needless."""
    published = (
        "20130919 20130920 20130921 20131001 20131002 20131003 20131004 20131005 20131006 20131007 20140405 20140406 "
        "20140407 20140501 20140502 20140503 20140531 20140601 20140602 20150404 20150405 20150406 20150501 20150502 "
        "20150503 20150620 20150621 20150622 20160101 20160102 20160103 20160207 20160208 20160209 20160210 20160211 "
        "20160212 20160213 20160402 20160403 20160404"
    )
    days = pd.to_datetime(published.split())
    public = holidays.country_holidays("CN")
    assert [day for day in days if day.day_of_week < 5 and day.date() not in public] == []
    in_record = [("2013-07-01", "2013-10-30"), ("2014-03-01", "2014-06-30"), ("2015-03-01", "2015-06-30")]
    for first, last in [*in_record, ("2015-11-01", "2016-04-10")]:
        assert [day for day in pd.date_range(first, last) if day.date() in public and day not in days] == []


# --- TaxiBJ+ -------------------------------------------------------------------------------------------------------


def write_plus(folder: Path, grid: int = 128, **numbers: int) -> None:
    """Files of the published shape; zeros that take no room on the disk, but for the last window of each split."""
    for split, number in numbers.items():
        for part, values in (("input", 1), ("output", 2)):
            path = folder / f"{split}_{part}_data_reshaped.npy"
            array = np.lib.format.open_memmap(path, "w+", np.float32, (number, 12, 2, grid, grid))
            array[-1] = np.arange(12)[:, None, None, None] + 100 * values
            array.flush()


def test_the_published_windows_of_taxibj_plus_at_full_size(tmp_path, cluster):
    write_plus(tmp_path, train=3555, val=444, test=445)
    data = taxibj_plus.load(shipped("taxibj_plus", path=str(tmp_path)))
    assert data["frames"].shape == (4444 * 24, 2, 128, 128)
    windows = windows_of("taxibj_plus", data)
    assert counts(windows) == {"train": 3555, "validation": 444, "test": 445}
    assert (windows["start"] == 24 * windows["id"]).all()
    last = np.array([3554, 3998, 4443])  # of each split
    rows = (24 * last[:, None] + np.arange(24)).ravel()
    assert (data["event"].values[rows] == np.repeat(last, 24)).all()
    read = cluster.compute(data["frames"].data[rows]).result()
    expected = np.tile(np.r_[100:112, 200:212], 3)
    np.testing.assert_array_equal(read, np.broadcast_to(expected[:, None, None, None], read.shape))
    assert (data.attrs["nominal_time"], data["units"].values.tolist()) == (1, ["", ""])


def test_files_of_taxibj_plus_that_cannot_be_used_are_explained(tmp_path):
    source = TaxiBJPlusSource(name="taxibj_plus", path=str(tmp_path), n_train=3, n_validation=2, n_test=2)
    with pytest.raises(UserError, match=r"train_input_data_reshaped.npy is missing; TaxiBJ\+ has no public download"):
        taxibj_plus.load(source)
    write_plus(tmp_path, train=3, val=2, test=1)
    with pytest.raises(UserError, match=r"test_input_data_reshaped.npy holds 1 windows, and params.yaml says 2"):
        taxibj_plus.load(source)
    write_plus(tmp_path, grid=32, test=2)
    with pytest.raises(UserError, match=r"test_input_.*npy has shape \(2, 12, 2, 32, 32\), not \(windows, 12, 2, 128"):
        taxibj_plus.load(source)
    path = tmp_path / "val_output_data_reshaped.npy"
    with path.open("r+b") as stream:
        stream.truncate(1_000_000)
    with pytest.raises(UserError, match=r"val_output_data_reshaped.npy is truncated: .*and there are 1000000"):
        taxibj_plus.load(source)
