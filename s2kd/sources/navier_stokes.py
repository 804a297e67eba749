"""Two-dimensional turbulence as of the Fourier neural operator: vorticity of a forced, viscous, periodic flow.

Either its authors' file, which they simulated, or **simulated** here by the same method: initial vorticity drawn from
a Gaussian random field, then a pseudo-spectral solver (Li et al. 2021, appendix A.3.3; data_generation/navier_stokes
in `REPOSITORY`). What is simulated here follows the same distribution, it is not
the same data.
"""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from tqdm import tqdm

from s2kd.params import NavierStokesSource
from s2kd.sources import arrays
from s2kd.sources.events import assemble
from s2kd.sources.fetch import cache_folder
from s2kd.stage import UserError, atomic

if TYPE_CHECKING:
    import dask.array as da

KEY = "u"  # of the array in the file: event, row, column, time
BATCH = 50  # events solved at once, and read at once
REPOSITORY = "https://github.com/neuraloperator/neuraloperator"
CITATION = (
    f"Li et al. (2021), Fourier Neural Operator for Parametric Partial Differential Equations, ICLR, {REPOSITORY}"
)


def load(source: NavierStokesSource) -> xr.Dataset:
    """Open the file at ``path``, or simulate where it is empty. An event is a run of the solver; time steps are 1.

    The split is the published one: events of training come first, then validation, then test.

    Raises:
        UserError: the file is missing or truncated, or its array is not of the shape that params.yaml gives.
    """
    n_events = source.n_train + source.n_validation + source.n_test
    shape = (n_events, source.n_frames, source.grid, source.grid)
    if source.path:
        stored, origin = _stored(Path(source.path)), Path(source.path).name
        if stored.shape != shape:
            given = f"{stored.shape[0]} events of {stored.shape[1]} frames of {stored.shape[2]} x {stored.shape[3]}"
            raise UserError(
                f"{source.path} holds {given}; params.yaml says {source.n_train} + {source.n_validation} + "
                f"{source.n_test} events (training, validation, test) of {shape[1]} frames of {shape[2]} x {shape[3]}; "
                "correct it there"
            )
    else:
        stored = _simulated(source)
        origin = f"simulated: {n_events} flows of viscosity {source.simulation.viscosity:g}"
        origin += f", seed {source.simulation.seed}"
    split = np.repeat(["train", "validation", "test"], [source.n_train, source.n_validation, source.n_test])
    return assemble(
        stored.reshape(-1, 1, source.grid, source.grid),
        np.repeat(np.arange(n_events), source.n_frames),
        {"vorticity": ("1", "vorticity")},
        {
            "source": origin,
            "license": "none stated by the publisher" if source.path else "simulated data, free to use",
            "references": CITATION if source.path else f"simulated by the method of {CITATION}",
        },
        split=np.repeat(split, source.n_frames),
    )


# --- the publisher's file ----------------------------------------------------------------------------------------


def _stored(path: Path) -> "da.Array":
    """Open the array as event, time, row, column: lazily from MATLAB's v7.3, by way of the cache from an older file.

    An older file can only be read as a whole, a gigabyte here, which happens once.
    """
    import h5py

    if not path.is_file():
        raise UserError(
            f"{path} is missing; download it from the Google Drive folder that the README of {REPOSITORY} links to, or "
            "empty source.path in params.yaml to simulate (at full size 20 minutes of a processor core for each event)"
        )
    if not h5py.is_hdf5(path):
        return arrays.npy(_converted(path))
    stored = arrays.hdf5(path, KEY).T  # MATLAB writes its axes reversed
    if stored.ndim != 4:
        raise UserError(f"{path}: {KEY!r} has shape {stored.shape}; expected axes event, row, column, time")
    return stored.transpose(0, 3, 1, 2).rechunk({0: BATCH, 1: -1, 2: -1, 3: -1})


def _converted(path: Path) -> Path:
    import scipy.io

    found = path.stat()
    stamp = json.dumps([str(path.absolute()), found.st_size, found.st_mtime_ns])
    converted = cache_folder() / "navier_stokes" / f"{hashlib.sha256(stamp.encode()).hexdigest()[:16]}.npy"
    if converted.is_file():
        return converted
    try:
        names = [name for name, _, _ in scipy.io.whosmat(path)]
        if KEY not in names:
            raise UserError(f"{path} has no array {KEY!r}; it has: {', '.join(names) or 'none'}")
        stored = scipy.io.loadmat(path, variable_names=[KEY])[KEY]
    except (ValueError, TypeError, EOFError, OSError, NotImplementedError, scipy.io.matlab.MatReadError) as error:
        raise UserError(f"{path} cannot be read as MATLAB's, it is truncated or corrupt ({error})") from None
    if stored.ndim != 4:
        raise UserError(f"{path}: {KEY!r} has shape {stored.shape}; expected axes event, row, column, time")
    n_events, height, width, n_frames = stored.shape
    with atomic(converted) as temporary:
        frames = np.lib.format.open_memmap(temporary, "w+", np.float32, (n_events, n_frames, height, width))
        for first in range(0, n_events, BATCH):
            frames[first : first + BATCH] = stored[first : first + BATCH].transpose(0, 3, 1, 2)
        frames.flush()
    return converted


# --- simulation --------------------------------------------------------------------------------------------------


def _simulated(source: NavierStokesSource) -> "da.Array":
    """Simulate the events that the cache lacks, a batch at a time, on the accelerator if there is one."""
    import dask.array as da
    import torch

    from s2kd.sources.vorticity import forcing_field, random_field, solve

    simulation = source.simulation
    if simulation.grid % source.grid:
        raise UserError(
            f"params.yaml: source.simulation.grid {simulation.grid} is no multiple of source.grid {source.grid}, which "
            "takes cells of it at equal distances; correct one of them"
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    made_by = [simulation.model_dump(), source.grid, source.n_frames, torch.__version__, device.type]
    key = hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()[:16]
    n_events = source.n_train + source.n_validation + source.n_test
    n_batches = -(-n_events // BATCH)
    paths = [cache_folder() / "navier_stokes" / key / f"{batch}.npy" for batch in range(n_batches)]
    every = simulation.grid // source.grid
    missing = [batch for batch in range(n_batches) if not paths[batch].is_file()]
    forcing = forcing_field(simulation.grid).to(device)
    with tqdm(total=len(missing) * source.n_frames, desc="navier_stokes", unit="frame", disable=None) as bar:
        for batch in missing:
            events = range(batch * BATCH, (batch + 1) * BATCH)
            vorticity = torch.stack([random_field(simulation.grid, simulation.seed, event) for event in events])
            vorticity = vorticity.to(device)
            frames = np.empty((BATCH, source.n_frames, source.grid, source.grid), dtype=np.float32)
            for frame in range(source.n_frames):
                vorticity = solve(vorticity, forcing, simulation.viscosity, 1.0, simulation.n_substeps)
                taken = vorticity[:, ::every, ::every].float()
                if not taken.isfinite().all():
                    raise UserError(
                        f"params.yaml: the solver diverges with source.simulation.n_substeps = "
                        f"{simulation.n_substeps}; take more"
                    )
                frames[:, frame] = taken.cpu().numpy()
                bar.update()
            with atomic(paths[batch]) as temporary, temporary.open("wb") as file:
                np.save(file, frames)
    return da.concatenate([arrays.npy(path) for path in paths])[:n_events]
