"""Simulations made here and by others: small files in the publishers' exact layout, and physics in closed form."""

import hashlib
import json
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import h5py
import huggingface_hub.constants
import numpy as np
import pytest
import scipy.io
import torch
import xarray as xr

from s2kd.params import Dataset, NavierStokesSource, PrometheusSource, SmokeSource, load_params
from s2kd.sources import navier_stokes, prometheus, smoke
from s2kd.sources.vorticity import forcing_field, random_field, solve
from s2kd.stage import UserError
from s2kd.windows import make_windows

SHIPPED = Path(__file__).parent.parent / "params.yaml"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("S2KD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def counts(dataset: Dataset, data: xr.Dataset) -> dict[str, int]:
    """Windows of each split, none of which crosses an event."""
    event = data["event"].values
    split = data["split"].values if "split" in data.coords else None
    windows = make_windows(data.indexes["time"], dataset, event, split)
    length = dataset.n_steps_input + dataset.n_steps_output
    assert (event[windows["start"]] == event[windows["start"] + length - 1]).all()
    return windows["split"].value_counts(sort=False).to_dict()


# --- smoke -------------------------------------------------------------------------------------------------------


def smoke_source(**values: object) -> SmokeSource:
    given = {
        "name": "smoke", "grid": (16, 12), "n_simulations": 2, "n_frames": 4, "n_spin_up": 2, "position": (0.3, 0.7),
        "radius": (0.1, 0.15), "rate": (0.4, 0.8), "buoyancy": (0.1, 0.2), "seed": 0,
    }  # fmt: skip
    return SmokeSource.model_validate(given | values)


def test_smoke_of_a_seed_is_the_same_to_the_byte(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = smoke.load(smoke_source())
    made = {file.name: file.read_bytes() for file in (cache / "smoke").iterdir()}
    assert len(made) == 1
    monkeypatch.setenv("S2KD_CACHE", str(tmp_path / "another"))
    second = smoke.load(smoke_source())
    assert {file.name: file.read_bytes() for file in (tmp_path / "another/smoke").iterdir()} == made
    xr.testing.assert_identical(first.load(), second.load())
    assert first["frames"].shape == (8, 3, 16, 12)
    assert first["event"].values.tolist() == [0] * 4 + [1] * 4
    assert not (first["frames"][0] == first["frames"][4]).all()
    assert "simulated" in first.attrs["source"]
    assert "simulated" in first.attrs["license"]
    assert first.attrs["nominal_time"] == 1
    assert first["y"].values.tolist() == [15.5 - row for row in range(16)]  # row 0 is at the ceiling


def test_smoke_that_is_there_is_not_simulated_again(cache: Path) -> None:
    source = smoke_source(n_simulations=smoke.GROUP + 1, n_frames=1, n_spin_up=0)
    whole = smoke.load(source)["frames"].values
    one, two = (cache / "smoke" / group.file for group in smoke.groups(source))
    two.unlink()
    stamp = one.stat().st_mtime_ns
    assert (smoke.load(source)["frames"].values == whole).all()
    assert one.stat().st_mtime_ns == stamp
    assert two.exists()


def test_more_simulations_leave_the_first_as_they_are() -> None:
    few, many = smoke.groups(smoke_source()), smoke.groups(smoke_source(n_simulations=3 * smoke.GROUP))
    assert few == many[:1]
    assert len({number for group in many for number in group.position}) == 3 * smoke.GROUP
    assert smoke.groups(smoke_source(seed=1))[0].rate != few[0].rate
    for group in many:
        assert all(0.3 <= number <= 0.7 for number in group.position)
        assert all(0.1 <= number <= 0.2 for number in group.buoyancy)


def test_smoke_without_buoyancy_gathers_at_its_source() -> None:
    weightless = smoke_source(
        grid=(32, 32), buoyancy=(1e-30, 1e-30), rate=(0.5, 0.5), radius=(0.1, 0.1), position=(0.25, 0.25), n_spin_up=0
    )
    frames = smoke.simulate(smoke.groups(weightless)[0])[0]
    assert frames[3, 0] == pytest.approx(4 * frames[0, 0], abs=1e-5)
    assert abs(frames[:, 1:]).max() < 1e-20
    total = frames[0, 0].sum()
    assert total == pytest.approx(0.5 * math.pi * 3.2**2, rel=0.02)
    rows, columns = np.mgrid[:32, :32] + 0.5
    assert (frames[0, 0] * columns).sum() / total == pytest.approx(0.25 * 32, abs=0.05)
    assert (frames[0, 0] * rows).sum() / total == pytest.approx((1 - smoke.HEIGHT) * 32, abs=0.05)


def test_buoyant_smoke_rises_and_loses_nothing() -> None:
    source = smoke_source(grid=(32, 32), n_frames=16, n_spin_up=0, position=(0.5, 0.5), buoyancy=(0.1, 0.1))
    frames = smoke.simulate(smoke.groups(source)[0])
    density, v = frames[:, :, 0], frames[:, :, 2]
    totals = density.sum(axis=(2, 3))
    np.testing.assert_allclose(totals, totals[:, :1] * np.arange(1, 17), rtol=0.08)
    height = (density.sum(axis=3) @ np.arange(31.5, -0.5, -1)) / totals
    assert (np.diff(height[:, 4:], axis=1) > 0).all()
    assert (v[:, -1] * density[:, -1]).sum() > 0
    assert abs(v.mean(axis=(2, 3))).max() < 1e-3  # the box is closed


def test_the_shipped_smoke_is_split_by_simulation() -> None:
    dataset = load_params("datasets.smoke", SHIPPED)
    source = dataset.source
    n_frames = source.n_simulations * source.n_frames
    data = xr.Dataset(
        coords={"time": xr.date_range("2000-01-01", periods=n_frames, freq="h"),
                "event": ("time", np.repeat(np.arange(source.n_simulations), source.n_frames))}
    )  # fmt: skip
    assert counts(dataset, data) == {"train": 480, "validation": 80, "test": 80}
    assert "simulated" in dataset.title.lower()


@pytest.mark.parametrize("values", [{"radius": (0.2, 0.1)}, {"position": (0.5, 1.5)}, {"grid": (4, 4)}])
def test_smoke_refuses_what_cannot_be(values: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        smoke_source(**values)


# --- Prometheus --------------------------------------------------------------------------------------------------

SHAPE = (6, 21, 2, 32, 480)  # events, frames, channels, and the true grid


def fires(environment: int) -> np.ndarray:
    event, time, channel = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    values = (1000 * environment + 100 * event + time + 0.5 * channel).astype(np.float32)
    return np.broadcast_to(values[..., None, None], SHAPE)


def prometheus_source(path: Path | str, **values: object) -> PrometheusSource:
    given = {
        "name": "prometheus", "path": str(path), "scene": "tunnel", "channels": ("a", "b"), "environments": (1, 2),
        "unseen_environments": (7,), "validation": 0.1, "test": 0.3, "distribution": "in",
    }  # fmt: skip
    return PrometheusSource.model_validate(given | values)


@pytest.fixture(scope="module")
def tunnel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tunnel")
    for environment in (1, 2, 7):
        np.save(folder / f"a{environment}_fds.npy", fires(environment))
    return folder


def test_fires_are_read_as_they_are_in_the_file(tunnel: Path) -> None:
    data = prometheus.load(prometheus_source(tunnel))
    assert data["frames"].shape == (2 * 6 * 21, 2, 32, 480)
    expected = np.concatenate([fires(1), fires(2)]).reshape(-1, *SHAPE[2:])
    assert (data["frames"].values == expected).all()
    assert (np.diff(data["event"]) == (np.arange(1, 252) % 21 == 0)).all()
    assert data["units"].values.tolist() == ["", ""]
    assert "names neither channels nor units" in data.attrs["source"]
    assert data.attrs["license"] == "none stated by the publisher"


def test_in_distribution_each_environment_has_every_split(tunnel: Path) -> None:
    data = prometheus.load(prometheus_source(tunnel))
    split = data["split"].values.reshape(2, 6, 21)
    assert (split == np.array(["train"] * 3 + ["validation"] + ["test"] * 2)[:, None]).all()
    dataset = load_params("datasets.prometheus_tunnel", SHIPPED)
    assert counts(dataset, data) == {"train": 2 * 3 * 2, "validation": 2 * 1 * 2, "test": 2 * 2 * 2}


def test_out_of_distribution_the_test_is_the_environments_never_seen(tunnel: Path) -> None:
    within, beyond = (
        prometheus.load(prometheus_source(tunnel, distribution=distribution)) for distribution in ("in", "out")
    )
    for split in ("train", "validation"):
        same = [data["frames"][data["split"].values == split].values for data in (within, beyond)]
        assert (same[0] == same[1]).all()
    tested = beyond["frames"][beyond["split"].values == "test"]
    assert (tested.values == fires(7).reshape(-1, *SHAPE[2:])).all()
    assert len(beyond["frames"]) == (4 + 4 + 6) * 21
    assert "tested in a7" in beyond.attrs["source"]
    assert len(np.unique(beyond["event"])) == 14


def test_the_folder_may_be_a_copy_of_the_repository(tmp_path: Path) -> None:
    (tmp_path / "Prometheus-P").mkdir()
    np.save(tmp_path / "Prometheus-P/b3_fds.npy", fires(3))
    pool = prometheus.load(prometheus_source(tmp_path, scene="pool", environments=(3,)))
    assert pool["frames"][-1, 1, 0, 0] == fires(3)[-1, -1, 1, 0, 0]


def test_fires_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    one, two = tmp_path / "a1_fds.npy", tmp_path / "a2_fds.npy"
    with pytest.raises(UserError, match=r"a1_fds.npy is missing"):
        prometheus.load(prometheus_source(tmp_path))
    np.save(one, np.zeros((6, 3, 2, 4, 5), np.float32))
    np.save(two, np.zeros((6, 3, 2, 4, 6), np.float32))
    with pytest.raises(UserError, match=r"a2_fds.npy has frames of .* \(2, 4, 6\), the file before \(2, 4, 5\)"):
        prometheus.load(prometheus_source(tmp_path))
    with pytest.raises(UserError, match=r"with 3 channels as source.channels"):
        prometheus.load(prometheus_source(tmp_path, channels=("a", "b", "c")))
    np.save(two, np.zeros((2, 3, 2, 4, 5), np.float32))
    with pytest.raises(UserError, match="environment 2 has 2 events"):
        prometheus.load(prometheus_source(tmp_path))
    one.write_bytes(one.read_bytes()[:-1])
    with pytest.raises(UserError, match="truncated"):
        prometheus.load(prometheus_source(tmp_path))
    np.save(one, np.zeros((6, 3, 4, 5), np.float32))
    with pytest.raises(UserError, match="expected axes event, time, channel, y, x"):
        prometheus.load(prometheus_source(tmp_path))
    with pytest.raises(ValueError, match="named twice"):
        prometheus_source(tmp_path, environments=(1, 7))


class Hub(BaseHTTPRequestHandler):
    """The two answers of the Hugging Face Hub that a download asks for."""

    files: dict[str, bytes]
    claimed: dict[str, str]  # SHA-256 that differs from that of the bytes
    requests: list[str]
    cut: set[str]  # files whose next transfer breaks off

    def do_POST(self) -> None:  # which files there are
        self.requests.append(self.path)
        wanted = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())["paths"]
        found = [
            {"type": "file", "path": name, "size": len(data), "oid": "0" * 40,
             "lfs": {"oid": self.sha256(name), "size": len(data), "pointerSize": 100}}
            for name, data in self.files.items()
            if name in wanted
        ]  # fmt: skip
        self.answer(200, json.dumps(found).encode(), {"Content-Type": "application/json"})

    def do_GET(self) -> None:
        self.requests.append(f"{self.path} {self.headers.get('Range', '')}")
        name = self.path.partition("/resolve/main/")[2] or self.path.partition(f"/resolve/{'1' * 40}/")[2]
        data = self.files[name]
        about = {"ETag": f'"{self.sha256(name)}"', "X-Repo-Commit": "1" * 40, "X-Linked-Size": str(len(data))}
        if wanted := self.headers.get("Range"):
            first = int(wanted.removeprefix("bytes=").partition("-")[0])
            part = {"Content-Range": f"bytes {first}-{len(data) - 1}/{len(data)}"}
            self.answer(206, data[first:], about | part)
        elif name in self.cut and self.command == "GET":
            self.cut.remove(name)
            self.answer(200, data[: len(data) * 3 // 4], about | {"Content-Length": str(len(data))})
            self.close_connection = True
        else:
            self.answer(200, data, about)

    do_HEAD = do_GET

    def sha256(self, name: str) -> str:
        return self.claimed.get(name, hashlib.sha256(self.files[name]).hexdigest())

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tunnel: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    files = {path.name: path.read_bytes() for path in tunnel.iterdir()}
    handler = type("Filled", (Hub,), {"files": files, "claimed": {}, "requests": [], "cut": set()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield handler
        server.shutdown()


def test_only_the_environments_in_use_are_fetched_and_only_once(
    hub: type[Hub], cache: Path, capsys: pytest.CaptureFixture
) -> None:
    for _ in range(2):
        data = prometheus.load(prometheus_source(""))
        assert data["frames"][0, 0, 0, 0] == 1000
        n_requests = len(hub.requests)
    assert sorted(path.name for path in (cache / "prometheus").iterdir()) == ["a1_fds.npy", "a2_fds.npy"]
    assert "fetching 2 files, 0.0 GB" in capsys.readouterr().out
    hub.requests.clear()
    prometheus.load(prometheus_source(""))
    assert not hub.requests
    assert n_requests > 0


def test_a_file_that_came_damaged_takes_no_place(hub: type[Hub], cache: Path) -> None:
    hub.claimed["a1_fds.npy"] = "0" * 64
    with pytest.raises(UserError, match=r"a1_fds.npy came with sha256 .*, the publisher's is 0000"):
        prometheus.load(prometheus_source(""))
    assert not list((cache / "prometheus").glob("*.npy"))
    hub.claimed.clear()
    assert prometheus.load(prometheus_source(""))["frames"][0, 0, 0, 0] == 1000


def test_a_transfer_that_broke_off_goes_on(hub: type[Hub]) -> None:
    hub.cut.add("a1_fds.npy")
    data = prometheus.load(prometheus_source(""))
    assert (data["frames"][:21, :, 0, 0].values == fires(1)[0, :, :, 0, 0]).all()
    (again,) = [request for request in hub.requests if "bytes=" in request]
    assert int(again.partition("bytes=")[2].rstrip("-")) >= 10_000_000  # what the client writes at a time


def test_an_environment_that_is_not_published_is_named(hub: type[Hub]) -> None:
    del hub.files["a2_fds.npy"]
    with pytest.raises(UserError, match=r"easylearning/Prometheus has no a2_fds.npy; list other environments"):
        prometheus.load(prometheus_source(""))


def test_without_the_hub_the_files_may_be_placed_by_hand(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=rf"place the files in the folder {cache}/prometheus"):
        prometheus.load(prometheus_source(""))


# --- Navier-Stokes -----------------------------------------------------------------------------------------------


def flow_source(path: Path | str, **values: object) -> NavierStokesSource:
    given = {
        "name": "navier_stokes", "path": str(path), "n_train": 3, "n_validation": 1, "n_test": 2, "n_frames": 20,
        "grid": 64, "simulation": {"grid": 32, "viscosity": 1e-3, "n_substeps": 100, "seed": 0},
    }  # fmt: skip
    return NavierStokesSource.model_validate(given | values)


def write_mat(path: Path, vorticity: np.ndarray, version: str) -> Path:
    """Write the array (event, row, column, time) as MATLAB does, by version 7.3 or before."""
    if version == "7.3":
        with h5py.File(path, "w", userblock_size=512) as file:
            file.create_dataset("u", data=vorticity.T, chunks=True)
            file.create_dataset("a", data=vorticity[..., 0].T)
    else:
        scipy.io.savemat(path, {"a": vorticity[..., 0], "u": vorticity}, do_compression=version == "7")
    return path


@pytest.mark.parametrize("version", ["7.3", "7", "6"])
def test_flows_of_every_version_of_the_file(tmp_path: Path, version: str) -> None:
    vorticity = np.random.default_rng(0).normal(size=(6, 64, 64, 20)).astype(np.float32)
    path = write_mat(tmp_path / "flow.mat", vorticity, version)
    for _ in range(2):  # the second time from the cache
        data = navier_stokes.load(flow_source(path))
        frames = data["frames"].values.reshape(6, 20, 64, 64)
        assert (frames == vorticity.transpose(0, 3, 1, 2)).all()
    assert data["split"].values[::20].tolist() == ["train"] * 3 + ["validation"] + ["test"] * 2
    assert data.attrs["nominal_time"] == 1
    dataset = load_params("datasets.navier_stokes", SHIPPED)
    assert counts(dataset, data) == {"train": 3, "validation": 1, "test": 2}


def test_the_published_file_has_1000_100_and_100_windows(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "flow.mat", "w", userblock_size=512) as file:  # its header alone: nothing is written
        file.create_dataset("u", shape=(20, 64, 64, 1200), dtype=np.float32, chunks=True)
    dataset = load_params("datasets.navier_stokes", SHIPPED)
    data = navier_stokes.load(dataset.source.model_copy(update={"path": str(tmp_path / "flow.mat")}))
    assert data["frames"].shape == (24000, 1, 64, 64)
    assert counts(dataset, data) == {"train": 1000, "validation": 100, "test": 100}


def test_flows_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"flow.mat is missing; download it"):
        navier_stokes.load(flow_source(tmp_path / "flow.mat"))
    for version in ("7.3", "7"):
        path = write_mat(tmp_path / "flow.mat", np.zeros((6, 64, 64, 10), np.float32), version)
        with pytest.raises(UserError, match=r"holds 6 events of 10 frames of 64 x 64; params.yaml says 3 \+ 1 \+ 2"):
            navier_stokes.load(flow_source(path))
        path = write_mat(tmp_path / "flow.mat", np.zeros((6, 64, 20), np.float32), version)
        with pytest.raises(UserError, match="expected axes event, row, column, time"):
            navier_stokes.load(flow_source(path))
        path = write_mat(tmp_path / "flow.mat", np.random.default_rng(0).random((6, 64, 64, 20)), version)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(UserError, match=r"flow\.mat cannot be read as"):
            navier_stokes.load(flow_source(path))
    scipy.io.savemat(path, {"v": np.zeros((6, 64, 64, 20), np.float32)})
    with pytest.raises(UserError, match=r"flow\.mat has no array 'u'; it has: v"):
        navier_stokes.load(flow_source(path))


def test_flows_are_simulated_the_same_from_a_seed(cache: Path) -> None:
    source = flow_source("", grid=16, n_frames=3)
    data = navier_stokes.load(source)
    frames = data["frames"].values
    assert frames.shape == (18, 1, 16, 16)
    assert "simulated" in data.attrs["source"]
    assert "simulated" in data.attrs["references"]
    (made,) = cache.rglob("*.npy")
    first = made.read_bytes()
    made.unlink()
    assert (navier_stokes.load(source)["frames"].values == frames).all()
    assert made.read_bytes() == first
    more = navier_stokes.load(flow_source("", grid=16, n_frames=3, n_train=4))["frames"].values
    assert (more[:18] == frames).all()
    with pytest.raises(UserError, match=r"simulation.grid 32 is no multiple of source.grid 24"):
        navier_stokes.load(flow_source("", grid=24))


def test_a_solver_that_diverges_is_no_result() -> None:
    simulation = {"grid": 64, "viscosity": 0.0, "n_substeps": 1, "seed": 0}
    with pytest.raises(UserError, match=r"the solver diverges with source.simulation.n_substeps = 1; take more"):
        navier_stokes.load(flow_source("", grid=16, n_frames=20, simulation=simulation))


def mode(size: int, along_y: int, along_x: int) -> torch.Tensor:
    place = torch.arange(size, dtype=torch.float64) / size
    return torch.cos(2 * math.pi * (along_y * place[:, None] + along_x * place))


@pytest.mark.parametrize(("along_y", "along_x"), [(1, 0), (0, 3), (2, 1)])
def test_a_single_mode_decays_by_viscosity_alone(along_y: int, along_x: int) -> None:
    viscosity, time = 1e-2, 0.7
    start = mode(32, along_y, along_x)[None]
    end = solve(start, torch.zeros(32, 32, dtype=torch.float64), viscosity, time, 2000)
    square = (2 * math.pi) ** 2 * (along_y**2 + along_x**2)
    torch.testing.assert_close(end, start * math.exp(-viscosity * square * time), rtol=1e-5, atol=1e-7)


def test_transport_of_two_modes() -> None:
    """Of w = cos ax + cos by, u . grad w = (a / b - b / a) sin ax sin by."""
    a, b = 2 * math.pi, 6 * math.pi
    place = torch.arange(32, dtype=torch.float64) / 32
    x, y = place[None, :], place[:, None]
    start = (torch.cos(a * x) + torch.cos(b * y))[None]
    step = 1e-3
    end = solve(start, torch.zeros(32, 32, dtype=torch.float64), 0.0, step, 1)
    expected = start - step * (a / b - b / a) * torch.sin(a * x) * torch.sin(b * y)
    torch.testing.assert_close(end, expected, rtol=0, atol=1e-7)


def test_forcing_adds_up_and_meets_viscosity() -> None:
    """The forcing is one mode: it transports nothing, and the flow that it drives tends to forcing / (nu k^2)."""
    forcing = forcing_field(32)
    assert forcing[0, 0] == pytest.approx(0.1)
    assert forcing[0, 4] == forcing[4, 0] == pytest.approx(0.1 * math.sqrt(2))
    still = torch.zeros(1, 32, 32, dtype=torch.float64)
    rate = 0.1 * 2 * (2 * math.pi) ** 2
    for time in (0.01, 2.0):
        end = solve(still, forcing, 0.1, time, 2000)
        torch.testing.assert_close(end[0], forcing / rate * (1 - math.exp(-rate * time)), rtol=2e-3, atol=1e-6)


def test_the_random_field_has_the_variance_of_its_covariance() -> None:
    fields = torch.stack([random_field(32, 0, event) for event in range(400)])
    wave = 2 * math.pi * np.fft.fftfreq(32, 1 / 32)
    power = 7.0**3 * (wave[:, None] ** 2 + wave**2 + 7.0**2) ** -2.5  # of each Fourier coefficient
    power[0, 0] = 0
    assert fields.var().item() == pytest.approx(power.sum(), rel=0.05)
    assert abs(fields.mean((1, 2))).max() < 1e-5
    assert not torch.equal(fields[0], random_field(32, 1, 0))
