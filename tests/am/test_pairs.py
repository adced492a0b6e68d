import torch

from spikelens.am.pairs import Pairs

# Of the second group mode 1 has two partners.
RELATIONS = [torch.tensor([[0, 1], [1, 2]]), torch.tensor([[0, 2], [1, 2], [1, 0]])]


def test_slopes_are_the_derivative_of_the_forms():
    random = torch.Generator().manual_seed(0)
    features = torch.randn(2, 4, 3, 5, generator=random, requires_grad=True)
    couplings = [torch.randn(2, 5, 5, generator=random) for _ in RELATIONS]
    forms = sum(
        torch.einsum("kbi,kij,kbj->", features[:, :, left], coupling, features[:, :, right])
        for pairs, coupling in zip(RELATIONS, couplings, strict=True)
        for left, right in pairs.tolist()
    )
    (wanted,) = torch.autograd.grad(forms, features)
    pairs, slopes = Pairs(RELATIONS), torch.ones(2, 4, 3, 5)
    pairs.add_slopes(slopes, features.detach(), pairs.wide(couplings))
    torch.testing.assert_close(slopes, 1 + wanted)


def test_products_make_up_the_forms():
    features = torch.randn(1, 2, 3, 4, generator=torch.Generator().manual_seed(1))
    for pairs, found in zip(RELATIONS, Pairs(RELATIONS).products(features), strict=True):
        each = [features[:, :, i, :, None] * features[:, :, j, None] for i, j in pairs.tolist()]
        torch.testing.assert_close(found, sum(each).flatten(2))


def test_there_may_be_none():
    assert Pairs([]).products(torch.ones(1, 2, 3, 4)) == []
