"""Prometheus: tunnel and pool fires under many conditions, **simulated** with the Fire Dynamics Simulator.

An environment is a file, an event of it one simulated fire. Wu et al. (2024) test in distribution, in events of the
environments trained in, and out of distribution, in environments never seen. No list of either is published: the
environments are parameters, and of each environment trained in the last events are for validation and test.
"""

import shutil
from pathlib import Path

import numpy as np
import pooch
import xarray as xr

from s2kd.params import PrometheusSource
from s2kd.sources import arrays
from s2kd.sources.events import assemble
from s2kd.sources.fetch import cache_folder
from s2kd.stage import UserError

REPOSITORY = "easylearning/Prometheus"  # a data set of the Hugging Face Hub
FILES = {"tunnel": "a{}_fds.npy", "pool": "Prometheus-P/b{}_fds.npy"}  # by the number of the environment
AXES = "event, time, channel, y, x"


def load(source: PrometheusSource) -> xr.Dataset:
    """Open the arrays of the environments; their frames are read an event or a few at a time.

    Rows and columns stay in the file's order; which way they run is not published, nor are the channels' names, their
    units and the step of time. An event is in one split: see `event_splits`.

    Raises:
        UserError: a file is missing, no array of events, truncated, or its grid differs from the others'.
    """
    import dask.array as da

    parts, splits, lengths = [], [], []
    for number, path in files(source).items():
        stored = arrays.npy(path)
        if stored.ndim != len(AXES.split()) or stored.shape[2] != len(source.channels):
            raise UserError(
                f"{path} has shape {stored.shape}; expected axes {AXES}, with {len(source.channels)} channels as "
                "source.channels in params.yaml names; correct the list, or bring the published file"
            )
        if parts and stored.shape[2:] != parts[0].shape[1:]:
            raise UserError(
                f"{path} has frames of channel, y, x = {stored.shape[2:]}, the file before {parts[0].shape[1:]}; "
                "list environments of one scene and size"
            )
        split = event_splits(len(stored), number, source)
        used = int((split != "").sum())
        parts.append(stored[:used].reshape(-1, *stored.shape[2:]))
        splits.append(split[:used])
        lengths.append(np.full(used, stored.shape[1]))
    length = np.concatenate(lengths)
    letter = Path(FILES[source.scene]).name[0]
    unseen = [f"{letter}{number}" for number in source.unseen_environments] if source.distribution == "out" else []
    return assemble(
        da.concatenate(parts),
        np.repeat(np.arange(len(length)), length),
        {name: ("", "") for name in source.channels},
        {
            "source": f"{REPOSITORY}, simulated {source.scene} fires, environments "
            f"{', '.join(f'{letter}{number}' for number in source.environments)}"
            + (f", tested in {', '.join(unseen)}" if unseen else "")
            + "; the publisher names neither channels nor units",
            "license": "none stated by the publisher",
            "references": "Wu et al. (2024), Prometheus: Out-of-distribution Fluid Dynamics Modeling with "
            "Disentangled Graph ODE, ICML, PMLR 235:53870-53891",
        },
        split=np.repeat(np.concatenate(splits), length),
    )


def event_splits(n_events: int, environment: int, source: PrometheusSource) -> np.ndarray:
    """Name the split of each event of an environment; the empty string marks those left out.

    Of an environment trained in the last events are the test in distribution, those before them validation. The test
    out of distribution is all of the unseen environments; it trains on the same events, so that the two compare.
    """
    if environment in source.unseen_environments:
        return np.full(n_events, "test", dtype="<U10")
    n_validation, n_test = (max(1, round(part * n_events)) for part in (source.validation, source.test))
    n_train = n_events - n_validation - n_test
    if n_train < 1:
        raise UserError(
            f"environment {environment} has {n_events} events, which {n_validation} for validation and {n_test} for "
            "the test use up; lower source.validation or source.test in params.yaml"
        )
    last = "test" if source.distribution == "in" else ""
    return np.repeat(np.array(["train", "validation", last], dtype="<U10"), [n_train, n_validation, n_test])


def files(source: PrometheusSource) -> dict[int, Path]:
    """Return the file of each environment in use: in the folder ``path`` or, if that is empty, fetched."""
    unseen = source.unseen_environments if source.distribution == "out" else ()
    names = {number: FILES[source.scene].format(number) for number in (*source.environments, *unseen)}
    if source.path:
        flat = {number: Path(source.path) / Path(name).name for number, name in names.items()}
        return {n: path if path.is_file() else Path(source.path) / names[n] for n, path in flat.items()}
    folder = cache_folder() / "prometheus"
    fetch([name for name in names.values() if not (folder / name).is_file()], folder)
    return {number: folder / name for number, name in names.items()}


def fetch(names: list[str], folder: Path) -> None:
    """Fetch files of the repository, of 7 GB each, one after the other; a broken transfer is taken up again.

    The client goes on where it stopped. A file takes its place only when its SHA-256 is the publisher's.

    Raises:
        UserError: the repository or a file cannot be had, or the disk is too small.
    """
    if not names:
        return
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HTTPError  # of whichever client it uses

    by_hand = (
        f"place the files in the folder {folder}, or set source.path in params.yaml to where they are; they are at "
        f"https://huggingface.co/datasets/{REPOSITORY}"
    )
    incoming = folder / "incoming"
    incoming.mkdir(parents=True, exist_ok=True)
    try:
        published = {file.path: file for file in HfApi().get_paths_info(REPOSITORY, names, repo_type="dataset")}
        if absent := [name for name in names if name not in published]:
            raise UserError(f"{REPOSITORY} has no {', '.join(absent)}; list other environments in params.yaml")
        size, free = sum(file.size for file in published.values()), shutil.disk_usage(folder).free
        print(f"{REPOSITORY}: fetching {len(names)} files, {size / 1e9:.1f} GB, to {folder}", flush=True)
        if size > free:
            raise UserError(
                f"{folder} has {free / 1e9:.1f} GB free, and {size / 1e9:.1f} GB are to come; name another disk by "
                "S2KD_CACHE, or list fewer environments"
            )
        for name in names:
            file = published[name]
            came = Path(hf_hub_download(REPOSITORY, name, repo_type="dataset", local_dir=incoming))
            if file.lfs and (found := pooch.file_hash(str(came))) != file.lfs.sha256:
                came.unlink()
                raise UserError(f"{name} came with sha256 {found}, the publisher's is {file.lfs.sha256}; run again")
            (folder / name).parent.mkdir(exist_ok=True)
            came.rename(folder / name)
    except (OSError, HTTPError) as error:
        raise UserError(f"{', '.join(names)} could not be fetched: {error}\n{by_hand}") from None
    shutil.rmtree(incoming)
