"""Get the frames of a data set, cut them into windows and write down what they are."""

import argparse
import glob
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from s2kd.stage import UserError, atomic, run

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

    from s2kd.dataset import Meta
    from s2kd.params import Dataset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True, help="key of `datasets` in params.yaml")
    parser.add_argument("--frames", type=Path, required=True, help="Zarr folder to write")
    parser.add_argument("--windows", type=Path, required=True, help="CSV table to write")
    parser.add_argument("--meta", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args()

    from s2kd.conversion import fill_missing, write_frames
    from s2kd.params import load_params
    from s2kd.scratch import fingerprint, scratch
    from s2kd.sources import (
        file,
        flights,
        navier_stokes,
        ncep,
        prometheus,
        smoke,
        taxibj,
        taxibj_plus,
        weatherbench,
    )
    from s2kd.windows import make_windows, segments, train_mask

    dataset = load_params(f"datasets.{args.dataset}")
    sources = {
        "file": file,
        "flights": flights,
        "navier_stokes": navier_stokes,
        "ncep": ncep,
        "prometheus": prometheus,
        "smoke": smoke,
        "taxibj": taxibj,
        "taxibj_years": taxibj,
        "taxibj_plus": taxibj_plus,
        "weatherbench": weatherbench,
    }
    data = sources[dataset.source.name].load(dataset.source).assign_attrs(Conventions="CF-1.11", title=dataset.title)
    times = data.indexes["time"]
    event, published = (data[name].values if name in data.coords else None for name in ("event", "split"))
    if dataset.period != "none" and data.attrs.get("nominal_time"):
        raise UserError(
            f"params.yaml: datasets.{args.dataset}.period = {dataset.period}, but its stamps only count steps; "
            "choose none"
        )
    windows = make_windows(times, dataset, event, published)
    is_train = train_mask(len(times), windows, dataset.n_steps_input + dataset.n_steps_output)

    files = sorted(map(Path, glob.glob(getattr(dataset.source, "path", ""))))
    key = fingerprint(dataset, files)  # what a killed run has written is not taken for that of another file
    with scratch("download", key, is_main=True) as folder:
        write_frames(data, segments(times, event), folder / "frames.zarr", may_miss=dataset.missing != "refuse")
        if dataset.missing == "fill":
            fill_missing(folder / "frames.zarr", is_train)
        meta = describe(args.dataset, dataset, data, folder / "frames.zarr", is_train)
        # All three take their places together, once all are whole.
        with atomic(args.frames) as frames_path, atomic(args.windows) as windows_path, atomic(args.meta) as meta_path:
            shutil.move(folder / "frames.zarr", frames_path)
            windows.to_csv(windows_path, index=False, lineterminator="\n")
            meta_path.write_text(meta.model_dump_json(indent=2) + "\n", encoding="utf-8")

    n_frames, n_channels, height, width = data["frames"].shape
    counts = ", ".join(f"{n} {split}" for split, n in windows["split"].value_counts(sort=False).items())
    print(
        f"{args.dataset}: {n_frames} frames of {n_channels} x {height} x {width} from {meta.start}; windows: {counts}"
        + (f"; {meta.n_missing} values missing" if meta.n_missing else "")
    )


def describe(name: str, dataset: "Dataset", data: "xr.Dataset", frames: Path, is_train: "np.ndarray") -> "Meta":
    """Describe the frames; mean and standard deviation are those of the frames of training windows."""
    import numpy as np

    from s2kd.dataset import Meta, channel_statistics, load_frames
    from s2kd.windows import time_step

    times = data.indexes["time"]
    mean, std, n_missing = channel_statistics(load_frames(frames), is_train)
    return Meta(
        dataset=name,
        **dataset.model_dump(include={"title", "domain", "country", "n_steps_input", "n_steps_output", "period"}),
        channels=tuple(data["channel"].values.tolist()),
        units=tuple(data["units"].values.tolist()),
        time_step=float(time_step(times) / np.timedelta64(1, "s")),
        start=times[0].isoformat(),
        n_frames=len(times),
        y_name=data["y"].attrs.get("standard_name", "y"),
        x_name=data["x"].attrs.get("standard_name", "x"),
        y=tuple(data["y"].values.tolist()),
        x=tuple(data["x"].values.tolist()),
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        missing=dataset.missing,
        n_missing=n_missing,
        nominal_time=bool(data.attrs.get("nominal_time", False)),
        licence=data.attrs["license"],
        citation=data.attrs["references"],
    )


if __name__ == "__main__":
    run(main)
