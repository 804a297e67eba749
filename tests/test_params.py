"""params.yaml: what is refused and how the message leads to it, and the file as it is shipped."""

import datetime
import shutil
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides
from pydantic import ValidationError
from ruamel.yaml import YAML

from s2kd.params import Weights, load_params
from s2kd.stage import UserError

SHIPPED = Path(__file__).parent.parent / "params.yaml"


def changed(folder: Path, location: str, value: object) -> Path:
    """A copy of the shipped file where ``location`` is ``value``; ``...`` takes the key out."""
    yaml = YAML()
    root = yaml.load(SHIPPED)
    *parents, key = location.split(".")
    node = root
    for parent in parents:
        node = node[parent]
    if value is ...:
        del node[key]
    else:
        node[int(key) if isinstance(node, list) else key] = value
    path = folder / "params.yaml"
    yaml.dump(root, path)
    return path


def message(path: Path, group: str = "runs") -> str:
    with pytest.raises(UserError) as error:
        load_params(group, path)
    return str(error.value)


@pytest.mark.parametrize(
    ("location", "nearest"),
    [
        ("techer", "teacher"),
        ("teacher.training.lerning_rate", "learning_rate"),
        ("variants.s2kd.weights.spektral", "spectral"),
        ("datasets.flights.strides", "stride"),
        ("datasets.flights.source.speed_mp", "speed_mph"),
        ("datasets.file.split.train_ends", "train_end"),
        ("students.unet_tiny.n_scale", "n_scales"),
        ("teachers.paper.n_steps_latents", "n_steps_latent"),
        ("distillation.spectral_axis", "spectral_axes"),
    ],
)
def test_an_unknown_key_is_refused_and_the_nearest_named(tmp_path, location, nearest):
    path = changed(tmp_path, location, 1)
    assert message(path) == f"{path}: unknown key {location!r}; did you mean {nearest!r}?"


def test_an_unknown_key_near_none_lists_those_that_are_known(tmp_path):
    text = message(changed(tmp_path, "normalisation.zzz", 1))
    assert text.endswith("unknown key 'normalisation.zzz'; known: floor, per")


@pytest.mark.parametrize(
    "location",
    [
        "teacher",
        "teacher.training.epochs",
        "teachers.paper.n_heads",
        "students.unet_tiny.dropout",
        "datasets.flights.source.speed_mph",
        "variants.s2kd.weights",
        "variants.s2kd.weights.output",
    ],
)
def test_a_missing_key_is_named(tmp_path, location):
    path = changed(tmp_path, location, ...)
    assert message(path) == f"{path}: {location} is missing; every parameter must be given"


@pytest.mark.parametrize(
    ("location", "value", "reason"),
    [
        ("teacher.training.epochs", 0, "greater than 0"),
        ("teacher.training.epochs", 1.5, "valid integer"),
        ("teachers.small.dropout", 1.1, "less than or equal to 1"),
        ("teachers.small.n_steps_latent", 0, "greater than 0"),
        ("teacher.tap", "decoder", "'fused' or 'evolved'"),
        ("datasets.flights.period", "month", "'none', 'day' or 'week'"),
        ("narrative.text", "random", "'real', 'none', 'constant', 'shuffled' or 'calendar'"),
        ("narrative.corruption", 1.5, "less than or equal to 1"),
        ("students.unet_tiny.n_scales", 0, "greater than 0"),
        ("distillation.semantic", "l1", "'cosine' or 'l2'"),
        ("distillation.projection_depth", 0, "greater than 0"),
        ("evaluation.hard_fraction", 0, "greater than 0"),
        ("variants.s2kd.weights.semantic", -0.1, "greater than or equal to 0"),
        ("student.training.learning_rate", "fast", "valid number"),
        ("student.training.learning_rate", float("nan"), "greater than 0"),
        ("student.training.mixed_precision", "fp8", "'no', 'bf16' or 'fp16'"),
        ("datasets.flights.source.speed_mph", "fast", "valid number"),
        ("datasets.flights.source.grid.1", 0, "greater than 0"),
        ("datasets.file.split.train_end", "soon", "valid number"),
        ("runs.seeds.2", -1, "greater than or equal to 0"),
    ],
)
def test_a_bad_value_is_told_with_file_key_and_reason(tmp_path, location, value, reason):
    path = changed(tmp_path, location, value)
    assert message(path).startswith(f"{path}: {location} = {value!r}: ")
    assert reason in message(path)


def test_every_mistake_is_told_at_once(tmp_path):
    path = changed(tmp_path, "teacher", {})
    assert message(path).count("\n") == 3  # seed, model, tap, training


def test_an_unknown_source_names_the_known_ones(tmp_path):
    text = message(changed(tmp_path, "datasets.file.source.name", "satellite"))
    assert "datasets.file.source" in text
    assert "'satellite'" in text
    assert "'flights', 'file'" in text


def test_a_student_is_of_one_of_the_architectures_and_has_its_options(tmp_path):
    text = message(changed(tmp_path, "students.unet_tiny.name", "transformer"))
    assert "students.unet_tiny" in text
    assert "'unet', 'simvp', 'resnet', 'mlp_mixer'" in text
    path = changed(tmp_path, "students.unet_tiny", {"name": "resnet", "width": 8, "depth": 2, "translator": 3})
    assert message(path).splitlines() == [
        f"{path}: students.unet_tiny.drop_path is missing; every parameter must be given",
        f"{path}: unknown key 'students.unet_tiny.translator'; known: depth, drop_path, name, width",
    ]
    simvp = {"name": "simvp", "translator": "gsta", "encoder_width": 8, "encoder_depth": 2, "width": 16, "depth": 2}
    path = changed(tmp_path, "students.mine", simvp | {"drop_path": 0.1})
    assert load_params("students.mine", path).model_dump() == simvp | {"drop_path": 0.1}
    for name in ("unet_tiny", "mine"):  # as the student is built from it
        assert load_params(f"students.{name}", path).model_dump()["name"] in ("unet", "simvp")


def test_blocks_need_every_split(tmp_path):
    text = message(changed(tmp_path, "datasets.flights.split.pattern", ["train", "train", "validation"]))
    assert "datasets.flights.split = " in text
    assert "pattern lacks test" in text


def test_heads_divide_the_width(tmp_path):
    text = message(changed(tmp_path, "teachers.small.n_heads", 5))
    assert "teachers.small = " in text
    assert "n_heads 5 does not divide width 96; choose a divisor" in text


def test_the_exponent_that_dvc_writes_is_a_float(tmp_path):
    path = tmp_path / "params.yaml"
    text = SHIPPED.read_text()
    assert "learning_rate: 0.002 " in text
    path.write_text(text.replace("learning_rate: 0.002 ", "learning_rate: 1e-05 "))
    assert load_params("teacher", path).training.learning_rate == 1e-05


def test_an_end_is_a_fraction_or_a_date(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(SHIPPED.read_text().replace("train_end: 0.7 ", "train_end: 2014-01-01 "))
    split = load_params("datasets.file", path).split
    assert (split.train_end, split.validation_end) == (datetime.date(2014, 1, 1), 0.85)


def test_groups_by_dotted_names():
    weights = load_params("variants.s2kd", SHIPPED).weights
    assert isinstance(weights, Weights)
    assert weights == load_params("variants.s2kd.weights", SHIPPED)
    assert load_params("runs.seeds", SHIPPED) == (0, 1, 2, 3, 4)
    assert load_params("students.unet_tiny", SHIPPED) == load_params("students", SHIPPED)["unet_tiny"]
    assert load_params("students.unet_tiny.name", SHIPPED) == "unet"
    assert load_params("teachers.paper.n_heads", SHIPPED) == 16


@pytest.mark.parametrize(
    ("group", "told"),
    [
        ("studnet", "the top level has no 'studnet'; did you mean 'student'?"),
        ("variants.s2dk", "variants has no 's2dk'; did you mean 's2kd'?"),
        ("normalisation.xyz", "normalisation has no 'xyz'; known: floor, per"),
        ("teachers.papr", "teachers has no 'papr'; did you mean 'paper'?"),
        ("students.unet_tyni", "students has no 'unet_tyni'; did you mean 'unet_tiny'?"),
    ],
)
def test_an_unknown_group_is_refused(group, told):
    assert message(SHIPPED, group) == f"{SHIPPED}: {told}"


def test_a_missing_file_and_one_that_is_no_yaml(tmp_path):
    path = tmp_path / "params.yaml"
    assert message(path) == f"{path} is missing; run from the root of the repository"
    path.write_text("teacher: [1, 2")
    assert message(path).startswith(f"{path} is no valid YAML: ")
    path.write_text("")
    assert message(path).startswith(f"{path}: the top level = None: ")


def test_params_are_frozen():
    teacher = load_params("teacher", SHIPPED)
    with pytest.raises(ValidationError, match="frozen"):
        teacher.training.epochs = 1
    with pytest.raises(ValidationError, match="frozen"):
        load_params("variants.s2kd.weights", SHIPPED).semantic = 1.0


def test_shipped_names_exist():
    assert load_params("dataset", SHIPPED) in load_params("datasets", SHIPPED)
    assert load_params("teacher.model", SHIPPED) in load_params("teachers", SHIPPED)
    assert load_params("student.model", SHIPPED) in load_params("students", SHIPPED)
    assert set(load_params("runs", SHIPPED).variants) <= set(load_params("variants", SHIPPED))


def test_shipped_teachers_take_the_inputs_of_every_data_set():
    for name, teacher in load_params("teachers", SHIPPED).items():
        for dataset in load_params("datasets", SHIPPED).values():
            assert dataset.n_steps_input % teacher.n_steps_latent == 0, name


def test_shipped_file_has_the_style_that_dvc_writes(tmp_path):
    """`dvc exp run -S` changes its one line and no other."""
    path = shutil.copy(SHIPPED, tmp_path)
    rate = "student.training.learning_rate"
    apply_overrides(path, [f"{rate}=1e-5"])
    assert load_params(rate, Path(path)) == 1e-05
    before, after = SHIPPED.read_text().splitlines(), Path(path).read_text().splitlines()
    assert len(before) == len(after)
    differing = [new.split(" #")[0].strip() for old, new in zip(before, after, strict=True) if old != new]
    assert differing == ["learning_rate: 1e-05"]
