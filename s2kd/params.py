"""The parameters of the pipeline: ``params.yaml`` read into frozen models that refuse what they do not know.

No field has a default: every number stands in ``params.yaml``. Read by YAML 1.2 (``ruamel.yaml``), because
``dvc exp run -S x=1e-5`` writes ``1e-05``, which PyYAML (YAML 1.1) returns as a string.
"""

import difflib
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NaiveDatetime,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from s2kd.stage import UserError

Fraction = Annotated[float, Field(ge=0, le=1)]
Part = Annotated[float, Field(gt=0, lt=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
NonNegative = Annotated[float, Field(ge=0)]
GridSize = Annotated[int, Field(ge=8)]
Bounds = tuple[PositiveFloat, PositiveFloat]
Period = Literal["none", "day", "week"]


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


# --- data sets ---------------------------------------------------------------------------------------------------


class FlightsSource(Model):
    """US air traffic of 2001 from the npm package vega-datasets."""

    name: Literal["flights"]
    grid: tuple[PositiveInt, PositiveInt]
    step_minutes: PositiveInt
    ground_minutes: NonNegative
    speed_mph: PositiveFloat


class FileSource(Model):
    """NetCDF, Zarr, GRIB, HDF5 or NumPy files of the user's; the last two have no times of their own."""

    name: Literal["file"]
    path: str
    variables: Annotated[tuple[str, ...], Field(min_length=1)]
    start: NaiveDatetime | None
    step_minutes: PositiveFloat | None
    licence: str
    citation: str


class YearsSource(Model):
    """What the reanalyses have in common; an empty path means the publisher's own copy."""

    path: str
    variables: Annotated[tuple[str, ...], Field(min_length=1)]
    years: tuple[PositiveInt, PositiveInt]  # first and last

    @model_validator(mode="after")
    def _years_are_in_order(self) -> "YearsSource":
        if self.years[0] > self.years[1]:
            raise ValueError(f"years go from {self.years[0]} to {self.years[1]}; name the first and the last")
        return self


class NcepSource(YearsSource):
    """NCEP/NCAR reanalysis 1."""

    name: Literal["ncep"]
    edition: Literal["tutorial", "full"]


class WeatherBenchSource(YearsSource):
    """ERA5 on the grids of WeatherBench."""

    name: Literal["weatherbench"]
    edition: Literal["weatherbench2", "arco_era5", "weatherbench1"]
    resolution: Literal["5.625deg", "2.8125deg", "1.40625deg"]


class TaxiBJSource(Model):
    """TaxiBJ in the windows that OpenSTL cut: its ``dataset.npz``, fetched where ``path`` is empty."""

    name: Literal["taxibj"]
    path: str
    n_train: PositiveInt
    n_test: PositiveInt


class TaxiBJYearsSource(Model):
    """TaxiBJ as its authors published it: a folder with a file a year."""

    name: Literal["taxibj_years"]
    path: str
    years: Annotated[tuple[Literal[13, 14, 15, 16], ...], Field(min_length=1)]
    meteorology: bool


class TaxiBJPlusSource(Model):
    """TaxiBJ+ in the windows of EarthFarseer: a folder with inputs and outputs of each split."""

    name: Literal["taxibj_plus"]
    path: str
    n_train: PositiveInt
    n_validation: PositiveInt
    n_test: PositiveInt


class SmokeSource(Model):
    """Buoyant smoke, simulated; of each pair of bounds every simulation draws its own number."""

    name: Literal["smoke"]
    grid: tuple[GridSize, GridSize]
    n_simulations: PositiveInt
    n_frames: PositiveInt
    n_spin_up: NonNegativeInt
    position: Bounds
    radius: Bounds
    rate: Bounds
    buoyancy: Bounds
    seed: NonNegativeInt

    @model_validator(mode="after")
    def _bounds_are_in_order(self) -> "SmokeSource":
        for name in ("position", "radius", "rate", "buoyancy"):
            low, high = getattr(self, name)
            if low > high or (name in ("position", "radius") and high >= 1):
                raise ValueError(f"{name} goes from {low} to {high}; give two numbers in order, fractions below 1")
        return self


class PrometheusSource(Model):
    """Tunnel or pool fires of Prometheus, simulated by its authors; environments are files."""

    name: Literal["prometheus"]
    path: str
    scene: Literal["tunnel", "pool"]
    channels: Annotated[tuple[str, ...], Field(min_length=1)]
    environments: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    unseen_environments: tuple[PositiveInt, ...]
    validation: Part
    test: Part
    distribution: Literal["in", "out"]

    @model_validator(mode="after")
    def _unseen_are_unseen(self) -> "PrometheusSource":
        every = [*self.environments, *self.unseen_environments]
        if double := sorted({number for number in every if every.count(number) > 1}):
            raise ValueError(f"environments {double} are named twice; an unseen one must not be trained in")
        if self.distribution == "out" and not self.unseen_environments:
            raise ValueError("distribution is out, but no unseen_environments are named; name those to test in")
        return self


class NavierStokesSimulation(Model):
    """How a source without a path is simulated."""

    grid: GridSize
    viscosity: NonNegative
    n_substeps: PositiveInt
    seed: NonNegativeInt


class NavierStokesSource(Model):
    """Vorticity of a forced flow: the file of the Fourier neural operator's authors, or simulated as they did."""

    name: Literal["navier_stokes"]
    path: str
    n_train: PositiveInt
    n_validation: PositiveInt
    n_test: PositiveInt
    n_frames: PositiveInt
    grid: GridSize
    simulation: NavierStokesSimulation


class ChronologicalSplit(Model):
    """Train, then validation, then test; an end is a fraction of the record or a date (exclusive).

    The last ``trim`` frames of each are dropped.
    """

    name: Literal["chronological"]
    train_end: Fraction | date
    validation_end: Fraction | date
    trim: NonNegativeInt


class BlocksSplit(Model):
    """Blocks of ``length`` frames, given to the splits in turn, with ``gap`` frames dropped where the split changes."""

    name: Literal["blocks"]
    length: PositiveInt
    gap: NonNegativeInt
    pattern: Annotated[tuple[Literal["train", "validation", "test"], ...], Field(min_length=3)]

    @model_validator(mode="after")
    def _has_every_split(self) -> "BlocksSplit":
        if missing := {"train", "validation", "test"} - set(self.pattern):
            raise ValueError(f"pattern lacks {', '.join(sorted(missing))}; name each split at least once")
        return self


class EventsSplit(Model):
    """Whole events (simulations, runs, pre-cut windows): the last ones are for the test, those before for validation.

    Each is a number of events, or a fraction of all of them.
    """

    name: Literal["events"]
    validation: PositiveInt | Part
    test: PositiveInt | Part


class PublishedSplit(Model):
    """The split that the publisher made; where it has no validation part, the last training events are that part.

    ``gap`` training events before those are dropped: windows cut one frame apart share frames with their neighbours.
    """

    name: Literal["published"]
    validation: PositiveInt | Part | Literal[0]
    gap: NonNegativeInt


class Dataset(Model):
    title: str
    domain: Literal["traffic", "weather", "fluid"]
    country: str | None
    n_steps_input: PositiveInt
    n_steps_output: PositiveInt
    stride: PositiveInt
    period: Period
    missing: Literal["refuse", "fill", "mask"]
    source: Annotated[
        FlightsSource
        | FileSource
        | NcepSource
        | WeatherBenchSource
        | TaxiBJSource
        | TaxiBJYearsSource
        | TaxiBJPlusSource
        | SmokeSource
        | PrometheusSource
        | NavierStokesSource,
        Field(discriminator="name"),
    ]
    split: Annotated[ChronologicalSplit | BlocksSplit | EventsSplit | PublishedSplit, Field(discriminator="name")]


# --- text --------------------------------------------------------------------------------------------------------


class Narrative(Model):
    backend: Literal["template"]
    view: Literal["history", "history_and_target"]
    text: Literal["real", "none", "constant", "shuffled", "calendar"]
    corruption: Fraction
    seed: NonNegativeInt


class TextEncoder(Model):
    model: str
    sha256: str | None
    weights: Literal["pretrained", "random"]
    max_length: PositiveInt
    batch_size: PositiveInt


class Normalisation(Model):
    per: Literal["cell", "channel"]
    floor: Fraction


# --- training ----------------------------------------------------------------------------------------------------


class Training(Model):
    epochs: PositiveInt
    batch_size: PositiveInt
    learning_rate: PositiveFloat
    weight_decay: NonNegative
    warmup: Fraction
    gradient_clip: PositiveFloat
    patience: PositiveInt
    mixed_precision: Literal["no", "bf16", "fp16"]


class TeacherModel(Model):
    n_steps_latent: PositiveInt
    width: PositiveInt
    stride: PositiveInt
    encoder_depth: NonNegativeInt
    alignment_depth: PositiveInt
    evolution_depth: PositiveInt
    n_heads: PositiveInt
    dropout: Fraction
    gate: float

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "TeacherModel":
        if self.width % self.n_heads:
            raise ValueError(f"n_heads {self.n_heads} does not divide width {self.width}; choose a divisor")
        return self


class Teacher(Model):
    seed: NonNegativeInt
    model: str
    tap: Literal["fused", "evolved"]
    training: Training


class UNet(Model):
    name: Literal["unet"]
    width: PositiveInt
    n_scales: PositiveInt
    dropout: Fraction


class SimVP(Model):
    name: Literal["simvp"]
    translator: Literal["convmixer", "gsta"]
    encoder_width: Annotated[int, Field(gt=0, multiple_of=2)]  # GroupNorm in two groups
    encoder_depth: PositiveInt
    width: PositiveInt
    depth: Annotated[int, Field(ge=2)]
    drop_path: Annotated[float, Field(ge=0, lt=1)]


class ResNet(Model):
    name: Literal["resnet"]
    width: PositiveInt
    depth: PositiveInt
    drop_path: Annotated[float, Field(ge=0, lt=1)]


class MLPMixer(Model):
    name: Literal["mlp_mixer"]
    width: PositiveInt
    stride: PositiveInt
    depth: PositiveInt
    drop_path: Annotated[float, Field(ge=0, lt=1)]


StudentModel = Annotated[UNet | SimVP | ResNet | MLPMixer, Field(discriminator="name")]


class Student(Model):
    model: str
    training: Training


class Distillation(Model):
    """The forms of the distillation terms and how their weights change in training; see ``s2kd.distillation``."""

    projection_depth: PositiveInt
    semantic: Literal["cosine", "l2"]
    spectral: Literal["complex", "amplitude"]
    spectral_axes: Literal["space", "space_time"]
    boundary_margin: PositiveFloat
    band_cutoff: PositiveFloat
    band_alpha: NonNegative
    schedule: Literal["constant", "warmup", "cosine"]
    schedule_fraction: Fraction
    balance: Literal["none", "gradient_norm"]


class Weights(Model):
    """Weight of each distillation term beside the prediction loss (weight 1); a zero skips its term."""

    semantic: NonNegative
    spectral: NonNegative
    feature: NonNegative
    output: NonNegative
    boundary: NonNegative
    band: NonNegative


class Variant(Model):
    weights: Weights


class Runs(Model):
    variants: Annotated[tuple[str, ...], Field(min_length=1)]
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)]


class Evaluation(Model):
    batch_size: PositiveInt
    latency_repeats: PositiveInt
    latency_threads: PositiveInt
    rollout: PositiveInt
    hard_fraction: Annotated[float, Field(gt=0, le=1)]


class Params(Model):
    dataset: str
    datasets: dict[str, Dataset]
    narrative: Narrative
    text_encoder: TextEncoder
    normalisation: Normalisation
    teacher: Teacher
    teachers: dict[str, TeacherModel]
    student: Student
    students: dict[str, StudentModel]
    distillation: Distillation
    variants: dict[str, Variant]
    runs: Runs
    evaluation: Evaluation


def load_params(group: str, path: Path = Path("params.yaml")) -> Any:
    """Check the whole of ``params.yaml`` and return one group of it.

    Args:
        group: dotted name of the group as ``dvc.yaml`` declares it, e.g. ``"teacher"`` or ``"variants.s2kd"``.

    Raises:
        UserError: the file is missing or no YAML, a key is unknown (the nearest known one is named) or missing, a
            value is out of range.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path.absolute()} is missing; run from the root of the repository") from None
    try:
        raw = YAML(typ="safe", pure=True).load(text)
        value: Any = Params.model_validate(raw)
    except YAMLError as error:
        raise UserError(f"{path} is no valid YAML: {error}") from None
    except ValidationError as error:
        raise UserError("\n".join(_explain(path, detail) for detail in error.errors())) from None
    for depth, key in enumerate(group.split(".")):
        known = value if isinstance(value, dict) else {name: getattr(value, name) for name in type(value).model_fields}
        if key not in known:
            where = ".".join(group.split(".")[:depth]) or "the top level"
            raise UserError(f"{path}: {where} has no {key!r}{_nearest(key, known)}")
        value = known[key]
    return value


def _explain(path: Path, detail: Any) -> str:
    keys, known = _locate(detail["loc"])
    where = ".".join(keys) or "the top level"
    if detail["type"] == "extra_forbidden":
        return f"{path}: unknown key {where!r}{_nearest(keys[-1], known)}"
    if detail["type"] == "missing":
        return f"{path}: {where} is missing; every parameter must be given"
    return f"{path}: {where} = {detail['input']!r}: {detail['msg']}"


def _locate(location: tuple) -> tuple[list[str], list[str]]:
    """Keys in the file that lead to the place of an error, and the keys that the model there knows.

    pydantic's own location also names the member of a union that was tried, which is no key of the file.
    """
    schema: dict = Params.model_json_schema()
    node, keys, known = schema, [], []
    for part in location:
        node = _resolve(node, schema)
        if "discriminator" in node:
            node = {"$ref": node["discriminator"]["mapping"][part]}
        elif "anyOf" not in node:
            keys.append(str(part))
            known = list(node.get("properties", {}))
            node = node.get("properties", {}).get(part) or node.get("additionalProperties") or {}
    return keys, known


def _resolve(node: dict, schema: dict) -> dict:
    while "$ref" in node:
        node = schema["$defs"][node["$ref"].rsplit("/", 1)[-1]]
    return node


def _nearest(key: str, known: Any) -> str:
    known = sorted(known)
    if close := difflib.get_close_matches(key, known, n=1, cutoff=0.5):
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(known)}" if known else ""
