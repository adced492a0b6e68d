"""Time steps of training, engine and loop in turn; a part of benchmarks/throughput.py.

With batch normalisation the two differ by more than rounding: the loop normalises each time step
by its own statistics, the engine all of them by common ones.
"""

import statistics
from collections.abc import Iterator
from contextlib import nullcontext

import snntorch
import snntorch.functional
import torch
from torch import Tensor

from benchmarks import machine
from benchmarks.step_by_step import StepByStep, name_of
from benchmarks.subject import Subject
from spikelens.precision import autocast

TITLE = (
    "| network | T | batch | allocator | loop, s a step | engine, s a step | ratio "
    "| largest difference of losses | losses of the loop | of the engine |"
)


def rows(subject: Subject) -> Iterator[str]:
    """Yield a row for each cell: steps of Adam from the same weights over the same batches."""
    for num_steps in subject.args.steps:
        subject.set_steps(num_steps)
        for batch in subject.args.batches:
            yield measure_cell(subject, num_steps, batch)


def measure_cell(subject: Subject, num_steps: int, batch: int) -> str:
    """Train engine and loop in turn and return a row of the table."""
    network, args = subject.network.train(), subject.args
    start = {name: value.clone() for name, value in network.state_dict().items()}
    snntorch.SpikingNeuron.instances.clear()  # a reset would visit the loops of earlier cells
    loop, name = StepByStep(network), name_of(network)
    is_csnn = name == "csnn"  # cross-entropy would silence its outputs
    sf = snntorch.functional
    loss = sf.mse_count_loss(0.8, 0.2) if is_csnn else sf.ce_rate_loss()

    def run_loop(images: Tensor) -> Tensor:
        loop.rest()
        return torch.stack([loop.net(images) for _ in range(num_steps)])

    sides = [(network, network.parameters()), (run_loop, loop.net.parameters())]
    learners = [(run, torch.optim.Adam(parameters, 5e-4)) for run, parameters in sides]
    seconds: list[list[float]] = [[], []]
    losses: list[list[float]] = [[], []]
    for step in range(2 + args.train_steps):
        images, labels = subject.batch(step * batch, batch)
        for side, (run, adam) in enumerate(learners):
            began = machine.now(subject.device)
            with autocast(args.precision, subject.device) if side == 0 else nullcontext():
                value = loss(run(images), labels)
            adam.zero_grad()
            value.backward()
            adam.step()
            seconds[side].append(machine.now(subject.device) - began)
            losses[side].append(float(value.detach()))
    network.load_state_dict(start)
    engine, slow = (statistics.median(taken[2:]) for taken in seconds)
    difference = max(abs(a - b) for a, b in zip(*losses, strict=True))
    curves = [" ".join(f"{value:.4f}" for value in curve) for curve in reversed(losses)]
    return (
        f"| {name} | {num_steps} | {batch} | {args.allocator} | {slow:.3g} | {engine:.3g} "
        f"| {slow / engine:.2f} | {difference:.1e} | {' | '.join(curves)} |"
    )
