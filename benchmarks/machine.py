"""What a machine can do: its description, matrix rate, memory rate, and clocks that wait for it."""

import ctypes
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from spikelens.kernels.dynamics import Dynamics
from spikelens.kernels.scan import scan_of
from spikelens.models.lif import spike_type

_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16")


def describe(device: torch.device) -> str:
    """Return one line on processor, threads and torch."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    pairs = (line.partition(":") for line in info.splitlines())
    lines = {name.strip(): text.strip() for name, _, text in pairs}
    flags = [flag for flag in _FLAGS if flag in lines.get("flags", "").split()]
    parts = [
        f"{os.cpu_count()} cores of {lines.get('model name', 'an unknown processor')}",
        f"flags {', '.join(flags) or 'none of ' + ', '.join(_FLAGS)}",
        f"torch {torch.__version__} on {torch.get_num_threads()} threads",
    ]
    if device.type == "cuda":
        parts.append(torch.cuda.get_device_name(device))
    return "; ".join(parts)


def now(device: torch.device) -> float:
    """Return the time in seconds at which the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def fastest(work: Callable[[], object], device: torch.device, times: int = 5) -> float:
    """Return the least seconds of several runs, after one that is not counted."""
    seconds = []
    for _ in range(1 + times):
        began = now(device)
        work()
        seconds.append(now(device) - began)
    return min(seconds[1:])


def matrix_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Return FLOP/s of the largest product of square matrices that is soon done."""
    size, largest, rate = 256, 4096 if device.type == "cpu" else 8192, 0.0
    while size <= largest:
        a, b = torch.rand(2, size, size, device=device).to(dtype)
        seconds = fastest(lambda a=a, b=b: a @ b, device, times=3)  # type: ignore[misc]
        rate = max(rate, 2 * size**3 / seconds)
        if seconds > 0.2:  # where bfloat16 is emulated already the least is slow
            break
        size *= 2
    return rate


def scan_rates(device: torch.device) -> tuple[float, float]:
    """Return bytes/s of the scan over time and of a copy, each byte read or written once."""
    num_steps, num_images, num_neurons = 16, 64, 2**16 if device.type == "cuda" else 2**13
    dtype = spike_type(device)
    spikes = torch.empty(num_steps, num_images, num_neurons, dtype=dtype, device=device)
    # What a convolution makes of such spikes.
    dtype = torch.float32 if dtype == torch.uint8 else dtype
    current = torch.rand(spikes.shape, device=device).to(dtype)
    rate, membrane = torch.empty(2, num_images, num_neurons, device=device)
    beta, threshold = torch.tensor([[0.9], [1.0]], device=device).repeat(1, num_neurons)
    dynamics = Dynamics(beta, threshold, "subtract", True)
    work = scan_of(device.type).count
    scan = fastest(lambda: work(current, num_steps, dynamics, spikes, rate, membrane), device)
    target = torch.empty_like(current)
    copy = fastest(lambda: target.copy_(current), device)
    return _bytes(current, spikes, rate, membrane) / scan, 2 * _bytes(current) / copy


def _bytes(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def reset_peak(device: torch.device) -> None:
    """Give freed memory back and forget the high-water mark of the process or the GPU."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return
    ctypes.CDLL(None).malloc_trim(0)  # what an earlier and larger run left is not this one's
    Path("/proc/self/clear_refs").write_text("5")


def peak(device: torch.device) -> float:
    """Return GiB of memory held at most since `reset_peak`, by the whole process or on the GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 2**20
