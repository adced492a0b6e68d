"""Time the engine against snntorch's step-by-step loop and against the machine's matrix rate.

    python -m benchmarks.throughput
    python -m benchmarks.throughput --nets csnn --ckpt CSNN.ckpt --generator VQVAE.ckpt
    python -m benchmarks.throughput --training --nets small,csnn --steps 16 --batches 32

Codes go in, activations come out: decoder, network, read-out of 8 units a layer. Engine and loop
have the same weights and take turns in one process; a figure is the median of up to three turns.
Where a turn would take longer than a third of --seconds, fewer time steps of the loop, or chunks
of the engine, are timed and scaled: marked *. The roof is the time of the bare convolutions and
matrix products, each layer's for all its frames, at the measured rate of a large matrix product;
the engine adds up spikes instead and may pass it. The peak of resident memory (on a GPU, of its
own) is the process's while the engine runs, its growth since the cell began in brackets.

Without --ckpt weights are random, statistics of batch normalisation those of drawn shapes. Each
network and setting of the allocator is a process of its own. The table is Markdown.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import torch
from torch import Tensor, nn

from benchmarks import machine, training
from benchmarks.step_by_step import StepByStep, name_of
from benchmarks.subject import NETS, Subject, prepare
from spikelens.allocator import keep_freed_memory
from spikelens.am.activations import Recorder, layer_shapes
from spikelens.am.neurons import parse_neurons
from spikelens.am.objective import Objective
from spikelens.precision import PRECISIONS, autocast

TURNS, NUM_UNITS, NUM_CHECKED = 3, 8, 4
TITLE = (
    "| network | T | batch | allocator | loop, images/s | engine, images/s | ratio "
    "| roof, images/s | engine / roof | peak, GiB (growth) |"
)


class _EnoughError(Exception):
    """Raised between two chunks when a turn has had its time."""


def time_engine(
    objective: Objective, codes: Tensor, limit: float, subject: Subject
) -> tuple[float, bool]:
    """Return the seconds of one evaluation, and whether they are scaled from some of its chunks."""
    shown: list[int] = []
    began = machine.now(subject.device)

    def note(num_images: int) -> None:
        shown.append(num_images)
        if time.perf_counter() - began > limit:
            raise _EnoughError

    objective.on_shown = note
    with suppress(_EnoughError):
        objective(codes)
    seconds = machine.now(subject.device) - began
    num_chunks = -(-len(codes) // shown[0])
    return seconds * num_chunks / len(shown), len(shown) < num_chunks


@torch.no_grad()
def time_loop(
    loop: StepByStep, codes: Tensor, num_steps: int, limit: float, subject: Subject
) -> tuple[float, bool]:
    """Return the seconds of one evaluation, and whether they are scaled from some of its steps."""
    began = machine.now(subject.device)
    images = subject.generator.decode(codes)
    loop.rest()
    started = machine.now(subject.device)
    done = 0
    while done < num_steps and (done == 0 or time.perf_counter() - began < limit):
        loop.net(images)
        done += 1
    stepped = machine.now(subject.device)
    read_out(loop, num_steps)
    rest = started - began + machine.now(subject.device) - stepped
    return rest + (stepped - started) * num_steps / done, done < num_steps


def read_out(loop: StepByStep, num_steps: int) -> Tensor:
    """Return the mean spike rate of each summed unit over time and map, `(N, K)`."""
    rates = loop.rates(num_steps).values()
    return torch.cat([rate.flatten(2).mean(2) if rate.dim() > 2 else rate for rate in rates], 1)


@torch.no_grad()
def agreement(subject: Subject, objective: Objective, loop: StepByStep, num_steps: int) -> float:
    """Return the largest difference between engine and loop in a layer's mean rate.

    Raises:
        RuntimeError: If it exceeds 0.01 in float32.
    """
    codes = subject.codes(NUM_CHECKED)
    ours = objective(codes).activations
    images = subject.generator.decode(codes)
    loop.rest()
    for _ in range(num_steps):
        loop.net(images)
    difference = (ours - read_out(loop, num_steps)).mean(0)
    sizes = [rate.shape[1] for rate in loop.rates(1).values()]
    largest = max(float(part.mean().abs()) for part in difference.split(sizes))
    if largest > 0.01 and subject.args.precision == "float32":
        raise RuntimeError(f"Engine and loop differ by {largest:.3f} in the mean rate of a layer.")
    return largest


def flops(root: nn.Module, call: Callable[[], object]) -> list[int]:
    """Return the FLOP of each convolution and matrix product in a call, in order."""
    found: list[int] = []

    def note(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        # The weight of a transposed convolution is what one input does, else what makes one output.
        moved = inputs[0] if isinstance(module, nn.ConvTranspose2d) else output
        found.append(2 * moved.numel() * module.weight[0].numel())  # type: ignore[index]

    kinds = nn.Conv2d | nn.ConvTranspose2d | nn.Linear
    handles = [m.register_forward_hook(note) for m in root.modules() if isinstance(m, kinds)]
    with torch.no_grad():
        call()
    for handle in handles:
        handle.remove()
    return found


@torch.no_grad()
def input_rates(subject: Subject, images: Tensor) -> str:
    """Return the mean spike rate that each layer behind the first reads."""
    names = subject.network.layer_names
    rates = [float(scan.rate.mean()) for _, scan in subject.network.run(images)]  # type: ignore[union-attr]
    return ", ".join(f"{name} {rate:.3f}" for name, rate in zip(names[1:], rates, strict=False))


def measure(subject: Subject) -> Iterator[str]:
    """Yield a row of the table for each cell, and a note for each number of steps."""
    network, args = subject.network, subject.args
    loop = StepByStep(network, NUM_UNITS)
    shapes = layer_shapes(network, subject.generator.image_shape)
    sizes = {name: shape[0] for name, shape in shapes.items()}
    neurons = parse_neurons(f"*:0-{NUM_UNITS - 1}", sizes)
    one = subject.codes(1)
    image = subject.generator.decode(one)
    decoding = sum(flops(subject.generator, lambda: subject.generator.decode(one)))
    first, *others = flops(loop.net, lambda: loop.net(image))
    with Recorder(network, neurons) as recorder:
        for num_steps in args.steps:
            subject.set_steps(min(num_steps, 16))  # 128 of the loop would take minutes
            checked = build_objective(subject, recorder, NUM_CHECKED)
            difference = agreement(subject, checked, loop, min(num_steps, 16))
            subject.set_steps(num_steps)
            work = decoding + first + num_steps * sum(others)
            images = subject.generator.decode(subject.codes(NUM_CHECKED))
            yield (
                f"- {name_of(network)}, T = {num_steps}: {work / 1e9:.3g} GFLOP an image; largest "
                f"difference in a layer's mean rate {difference:.1e}; mean input rates "
                f"{input_rates(subject, images)}"
            )
            for batch in args.batches:
                yield measure_cell(subject, recorder, loop, (num_steps, batch), work)


def build_objective(subject: Subject, recorder: Recorder, batch: int) -> Objective:
    """Build an objective whose chunks are no larger than the batch, as probes do."""
    objective = Objective(subject.generator, recorder, precision=subject.args.precision)
    objective.chunk = min(objective.chunk, batch)
    return objective


def measure_cell(
    subject: Subject, recorder: Recorder, loop: StepByStep, cell: tuple[int, int], work: int
) -> str:
    """Let engine and loop take turns and return a row of the table."""
    (num_steps, batch), args = cell, subject.args
    codes, limit = subject.codes(batch), args.seconds / TURNS
    objective = build_objective(subject, recorder, batch)
    loop.rest()
    machine.reset_peak(subject.device)
    before = machine.peak(subject.device)
    time_engine(objective, codes, limit, subject)  # warms, and fills memory as the next ones do
    peak = machine.peak(subject.device)
    time_loop(loop, codes, num_steps, 0.0, subject)  # warms one step
    ours, theirs = [], []
    began = time.perf_counter()
    while len(ours) < TURNS and time.perf_counter() - began < 2 * args.seconds:
        ours.append(time_engine(objective, codes, limit, subject))
        theirs.append(time_loop(loop, codes, num_steps, limit, subject))
    (engine, engine_mark), (slow, slow_mark) = middle(ours), middle(theirs)
    roof = subject.rate / work
    return (
        f"| {name_of(subject.network)} | {num_steps} | {batch} | {args.allocator} "
        f"| {batch / slow:.3g}{slow_mark} | {batch / engine:.3g}{engine_mark} "
        f"| {slow / engine:.2f} | {roof:.3g} | {batch / engine / roof:.2f} "
        f"| {peak:.2f} ({peak - before:.2f}) |"
    )


def middle(turns: list[tuple[float, bool]]) -> tuple[float, str]:
    """Return the median of seconds and the mark of scaled ones."""
    return statistics.median(t for t, _ in turns), "*" if any(mark for _, mark in turns) else ""


def main(args: argparse.Namespace) -> int:
    """Print the table, by a process for each network and allocator; return how many failed."""
    device = torch.device(args.device)
    rates = {d: machine.matrix_rate(getattr(torch, d), device) for d in ("float32", "bfloat16")}
    with autocast(args.precision, device):
        scan, copy = machine.scan_rates(device)
        is_half = torch.is_autocast_enabled(device.type)
    print(f"{machine.describe(device)}. Largest matrix product:", end=" ")
    print(", ".join(f"{name} {rate / 1e9:.3g} GFLOP/s" for name, rate in rates.items()), end=". ")
    print(f"Scan {scan / 1e9:.3g} GB/s, copy {copy / 1e9:.3g} GB/s: {scan / copy:.2f}.\n")
    rate = rates["bfloat16" if is_half else "float32"]
    title = training.TITLE if args.training else TITLE
    print(f"{title}\n{'|---' * (title.count('|') - 1)}|", flush=True)
    notes: dict[str, None] = {}
    num_failed = 0
    for net in ["of the checkpoint"] if args.ckpt else args.nets.split(","):
        for allocator in ["default", "tuned"] if args.allocator == "both" else [args.allocator]:
            # Of an option given twice the last one counts.
            given = [*sys.argv[1:], "--nets", net, "--allocator", allocator, "--rate", str(rate)]
            command = [sys.executable, "-m", "benchmarks.throughput", *given]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
                for line in child.stdout or ():
                    if line.startswith("|"):
                        print(line, end="", flush=True)
                    else:
                        notes[line.rstrip()] = None
            num_failed += child.returncode != 0
    print("", *notes, sep="\n")
    return num_failed


def parse() -> argparse.Namespace:
    """Read the command line."""
    numbers = lambda text: [int(number) for number in text.split(",")]  # noqa: E731
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--nets", default=",".join(NETS))
    parser.add_argument("--steps", type=numbers, default=[4, 16, 128], help="time steps T")
    parser.add_argument("--batches", type=numbers, default=[25, 100, 400])
    parser.add_argument("--seconds", type=float, default=20.0, help="of each side of a cell")
    parser.add_argument("--allocator", choices=("default", "tuned", "both"), default="both")
    parser.add_argument("--ckpt", help="a classifier of train.py; --nets is not read")
    parser.add_argument("--generator", default="weights/vqvae_shapes.safetensors")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--training", action="store_true", help="time training steps instead")
    parser.add_argument("--train-steps", type=int, default=6, help="timed, behind two others")
    parser.add_argument("--rate", type=float, help=argparse.SUPPRESS)  # given to the processes
    args = parser.parse_args()
    unknown = [] if args.ckpt else sorted(set(args.nets.split(",")) - NETS.keys())
    if unknown:
        parser.error(f"--nets must be of {', '.join(NETS)}, but got {', '.join(unknown)}")
    return args


if __name__ == "__main__":
    options = parse()
    if options.rate is None:
        sys.exit(main(options))
    else:
        if options.allocator == "tuned":
            keep_freed_memory()
        subject = prepare(options)
        for line in training.rows(subject) if options.training else measure(subject):
            print(line, flush=True)
