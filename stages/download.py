"""Get the frames of a data set, cut them into windows and write down what they are."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from s2kd.stage import atomic, run

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from s2kd.dataset import Meta
    from s2kd.params import Dataset

CHUNK_BYTES = 2**20  # of one read: some hundred frames of a small grid
SHARD = 16  # chunks of one file: some thousand frames, because DVC is slow with many files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True, help="key of `datasets` in params.yaml")
    parser.add_argument("--frames", type=Path, required=True, help="Zarr folder to write")
    parser.add_argument("--windows", type=Path, required=True, help="CSV table to write")
    parser.add_argument("--meta", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args()

    from s2kd.params import load_params
    from s2kd.sources import file, flights
    from s2kd.windows import make_windows

    dataset = load_params(f"datasets.{args.dataset}")
    load = {"flights": flights.load, "file": file.load}[dataset.source.name]
    data = load(dataset.source).assign_attrs(Conventions="CF-1.11", title=dataset.title)
    windows = make_windows(data.indexes["time"], dataset)
    meta = describe(args.dataset, dataset, data, windows)

    # All three take their places together, once all are whole.
    with atomic(args.frames) as frames_path, atomic(args.windows) as windows_path, atomic(args.meta) as meta_path:
        write_frames(data, frames_path)
        windows.to_csv(windows_path, index=False, lineterminator="\n")
        meta_path.write_text(meta.model_dump_json(indent=2) + "\n", encoding="utf-8")

    n_frames, n_channels, height, width = data["frames"].shape
    counts = ", ".join(f"{n} {split}" for split, n in windows["split"].value_counts(sort=False).items())
    print(
        f"{args.dataset}: {n_frames} frames of {n_channels} x {height} x {width} from {meta.start}; windows: {counts}"
    )


def describe(name: str, dataset: "Dataset", data: "xr.Dataset", windows: "pd.DataFrame") -> "Meta":
    """Describe the frames; mean and standard deviation are those of the frames of training windows."""
    import numpy as np

    from s2kd.dataset import Meta
    from s2kd.windows import statistics, time_step, train_mask

    times = data.indexes["time"]
    mask = train_mask(len(times), windows, dataset.n_steps_input + dataset.n_steps_output)
    mean, std = statistics(data["frames"].to_numpy(), mask)
    return Meta(
        dataset=name,
        **dataset.model_dump(include={"title", "domain", "country", "n_steps_input", "n_steps_output"}),
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
        licence=data.attrs["license"],
        citation=data.attrs["references"],
    )


def write_frames(data: "xr.Dataset", path: Path) -> None:
    """Write a Zarr v3 group, sharded so that it is few files."""
    frames = data["frames"]
    chunk = max(1, CHUNK_BYTES // frames[0].nbytes)
    shapes = {key: (n, *frames.shape[1:]) for key, n in [("chunks", chunk), ("shards", chunk * SHARD)]}
    # Zarr v3 has no type for text of fixed width; as objects it becomes text of any length.
    text = {
        name: (array.dims, array.values.astype(object))
        for name, array in data.coords.items()
        if array.dtype.kind == "U"
    }
    data.assign_coords(text).to_zarr(path, mode="w-", zarr_format=3, consolidated=False, encoding={"frames": shapes})


if __name__ == "__main__":
    run(main)
