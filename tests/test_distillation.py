"""The loss terms against closed forms, and what their gradients reach."""

import math

import pytest
import torch
from torch import nn

from s2kd.distillation import (
    LATENT_LOSSES,
    DistilledStudent,
    activation_boundary_loss,
    compares_latents,
    distillation_loss,
    feature_distillation_loss,
    frequency_band_loss,
    gradient_norm,
    match_grid,
    output_distillation_loss,
    semantic_loss,
    spectral_loss,
    unexplained,
    weight_at,
)
from s2kd.params import Distillation, Weights
from s2kd.spectral import amplitude, fields, half_plane, plane_mean
from s2kd.training import prediction_loss, window_errors

NONE = Weights(semantic=0, spectral=0, feature=0, output=0, boundary=0, band=0)
ALL = Weights(semantic=0.5, spectral=0.25, feature=2, output=3, boundary=0.75, band=0.125)
TERMS = (*LATENT_LOSSES, "output")
SETTINGS = Distillation(
    projection_depth=1, semantic="cosine", spectral="complex", spectral_axes="space", boundary_margin=1.0,
    band_cutoff=0.25, band_alpha=0.5, schedule="constant", schedule_fraction=0.2, balance="none",
)  # fmt: skip
SCALE = torch.tensor([2.0]).reshape(1, 1, 1)
SHAPE = (2, 8, 3, 4)  # step, width, y, x of the teacher's features
PHASE = torch.zeros(2, dtype=torch.long)

# Every form of every loss that compares latents.
LOSSES = {
    "cosine": lambda s, t: semantic_loss(s, t, "cosine"),
    "l2": lambda s, t: semantic_loss(s, t, "l2"),
    "complex": lambda s, t: spectral_loss(s, t, "complex", "space"),
    "complex space-time": lambda s, t: spectral_loss(s, t, "complex", "space_time"),
    "amplitude": lambda s, t: spectral_loss(s, t, "amplitude", "space"),
    "amplitude space-time": lambda s, t: spectral_loss(s, t, "amplitude", "space_time"),
    "feature": feature_distillation_loss,
    "boundary": lambda s, t: activation_boundary_loss(s, t, 1.0),
    "band": lambda s, t: frequency_band_loss(s, t, 0.25, 0.5),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
spectral_forms = pytest.mark.parametrize(
    ("component", "axes"), [(c, a) for c in ("complex", "amplitude") for a in ("space", "space_time")]
)


class SmallStudent(nn.Module):
    """The least that has a latent: a strided convolution and its transpose."""

    feature_width = 5

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(3, self.feature_width, 2, stride=2)
        self.decoder = nn.ConvTranspose2d(self.feature_width, 2, 2, stride=2)

    def with_features(self, inputs, phase):
        features = self.encoder(inputs[:, :, 0]).tanh()
        return self.decoder(features)[:, :, None], features


def some_features(seed: int = 0, shape: tuple[int, ...] = SHAPE, **options) -> torch.Tensor:
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed), **options)


def some_inputs() -> torch.Tensor:
    return torch.randn(2, 3, 1, 6, 8, generator=torch.Generator().manual_seed(7))


def a_student(teacher_shape: tuple[int, ...] | None = SHAPE, depth: int = 1) -> DistilledStudent:
    torch.manual_seed(0)
    return DistilledStudent(SmallStudent(), teacher_shape, depth)


def loss_of(model: DistilledStudent, weights: Weights, settings: Distillation = SETTINGS, progress: float = 0.5, **kw):
    """Total, terms and the student's features for inputs, targets and teacher that are always the same."""
    predictions, features, projected = model(some_inputs(), PHASE)
    teacher, forecasts = kw.get("teacher", some_features(1)), kw.get("forecasts", torch.ones(2, 2, 1, 6, 8))
    targets = torch.zeros(2, 2, 1, 6, 8)
    total, terms = distillation_loss(
        predictions, targets, SCALE, projected, teacher, forecasts, features, weights, settings, progress
    )
    return total, terms, features


# --- all losses ---------------------------------------------------------------------------------------------------


@every_loss
def test_zero_where_student_equals_teacher(loss):
    # Activation boundaries are at rest beyond the margin.
    teacher = some_features().sign() * 2 + some_features(3).sign() / 2
    student = teacher.clone().requires_grad_()
    value = loss(student, teacher)
    assert value.item() == pytest.approx(0, abs=1e-6)
    value.backward()
    assert student.grad.isfinite().all()  # the amplitude of a zero has no derivative
    assert student.grad.abs().max() < 1e-2


@every_loss
def test_positive_elsewhere_and_by_windows_a_mean(loss):
    student, teacher = some_features(0), some_features(1)
    both = loss(student, teacher)
    assert both > 0
    singles = [loss(student[index : index + 1], teacher[index : index + 1]) for index in range(2)]
    torch.testing.assert_close(both, torch.stack(singles).mean())


@every_loss
def test_in_single_precision_whatever_autocast_says(loss):
    student, teacher = some_features(0).bfloat16(), some_features(1)
    wanted = loss(student.float(), teacher)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(student, teacher)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, wanted)


@every_loss
def test_zeros_have_a_gradient(loss):
    """A dead channel, or a student at its start, poisons nothing."""
    student = torch.zeros(2, *SHAPE, requires_grad=True)
    loss(student, some_features()).backward()
    assert student.grad.isfinite().all()


# --- semantic -----------------------------------------------------------------------------------------------------


def test_cosines_of_known_angles():
    teacher = torch.zeros(1, 1, 2, 1, 3)
    teacher[0, 0, 0] = 5.0
    angles = torch.tensor([0.0, 90.0, 180.0]).deg2rad()
    student = 0.1 * torch.stack([angles.cos(), angles.sin()]).reshape(1, 1, 2, 1, 3)
    assert semantic_loss(student, teacher, "cosine").item() == pytest.approx((0 + 1 + 2) / 3, abs=1e-6)
    assert semantic_loss(student[..., 1:2], teacher[..., 1:2], "cosine").item() == pytest.approx(1, abs=1e-6)


def test_cosine_is_that_of_torch_with_its_gradient():
    student, teacher = some_features(0, requires_grad=True), some_features(1)
    wanted = (1 - nn.functional.cosine_similarity(student, teacher, dim=2)).mean()
    value = semantic_loss(student, teacher, "cosine")
    torch.testing.assert_close(value, wanted)
    torch.testing.assert_close(*(torch.autograd.grad(loss, student)[0] for loss in (value, wanted)))


def test_cosine_ignores_lengths_and_l2_does_not():
    student, teacher = some_features(0), some_features(1)
    torch.testing.assert_close(
        semantic_loss(7 * student, 0.3 * teacher, "cosine"), semantic_loss(student, teacher, "cosine")
    )
    assert semantic_loss(teacher + 3, teacher, "l2").item() == pytest.approx(9, rel=1e-5)


# --- spectral -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [(3, 4), (3, 5), (15, 20)])
def test_a_constant_offset_is_in_one_frequency(grid):
    teacher = some_features(0, (2, 4, *grid))
    # The offset c has one coefficient, c · √(height · width), of which the mean over all frequencies is c / √(…).
    value = spectral_loss(teacher - 3, teacher, "complex", "space")
    assert value.item() == pytest.approx(3 / math.sqrt(math.prod(grid)), rel=1e-4)
    value = spectral_loss(teacher - 3, teacher, "complex", "space_time")
    assert value.item() == pytest.approx(3 / math.sqrt(2 * math.prod(grid)), rel=1e-4)


def test_an_offset_cosine_is_in_two_frequencies():
    teacher = some_features(0, (1, 1, 4, 6))
    student = teacher + 3 * torch.cos(2 * math.pi * 2 * torch.arange(6) / 6)
    value = spectral_loss(student, teacher, "complex", "space")
    assert value.item() == pytest.approx(2 * (3 / 2) / math.sqrt(24), rel=1e-4)


@spectral_forms
@pytest.mark.parametrize("grid", [(3, 4), (7, 14), (12, 20)])
def test_spectral_loss_by_the_full_transform(component, axes, grid):
    student, teacher = some_features(0, (3, 2, *grid)), some_features(1, (3, 2, *grid))
    dims = (-2, -1) if axes == "space" else (1, -2, -1)
    student_spectrum, teacher_spectrum = (torch.fft.fftn(side, dim=dims, norm="ortho") for side in (student, teacher))
    if component == "complex":
        wanted = (student_spectrum - teacher_spectrum).abs().mean()
    else:
        wanted = (student_spectrum.abs() - teacher_spectrum.abs()).abs().mean()
    torch.testing.assert_close(spectral_loss(student, teacher, component, axes), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("axes", ["space", "space_time"])
def test_amplitude_is_blind_to_a_shift_and_complex_is_not(axes):
    teacher = some_features()
    shifted = teacher.roll((1, 1), dims=(-2, -1))
    assert spectral_loss(shifted, teacher, "amplitude", axes).item() == pytest.approx(0, abs=1e-6)
    assert spectral_loss(shifted, teacher, "complex", axes) > 0.1


def test_only_space_time_amplitudes_are_blind_to_a_delay():
    teacher = some_features(0, (3, 8, 3, 4))
    delayed = teacher.roll(1, dims=1)
    assert spectral_loss(delayed, teacher, "amplitude", "space_time").item() == pytest.approx(0, abs=1e-6)
    assert spectral_loss(delayed, teacher, "amplitude", "space") > 0.1


@pytest.mark.parametrize("component", ["complex", "amplitude"])
def test_one_step_of_space_time_is_space(component):
    student, teacher = some_features(0, (1, 8, 3, 4)), some_features(1, (1, 8, 3, 4))
    space, space_time = (spectral_loss(student, teacher, component, axes) for axes in ("space", "space_time"))
    torch.testing.assert_close(space_time, space)


@pytest.mark.parametrize("axes", ["space", "space_time"])
def test_parseval_l2_in_the_spectrum_is_l2_in_space(axes):
    """Why the spectral loss is L1: with L2 it would be the semantic loss again."""
    student, teacher = some_features(0), some_features(1)
    rows = fields(student - teacher, axes)
    plane = half_plane(tuple(rows.shape[1:]), rows.device)
    torch.testing.assert_close(plane_mean(amplitude(rows, plane) ** 2, plane), semantic_loss(student, teacher, "l2"))


# --- baselines ----------------------------------------------------------------------------------------------------


def test_output_distillation_by_hand():
    predictions, teacher = torch.zeros(2, 1, 2, 1, 2), torch.zeros(2, 1, 2, 1, 2)
    teacher[0, 0, 0] = 4  # 2 deviations of the first channel
    predictions[1, 0, 1] = 3  # 6 deviations of the second
    scale = torch.tensor([2.0, 0.5]).reshape(2, 1, 1)
    assert output_distillation_loss(predictions, teacher, scale).item() == (4 + 36) / 4


def test_feature_loss_ignores_offset_and_scale_of_a_channel():
    student, teacher = some_features(0), some_features(1)
    scale, offset = torch.rand(2, 2, 8, 1, 1) + 0.5, torch.randn(2, 2, 8, 1, 1)
    value = feature_distillation_loss(student, teacher)
    torch.testing.assert_close(
        feature_distillation_loss(scale * student + offset, teacher), value, rtol=1e-3, atol=1e-4
    )
    # Mean (a − b)² of standard scores is 2 − 2 times their correlation: 4 for a field and its negative.
    assert feature_distillation_loss(-3 * teacher + 1, teacher).item() == pytest.approx(4, rel=1e-3)


@pytest.mark.parametrize(
    ("student", "teacher", "wanted"),
    [
        (1.0, -3.0, 9.0),  # (1 + 2)²: wrong side
        (-1.0, 0.0, 1.0),  # (−1 + 2)²: right side, within the margin; 0 counts as off
        (-2.0, -0.1, 0.0),
        (-5.0, -0.1, 0.0),
        (-1.0, 3.0, 9.0),  # (−1 − 2)²
        (1.5, 0.1, 0.25),
        (2.0, 0.1, 0.0),
        (5.0, 0.1, 0.0),
    ],
)
def test_activation_boundary_by_hand(student, teacher, wanted):
    student, teacher = (torch.full((1, 1, 1, 1, 1), value) for value in (student, teacher))
    assert activation_boundary_loss(student, teacher, 2.0).item() == pytest.approx(wanted)


def test_activation_boundary_is_the_published_sum_over_elements():
    s, t, m = some_features(0), some_features(1), 0.7
    wanted = (s + m) ** 2 * ((s > -m) & (t <= 0)) + (s - m) ** 2 * ((s <= m) & (t > 0))
    torch.testing.assert_close(activation_boundary_loss(s, t, m), wanted.mean())


@pytest.mark.parametrize("grid", [(7, 14), (6, 8), (15, 20)])
def test_bands_by_filtering_in_space(grid):
    student, teacher = some_features(0, (2, 3, *grid)), some_features(1, (2, 3, *grid))
    y, x = (torch.fft.fftfreq(size, dtype=torch.float64) for size in grid)
    is_low = torch.hypot(y[:, None], x).float() <= 0.25
    low = torch.fft.ifft2(torch.fft.fft2(student - teacher) * is_low).real
    high = student - teacher - low
    value = frequency_band_loss(student, teacher, 0.25, 0.3)
    torch.testing.assert_close(value, (high**2).mean() + 0.3 * (low**2).mean())
    torch.testing.assert_close(frequency_band_loss(student, teacher, 0.25, 1.0), semantic_loss(student, teacher, "l2"))


def test_the_cutoff_belongs_to_the_low_band():
    teacher = torch.zeros(1, 1, 1, 4, 8)
    student = torch.cos(2 * math.pi * 2 * torch.arange(8) / 8).expand_as(teacher)  # 2 / 8 cycles a cell
    assert frequency_band_loss(student, teacher, 0.25, 0.0).item() == pytest.approx(0, abs=1e-6)
    assert frequency_band_loss(student, teacher, 0.24, 0.0).item() == pytest.approx(0.5)


def test_prediction_loss_by_hand():
    predictions, targets = torch.zeros(2, 1, 2, 1, 2), torch.zeros(2, 1, 2, 1, 2)
    predictions[0, 0, 0] = 4  # 2 deviations of the first channel
    predictions[1, 0, 1] = 3  # 6 deviations of the second
    scale = torch.tensor([2.0, 0.5]).reshape(2, 1, 1)
    assert window_errors(predictions, targets, scale).tolist() == [4 / 2, 36 / 2]
    assert prediction_loss(predictions, targets, scale).item() == 10


def test_unexplained_by_hand():
    teacher = torch.tensor([1.0, 0.0, 2.0, 2.0]).reshape(1, 1, 2, 1, 2).expand(4, 1, 2, 1, 2)
    student = torch.stack([3 * teacher[0], -teacher[0], torch.zeros_like(teacher[0]), teacher[0].clone()])
    student[3, 0, 0, 0, 0] = 4.0  # lengths² 24 and 9, product 12: 1 − 144 / 216
    torch.testing.assert_close(unexplained(student, teacher), torch.tensor([0, 0, 1, 1 / 3]))


# --- the total ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [
        ("constant", {0.0: 1, 0.1: 1, 0.5: 1, 1.0: 1}),
        ("warmup", {0.0: 0, 0.1: 0.5, 0.2: 1, 0.5: 1, 1.0: 1}),
        ("cosine", {0.0: 1, 1 / 3: 0.75, 0.5: 0.5, 2 / 3: 0.25, 1.0: 0}),
    ],
)
def test_schedules(schedule, wanted):
    assert {progress: weight_at(progress, schedule, 0.2) for progress in wanted} == pytest.approx(wanted)


def test_a_warmup_of_no_length_is_over_at_once():
    assert weight_at(0.0, "warmup", 0.0) == 1


@pytest.mark.parametrize(("schedule", "factor"), [("constant", 1), ("warmup", 0.5), ("cosine", (2 + 2**0.5) / 4)])
def test_total_is_prediction_plus_weighted_terms(schedule, factor):
    settings = SETTINGS.model_copy(update={"schedule": schedule, "schedule_fraction": 0.5})
    model = a_student()
    total, terms, _ = loss_of(model, ALL, settings, progress=0.25)
    assert set(terms) == {"prediction", *TERMS}
    predictions, _, projected = model(some_inputs(), PHASE)
    assert terms["prediction"] == prediction_loss(predictions, torch.zeros_like(predictions), SCALE)
    assert terms["output"] == output_distillation_loss(predictions, torch.ones_like(predictions), SCALE)
    assert terms["band"] == frequency_band_loss(projected, some_features(1), 0.25, 0.5)
    wanted = terms["prediction"] + factor * sum(getattr(ALL, name) * terms[name] for name in TERMS)
    torch.testing.assert_close(total, wanted)


@pytest.mark.parametrize("name", TERMS)
def test_a_zero_weight_skips_its_term(name):
    _, terms, _ = loss_of(a_student(), ALL.model_copy(update={name: 0.0}))
    assert set(terms) == {"prediction", *TERMS} - {name}


def test_without_weights_the_prediction_loss_is_all():
    for balance in ("none", "gradient_norm"):
        settings = SETTINGS.model_copy(update={"balance": balance})
        total, terms, _ = loss_of(a_student(None), NONE, settings, teacher=None, forecasts=None)
        assert set(terms) == {"prediction"}
        assert total.item() == terms["prediction"].item()


def test_missing_targets_leave_the_other_terms_as_they_are():
    model = a_student()
    predictions, features, projected = model(some_inputs(), PHASE)
    targets = torch.zeros(2, 2, 1, 6, 8)
    targets[..., 5:] = torch.nan
    forecasts = torch.ones(2, 2, 1, 6, 8)
    given = (projected, some_features(1), forecasts, features, ALL, SETTINGS, 0.5)
    total, terms = distillation_loss(predictions, targets, SCALE, *given, ~targets.isnan())
    _, wanted, _ = loss_of(model, ALL)
    assert {name: terms[name] for name in TERMS} == {name: wanted[name] for name in TERMS}
    torch.testing.assert_close(terms["prediction"], prediction_loss(predictions[..., :5], targets[..., :5], SCALE))
    total.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_what_needs_the_features_of_the_teacher():
    assert not compares_latents(NONE)
    assert not compares_latents(NONE.model_copy(update={"output": 1.0}))
    assert all(compares_latents(NONE.model_copy(update={name: 1.0})) for name in LATENT_LOSSES)


@pytest.mark.parametrize("name", LATENT_LOSSES)
def test_gradients_reach_student_and_projection_and_never_the_teacher(name):
    model, teacher = a_student(depth=2), some_features(1, requires_grad=True)
    total, terms, _ = loss_of(model, NONE.model_copy(update={name: 1.0}), teacher=teacher)
    (total - terms["prediction"]).backward()  # what this one term adds
    assert teacher.grad is None
    assert all(part.weight.grad.abs().max() > 0 for part in model.projection if isinstance(part, nn.Conv2d))
    assert model.student.encoder.weight.grad.abs().max() > 0
    # The decoder has no part in features.
    assert model.student.decoder.weight.grad is None or model.student.decoder.weight.grad.abs().max() == 0


def test_output_distillation_reaches_the_whole_student_and_never_the_teacher():
    model, forecasts = a_student(None), torch.ones(2, 2, 1, 6, 8, requires_grad=True)
    total, terms, _ = loss_of(model, NONE.model_copy(update={"output": 1.0}), teacher=None, forecasts=forecasts)
    (total - terms["prediction"]).backward()
    assert forecasts.grad is None
    assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters())


# --- balance ------------------------------------------------------------------------------------------------------

BALANCED = SETTINGS.model_copy(update={"balance": "gradient_norm"})


@pytest.mark.parametrize("name", TERMS)
def test_balance_makes_the_pulls_on_the_features_equal(name):
    total, terms, features = loss_of(a_student(), NONE.model_copy(update={name: 3.0}), BALANCED)
    pull = gradient_norm(terms["prediction"], features)
    torch.testing.assert_close(gradient_norm(total - terms["prediction"], features), 3 * pull, rtol=1e-3, atol=1e-6)


def test_balance_is_a_factor_and_no_path_of_the_gradient():
    model, weights = a_student(), NONE.model_copy(update={"semantic": 1.0})
    total, terms, features = loss_of(model, weights, BALANCED)
    assert all(parameter.grad is None for parameter in model.parameters())
    ratio = gradient_norm(terms["prediction"], features) / gradient_norm(terms["semantic"], features)
    projection = model.projection[0].weight
    (term,) = torch.autograd.grad(terms["semantic"], projection, retain_graph=True)
    (whole,) = torch.autograd.grad(total, projection)
    torch.testing.assert_close(whole, ratio * term)


def test_a_balanced_term_at_its_minimum_is_harmless():
    model = a_student()
    teacher = model(some_inputs(), PHASE)[2].detach()
    total, terms, _ = loss_of(model, NONE.model_copy(update={"band": 1.0}), BALANCED, teacher=teacher)
    total.backward()
    assert total.item() == pytest.approx(terms["prediction"].item())
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


# --- the projection -----------------------------------------------------------------------------------------------


def test_without_a_teacher_there_is_no_projection_and_the_student_is_the_same():
    alone, distilled = a_student(None), a_student()
    assert {name.split(".")[0] for name in alone.state_dict()} == {"student"}
    assert {name.split(".")[0] for name in distilled.state_dict()} == {"student", "projection"}
    first, second = alone.student.state_dict(), distilled.student.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    (predictions, features, projected), (others, same, _) = (
        model(some_inputs(), PHASE) for model in (alone, distilled)
    )
    assert projected is None
    assert torch.equal(predictions, others)
    assert torch.equal(features, same)
    assert torch.equal(predictions, alone.student.with_features(some_inputs(), PHASE)[0])


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_parameters_of_the_projection(depth):
    wide = 2 * 8  # step · width
    model = a_student(depth=depth)
    wanted = (5 + 1) * wide + (depth - 1) * (wide + 1) * wide
    assert sum(parameter.numel() for parameter in model.projection.parameters()) == wanted
    assert model(some_inputs(), PHASE)[2].shape == (2, *SHAPE)


def test_a_projection_of_depth_one_is_linear_and_keeps_steps_apart():
    model = a_student()
    _, features, projected = model(some_inputs(), PHASE)  # the grids agree
    weight, bias = model.projection[0].weight[:, :, 0, 0], model.projection[0].bias
    wanted = torch.einsum("oi,biyx->boyx", weight, features) + bias[:, None, None]
    torch.testing.assert_close(projected[:, 1, 3], wanted[:, 8 + 3])


def test_a_finer_student_is_averaged():
    features = some_features(0, (5, 4, 6))
    torch.testing.assert_close(
        match_grid(features, (2, 3)), features.unflatten(-1, (3, 2)).unflatten(2, (2, 2)).mean((3, 5))
    )


def test_a_coarser_student_is_interpolated():
    ramp = torch.arange(3.0).expand(1, 1, 2, 3)
    wanted = torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2]).expand(1, 1, 4, 6)  # cell centres; the edge is held
    torch.testing.assert_close(match_grid(ramp, (4, 6)), wanted)


def test_each_direction_is_matched_by_itself():
    ramp = torch.arange(3.0).expand(1, 1, 4, 3) + torch.tensor([0.0, 1, 0, 1])[:, None]
    wanted = torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2]).expand(1, 1, 2, 6) + 0.5
    torch.testing.assert_close(match_grid(ramp, (2, 6)), wanted)


def test_equal_grids_are_left_alone():
    features = some_features(0, (5, 4, 6))
    assert match_grid(features, (4, 6)) is features


def test_the_projection_follows_the_grid_of_the_teacher():
    assert a_student((2, 8, 5, 3))(some_inputs(), PHASE)[2].shape == (2, 2, 8, 5, 3)
