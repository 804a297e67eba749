"""Operations and parameters of layers by hand."""

import json

import torch
from torch import nn

from s2kd.cost import count_flops, count_parameters, write_latency
from s2kd.layers import Standardise
from s2kd.params import Evaluation
from s2kd.teacher import CrossModalAlignment, LatentEvolution


def test_a_linear_layer():
    layer = nn.Linear(5, 7)
    assert count_flops(layer, torch.zeros(3, 5)) == 2 * 3 * 5 * 7
    assert count_parameters(layer) == 5 * 7 + 7


def test_a_convolution():
    layer = nn.Conv2d(4, 6, 3, padding=1)
    assert count_flops(layer, torch.zeros(2, 4, 8, 9)) == 2 * 2 * (8 * 9) * 6 * 4 * 3 * 3
    assert count_parameters(layer) == 6 * 4 * 3 * 3 + 6
    strided = nn.Conv2d(4, 6, 2, stride=2, groups=2)
    assert count_flops(strided, torch.zeros(1, 4, 8, 6)) == 2 * (4 * 3) * 6 * (4 // 2) * 2 * 2
    assert count_parameters(strided) == 6 * 2 * 2 * 2 + 6


def test_self_attention_in_evaluation_counts():
    """PyTorch takes a fused kernel there, which its own counter does not see."""
    width, cells = 8, 2 * 3 * 4  # two steps
    convolution, projections = 2 * cells * width * width * 9, 4 * 2 * cells * width * width
    attention = 2 * 2 * cells * cells * width
    for model in (LatentEvolution(width, 2, dropout=0.0).eval(), LatentEvolution(width, 2, dropout=0.0).train()):
        assert count_flops(model, torch.zeros(1, 2, width, 3, 4)) == convolution + projections + attention
    assert torch.backends.mha.get_fastpath_enabled()


def test_cross_attention_counts():
    width, cells, tokens = 8, 12, 5
    model = CrossModalAlignment(width, 2, dropout=0.0, gate=0.0).eval()
    inputs = torch.zeros(1, cells, width), torch.zeros(1, tokens, width), torch.zeros(1, tokens, dtype=torch.bool)
    projections = 2 * 2 * cells * width**2 + 2 * 2 * tokens * width**2
    attention = 2 * 2 * cells * tokens * width
    perceptron = 2 * 2 * cells * width * 4 * width
    assert count_flops(model, *inputs) == projections + attention + perceptron


def test_statistics_are_no_parameters():
    assert count_parameters(Standardise(torch.zeros(24, 1, 3, 4), torch.ones(1, 3, 4))) == 0


def test_latency_is_ordered_and_threads_are_put_back(tmp_path):
    threads = torch.get_num_threads()
    params = Evaluation(batch_size=1, latency_repeats=9, latency_threads=2, rollout=1, hard_fraction=0.1)
    write_latency(tmp_path / "latency.json", params, nn.Linear(5, 7), torch.zeros(1, 5))
    result = json.loads((tmp_path / "latency.json").read_text())
    assert 0 < result["low_ms"] <= result["median_ms"] <= result["high_ms"]
    assert (result["device"], result["threads"], result["batch"]) == ("cpu", 2, 1)
    assert torch.get_num_threads() == threads
