"""Shapes for every grid, and the standardisation against numpy."""

import numpy as np
import pytest
import torch

from s2kd.layers import Decoder, Encoder, Standardise, group_norm

NOON = torch.tensor([12])


def test_standardise_by_hand_and_back():
    mean, std = torch.tensor([[[280.0, 250.0]], [[0.0, -3.0]]]), torch.tensor([[[10.0, 0.5]], [[1e-3, 4.0]]])
    standardise = Standardise(mean[None], std)
    frames = mean + std * torch.tensor([-2.0, 0.0, 1.5]).reshape(1, 3, 1, 1, 1)
    scores = standardise(frames, NOON)
    wanted = torch.tensor([-2.0, 0.0, 1.5]).reshape(1, 3, 1, 1, 1).expand(1, 3, 2, 1, 2)
    torch.testing.assert_close(scores, wanted, rtol=0, atol=1e-4)
    torch.testing.assert_close(standardise.inverse(scores, NOON), frames, rtol=1e-6, atol=0)
    assert torch.equal(standardise(frames, NOON + 1), scores)  # one phase: no time differs
    assert not list(standardise.parameters())
    assert set(standardise.state_dict()) == {"mean", "std"}


def test_each_frame_is_held_against_what_is_usual_at_its_time():
    """A day of four phases: 0, 10, 20 and 30; frames of 100, deviation 2."""
    standardise = Standardise(10 * torch.arange(4.0).reshape(4, 1, 1, 1), torch.full((1, 1, 1), 2.0))
    frames = torch.full((4, 3, 1, 1, 1), 100.0)
    phase = torch.tensor([0, 2, 3, 4 * 10**6 + 3])  # the third and the fourth run over midnight; any integer will do
    usual = torch.tensor([[0.0, 10, 20], [20, 30, 0], [30, 0, 10], [30, 0, 10]])
    assert torch.equal(standardise(frames, phase).flatten(1), (100 - usual) / 2)
    assert torch.equal(standardise(frames[:1], torch.tensor([-1])).flatten(1), (100 - usual[2:3]) / 2)
    assert torch.equal(standardise.inverse(torch.zeros_like(frames), phase).flatten(1), usual)


def test_a_missing_value_takes_the_score_of_the_usual_and_changes_no_other():
    generator = torch.Generator().manual_seed(0)
    standardise = Standardise(torch.randn(24, 2, 3, 4, generator=generator), torch.rand(2, 3, 4, generator=generator))
    frames = torch.randn(5, 6, 2, 3, 4, generator=generator)
    phase = torch.arange(5)
    whole = standardise(frames, phase)
    missing = torch.rand(frames.shape, generator=generator) < 0.3
    scores = standardise(frames.masked_fill(missing, torch.nan), phase)
    assert torch.equal(scores, whole.masked_fill(missing, 0))
    usual = standardise.inverse(scores, phase)[missing]
    assert torch.equal(usual, standardise.inverse(torch.zeros_like(frames), phase)[missing])


@pytest.mark.parametrize("n_phases", [1, 24])
def test_the_inverse_undoes_standardise_at_every_phase(n_phases):
    generator = torch.Generator().manual_seed(0)
    # Whole numbers and deviations that are powers of two: no rounding anywhere, so equal means equal.
    mean = torch.randint(200, 300, (n_phases, 2, 3, 4), generator=generator).float()
    standardise = Standardise(mean, 2.0 ** torch.randint(-2, 3, (2, 3, 4), generator=generator))
    frames = torch.randint(200, 300, (48, 30, 2, 3, 4), generator=generator).float()
    phase = torch.arange(48)
    assert torch.equal(standardise.inverse(standardise(frames, phase), phase), frames)
    later = standardise.inverse(
        standardise(frames, phase)[:, 12:], phase + 12
    )  # as a model's outputs follow its inputs
    assert torch.equal(later, frames[:, 12:])


def test_the_inverse_of_half_precision_is_single():
    standardise = Standardise(torch.full((1, 1, 1, 1), 300.0), torch.full((1, 1, 1), 1.001))
    restored = standardise.inverse(torch.full((1, 1, 1, 1, 1), 0.25, dtype=torch.bfloat16), NOON)
    assert restored.dtype == torch.float32
    assert restored.item() == pytest.approx(300.25025, abs=5e-5)  # in bfloat16 the deviation is 1, the sum 300


@pytest.mark.parametrize("n_channels", [1, 3])
@pytest.mark.parametrize(
    ("grid", "stride", "latent"),
    [((25, 53), 4, (7, 14)), ((5, 7), 2, (3, 4)), ((8, 8), 4, (2, 2)), ((3, 5), 1, (3, 5))],
)
def test_encoder_and_decoder_keep_the_grid(grid, stride, latent, n_channels):
    encoder = Encoder(4, n_channels, grid, 16, stride, depth=1)
    decoder = Decoder(6, n_channels, grid, 16, stride)
    hidden = encoder(torch.randn(2, 4, n_channels, *grid))
    assert hidden.shape == (2, 16, *latent)
    assert decoder(hidden).shape == (2, 6, n_channels, *grid)


def test_padding_repeats_the_right_and_the_lower_edge():
    torch.manual_seed(0)
    encoder = Encoder(1, 1, (5, 7), 8, 4, depth=1)
    whole = Encoder(1, 1, (8, 8), 8, 4, depth=1)
    whole.load_state_dict(encoder.state_dict())
    frames = torch.randn(1, 1, 1, 5, 7)
    padded = np.pad(frames.numpy(), ((0, 0), (0, 0), (0, 0), (0, 3), (0, 1)), mode="edge")
    torch.testing.assert_close(encoder(frames), whole(torch.from_numpy(padded)))


def test_decoder_puts_times_channels_and_cells_where_they_belong():
    decoder = Decoder(2, 3, (4, 6), 8, 2)
    with torch.no_grad():
        decoder.head.weight.zero_()
        decoder.head.bias.copy_(torch.arange(24.0))  # output channel = ((time · 3 + channel) · 2 + row) · 2 + column
    frames = decoder(torch.randn(1, 8, 2, 3))
    for time, channel, y, x in [(0, 0, 0, 0), (0, 2, 1, 0), (1, 0, 2, 3), (1, 2, 3, 5)]:
        assert frames[0, time, channel, y, x] == ((time * 3 + channel) * 2 + y % 2) * 2 + x % 2


@pytest.mark.parametrize(("width", "groups"), [(32, 8), (12, 4), (6, 2), (5, 1)])
def test_groups_divide_the_width(width, groups):
    assert group_norm(width).num_groups == groups
