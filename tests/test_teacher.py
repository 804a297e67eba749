"""How text enters the teacher (not at all at first, then through the gates, never by its padding), and its latents."""

from pathlib import Path

import pytest
import torch

from s2kd.cost import count_parameters
from s2kd.params import load_params
from s2kd.teacher import LatentEvolution, Teacher, to_cells, to_latent

TEXT_WIDTH, TOKENS = 12, 5
SHIPPED = Path(__file__).parent.parent / "params.yaml"


def a_teacher(
    is_open: bool, dropout: float = 0.0, grid: tuple[int, int] = (5, 7), n_steps_latent: int = 1, n_phases: int = 1
) -> Teacher:
    torch.manual_seed(0)
    mean, std = torch.full((n_phases, 2, *grid), 3.0), torch.full((2, *grid), 2.0)
    teacher = Teacher(
        mean, std, n_steps_input=3, n_steps_output=4, text_width=TEXT_WIDTH, n_steps_latent=n_steps_latent, width=16,
        stride=2, encoder_depth=1, alignment_depth=2, evolution_depth=1, n_heads=4, dropout=dropout,
        gate=0.7 if is_open else 0.0,
    )  # fmt: skip
    return teacher.eval()


def a_batch(seed: int = 1, grid: tuple[int, int] = (5, 7)) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    inputs = 3 + 2 * torch.randn(2, 3, 2, *grid, generator=generator)
    text = torch.randn(2, TOKENS, TEXT_WIDTH, generator=generator)
    return inputs, torch.tensor([0, 5]), text, torch.ones(2, TOKENS, dtype=torch.bool)


def test_a_fresh_teacher_is_the_visual_one():
    teacher = a_teacher(is_open=False)
    inputs, phase, text, mask = a_batch()
    predictions, latents = teacher(inputs, phase, text, mask)
    embedded = teacher.encoder(teacher.standardise(inputs, phase))[:, None] + teacher.step_embedding
    assert torch.equal(latents["fused"], embedded)
    other_predictions, other_latents = teacher(inputs, phase, -3 * text, mask)
    assert torch.equal(predictions, other_predictions)
    assert torch.equal(latents["fused"], other_latents["fused"])


def test_text_counts_once_the_gates_are_open():
    teacher = a_teacher(is_open=True)
    inputs, phase, text, mask = a_batch()
    predictions, latents = teacher(inputs, phase, text, mask)
    other_predictions, other_latents = teacher(inputs, phase, -text, mask)
    for tap in ("fused", "evolved"):
        assert (latents[tap] - other_latents[tap]).abs().mean() > 1e-2
    assert (predictions - other_predictions).abs().mean() > 1e-3


@torch.no_grad()
def test_padding_changes_nothing():
    teacher = a_teacher(is_open=True)
    inputs, phase, text, mask = a_batch()
    mask[1, 3:] = False  # the second text is shorter
    whole = teacher(inputs, phase, text, mask)
    longer = torch.cat([text, 100 * torch.randn(2, 4, TEXT_WIDTH)], dim=1)
    longer[1, 3:] = 7.0
    padded = torch.cat([mask, torch.zeros(2, 4, dtype=torch.bool)], dim=1)
    again = teacher(inputs, phase, longer, padded)
    torch.testing.assert_close(again, whole, rtol=1e-5, atol=1e-5)
    alone = teacher(inputs[1:], phase[1:], text[1:, :3], mask[1:, :3])
    torch.testing.assert_close(alone, rows(whole, slice(1, 2)), rtol=1e-5, atol=1e-5)


def rows(result: tuple[torch.Tensor, dict[str, torch.Tensor]], which: slice):
    return result[0][which], {tap: latent[which] for tap, latent in result[1].items()}


def test_without_text_it_attends_to_the_null_token_alone():
    """Zero tokens, for all windows or for one, are the visual-only teacher: same class, same weights, finite."""
    teacher = a_teacher(is_open=True)
    inputs, phase, text, mask = a_batch()
    visual = teacher(inputs, phase, text[:, :0], mask[:, :0])
    masked = teacher(inputs, phase, 5 * text, torch.zeros_like(mask))
    torch.testing.assert_close(masked, visual)
    mask[0] = False
    torch.testing.assert_close(rows(teacher(inputs, phase, text, mask), slice(1)), rows(visual, slice(1)))
    visual[0].sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in teacher.parameters())
    assert teacher.null_token.grad.abs().max() > 0
    assert all(not parameter.grad.any() for parameter in teacher.text_projection.parameters())
    # All queries attend to one key: the attention adds its value, the same to every cell.
    first, cells = teacher.alignment[0], torch.randn(1, 6, 16)
    torch.nn.init.zeros_(first.mlp_gate)
    added = first(cells, teacher.null_token[None, None], torch.zeros(1, 1, dtype=torch.bool)) - cells
    torch.testing.assert_close(added, added[:, :1].expand_as(added))
    assert added.abs().max() > 1e-4


def test_gradients_reach_the_text_only_through_open_gates():
    for is_open in (False, True):
        teacher = a_teacher(is_open)
        teacher(*a_batch())[0].square().mean().backward()
        reached = [parameter.grad.abs().max() > 0 for parameter in teacher.text_projection.parameters()]
        assert all(reached) if is_open else not any(reached)
        # A closed gate learns to open, or text would never enter.
        assert all(block.attention_gate.grad.abs() > 0 for block in teacher.alignment)


@pytest.mark.parametrize("n_steps_latent", [1, 3])
@pytest.mark.parametrize(("grid", "latent"), [((5, 7), (3, 4)), ((4, 8), (2, 4))])
def test_shapes(grid, latent, n_steps_latent):
    predictions, latents = a_teacher(True, grid=grid, n_steps_latent=n_steps_latent)(*a_batch(grid=grid))
    assert predictions.shape == (2, 4, 2, *grid)
    assert list(latents) == ["fused", "evolved"]
    for tap in latents.values():
        assert tap.shape == (2, n_steps_latent, 16, *latent)


def test_the_evolved_latent_is_the_evolution_of_the_fused_one():
    teacher = a_teacher(is_open=True, n_steps_latent=3)
    inputs, phase, *text = a_batch()
    predictions, latents = teacher(inputs, phase, *text)
    assert torch.equal(latents["evolved"], teacher.evolution(latents["fused"]))
    assert not torch.equal(latents["evolved"], latents["fused"])
    decoded = teacher.decoder(latents["evolved"].flatten(1, 2))
    assert torch.equal(predictions, teacher.standardise.inverse(decoded, phase + 3))


def test_latent_steps_share_the_input_frames_in_turn():
    """One latent step a frame: before the evolution a frame touches its own step alone."""
    teacher = a_teacher(is_open=True, n_steps_latent=3)
    inputs, phase, text, mask = a_batch()
    fused = teacher(inputs, phase, text, mask)[1]["fused"]
    changed = inputs.clone()
    changed[:, 1] += 1
    difference = (teacher(changed, phase, text, mask)[1]["fused"] - fused).abs().amax((0, 2, 3, 4))
    assert difference[1] > 1e-2
    assert difference[[0, 2]].max() == 0
    # The same frame at another step is told apart by the step's embedding alone.
    still = inputs[:, :1].expand(-1, 3, -1, -1, -1)
    fresh = a_teacher(is_open=False, n_steps_latent=3)
    latent = fresh(still, phase, text, mask)[1]["fused"] - fresh.step_embedding
    torch.testing.assert_close(latent, latent[:, :1].expand_as(latent))


def test_cells_and_latent_are_one_thing_in_two_shapes():
    latent = torch.arange(2 * 3 * 4 * 5 * 6).reshape(2, 3, 4, 5, 6).float()
    cells = to_cells(latent)
    assert cells.shape == (2, 3 * 5 * 6, 4)
    assert torch.equal(cells[1, 2 * 30 + 3 * 6 + 4], latent[1, 2, :, 3, 4])
    assert torch.equal(to_latent(cells, latent), latent)


def test_the_phase_is_what_the_forecast_is_relative_to():
    """What is usual at a phase is taken from the inputs and given back to the outputs at theirs."""
    teacher = a_teacher(is_open=True, n_phases=24)
    inputs, phase, text, mask = a_batch()
    flat = teacher(inputs, phase, text, mask)
    usual = torch.randn(24, 2, 5, 7)
    teacher.standardise.mean += usual
    times = (phase[:, None] + torch.arange(7)) % 24
    daily = teacher(inputs + usual[times[:, :3]], phase, text, mask)
    torch.testing.assert_close(daily[0], flat[0] + usual[times[:, 3:]], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(daily[1], flat[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n_steps_latent", [1, 3])
def test_the_paper_scale_is_150_million(n_steps_latent):
    """On WeatherBench's grid, 12 → 12 × 1, with a text encoder as wide as the shipped one; on no device."""
    options = load_params("teachers.paper", SHIPPED).model_dump() | {"n_steps_latent": n_steps_latent}
    with torch.device("meta"):
        teacher = Teacher(torch.empty(1, 1, 32, 64), torch.empty(1, 32, 64), 12, 12, text_width=384, **options)
    assert teacher.null_token.is_meta
    assert 140e6 < count_parameters(teacher) < 160e6


def test_dropout_is_off_in_evaluation():
    teacher = a_teacher(is_open=True, dropout=0.5)
    batch = a_batch()
    assert torch.equal(teacher(*batch)[0], teacher(*batch)[0])
    teacher.train()
    assert not torch.equal(teacher(*batch)[0], teacher(*batch)[0])


def test_a_window_does_not_depend_on_its_neighbours():
    teacher = a_teacher(is_open=True, n_steps_latent=3)
    batch = a_batch()
    alone = teacher(*(part[:1] for part in batch))
    torch.testing.assert_close(alone, rows(teacher(*batch), slice(1)), rtol=1e-5, atol=1e-5)


def test_evolution_sees_all_steps_and_cells_by_attention_and_its_neighbours_by_convolution():
    torch.manual_seed(0)
    evolution = LatentEvolution(8, 2, dropout=0.0).eval()
    latent = torch.randn(1, 3, 8, 5, 5, requires_grad=True)

    def reach() -> torch.Tensor:
        (gradient,) = torch.autograd.grad(evolution(latent)[0, 1, :, 0, 0].square().sum(), latent)
        return gradient[0].abs().amax(1) > 0

    assert reach().all()
    torch.nn.init.zeros_(evolution.low.out_proj.weight)
    nearby = torch.zeros(3, 5, 5, dtype=torch.bool)
    nearby[1, :2, :2] = True
    assert torch.equal(reach(), nearby)
