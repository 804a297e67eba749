"""The loss terms against closed forms, and what their gradients reach."""

import math

import pytest
import torch

from s2kd.distillation import (
    LOSSES,
    Distillation,
    distillation_loss,
    feature_distillation_loss,
    semantic_loss,
    spectral_loss,
)
from s2kd.params import Weights
from s2kd.students import Student
from s2kd.training import prediction_loss, window_errors

NONE = Weights(semantic=0, spectral=0, feature=0)
ALL = Weights(semantic=0.5, spectral=0.25, feature=2)
SCALE = torch.tensor([2.0]).reshape(1, 1, 1)


def some_features(seed: int = 0, **options) -> torch.Tensor:
    return torch.randn(2, 8, 3, 4, generator=torch.Generator().manual_seed(seed), **options)


def a_student() -> Student:
    torch.manual_seed(0)
    return Student(
        torch.zeros(1, 5, 7), torch.ones(1, 5, 7), n_steps_input=3, n_steps_output=2, width=16, stride=2,
        encoder_depth=1, translator_depth=1, kernel_size=3,
    )  # fmt: skip


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_zero_where_student_equals_teacher(loss):
    student = some_features(requires_grad=True)
    value = loss(student, student.detach().clone())
    assert value.item() == pytest.approx(0, abs=1e-6)
    value.backward()
    assert student.grad.isfinite().all()  # the magnitude of a complex zero has no derivative


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_positive_elsewhere_and_by_windows_a_mean(loss):
    student, teacher = some_features(0), some_features(1)
    both = loss(student, teacher)
    assert both > 0
    singles = [loss(student[index : index + 1], teacher[index : index + 1]) for index in range(2)]
    torch.testing.assert_close(both, torch.stack(singles).mean())


def test_cosines_of_known_angles():
    teacher = torch.zeros(1, 2, 1, 3)
    teacher[0, 0] = 5.0
    angles = torch.tensor([0.0, 90.0, 180.0]).deg2rad()
    student = 0.1 * torch.stack([angles.cos(), angles.sin()]).reshape(1, 2, 1, 3)
    assert semantic_loss(student, teacher).item() == pytest.approx((0 + 1 + 2) / 3, abs=1e-6)
    assert semantic_loss(student[..., 1:2], teacher[..., 1:2]).item() == pytest.approx(1, abs=1e-6)


def test_semantic_loss_ignores_lengths():
    student, teacher = some_features(0), some_features(1)
    torch.testing.assert_close(semantic_loss(7 * student, 0.3 * teacher), semantic_loss(student, teacher))


@pytest.mark.parametrize(("height", "width"), [(3, 4), (3, 5)])
def test_a_constant_offset_is_in_one_frequency(height, width):
    teacher = torch.randn(2, 8, height, width)
    # The offset c has one coefficient, c · √(height · width), of which the mean over all frequencies is c / √(…).
    value = spectral_loss(teacher - 3, teacher)
    assert value.item() == pytest.approx(3 / math.sqrt(height * width), rel=1e-4)


def test_an_offset_cosine_is_in_two_frequencies():
    teacher = torch.randn(1, 1, 4, 6)
    student = teacher + 3 * torch.cos(2 * math.pi * 2 * torch.arange(6) / 6)
    assert spectral_loss(student, teacher).item() == pytest.approx(2 * (3 / 2) / math.sqrt(24), rel=1e-4)


def test_spectral_loss_sees_phase():
    """A shifted field has the same amplitudes: only the complex difference tells them apart."""
    teacher = some_features()
    shifted = teacher.roll(1, dims=-1)
    torch.testing.assert_close(torch.fft.fft2(shifted).abs(), torch.fft.fft2(teacher).abs(), rtol=1e-3, atol=1e-4)
    assert spectral_loss(shifted, teacher) > 0.1


def test_feature_loss_ignores_offset_and_scale_of_a_channel():
    student, teacher = some_features(0), some_features(1)
    scale, offset = torch.rand(2, 8, 1, 1) + 0.5, torch.randn(2, 8, 1, 1)
    value = feature_distillation_loss(student, teacher)
    torch.testing.assert_close(
        feature_distillation_loss(scale * student + offset, teacher), value, rtol=1e-3, atol=1e-4
    )
    # Mean (a − b)² of standard scores is 2 − 2 times their correlation: 4 for a field and its negative.
    assert feature_distillation_loss(-3 * teacher + 1, teacher).item() == pytest.approx(4, rel=1e-3)


def test_prediction_loss_by_hand():
    predictions, targets = torch.zeros(2, 1, 2, 1, 2), torch.zeros(2, 1, 2, 1, 2)
    predictions[0, 0, 0] = 4  # 2 deviations of the first channel
    predictions[1, 0, 1] = 3  # 6 deviations of the second
    scale = torch.tensor([2.0, 0.5]).reshape(2, 1, 1)
    assert window_errors(predictions, targets, scale).tolist() == [4 / 2, 36 / 2]
    assert prediction_loss(predictions, targets, scale).item() == 10


def test_total_is_prediction_plus_weighted_terms():
    predictions, targets = torch.zeros(2, 3, 1, 5, 7), torch.ones(2, 3, 1, 5, 7)
    student, teacher = some_features(0), some_features(1)
    total, terms = distillation_loss(predictions, targets, SCALE, student, teacher, ALL)
    assert set(terms) == {"prediction", "semantic", "spectral", "feature"}
    assert terms["prediction"].item() == 0.25
    assert terms["semantic"].item() == semantic_loss(student, teacher).item()
    wanted = 0.25 + 0.5 * terms["semantic"] + 0.25 * terms["spectral"] + 2 * terms["feature"]
    torch.testing.assert_close(total, wanted)


@pytest.mark.parametrize("name", LOSSES)
def test_a_zero_weight_skips_its_term(name):
    targets = torch.zeros(2, 3, 1, 5, 7)
    weights = ALL.model_copy(update={name: 0.0})
    _, terms = distillation_loss(targets, targets, SCALE, some_features(0), some_features(1), weights)
    assert set(terms) == {"prediction", *LOSSES} - {name}


def test_without_weights_the_prediction_loss_is_all():
    predictions, targets = torch.zeros(2, 3, 1, 5, 7), torch.ones(2, 3, 1, 5, 7)
    total, terms = distillation_loss(predictions, targets, SCALE, None, None, NONE)
    assert set(terms) == {"prediction"}
    assert total.item() == terms["prediction"].item() == 0.25


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_reach_student_and_projection_and_never_the_teacher(name):
    model = Distillation(a_student(), 16, (8, 3, 4))
    teacher = some_features(requires_grad=True)
    predictions, projected = model(torch.randn(2, 3, 1, 5, 7))
    weights = NONE.model_copy(update={name: 1.0})
    total, terms = distillation_loss(predictions, torch.zeros(2, 2, 1, 5, 7), SCALE, projected, teacher, weights)
    (total - terms["prediction"]).backward()  # what this one term adds
    assert teacher.grad is None
    assert model.projection.weight.grad.abs().max() > 0
    assert all(part.grad.abs().max() > 0 for part in model.student.encoder.parameters())
    assert all(part.grad.abs().max() > 0 for part in model.student.translator.parameters())
    # The decoder has no part in features.
    assert all(part.grad is None or part.grad.abs().max() == 0 for part in model.student.decoder.parameters())


def test_without_a_teacher_there_is_no_projection_and_the_student_is_the_same():
    alone, distilled = Distillation(a_student(), 16, None), Distillation(a_student(), 16, (8, 3, 4))
    inputs = torch.randn(2, 3, 1, 5, 7)
    assert {name.split(".")[0] for name in alone.state_dict()} == {"student"}
    assert {name.split(".")[0] for name in distilled.state_dict()} == {"student", "projection"}
    first, second = alone.student.state_dict(), distilled.student.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    (predictions, projected), (others, _) = alone(inputs), distilled(inputs)
    assert projected is None
    assert torch.equal(predictions, others)
    assert torch.equal(predictions, alone.student(inputs))


def test_projection_is_pooled_onto_the_grid_of_the_teacher():
    model = Distillation(a_student(), 16, (8, 1, 2))
    inputs = torch.randn(2, 3, 1, 5, 7)
    pooled = model.student.features(inputs).unflatten(-1, (2, 2)).mean((2, 4))[:, :, None]  # of a grid of 3 × 4
    torch.testing.assert_close(model(inputs)[1], model.projection(pooled))
