from types import SimpleNamespace

import pytest
import torch

from spikelens.am.mutation import KEEP, NEIGHBOUR, PRIOR, UNIFORM, Mutation, draw_kinds

KERNELS = [torch.tensor([[0.0, 0.7, 0.3], [1.0, 0.0, 0.0], [0.4, 0.6, 0.0]]), torch.eye(2).flip(0)]
PRIORS = [torch.tensor([0.6, 0.1, 0.3]), torch.tensor([0.8, 0.2])]


def mutation():
    space = SimpleNamespace(mode_sizes=(3, 2), prior=PRIORS, neighbours=lambda mode: KERNELS[mode])
    return Mutation(space, torch.device("cpu"))


@pytest.mark.parametrize("old", [(0, 0), (1, 1), (2, 0)])
@pytest.mark.parametrize("kind", [KEEP, NEIGHBOUR, PRIOR, UNIFORM])
def test_symbols_are_drawn_as_their_kind_says(kind, old):
    num = 50_000
    indices = torch.tensor(old).expand(num, 2)
    kinds = torch.full((num, 2), kind)
    found = mutation()(indices, kinds, torch.Generator().manual_seed(0))
    for mode, size in enumerate((3, 2)):
        wanted = {
            KEEP: torch.eye(size)[old[mode]],
            NEIGHBOUR: KERNELS[mode][old[mode]],
            PRIOR: PRIORS[mode],
            UNIFORM: torch.full((size,), 1 / size),
        }[kind]
        shares = torch.bincount(found[:, mode], minlength=size) / num
        # Standard error at most sqrt(.25 / 5e4) = .0022; five of them.
        torch.testing.assert_close(shares, wanted, atol=0.0112, rtol=0)


def test_each_symbol_has_a_kind_of_its_own():
    indices, kinds = torch.tensor([[1, 0], [1, 0]]), torch.tensor([[KEEP, NEIGHBOUR]] * 2)
    found = mutation()(indices, kinds, torch.Generator().manual_seed(0))
    assert found.tolist() == [[1, 1], [1, 1]]


def test_kinds_come_in_the_shares_of_each_neuron_s_mix():
    mix = torch.tensor([[0.5, 0.3, 0.2], [0.0, 0.0, 1.0]])
    rates = torch.tensor([[0.1], [0.8]]).expand(2, 400)
    kinds = draw_kinds(mix, rates, 100, torch.Generator().manual_seed(0))
    assert kinds.shape == (2, 400, 100)
    for neuron in range(2):
        shares = torch.bincount(kinds[neuron].flatten() - KEEP, minlength=4) / 40_000
        rate = rates[neuron, :1]
        wanted = torch.cat([1 - rate, rate * mix[neuron]])
        # Standard error at most sqrt(.25 / 4e4) = .0025; five of them.
        torch.testing.assert_close(shares, wanted, atol=0.0125, rtol=0)
