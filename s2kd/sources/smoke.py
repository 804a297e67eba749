"""Buoyant smoke in a closed box: **simulated** with PhiFlow on the CPU, the same from a seed each time.

A disc near the floor goes on giving off smoke, which is lighter than the air, rises as a plume, spreads under the
ceiling and rolls down the walls. Nothing is downloaded.
"""

import hashlib
import json
import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import xarray as xr
from jaxtyping import Float32
from tqdm import tqdm

from s2kd.params import SmokeSource
from s2kd.sources import arrays
from s2kd.sources.events import assemble
from s2kd.sources.fetch import cache_folder
from s2kd.stage import atomic

HEIGHT = 0.12  # of the middle of the source above the floor, as a fraction of the box's height
TOLERANCE = 1e-3  # relative, of the pressure
GROUP = 8  # simulations computed at once: most of the time goes into Python, and is the same for one
PACKAGES = ("phiflow", "phiml", "numpy", "scipy")  # whose versions may change the numbers

CHANNELS = {
    "density": ("1", "density of the smoke"),
    "u": ("cells/step", "velocity to the right"),
    "v": ("cells/step", "upward velocity"),
}
LICENCE = "simulated data, free to use; PhiFlow, which made them: MIT"


@dataclass(frozen=True)
class Group:
    """All that decides the numbers of some simulations computed at once, except the versions of `PACKAGES`.

    The solver of the pressure stops when all of them are within its tolerance, so their numbers depend on each other.
    """

    height: int  # cells
    width: int
    n_spin_up: int  # first frames, which are not kept
    n_frames: int
    position: tuple[float, ...]  # of the middle of each source, as a fraction of the box's width
    radius: tuple[float, ...]  # of each source, as a fraction of the box's shorter side
    rate: tuple[float, ...]  # density added a step
    buoyancy: tuple[float, ...]  # upward acceleration of smoke of density 1, in cells a step, a step

    @property
    def file(self) -> str:
        made_by = {**asdict(self), **{package: version(package) for package in PACKAGES}}
        return f"{hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()[:16]}.npy"


def load(source: SmokeSource) -> xr.Dataset:
    """Simulate what is not in the cache yet, on all processors, and open all of it.

    Each simulation is an event. The cache keeps each group of them as a file, so that a run that was killed goes on.
    The same seed gives the same bytes on the same machine; another processor may round differently.

    Returns:
        ``frames`` (time, channel, y, x), row 0 at the ceiling, y the height above the floor in cells.
    """
    import dask.array as da

    made, folder = groups(source), cache_folder() / "smoke"
    generate(made, folder)
    runs = [arrays.npy(folder / group.file, (1, -1, -1, -1, -1)) for group in made]  # simulation, time, channel, y, x
    frames = da.concatenate([run for group in runs for run in group][: source.n_simulations])
    made_by = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    return assemble(
        frames,
        np.repeat(np.arange(source.n_simulations), source.n_frames),
        CHANNELS,
        {
            "source": f"simulated: buoyant smoke, {source.n_simulations} simulations of seed {source.seed} ({made_by})",
            "license": LICENCE,
            "references": "Simulated with PhiFlow: Holl and Thuerey (2024), PhiFlow: Differentiable Simulations for "
            "PyTorch, TensorFlow and Jax, ICML, https://github.com/tum-pbs/PhiFlow",
        },
        y=(np.arange(source.grid[0])[::-1] + 0.5, {"long_name": "height above the floor", "units": "1"}),
        x=(np.arange(source.grid[1]) + 0.5, {"long_name": "distance from the left wall", "units": "1"}),
    )


def groups(source: SmokeSource) -> list[Group]:
    """Draw the numbers of each simulation from the seed and its index; the last group is as large as the others.

    So more simulations of a seed leave the first ones as they are.
    """
    n_groups = -(-source.n_simulations // GROUP)

    def draw(index: int) -> list[float]:
        rng = np.random.default_rng([source.seed, index])
        return [
            float(rng.uniform(*bounds)) for bounds in (source.position, source.radius, source.rate, source.buoyancy)
        ]

    drawn = [zip(*map(draw, range(n * GROUP, (n + 1) * GROUP)), strict=True) for n in range(n_groups)]
    return [Group(*source.grid, source.n_spin_up, source.n_frames, *numbers) for numbers in drawn]


def generate(made: list[Group], folder: Path) -> None:
    """Simulate the groups that the folder lacks, one on each processor, and put them there."""
    missing = [group for group in made if not (folder / group.file).is_file()]
    if not missing:
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy locks that threads hold
    n_workers = min(len(missing), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    with (
        ProcessPoolExecutor(n_workers, context, initializer=_end_with_parent) as pool,
        tqdm(total=len(missing) * GROUP, desc="smoke", unit="simulation", disable=None) as bar,
    ):
        try:
            for done in as_completed([pool.submit(_make, group, folder) for group in missing]):
                done.result()
                bar.update(GROUP)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def simulate(group: Group) -> Float32[np.ndarray, "run time 3 y x"]:
    """Simulate some boxes, in steps of 1 and cells of 1, and return density and the two velocities of each frame.

    MacCormack advection of the smoke, whose walls have no gradient, semi-Lagrangian advection of the velocity, which
    is 0 there, then the pressure that makes it free of divergence. Row 0 is at the ceiling.
    """
    from phi import flow

    position, radius, rate, buoyancy = (
        flow.tensor(numbers, flow.batch("run"))
        for numbers in (group.position, group.radius, group.rate, group.buoyancy)
    )
    box = {"x": group.width, "y": group.height, "bounds": flow.Box(x=group.width, y=group.height)}
    smoke = flow.CenteredGrid(0, flow.extrapolation.BOUNDARY, **box)
    velocity = flow.StaggeredGrid(0, 0, **box)
    middle = {"x": position * group.width, "y": HEIGHT * group.height}
    inflow = rate * flow.resample(
        flow.Sphere(**middle, radius=radius * min(group.height, group.width)), to=smoke, soft=True
    )
    pressure = None
    frames = np.empty((len(group.rate), group.n_frames, 3, group.height, group.width), dtype=np.float32)
    for step in range(group.n_spin_up + group.n_frames):
        smoke = flow.advect.mac_cormack(smoke, velocity, 1.0) + inflow
        lift = flow.resample(smoke * flow.vec(x=0, y=buoyancy), to=velocity)
        velocity = flow.advect.semi_lagrangian(velocity, velocity, 1.0) + lift
        # In a closed box the pressure is known but for a constant, which the solver must not be asked to find.
        solve = flow.Solve("auto", TOLERANCE, rank_deficiency=0, x0=pressure)
        velocity, pressure = flow.fluid.make_incompressible(velocity, (), solve)
        if step >= group.n_spin_up:
            frame = frames[:, step - group.n_spin_up]
            frame[:, 0] = smoke.values.numpy("run,y,x")[:, ::-1]
            frame[:, 1:] = velocity.at_centers().values.numpy("run,vector,y,x")[:, :, ::-1]
    return frames


def _make(group: Group, folder: Path) -> None:
    frames = simulate(group)
    with atomic(folder / group.file) as temporary, temporary.open("wb") as file:
        np.save(file, frames)


def _end_with_parent() -> None:
    """Let no worker outlive a stage that was killed."""

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
