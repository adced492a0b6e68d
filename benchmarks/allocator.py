"""Time a training step and a forward pass with and without `keep_freed_memory`, in turn.

    python -m benchmarks.allocator

Each measurement is a process of its own: the setting cannot be taken back.
"""

import statistics
import subprocess
import sys
import time

import torch

from spikelens.allocator import keep_freed_memory
from spikelens.models.spiking_cnn import csnn

BATCH, STEPS, ROUNDS = 64, 8, 3


def measure() -> tuple[float, float]:
    """Return seconds of a training step and of a forward pass of csnn, median of four."""
    network, images = csnn(3, 32, 10, num_steps=STEPS), torch.rand(BATCH, 3, 32, 32)
    train, infer = [], []
    for _ in range(5):
        began = time.perf_counter()
        network(images).mean(0).sum().backward()
        train.append(time.perf_counter() - began)
        with torch.no_grad():
            began = time.perf_counter()
            network(images)
            infer.append(time.perf_counter() - began)
    return statistics.median(train[1:]), statistics.median(infer[1:])


def main() -> None:
    """Print medians over rounds and their ratio."""
    times: dict[str, list[tuple[float, float]]] = {"default": [], "kept": []}
    for _ in range(ROUNDS):
        for name, found in times.items():
            command = [sys.executable, "-m", "benchmarks.allocator", name]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            train, infer = map(float, done.stdout.split())
            found.append((train, infer))
    for place, what in enumerate(("training step", "forward pass")):
        default, kept = (statistics.median(t[place] for t in times[n]) for n in times)
        print(f"| {what} | {default:.3f} s | {kept:.3f} s | {default / kept:.1f} |")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        if sys.argv[1] == "kept":
            keep_freed_memory()
        print(*measure())
