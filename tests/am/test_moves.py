import torch

from spikelens.am.box import Box
from spikelens.am.moves import Moves

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


def test_masses_are_sums_of_tilted_distributions():
    tilts = torch.rand(1, 2, 3, generator=torch.Generator().manual_seed(0)) + 0.1
    elites = torch.tensor([[[0, 1], [2, 0]]])
    masses = moves().masses(tilts, elites)
    for s, elite in enumerate(elites[0].tolist()):
        for mode, parent in enumerate(elite):
            own = tilts[0, mode, : SIZES[mode]]
            torch.testing.assert_close(masses[0, 0, mode, s], own[parent])
            for kind in range(3):
                wanted = (shares_of(kind, parent, mode) * own).sum()
                torch.testing.assert_close(masses[1 + kind, 0, mode, s], wanted)


def test_draws_follow_tilted_distributions():
    num, random = 50_000, torch.Generator().manual_seed(0)
    tilt = torch.tensor([1.0, 4.0, 0.5])
    for mode, parent in ((0, 1), (1, 0)):
        for kind in range(3):
            full = [torch.full((num,), value) for value in (kind, parent, mode)]
            by = torch.rand(num, generator=random)
            drawn = moves().draw(*full, tilt.expand(num, 3), by)
            wanted = shares_of(kind, parent, mode) * tilt[: SIZES[mode]]
            found = torch.bincount(drawn, minlength=SIZES[mode]) / num
            # Standard error at most .5 / sqrt(5e4) = .0022; 5 sigma.
            torch.testing.assert_close(found, wanted / wanted.sum(), atol=0.011, rtol=0)


def test_deviation_is_that_of_neighbours():
    values = torch.tensor([[[0.0, 1.0, 3.0], [2.0, 5.0, 0.0]]])
    # Neighbours of (0, 0): values 1 and 3 (variance 1); and 5 alone (variance 0).
    found = moves().deviation(values, torch.tensor([[0, 0]]))
    torch.testing.assert_close(found, torch.tensor([0.5]).sqrt())
