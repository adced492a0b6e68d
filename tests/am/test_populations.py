import itertools

import pytest
import torch

from spikelens.am.neurons import Neuron, Population, Term, parse_neurons
from spikelens.am.populations import PopulationSums, smallest_step

UNITS = {"conv2": 8, "fc1": 4}
SINGLES = [Neuron("fc1", 0), Neuron("conv2", 3), Neuron("conv2", 7, "latency")]


def sums_of(*names):
    return PopulationSums(parse_neurons(names, UNITS), SINGLES, torch.device("cpu"))


def test_sums_by_hand_whatever_their_lengths():
    sums = sums_of("2*fc1:0", "0.5*conv2:3-0.25*fc1:0+conv2:7@latency", "conv2:3+conv2:3")
    activations = torch.tensor([[0.5, 0.25, 1.0], [0.0, 0.75, 0.5]])
    found, _ = sums(activations, torch.zeros(2, 3), [4, 4, 4])
    torch.testing.assert_close(found, torch.tensor([[1.0, 1.0, 0.5], [0.0, 0.875, 1.5]]))


@pytest.mark.parametrize(
    ("weights", "resolutions"),
    [
        *(((0.5, 0.5), (4, 4)), ((1.0, -0.25), (2, 3)), ((0.3, -0.2, 0.1), (2, 4, 3))),
        *(((3.0,), (4,)), ((2.0, 4.0), (1, 3)), ((0.15, 0.1), (4, 1))),
    ],
)
def test_the_smallest_step_is_a_divisor_of_all_differences(weights, resolutions):
    grids = [
        [weight * n / resolution for n in range(resolution + 1)]
        for weight, resolution in zip(weights, resolutions, strict=True)
    ]
    values = sorted({round(sum(each), 9) for each in itertools.product(*grids)})
    least = min(b - a for a, b in itertools.pairwise(values))
    step = smallest_step([Term(w, Neuron("fc1", 0)) for w in weights], resolutions)
    assert 0.0 < step <= least + 1e-9
    multiples = [(value - values[0]) / step for value in values]
    assert multiples == pytest.approx([round(multiple) for multiple in multiples], abs=1e-6)


def draw(resolutions, num_images=300):
    random = torch.Generator().manual_seed(0)
    counts = [torch.randint(n + 1, (num_images,), generator=random) for n in resolutions]
    activations = torch.stack([c / n for c, n in zip(counts, resolutions, strict=True)], 1)
    return activations, 20.0 * torch.randn(num_images, 3, generator=random)


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("0.5*fc1:0+0.5*conv2:3", (0.5, 0.5, 0.0)),
        ("fc1:0-0.75*conv2:3+2*conv2:7@latency", (1.0, -0.75, 2.0)),
        ("0.33*fc1:0-0.31*conv2:3", (0.33, -0.31, 0.0)),
    ],
)
def test_weighted_membranes_order_equal_sums_and_no_others(name, weights):
    resolutions = [4, 8, 4]
    activations, levels = draw(resolutions)
    sums, scores = (x[:, 0] for x in sums_of(name)(activations, levels, resolutions))
    # In whole steps of 1 / 3200, so that what is equal is so without rounding.
    exact = (activations.double() * torch.tensor(weights).double() * 3200).round().sum(1)
    torch.testing.assert_close(sums, (exact / 3200).float())
    level = (levels * torch.tensor(weights)).sum(1)
    is_less = exact[:, None] < exact
    assert (scores[:, None] < scores)[is_less].all()
    is_lower = (exact[:, None] == exact) & (level[:, None] < level - 0.5)
    assert is_lower.sum() > 300
    assert (scores[:, None] <= scores)[is_lower].all()
    assert (scores[:, None] < scores)[is_lower].float().mean() > 0.95  # all but the rounded ones


def test_weights_that_make_sums_dense_leave_ties_and_overturn_nothing():
    name = "0.3333333*fc1:0+0.5*conv2:3"
    resolutions = [4, 8, 4]
    activations, levels = draw(resolutions)
    sums, scores = (x[:, 0] for x in sums_of(name)(activations, levels, resolutions))
    assert (scores[:, None] <= scores)[sums[:, None] < sums].all()
    torch.testing.assert_close(scores, sums, rtol=0, atol=1e-7)


def test_a_neuron_of_any_activation_leaves_ties():
    sums, scores = sums_of("fc1:0+conv2:3")(*draw([4, 4, 4]), [4, 0, 4])
    assert torch.equal(sums, scores)


@pytest.mark.parametrize("name", ["0.1*fc1:0+0.2*conv2:3+0.7*conv2:7@latency", "0.3*fc1:0"])
def test_full_activity_is_the_ceiling_to_the_last_bit(name):
    (population,) = parse_neurons(name, UNITS)
    sums, _ = sums_of(name)(torch.ones(1, 3), torch.zeros(1, 3), [4, 4, 4])
    assert torch.equal(sums[0], torch.tensor([population.ceiling]))


def test_a_population_of_none_is_refused():
    with pytest.raises(ValueError, match="`terms` must hold at least one neuron"):
        Population(())
