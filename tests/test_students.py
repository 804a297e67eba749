"""Students map any number of frames on any grid to any number, know of frames alone, and have the published sizes."""

import pytest
import torch

from s2kd.students.blocks import DropPath, rising
from s2kd.students.student import Student

SMALL = {
    "unet": {"name": "unet", "width": 8, "n_scales": 3, "dropout": 0.0},
    "convmixer": {
        "name": "simvp", "translator": "convmixer", "encoder_width": 8, "encoder_depth": 4, "width": 16, "depth": 2,
        "drop_path": 0.0,
    },
    "gsta": {
        "name": "simvp", "translator": "gsta", "encoder_width": 8, "encoder_depth": 2, "width": 16, "depth": 2,
        "drop_path": 0.0,
    },
    "resnet": {"name": "resnet", "width": 16, "depth": 2, "drop_path": 0.0},
    "mlp_mixer": {"name": "mlp_mixer", "width": 16, "stride": 4, "depth": 2, "drop_path": 0.0},
}  # fmt: skip
OPENSTL = {"name": "simvp", "encoder_width": 32, "encoder_depth": 2, "width": 256, "depth": 8, "drop_path": 0.1}
every_model = pytest.mark.parametrize("model", SMALL.values(), ids=SMALL)


def a_student(model, n_inputs: int = 3, n_outputs: int = 5, n_channels: int = 2, grid=(7, 10), seed: int = 0):
    torch.manual_seed(seed)
    phases = torch.arange(4).reshape(4, 1, 1, 1) * torch.ones(n_channels, *grid)
    return Student(280 + phases, torch.full((n_channels, *grid), 4.0), n_inputs, n_outputs, model).eval()


def a_batch(n_inputs: int = 3, n_channels: int = 2, grid=(7, 10), size: int = 2, seed: int = 1):
    generator = torch.Generator().manual_seed(seed)
    inputs = 281.5 + 4 * torch.randn(size, n_inputs, n_channels, *grid, generator=generator)
    return inputs, torch.arange(size)


def n_parameters(model, n_inputs: int, n_outputs: int, n_channels: int, grid) -> int:
    with torch.device("meta"):
        student = a_student(model, n_inputs, n_outputs, n_channels, grid)
    return sum(parameter.numel() for parameter in student.parameters())


@every_model
@pytest.mark.parametrize(
    ("n_inputs", "n_outputs", "n_channels", "grid"),
    [(3, 5, 2, (7, 10)), (5, 2, 1, (25, 53)), (4, 4, 2, (16, 32)), (1, 1, 1, (9, 4)), (1, 6, 3, (5, 7))],
)
def test_shapes(model, n_inputs, n_outputs, n_channels, grid):
    student = a_student(model, n_inputs, n_outputs, n_channels, grid)
    predictions, features = student.with_features(*a_batch(n_inputs, n_channels, grid))
    assert predictions.shape == (2, n_outputs, n_channels, *grid)
    step = {"unet": 4, "resnet": 1, "mlp_mixer": 4, "simvp": 2 ** (model.get("encoder_depth", 0) // 2)}[model["name"]]
    width = {"unet": 32, "resnet": 16, "mlp_mixer": 16, "simvp": 8 * n_outputs}[model["name"]]
    assert features.shape == (2, width, -(-grid[0] // step), -(-grid[1] // step))
    assert student.feature_width == width


@every_model
def test_forward_is_the_forecast_of_with_features(model):
    student, batch = a_student(model), a_batch()
    assert torch.equal(student(*batch), student.with_features(*batch)[0])


@every_model
def test_the_forecast_comes_from_the_features(model):
    """They are what distillation pulls at, and balancing the pulls differentiates the forecast by them."""
    predictions, features = a_student(model).with_features(*a_batch())
    (gradient,) = torch.autograd.grad(predictions.square().sum(), features)
    assert gradient.count_nonzero() > 0


@every_model
def test_a_grid_that_needs_padding_is_padded_by_its_edge_and_cropped(model):
    """On the grid that a student pads to, the same weights say the same of a frame that repeats its edge."""
    narrow, (inputs, phase) = a_student(model), a_batch()
    right, bottom = narrow.padding[1], narrow.padding[3]
    wide = a_student(model, grid=(7 + bottom, 10 + right))
    wide.backbone.load_state_dict(narrow.backbone.state_dict())
    repeated = torch.nn.functional.pad(inputs.flatten(1, 2), narrow.padding, mode="replicate").unflatten(1, (3, 2))
    assert wide.padding == [0, 0, 0, 0]
    torch.testing.assert_close(narrow(inputs, phase), wide(repeated, phase)[..., :7, :10], rtol=1e-6, atol=1e-4)


@every_model
def test_nothing_of_text_or_teacher_is_among_the_weights(model):
    student = a_student(model)
    assert {name.split(".")[0] for name in student.state_dict()} == {"standardise", "backbone"}
    assert not any(word in name for name, _ in student.named_modules() for word in ("text", "teacher", "projection"))


@every_model
def test_a_forecast_is_in_physical_units_of_the_hour_it_is_for(model):
    student, (inputs, _) = a_student(model), a_batch()
    torch.nn.init.zeros_(student.backbone.head.weight)
    torch.nn.init.constant_(student.backbone.head.bias, 0.5)  # half a standard deviation above what is usual
    expected = torch.tensor(
        [[283.0, 284, 285, 282, 283], [285, 282, 283, 284, 285]]
    )  # from phases 0 + 3 and 2 + 3 of 4
    expected[1] = torch.tensor([283.0, 284, 285, 282, 283]).roll(-2)
    predictions = student(inputs, torch.tensor([0, 2]))
    wanted = 280 + 2 + torch.tensor([[3, 0, 1, 2, 3], [1, 2, 3, 0, 1]])[:, :, None, None, None]
    assert torch.equal(predictions, wanted.expand_as(predictions).float())


@every_model
def test_a_frame_of_the_past_is_seen_relative_to_its_hour(model):
    """Moving all inputs by what is usual moves all forecasts by it."""
    student, (inputs, _) = a_student(model, n_inputs=4, n_outputs=4), a_batch(n_inputs=4)
    later = torch.tensor([1.0, 1, 1, -3])[:, None, None, None]  # the means of phases 1 2 3 0, less those of 0 1 2 3
    zeros, ones = torch.zeros(2, dtype=torch.int64), torch.ones(2, dtype=torch.int64)
    difference = student(inputs + later, ones) - student(inputs, zeros)
    torch.testing.assert_close(difference, later.expand_as(difference), rtol=0, atol=1e-3)


@every_model
@pytest.mark.parametrize("n_outputs", [3, 5])
def test_gradient_reaches_every_parameter(model, n_outputs):
    student = a_student(model, n_outputs=n_outputs).train()
    inputs, phase = a_batch(size=4)
    ((student(inputs, phase) - 281) ** 2).mean().backward()
    silent = [name for name, p in student.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    assert silent == []


@every_model
def test_the_first_forecast_is_close_to_what_is_usual(model):
    student, (inputs, phase) = a_student(model, n_inputs=4), a_batch(n_inputs=4)
    scores = student.standardise(student(inputs, phase), phase + 4)
    assert scores.square().mean() < 0.1
    assert scores.abs().max() > 0


@every_model
def test_a_window_does_not_depend_on_its_neighbours(model):
    student, (inputs, phase) = a_student(model), a_batch()
    torch.testing.assert_close(student(inputs[1:], phase[1:]), student(inputs, phase)[1:], rtol=0, atol=1e-4)


@every_model
def test_the_same_seed_makes_the_same_student(model):
    first, again, other = a_student(model), a_student(model), a_student(model, seed=1)
    batch = a_batch()
    assert torch.equal(first(*batch), again(*batch))
    assert not torch.equal(first(*batch), other(*batch))


@every_model
def test_a_student_learns_one_batch_by_heart(model):
    student = a_student(model, n_inputs=2, n_outputs=3, n_channels=1, grid=(5, 6)).train()
    inputs, phase = a_batch(n_inputs=2, n_channels=1, grid=(5, 6), size=3)
    targets = 281.5 + 4 * torch.randn(3, 3, 1, 5, 6, generator=torch.Generator().manual_seed(2))
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        loss = ((student(inputs, phase) - targets) ** 2).mean() / 16
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 10


def test_simvp_has_the_parameters_of_openstl():
    """Of its tables: t2m 12.76 M and 1.13 M, TaxiBJ 9.96 M and 0.84 M, in which 1.1359 M stands as 1.13 M."""
    gsta, convmixer = OPENSTL | {"translator": "gsta"}, OPENSTL | {"translator": "convmixer"}
    assert n_parameters(gsta, 12, 12, 1, (32, 64)) == pytest.approx(12.76e6, abs=0.005e6)
    assert n_parameters(gsta, 4, 4, 2, (32, 32)) == pytest.approx(9.96e6, abs=0.005e6)
    assert n_parameters(convmixer, 4, 4, 2, (32, 32)) == pytest.approx(0.84e6, abs=0.005e6)
    # By hand: frames in and out, then blocks of d² + 127 d (11 × 11 kernels, two biases, two norms) and two reductions.
    frames = (10 * 32 + 289 * 32 + 4 * 32) + (289 * 128 + 2 * 32) + (289 * 32 + 2 * 32) + 33
    translator = 384**2 + 127 * 384 + 7 * (256**2 + 127 * 256) + 384 * 256 + 256 + 256 * 384 + 384
    assert n_parameters(convmixer, 12, 12, 1, (32, 64)) == frames + translator == 1_135_905


def test_unet_has_the_parameters_of_tam():
    tiny = {"name": "unet", "width": 16, "n_scales": 3, "dropout": 0.0}
    assert n_parameters(tiny, 12, 12, 1, (32, 64)) == pytest.approx(0.119e6, abs=0.0005e6)
    base = {"name": "unet", "width": 64, "n_scales": 4, "dropout": 0.0}
    assert n_parameters(base, 12, 12, 1, (32, 64)) == pytest.approx(7.7e6, abs=0.05e6)


def test_unequal_steps_cost_simvp_no_more_than_its_last_layer_and_the_mixing_of_skips():
    model = SMALL["gsta"]
    equal, unequal = (n_parameters(model, 4, n, 1, (8, 8)) for n in (4, 7))
    # Blocks of width 32 → 16 → 8 · n: a 1 × 1 layer from 16 to 8 · n, and n × 4 weights of skips.
    assert unequal - equal == 17 * 8 * (7 - 4) + 7 * 4


def test_only_the_mixer_is_bound_to_a_grid():
    for name, model in SMALL.items():
        same = n_parameters(model, 3, 3, 1, (8, 16)) == n_parameters(model, 3, 3, 1, (16, 16))
        assert same == (name != "mlp_mixer")


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    drop, branch = DropPath(0.25), torch.ones(4000, 3, 2)
    kept = drop(branch)
    assert torch.equal(kept, kept[:, :1, :1].expand_as(kept))
    assert set(kept[:, 0, 0].tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert kept.mean().item() == pytest.approx(1, abs=0.03)
    assert torch.equal(drop.eval()(branch), branch)


def test_drop_path_rises_with_depth():
    assert rising(0.3, 4) == pytest.approx([0, 0.1, 0.2, 0.3])
    assert rising(0.1, 3, first=0.01) == pytest.approx([0.01, 0.055, 0.1])
    assert rising(0.0, 2, first=0.01) == [0, 0]
    assert rising(0.2, 1) == [0.2]


@pytest.mark.parametrize("name", ["convmixer", "gsta", "resnet", "mlp_mixer"])
def test_drop_path_is_at_work_in_training_alone(name):
    still, dropping = (a_student(SMALL[name] | {"drop_path": p}) for p in (0.0, 0.9))
    batch = a_batch(size=8)
    assert torch.equal(still(*batch), dropping(*batch))
    assert not torch.equal(still.train()(*batch), dropping.train()(*batch))


def test_dropout_of_the_unet_is_at_work_in_training_alone():
    student, batch = a_student(SMALL["unet"] | {"dropout": 0.5}), a_batch()
    assert torch.equal(student(*batch), student(*batch))
    student.train()
    assert not torch.equal(student(*batch), student(*batch))
