"""The student is vision-only, and its two halves are the whole."""

import json

import torch

from s2kd.checkpoint import load_model, save_model
from s2kd.students import Student

CONFIG = {
    "n_steps_input": 3, "n_steps_output": 5, "width": 16, "stride": 2, "encoder_depth": 1, "translator_depth": 2,
    "kernel_size": 3,
}  # fmt: skip


def a_student(seed: int = 0) -> Student:
    torch.manual_seed(seed)
    return Student(torch.full((2, 5, 7), 280.0), torch.full((2, 5, 7), 4.0), **CONFIG).eval()


def test_nothing_of_text_or_teacher_is_among_the_weights():
    parts = {name.split(".")[0] for name in a_student().state_dict()}
    assert parts == {"standardise", "encoder", "translator", "decoder"}


def test_forward_is_decode_of_features():
    student, inputs = a_student(), 280 + 4 * torch.randn(2, 3, 2, 5, 7)
    features = student.features(inputs)
    assert features.shape == (2, 16, 3, 4)
    predictions = student(inputs)
    assert predictions.shape == (2, 5, 2, 5, 7)
    assert torch.equal(predictions, student.decode(features))


def test_a_forecast_is_in_physical_units():
    student = a_student()
    torch.nn.init.zeros_(student.decoder.head.weight)
    with torch.no_grad():
        student.decoder.head.bias.fill_(0.5)  # half a standard deviation above the mean
    assert torch.equal(student(torch.randn(1, 3, 2, 5, 7)), torch.full((1, 5, 2, 5, 7), 282.0))


def test_saved_and_loaded_it_forecasts_the_same(tmp_path):
    student, inputs = a_student(), 280 + 4 * torch.randn(2, 3, 2, 5, 7)
    save_model(tmp_path / "model", student, CONFIG, None)
    assert json.loads((tmp_path / "model/config.json").read_text()) == {"arguments": CONFIG, "narrative": None}
    torch.manual_seed(99)
    assert torch.equal(load_model(tmp_path / "model", Student)[0](inputs), student(inputs))
