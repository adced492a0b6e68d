import copy

import pytest
import snntorch
import torch
from torch import nn

from spikelens.models.lif import LIF, SpikingLayer, _derivative

RESETS = ["subtract", "zero", "none"]


def snntorch_scan(current, num_steps, **neuron):
    """Spikes and membranes of `snntorch.Leaky`, called once a step as its tutorials do."""
    leaky = snntorch.Leaky(**neuron)
    membrane, spikes, membranes = torch.zeros_like(current[0]), [], []
    for t in range(num_steps):
        spike, membrane = leaky(current[t if len(current) > 1 else 0], membrane)
        spikes.append(spike)
        membranes.append(membrane)
    return torch.stack(spikes), torch.stack(membranes)


def currents(num_frames, *shape):
    random = torch.Generator().manual_seed(3)
    return 0.2 + 0.6 * torch.randn(num_frames, *shape, generator=random)


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("num_frames", [128, 1])
def test_spikes_are_those_of_snntorch_bit_for_bit(reset, num_frames):
    current = currents(num_frames, 5, 3, 4, 4)
    layer = LIF(128, beta=0.93, threshold=0.7, reset=reset)
    spikes, membranes = snntorch_scan(current, 128, beta=0.93, threshold=0.7, reset_mechanism=reset)
    assert 0.05 < spikes.mean() < 0.95
    learned = layer(current)
    assert learned.membrane is None
    assert torch.equal(learned.spikes, spikes)
    with torch.no_grad():
        counted = layer(current)
    assert torch.equal(counted.spikes.float(), spikes)
    torch.testing.assert_close(counted.rate, spikes.mean(0))
    torch.testing.assert_close(counted.membrane, membranes.mean(0))


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("num_frames", [16, 1])
def test_gradients_are_those_of_snntorch(reset, num_frames):
    ours = currents(num_frames, 4, 6).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    weights = torch.randn(16, 4, 6, generator=torch.Generator().manual_seed(1))
    surrogate = snntorch.surrogate.fast_sigmoid(slope=10)
    (LIF(16, 0.8, surrogate=surrogate, reset=reset)(ours).spikes * weights).sum().backward()
    spikes, _ = snntorch_scan(theirs, 16, beta=0.8, spike_grad=surrogate, reset_mechanism=reset)
    (spikes * weights).sum().backward()
    assert theirs.grad.abs().max() > 0
    torch.testing.assert_close(ours.grad, theirs.grad)


# Current 3/4, beta 1/2, threshold 1: every number is exact in binary.
# subtract: 3/4, 9/8*, 9/16 + 3/4 - 1 = 5/16, 29/32, 77/64*, 77/128 + 3/4 - 1 = 45/128.
# zero:     3/4, 9/8*, 3/4, 9/8*, 3/4, 9/8*.
# none:     3/4, 9/8*, 21/16*, 45/32*, 93/64*, 189/128*.
BY_HAND = {
    "subtract": ([0, 1, 0, 0, 1, 0], [3 / 4, 9 / 8, 5 / 16, 29 / 32, 77 / 64, 45 / 128]),
    "zero": ([0, 1, 0, 1, 0, 1], [3 / 4, 9 / 8] * 3),
    "none": ([0, 1, 1, 1, 1, 1], [3 / 4, 9 / 8, 21 / 16, 45 / 32, 93 / 64, 189 / 128]),
}


@pytest.mark.parametrize("reset", RESETS)
def test_six_steps_by_hand(reset):
    spikes, membranes = BY_HAND[reset]
    layer = LIF(6, beta=0.5, reset=reset)
    current = torch.full((1, 1, 1), 0.75)
    assert layer(current).spikes.flatten().tolist() == spikes
    with torch.no_grad():
        scan = layer(current)
    assert scan.spikes.flatten().tolist() == spikes
    torch.testing.assert_close(scan.membrane.item(), sum(membranes) / 6)


def test_a_membrane_at_the_threshold_is_silent():
    with torch.no_grad():
        assert LIF(5, beta=0.0)(torch.ones(1, 1, 1)).spikes.sum() == 0
    assert LIF(5, beta=0.0)(torch.ones(1, 1, 1)).spikes.sum() == 0


def test_every_call_starts_at_rest():
    layer = LIF(12)
    first, other = currents(12, 3, 4), currents(12, 5, 2) + 1.0
    learned = layer(first).spikes
    layer(other)
    with torch.no_grad():
        counted = layer(first)
        layer(other)
        again = layer(first)
    assert torch.equal(layer(first).spikes, learned)
    assert torch.equal(counted.spikes, learned)
    assert torch.equal(again.membrane, counted.membrane)


def test_the_module_holds_no_graph_after_a_training_step():
    layer = SpikingLayer(nn.Linear(3, 2), 4)
    layer(torch.rand(1, 5, 3)).spikes.sum().backward()
    # torch refuses to copy a tensor that belongs to a graph.
    twin = copy.deepcopy(layer)
    assert twin.leaky.mem.numel() == 0
    assert all(not name.endswith("mem") for name in layer.state_dict())


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("shape", [(3, 2**16 + 5), (7, 2**14 + 1), (2**16 + 3, 1)])
def test_slices_of_the_batch_change_nothing(reset, shape):
    current = currents(3, *shape)
    layer = LIF(3, reset=reset)
    with torch.no_grad():
        scan = layer(current)
    spikes, membranes = snntorch_scan(current, 3, beta=0.9, reset_mechanism=reset)
    assert torch.equal(scan.spikes, spikes)
    torch.testing.assert_close(scan.membrane, membranes.mean(0))


def test_the_synapse_sees_time_folded_and_a_constant_input_once():
    class Spy(nn.Module):
        def forward(self, inputs):
            self.seen = tuple(inputs.shape)
            return inputs * 2.0

    layer = SpikingLayer(Spy(), 4, beta=0.5)
    frames = currents(4, 3, 2)
    scan = layer(frames)
    assert layer.synapse.seen == (12, 2)
    assert torch.equal(scan.spikes, LIF(4, beta=0.5)(frames * 2.0).spikes)
    still = layer(frames[:1]).spikes
    assert layer.synapse.seen == (3, 2)
    assert torch.equal(still, layer(frames[:1].expand(4, -1, -1)).spikes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_steps": 0}, "`num_steps` must be a positive integer, but got 0"),
        ({"num_steps": -2}, "`num_steps` must be a positive integer, but got -2"),
        ({"beta": 1.1}, r"`beta` must lie in \[0, 1\], but got 1.1"),
        ({"beta": -0.1}, r"`beta` must lie in \[0, 1\], but got -0.1"),
        ({"beta": float("nan")}, r"`beta` must lie in \[0, 1\], but got nan"),
        ({"threshold": 0.0}, "`threshold` must be positive, but got 0.0"),
        ({"reset": "hard"}, "`reset` must be 'subtract', 'zero' or 'none', but got 'hard'"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LIF(**{"num_steps": 4, **arguments})


def per_unit(units):
    """Betas and thresholds that differ from unit to unit, for maps `(units, H, W)`."""
    random = torch.Generator().manual_seed(8)
    beta, level = torch.rand(2, units, 1, 1, generator=random)
    return 0.6 + 0.4 * beta, 0.4 + 0.6 * level


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("is_delayed", [True, False], ids=["delayed", "immediate"])
@pytest.mark.parametrize("num_frames", [16, 1])
def test_units_of_their_own_are_those_of_snntorch(reset, is_delayed, num_frames):
    beta, threshold = per_unit(3)
    current = currents(num_frames, 5, 3, 4, 2)
    layer = LIF(16, beta, threshold, reset=reset, is_delayed=is_delayed)
    with torch.no_grad():
        spikes, membranes = snntorch_scan(
            current,
            16,
            beta=beta,
            threshold=threshold,
            reset_mechanism=reset,
            reset_delay=is_delayed,
        )
        counted = layer(current)
        kept = layer(current, keeps_membranes=True)
    learned = layer(current, keeps_membranes=True)
    assert 0.05 < spikes.mean() < 0.95
    for scan in (counted, kept, learned):
        assert torch.equal(scan.spikes.float(), spikes)
    assert counted.membranes is None
    assert kept.rate is None
    assert torch.equal(kept.membranes, membranes)
    assert torch.equal(learned.membranes, membranes)
    assert torch.equal(counted.rate, spikes.mean(0))  # T is a power of two: exact
    if is_delayed or reset == "none":
        torch.testing.assert_close(counted.membrane, membranes.mean(0))


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("is_delayed", [True, False], ids=["delayed", "immediate"])
@pytest.mark.parametrize("num_frames", [12, 1])
@pytest.mark.parametrize("is_per_unit", [True, False], ids=["each", "one"])
def test_learned_constants_have_the_gradients_of_snntorch(
    reset, is_delayed, num_frames, is_per_unit
):
    beta, threshold = per_unit(3) if is_per_unit else (torch.tensor(0.8), torch.tensor(0.6))
    surrogate = snntorch.surrogate.fast_sigmoid(slope=5)
    layer = LIF(12, beta, threshold, surrogate, reset, is_delayed, True, True)
    ours = currents(num_frames, 4, 3, 2, 2).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    leaky = snntorch.Leaky(
        beta=beta.clone(),
        threshold=threshold.clone(),
        spike_grad=surrogate,
        learn_beta=True,
        learn_threshold=True,
        reset_mechanism=reset,
        reset_delay=is_delayed,
    )
    random = torch.Generator().manual_seed(1)
    for_spikes, for_membranes = torch.randn(2, 12, 4, 3, 2, 2, generator=random)

    scan = layer(ours, keeps_membranes=True)
    ((scan.spikes * for_spikes).sum() + (scan.membranes * for_membranes).sum()).backward()
    loss, membrane = torch.zeros(()), torch.zeros_like(theirs[0])
    for t in range(12):
        spike, membrane = leaky(theirs[min(t, num_frames - 1)], membrane)
        loss = loss + (spike * for_spikes[t]).sum() + (membrane * for_membranes[t]).sum()
    loss.backward()
    pairs = [(ours, theirs), (layer.leaky.beta, leaky.beta)]
    for found, wanted in [*pairs, (layer.leaky.threshold, leaky.threshold)]:
        assert found.grad.shape == wanted.grad.shape
        scale = float(wanted.grad.abs().max())
        assert scale > 0.01
        # Sums of some 10^2 float32 terms in another order.
        torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-5, atol=2e-6 * scale)


def test_constants_are_parameters_only_where_they_are_learned():
    fixed, learned = LIF(4), LIF(4, learns_beta=True, learns_threshold=True)
    assert list(fixed.parameters()) == []
    assert sorted(n for n, _ in learned.named_parameters()) == ["leaky.beta", "leaky.threshold"]
    assert set(fixed.state_dict()) == set(learned.state_dict())


def test_a_beta_that_learned_too_much_is_clamped():
    current = currents(8, 3, 5)
    for wild, tame in ((1.3, 1.0), (-0.2, 0.0)):
        layer = LIF(8, learns_beta=True)
        with torch.no_grad():
            layer.leaky.beta.fill_(wild)
        scan = layer(current)
        assert torch.equal(scan.spikes, LIF(8, tame)(current).spikes)
        scan.spikes.sum().backward()
        assert layer.leaky.beta.grad == 0.0


# Current 3/4, beta 1/2, threshold 1, as above, but the reset comes with the spike:
# subtract: 3/4, 9/8* -> 1/8, 13/16, 37/32* -> 5/32, 53/64, 149/128*.
# zero:     3/4, 9/8* -> 0, 3/4, 9/8* -> 0, 3/4, 9/8*.
AT_ONCE = {
    "subtract": ([0, 1, 0, 1, 0, 1], [3 / 4, 9 / 8, 13 / 16, 37 / 32, 53 / 64, 149 / 128]),
    "zero": ([0, 1, 0, 1, 0, 1], [3 / 4, 9 / 8] * 3),
    "none": BY_HAND["none"],
}


@pytest.mark.parametrize("reset", RESETS)
def test_six_steps_of_immediate_resets_by_hand(reset):
    spikes, membranes = AT_ONCE[reset]
    layer = LIF(6, beta=0.5, reset=reset, is_delayed=False)
    current = torch.full((1, 1, 1), 0.75)
    learned = layer(current, keeps_membranes=True)
    with torch.no_grad():
        scan = layer(current)
    assert learned.spikes.flatten().tolist() == spikes
    assert scan.spikes.flatten().tolist() == spikes
    taken = [0.0 if reset == "none" else m if reset == "zero" else 1.0 for m in membranes]
    rested = [m - s * r for m, s, r in zip(membranes, spikes, taken, strict=True)]
    assert learned.membranes.flatten().tolist() == rested
    torch.testing.assert_close(scan.membrane.item(), sum(membranes) / 6)


@pytest.mark.parametrize("is_delayed", [True, False])
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("num_frames", [8, 1])
def test_without_spikes_the_means_are_the_same(reset, is_delayed, num_frames):
    current = currents(num_frames, 3, 2, 4)
    layer = LIF(8, reset=reset, is_delayed=is_delayed)
    with torch.no_grad():
        whole = layer(current)
        layer.keeps_spikes = False
        means = layer(current)
    assert means.spikes is None
    assert torch.equal(means.rate, whole.rate)
    assert torch.equal(means.membrane, whole.membrane)
    # Where gradients are recorded, spikes are what is wanted.
    assert torch.equal(layer(current).spikes, whole.spikes)


def test_what_is_asked_for_does_not_change_the_gradient():
    for_spikes = torch.randn(8, 3, 4, generator=torch.Generator().manual_seed(1))
    grads = []
    for keeps_membranes in (False, True):
        current = currents(8, 3, 4).requires_grad_()
        (LIF(8)(current, keeps_membranes).spikes * for_spikes).sum().backward()
        grads.append(current.grad)
    assert torch.equal(*grads)


@pytest.mark.parametrize("is_delayed", [True, False])
def test_membranes_alone_have_a_gradient(is_delayed):
    current = currents(8, 3, 4).requires_grad_()
    scan = LIF(8, 0.5, reset="none", is_delayed=is_delayed)(current, keeps_membranes=True)
    (grad,) = torch.autograd.grad(scan.membranes[-1].sum(), current)
    # Without a reset the last membrane is the sum of beta^(7 - t) I_t.
    assert torch.equal(grad, (0.5 ** torch.arange(7.0, -1.0, -1.0)).view(8, 1, 1).expand(8, 3, 4))


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("num_frames", [8, 1])
def test_means_can_be_kept_with_their_gradient(reset, num_frames):
    current = currents(num_frames, 3, 2, 4).requires_grad_()
    layer = LIF(8, reset=reset)
    assert layer(current).rate is None
    layer.keeps_means = True
    scan, steps = layer(current), layer(current, keeps_membranes=True)
    with torch.no_grad():
        counted = layer(current)
    torch.testing.assert_close(scan.rate.detach(), counted.rate)
    torch.testing.assert_close(scan.membrane.detach(), counted.membrane)
    for mean, values in ((scan.rate, steps.spikes), (scan.membrane, steps.membranes)):
        (grad,), (wanted,) = (
            torch.autograd.grad(x.sum(), current, retain_graph=True) for x in (mean, values.mean(0))
        )
        assert grad.any()
        torch.testing.assert_close(grad, wanted)


class Boxcar(torch.autograd.Function):
    """A user's own surrogate: slope 1/2 within a distance of 1."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x > 0).float()

    @staticmethod
    def backward(ctx, grad):
        return grad * 0.5 * (ctx.saved_tensors[0].abs() < 1.0)


def atan(x):
    """Take the name of one of snntorch's, but not its slope."""
    return Boxcar.apply(x)


OTHERS = {
    "sigmoid": snntorch.surrogate.sigmoid(slope=4),
    "triangular": snntorch.surrogate.triangular(threshold=2),
    "sparse": snntorch.surrogate.SFS(slope=2, B=1),
    "straight-through": snntorch.surrogate.straight_through_estimator(),
    "own": Boxcar.apply,
    "own-atan": atan,
    "lambda": lambda x: Boxcar.apply(2.0 * x),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("reset", RESETS)
def test_any_surrogate_has_the_gradients_of_snntorch(name, reset):
    surrogate = OTHERS[name]
    ours = currents(8, 4, 6).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    weights = torch.randn(8, 4, 6, generator=torch.Generator().manual_seed(1))
    (LIF(8, 0.8, surrogate=surrogate, reset=reset)(ours).spikes * weights).sum().backward()
    spikes, _ = snntorch_scan(theirs, 8, beta=0.8, spike_grad=surrogate, reset_mechanism=reset)
    (spikes * weights).sum().backward()
    assert theirs.grad.abs().max() > 0.01
    torch.testing.assert_close(ours.grad, theirs.grad)


def autograd_slope(surrogate, x):
    distance = x.clone().requires_grad_()
    surrogate(distance).sum().backward()
    return distance.grad


@pytest.mark.parametrize(
    "surrogate",
    [
        *(snntorch.surrogate.atan(alpha=alpha) for alpha in (0.5, 1, 2.0, 10.0)),
        *(snntorch.surrogate.fast_sigmoid(slope=slope) for slope in (1, 2.5, 25, 100.0)),
        snntorch.surrogate.atan(),
        snntorch.surrogate.fast_sigmoid(),
        snntorch.Leaky(beta=0.9).spike_grad,
        *OTHERS.values(),
    ],
)
def test_slopes_are_those_of_autograd(surrogate):
    x = torch.cat([torch.linspace(-3, 3, 61), torch.tensor([0.0, 1e-6, -1e-6, 20.0, -20.0])])
    ours = x.clone()
    _derivative(surrogate)(ours)
    # A handful of roundings.
    torch.testing.assert_close(ours, autograd_slope(surrogate, x), rtol=1e-6, atol=0.0)


def test_usual_surrogates_are_not_differentiated():
    # Slopes by formula: what autograd would call is taken away.
    for surrogate, kind in (
        (snntorch.surrogate.atan(alpha=3.0), "ATan"),
        (snntorch.surrogate.fast_sigmoid(slope=3), "FastSigmoid"),
    ):
        x = torch.linspace(-1, 1, 9)
        wanted = autograd_slope(surrogate, x)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(snntorch.surrogate, kind, None)
            _derivative(surrogate)(x)
        torch.testing.assert_close(x, wanted)


def test_the_slope_of_slices_is_that_of_the_whole():
    # More neurons than a slice holds.
    current = currents(2, 3, 2**15 + 3).requires_grad_()
    LIF(2, surrogate=Boxcar.apply)(current).spikes.sum().backward()
    rows = current.grad
    for n in range(3):
        alone = current.detach()[:, n : n + 1].clone().requires_grad_()
        LIF(2, surrogate=Boxcar.apply)(alone).spikes.sum().backward()
        assert torch.equal(alone.grad, rows[:, n : n + 1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("num_frames", [8, 1])
def test_half_currents_are_learned_from(dtype, num_frames):
    half = currents(num_frames, 3, 4).to(dtype).requires_grad_()
    full = half.detach().float().requires_grad_()
    for_spikes = torch.randint(-2, 3, (8, 3, 4), generator=torch.Generator().manual_seed(1))
    for current in (half, full):
        (LIF(8)(current).spikes * for_spikes).sum().backward()
    assert half.grad.dtype == dtype
    assert torch.equal(half.grad, full.grad.to(dtype))


@pytest.mark.parametrize("num_frames", [2, 3, 5])
def test_a_current_of_other_steps_is_refused(num_frames):
    layer = LIF(4)
    wanted = f"`current` must have 4 time steps, or 1 if constant, but got {num_frames}"
    with pytest.raises(ValueError, match=wanted):
        layer(torch.rand(num_frames, 2, 3))
    with torch.no_grad(), pytest.raises(ValueError, match=wanted):
        layer(torch.rand(num_frames, 2, 3))
