"""Which number type a run computes in: the fastest one here, by timing a matrix product of the model's size.

bf16 halves the time of a step on GPUs and on CPUs with instructions for it, and nearly doubles it on other CPUs.
"""

import time
from collections import Counter

import torch
from torch import nn

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LEAST_GAIN = 1.2
"""A type with fewer bits is taken only if it is at least this much faster: casts cost time as well."""
ROWS = 512
"""Positions in the product that is timed."""


def fastest_precision(model: nn.Module, device: torch.device) -> tuple[str, str]:
    """Return the name of the fastest type, and a line that says how it was found.

    The product is that of `ROWS` positions with the matrix whose shape holds most of the model's weights. fp16 is
    looked at on GPUs only; autocast has none elsewhere.
    """
    sizes = Counter[tuple[int, int]]()
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.ndim >= 2 and not isinstance(module, nn.Embedding):
            sizes[weight.shape[0], weight[0].numel()] += weight.numel()
    if not sizes:
        return "fp32", "fp32 (the model has no matrices)"
    ((height, width), _), *_ = sizes.most_common(1)
    names = [name for name in DTYPES if name != "fp16" or device.type == "cuda"]
    seconds = {name: _time_product(height, width, DTYPES[name], device) for name in names}
    chosen = "fp32"
    for name in names:
        if seconds[chosen] > LEAST_GAIN * seconds[name]:
            chosen = name
    times = ", ".join(f"{name} {1e3 * found:.3g} ms" for name, found in seconds.items())
    return chosen, f"{chosen} (a product of {ROWS} x {width} and {width} x {height} takes: {times})"


def _time_product(height: int, width: int, dtype: torch.dtype, device: torch.device, rounds: int = 5) -> float:
    """Return the seconds that the product takes, in the best of some rounds after one that does not count."""
    inputs = torch.ones(ROWS, width, dtype=dtype, device=device)
    weight = torch.ones(height, width, dtype=dtype, device=device)
    times = []
    with torch.no_grad():
        for _ in range(1 + rounds):
            _wait_for(device)
            started = time.perf_counter()
            nn.functional.linear(inputs, weight)
            _wait_for(device)
            times.append(time.perf_counter() - started)
    return min(times[1:])


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()
