"""How text enters the teacher: not at all at first, then through the gates, and never by its padding."""

import pytest
import torch

from s2kd.teacher import LatentEvolution, Teacher

TEXT_WIDTH, TOKENS = 12, 5


def a_teacher(is_open: bool, dropout: float = 0.0, grid: tuple[int, int] = (5, 7)) -> Teacher:
    torch.manual_seed(0)
    mean, std = torch.full((2, *grid), 3.0), torch.full((2, *grid), 2.0)
    teacher = Teacher(
        mean, std, n_steps_input=3, n_steps_output=4, text_width=TEXT_WIDTH, width=16, stride=2, encoder_depth=1,
        alignment_depth=2, evolution_depth=1, n_heads=4, dropout=dropout,
    )  # fmt: skip
    if is_open:
        with torch.no_grad():
            for block in teacher.alignment:
                block.attention_gate.fill_(0.7)
                block.mlp_gate.fill_(0.7)
    return teacher.eval()


def a_batch(seed: int = 1, grid: tuple[int, int] = (5, 7)) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = 3 + 2 * torch.randn(2, 3, 2, *grid, generator=generator)
    text = torch.randn(2, TOKENS, TEXT_WIDTH, generator=generator)
    return inputs, text, torch.ones(2, TOKENS, dtype=torch.bool)


def test_a_fresh_teacher_is_the_visual_one():
    teacher = a_teacher(is_open=False)
    inputs, text, mask = a_batch()
    predictions, fused = teacher(inputs, text, mask)
    assert torch.equal(fused, teacher.encoder(teacher.standardise(inputs)))
    other_predictions, other_fused = teacher(inputs, -3 * text, mask)
    assert torch.equal(predictions, other_predictions)
    assert torch.equal(fused, other_fused)


def test_text_counts_once_the_gates_are_open():
    teacher = a_teacher(is_open=True)
    inputs, text, mask = a_batch()
    predictions, fused = teacher(inputs, text, mask)
    other_predictions, other_fused = teacher(inputs, -text, mask)
    assert (fused - other_fused).abs().mean() > 1e-2
    assert (predictions - other_predictions).abs().mean() > 1e-3


@torch.no_grad()
def test_padding_changes_nothing():
    teacher = a_teacher(is_open=True)
    inputs, text, mask = a_batch()
    mask[1, 3:] = False  # the second text is shorter
    predictions, fused = teacher(inputs, text, mask)
    longer = torch.cat([text, 100 * torch.randn(2, 4, TEXT_WIDTH)], dim=1)
    longer[1, 3:] = 7.0
    padded = torch.cat([mask, torch.zeros(2, 4, dtype=torch.bool)], dim=1)
    again = teacher(inputs, longer, padded)
    torch.testing.assert_close(again, (predictions, fused), rtol=1e-5, atol=1e-5)
    alone = teacher(inputs[1:], text[1:, :3], mask[1:, :3])
    torch.testing.assert_close(alone, (predictions[1:], fused[1:]), rtol=1e-5, atol=1e-5)


def test_a_window_without_text_is_finite():
    teacher = a_teacher(is_open=True)
    inputs, text, mask = a_batch()
    predictions, fused = teacher(inputs, text, torch.zeros_like(mask))
    assert predictions.isfinite().all()
    assert fused.isfinite().all()
    torch.testing.assert_close(teacher(inputs, 5 * text, torch.zeros_like(mask))[1], fused)
    predictions.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in teacher.parameters())


def test_gradients_reach_the_text_only_through_open_gates():
    for is_open in (False, True):
        teacher = a_teacher(is_open)
        teacher(*a_batch())[0].square().mean().backward()
        reached = [parameter.grad.abs().max() > 0 for parameter in teacher.text_projection.parameters()]
        assert all(reached) if is_open else not any(reached)
        # A closed gate learns to open, or text would never enter.
        assert all(block.attention_gate.grad.abs() > 0 for block in teacher.alignment)


@pytest.mark.parametrize(("grid", "latent"), [((5, 7), (3, 4)), ((4, 8), (2, 4))])
def test_shapes(grid, latent):
    predictions, fused = a_teacher(is_open=True, grid=grid)(*a_batch(grid=grid))
    assert predictions.shape == (2, 4, 2, *grid)
    assert fused.shape == (2, 16, *latent)


def test_dropout_is_off_in_evaluation():
    teacher = a_teacher(is_open=True, dropout=0.5)
    batch = a_batch()
    assert torch.equal(teacher(*batch)[0], teacher(*batch)[0])
    teacher.train()
    assert not torch.equal(teacher(*batch)[0], teacher(*batch)[0])


def test_a_window_does_not_depend_on_its_neighbours():
    teacher = a_teacher(is_open=True)
    inputs, text, mask = a_batch()
    together = teacher(inputs, text, mask)
    alone = teacher(inputs[:1], text[:1], mask[:1])
    torch.testing.assert_close(alone, (together[0][:1], together[1][:1]), rtol=1e-5, atol=1e-5)


def test_evolution_sees_the_whole_grid_by_attention_and_its_neighbours_by_convolution():
    torch.manual_seed(0)
    evolution = LatentEvolution(8, 2, dropout=0.0).eval()
    latent = torch.randn(1, 8, 5, 5, requires_grad=True)

    def reach() -> torch.Tensor:
        (gradient,) = torch.autograd.grad(evolution(latent)[0, :, 0, 0].square().sum(), latent)
        return gradient[0].abs().amax(0) > 0

    assert reach().all()
    torch.nn.init.zeros_(evolution.low.out_proj.weight)
    nearby = torch.zeros(5, 5, dtype=torch.bool)
    nearby[:2, :2] = True
    assert torch.equal(reach(), nearby)
