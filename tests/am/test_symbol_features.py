import torch

from spikelens.am.box import Box
from spikelens.am.symbol_features import symbol_features


class Embedded(Box):
    """A box whose symbols stand for vectors; the last mode has fewer symbols."""

    def __init__(self, vectors, sizes, prior=None):
        super().__init__(sizes, prior=prior)
        self.vectors = vectors

    def embed(self, indices):
        return self.vectors[indices]


def vectors(num, width, seed=0):
    return torch.randn(num, width, generator=torch.Generator().manual_seed(seed))


def test_a_small_embedding_is_centred_and_no_more():
    space = Embedded(vectors(5, 3), (5, 5))
    features = symbol_features(space)
    wanted = space.vectors - space.vectors.mean(0)
    torch.testing.assert_close(features, wanted.expand(2, 5, 3))


def test_a_large_one_is_reduced_to_the_kernels_principal_components():
    prior = torch.tensor([0.1, 0.2, 0.3, 0.1, 0.2, 0.1])
    space = Embedded(vectors(6, 20), (6, 6), prior=[prior, prior])
    features = symbol_features(space)[0].double()
    distances = torch.cdist(space.vectors, space.vectors).square().double()
    share = prior.double()
    kernel = (-distances / (8.0 * (share @ distances @ share))).exp()
    centred = torch.eye(6) - share.expand(6, 6)
    # Six symbols have five components: nothing is lost, so that inner products are the kernel's.
    wanted = centred @ kernel @ centred.T
    torch.testing.assert_close(features @ features.T, wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(share @ features, torch.zeros(6).double(), atol=1e-5, rtol=0)


def test_at_most_eight_components_stay_and_near_symbols_are_near():
    space = Embedded(vectors(40, 20), (40, 40))
    space.vectors[7] = space.vectors[3] + 1e-3
    features = symbol_features(space)
    assert features.shape == (2, 40, 8)
    assert (features[0, 7] - features[0, 3]).norm() < 0.01 * features[0].norm(dim=1).mean()


def test_modes_of_fewer_symbols_repeat_their_last_one():
    features = symbol_features(Embedded(vectors(5, 20), (5, 3)))
    assert features.shape[:2] == (2, 5)
    assert torch.equal(features[1, 3:], features[1, 2].expand(2, -1))
    torch.testing.assert_close(features[1, :3], features[0, :3])


def test_symbols_that_all_stand_for_the_same_tell_nothing():
    features = symbol_features(Embedded(torch.ones(4, 20), (4, 4)))
    torch.testing.assert_close(features, torch.zeros_like(features), atol=1e-4, rtol=0)
