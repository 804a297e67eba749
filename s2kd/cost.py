"""What a model costs to run: parameters, floating-point operations, latency."""

import json
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from s2kd.params import Evaluation
from s2kd.stage import write_text


def count_parameters(model: nn.Module) -> int:
    """Trainable parameters; the statistics that standardise are not among them."""
    return sum(parameter.numel() for parameter in model.parameters())


@torch.no_grad()
def count_flops(model: nn.Module, *inputs: Tensor) -> int:
    """Floating-point operations of one forward: a multiply-add counts as two; element-wise operations do not count.

    Attention is computed step by step meanwhile, because the counter sees nothing in most of its fused kernels.
    """
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(*inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    return counter.get_total_flops()


@torch.inference_mode()
def write_latency(path: Path, params: Evaluation, model: nn.Module, *inputs: Tensor) -> None:
    """Time single forwards and write median and quartiles in milliseconds.

    In a file of its own, because a time differs from run to run and would drown the differences between metrics.
    """
    device = inputs[0].device
    threads = torch.get_num_threads()
    torch.set_num_threads(params.latency_threads)
    times = []
    for _ in range(params.latency_repeats + 3):  # the first three warm up
        start = time.perf_counter()
        model(*inputs)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(1000 * (time.perf_counter() - start))
    torch.set_num_threads(threads)
    low, median, high = statistics.quantiles(times[3:], n=4)
    result = {
        "median_ms": round(median, 3),
        "low_ms": round(low, 3),
        "high_ms": round(high, 3),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": params.latency_threads,
        "batch": len(inputs[0]),
    }
    write_text(path, json.dumps(result, indent=2) + "\n")
