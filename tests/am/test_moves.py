import torch

from spikelens.am.box import Box
from spikelens.am.moves import KEEP, NEIGHBOUR, PRIOR, UNIFORM, Moves

SIZES = (3, 2)
PRIORS = [torch.tensor([0.2, 0.3, 0.5]), torch.tensor([0.9, 0.1])]


def moves():
    return Moves(Box(SIZES, prior=PRIORS))


def shares_of(kind, parent, mode):
    """The distribution of a mutation, by hand."""
    size = SIZES[mode]
    near = torch.full((size,), 1 / (size - 1))
    near[parent] = 0.0
    return (near, PRIORS[mode], torch.full((size,), 1 / size))[kind]


def test_mutations_follow_their_distributions():
    num, random = 50_000, torch.Generator().manual_seed(0)
    for mode, parent in ((0, 1), (1, 0)):
        for kind in (NEIGHBOUR, PRIOR, UNIFORM):
            parents = torch.zeros(1, num, 2, dtype=torch.int64)
            parents[..., mode] = parent
            kinds = torch.full_like(parents, KEEP)
            kinds[..., mode] = kind
            drawn = moves().mutate(parents, kinds, random)[0]
            found = torch.bincount(drawn[:, mode], minlength=SIZES[mode]) / num
            # Standard error at most .5 / sqrt(5e4) = .0022; 5 sigma.
            wanted = shares_of(kind, parent, mode)
            torch.testing.assert_close(found, wanted, atol=0.011, rtol=0)
            assert not drawn[:, 1 - mode].any()  # kept
