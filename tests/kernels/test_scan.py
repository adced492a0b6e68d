"""Every backend of the scan against `snntorch.Leaky`, called once a step."""

import importlib
import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
import snntorch
import torch

from spikelens.kernels.dynamics import Dynamics

BACKENDS = ["scan_torch", "scan_numba", "scan_triton"]
# Triton reads this when it is imported: set, its kernels run on the CPU, a numpy call a line.
IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
NEEDS_GPU = {"scan_triton"} - ({"scan_triton"} if IS_INTERPRETED else set())

# The interpreter takes 4 ms a step.
STEPS, ROWS, UNITS = 16 if IS_INTERPRETED else 128, 3, 5
CASES = list(itertools.product(["subtract", "zero", "none"], [True, False], [STEPS, 1]))
NAMES = [f"{reset}-{'delayed' if late else 'immediate'}-{n}" for reset, late, n in CASES]
every_case = pytest.mark.parametrize(("reset", "is_delayed", "num_frames"), CASES, ids=NAMES)


@pytest.fixture(
    params=[pytest.param(n, marks=[pytest.mark.gpu] * (n in NEEDS_GPU)) for n in BACKENDS]
)
def backend(request):
    if request.param in NEEDS_GPU and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return importlib.import_module(f"spikelens.kernels.{request.param}")


@pytest.fixture
def device(backend):
    return "cuda" if backend.__name__.rpartition(".")[2] in NEEDS_GPU else "cpu"


class Layer:
    """Inputs of one case, and what snntorch makes of them."""

    def __init__(
        self, reset, is_delayed, num_frames, device, surrogate=None, steps=STEPS, units=UNITS
    ):
        random = torch.Generator().manual_seed(3)

        def draw(*shape):
            return torch.rand(*shape, generator=random).to(device)

        # Around the threshold: resets follow each other and are missed in turn.
        self.current = 0.9 * draw(num_frames, ROWS, units)
        self.leaky = snntorch.Leaky(
            beta=0.7 + 0.3 * draw(units),
            threshold=0.5 + 0.5 * draw(units),
            spike_grad=surrogate,
            learn_beta=True,
            learn_threshold=True,
            reset_mechanism=reset,
            reset_delay=is_delayed,
        )
        beta, threshold = self.leaky.beta.detach(), self.leaky.threshold.detach()
        self.dynamics = Dynamics(beta, threshold, reset, is_delayed)
        self.steps, self.device = steps, device
        self.shape = (steps, ROWS, units)

    def snntorch(self, current):
        """Spikes, membranes before the reset and membranes that snntorch returns."""
        leaky, membrane, kept = self.leaky, torch.zeros_like(current[0]), []
        fire, charged = leaky.fire, []
        leaky.fire = lambda mem: charged.append(mem) or fire(mem)
        for t in range(self.steps):
            spike, membrane = leaky(current[t if len(current) > 1 else 0], membrane)
            kept.append((spike, charged.pop(), membrane))
        return tuple(torch.stack(x) for x in zip(*kept, strict=True))

    def new(self, *shape, dtype=torch.float32):
        """An output full of what no scan writes."""
        return torch.full(shape or self.shape, 77, dtype=dtype, device=self.device)

    def record(self, backend, dtype=torch.float32):
        spikes, membranes = self.new(dtype=dtype), self.new()
        rested = None if self.dynamics.is_delayed else self.new()
        backend.record(self.current, self.steps, self.dynamics, spikes, membranes, rested)
        return spikes, membranes, rested


@every_case
def test_record_is_snntorch_bit_for_bit(backend, device, reset, is_delayed, num_frames):
    layer = Layer(reset, is_delayed, num_frames, device)
    with torch.no_grad():
        spikes, membranes, returned = layer.snntorch(layer.current)
    assert 0.05 < spikes.mean() < (0.95 if reset != "none" else 1.0)
    ours = layer.record(backend)
    assert torch.equal(ours[0], spikes)
    assert torch.equal(ours[1], membranes)
    assert torch.equal(membranes if is_delayed else ours[2], returned)


@every_case
def test_count_keeps_spikes_and_time_means(backend, device, reset, is_delayed, num_frames):
    layer = Layer(reset, is_delayed, num_frames, device)
    with torch.no_grad():
        wanted, membranes, _ = layer.snntorch(layer.current)
    spikes, rate, membrane = layer.new(), layer.new(ROWS, UNITS), layer.new(ROWS, UNITS)
    backend.count(layer.current, STEPS, layer.dynamics, spikes, rate, membrane)
    assert torch.equal(spikes, wanted)
    # T is a power of two: sums of 0 and 1 over T are exact.
    assert torch.equal(rate, wanted.mean(0))
    torch.testing.assert_close(membrane, membranes.mean(0))
    alone = layer.new(ROWS, UNITS), layer.new(ROWS, UNITS)
    backend.count(layer.current, STEPS, layer.dynamics, None, *alone)
    assert torch.equal(alone[0], rate)
    assert torch.equal(alone[1], membrane)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("is_delayed", [True, False])
def test_spikes_come_in_the_type_of_their_tensor(backend, device, dtype, is_delayed):
    layer = Layer("subtract", is_delayed, STEPS, device)
    with torch.no_grad():
        wanted = layer.snntorch(layer.current)[0].to(dtype)
    spikes = layer.new(dtype=dtype)
    means = layer.new(ROWS, UNITS), layer.new(ROWS, UNITS)
    backend.count(layer.current, STEPS, layer.dynamics, spikes, *means)
    assert torch.equal(spikes, wanted)
    assert torch.equal(layer.record(backend, dtype)[0], wanted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("num_frames", [STEPS, 1])
def test_half_currents_charge_float32_membranes(backend, device, dtype, num_frames):
    layer = Layer("subtract", True, num_frames, device)
    layer.current = layer.current.to(dtype)
    with torch.no_grad():
        spikes, membranes, _ = layer.snntorch(layer.current.float())
    ours = layer.record(backend)
    assert torch.equal(ours[0], spikes)
    assert torch.equal(ours[1], membranes)
    means = layer.new(ROWS, UNITS), layer.new(ROWS, UNITS)
    backend.count(layer.current, STEPS, layer.dynamics, None, *means)
    assert torch.equal(means[0], spikes.mean(0))


def test_membranes_at_the_threshold_do_not_fire(backend, device):
    layer = Layer("subtract", True, 1, device, steps=2)
    layer.dynamics = layer.dynamics._replace(
        beta=torch.zeros(UNITS, device=device), threshold=layer.current[0, 0]
    )
    assert layer.record(backend)[0][:, 0].count_nonzero() == 0


@every_case
def test_rows_do_not_depend_on_each_other(backend, device, reset, is_delayed, num_frames):
    # More neurons than a slice of the batch, or a program on a GPU, holds.
    units, steps = 50 if IS_INTERPRETED else 2**15 + 1, 3
    layer = Layer(reset, is_delayed, min(num_frames, steps), device, steps=steps, units=units)
    recorded = layer.record(backend)
    random = torch.Generator().manual_seed(1)
    grads = tuple(torch.randn(2, *layer.shape, generator=random).to(device))

    def run(rows):
        current, spikes, membranes, rested, *grad = (
            None if x is None else x[:, rows].contiguous()
            for x in (layer.current, *recorded, *grads)
        )
        rate, membrane = torch.empty_like(current[0]), torch.empty_like(current[0])
        backend.count(current, steps, layer.dynamics, spikes, rate, membrane)
        grad_current = torch.empty_like(current)
        sums = backend.backward(*grad, membranes, rested, membranes, layer.dynamics, grad_current)
        return (rate, membrane, spikes, grad_current), sums

    (whole, sums), rows = run(slice(None)), [run(slice(n, n + 1)) for n in range(ROWS)]
    assert torch.equal(whole[2], recorded[0])
    for at, found in enumerate(whole):
        parts = torch.cat([row[at] for row, _ in rows], dim=0 if at < 2 else 1)
        assert torch.equal(found, parts)
    for at, found in enumerate(sums):
        torch.testing.assert_close(found, sum(row[at] for _, row in rows))


SURROGATES = {
    "fast_sigmoid": (snntorch.surrogate.fast_sigmoid(slope=10), lambda x: (10 * x.abs() + 1) ** -2),
    "atan": (snntorch.surrogate.atan(alpha=2.0), lambda x: 1 / (1 + (torch.pi * x) ** 2)),
}


@every_case
@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("has_membrane", [True, False], ids=["membrane", "spikes"])
def test_gradients_are_those_of_snntorch(
    backend, device, reset, is_delayed, num_frames, surrogate, has_membrane
):
    steps = 8 if IS_INTERPRETED else 16
    fire, derivative = SURROGATES[surrogate]
    layer = Layer(reset, is_delayed, min(num_frames, steps), device, fire, steps)
    current = layer.current.clone().requires_grad_()
    spikes, _, returned = layer.snntorch(current)
    random = torch.Generator().manual_seed(1)
    grad_spikes, grad_rested = torch.randn(2, *layer.shape, generator=random).to(device)
    outputs = [spikes, returned] if has_membrane else [spikes]
    wanted = torch.autograd.grad(
        outputs,
        [current, layer.leaky.beta, layer.leaky.threshold],
        [grad_spikes, grad_rested][: len(outputs)],
    )

    _, membranes, rested = layer.record(backend)
    slope = derivative(membranes - layer.dynamics.threshold)
    ours = layer.new(*current.shape)
    others = backend.backward(
        grad_spikes,
        grad_rested if has_membrane else None,
        membranes,
        rested,
        slope,
        layer.dynamics,
        ours,
    )
    for found, expected in zip((ours, *others), wanted, strict=True):
        assert found.shape == expected.shape
        assert expected.abs().max() > 0.01
        # Sums of some 10^2 float32 terms in another order: a few ulp of the largest of them,
        # and without a reset gradients grow along the T steps.
        scale = float(expected.abs().max())
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6 * max(1.0, scale))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("num_frames", [16, 1])
def test_gradients_come_in_the_type_of_the_current(backend, device, num_frames, dtype):
    layer = Layer("subtract", True, num_frames, device, steps=16)
    _, membranes, _ = layer.record(backend)
    grad_spikes = torch.ones(layer.shape, device=device)
    found = []
    for kind in (torch.float32, dtype):
        grad = layer.new(*layer.current.shape, dtype=kind)
        backend.backward(
            grad_spikes.to(kind), None, membranes, None, membranes, layer.dynamics, grad
        )
        found.append(grad)
    # Summed in float32 and rounded once at the end: to nearest, but Triton's interpreter
    # truncates to bfloat16, up to one of its units off.
    is_truncated = IS_INTERPRETED and dtype == torch.bfloat16
    rtol = torch.finfo(dtype).eps if is_truncated else 0.0
    torch.testing.assert_close(found[1], found[0].to(dtype), rtol=rtol, atol=0.0)


@pytest.mark.skipif(IS_INTERPRETED, reason="this is the interpreter")
def test_triton_kernels_under_the_interpreter():
    triton = pytest.importorskip("triton")
    if triton.__version__ < "3.7" and np.lib.NumpyVersion(np.__version__) >= "2.5.0":
        pytest.skip("this Triton's interpreter takes arrays of one element for numbers")
    command = [sys.executable, "-m", "pytest", "-q", "-k", "scan_triton", __file__]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-5000:]
