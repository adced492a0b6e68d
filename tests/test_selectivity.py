import math

import pytest
import torch
from torchmetrics.classification import BinaryAUROC

from spikelens.selectivity import (
    auroc,
    class_means,
    class_selectivity_index,
    lifetime_sparseness,
    measure,
)


@pytest.fixture
def data():
    """40 images of four classes; six neurons with few levels, hence many ties; one silent."""
    random = torch.Generator().manual_seed(0)
    responses = torch.randint(0, 5, (40, 6), generator=random) / 4
    responses[:, 3] = 0.0
    return responses, torch.randint(0, 4, (40,), generator=random)


def test_class_means_by_the_plain_loop(data):
    responses, labels = data
    means = class_means(responses, labels, 5)
    for c in range(4):
        torch.testing.assert_close(means[c], responses[labels == c].mean(0))
    assert means.shape == (5, 6)
    assert means[4].isnan().all()


def test_class_selectivity_by_hand():
    means = torch.tensor([[0.9, 0.5, 0.2, 1.0], [0.3, 0.5, 0.6, 0.0], [0.1, 0.5, 0.0, 0.0]])
    # (.9 - .2) / (.9 + .2); all alike; (.6 - .1) / (.6 + .1); one class only.
    wanted = torch.tensor([7 / 11, 0.0, 5 / 7, 1.0])
    torch.testing.assert_close(class_selectivity_index(means), wanted)
    torch.testing.assert_close(class_selectivity_index(means[torch.tensor([2, 0, 1])]), wanted)
    torch.testing.assert_close(class_selectivity_index(means * 0.1), wanted)


def test_a_class_without_images_is_left_out():
    means = torch.tensor([[0.9], [0.3], [0.1]])
    absent = torch.cat([means[:1], torch.full((1, 1), torch.nan), means[1:]])
    assert torch.equal(class_selectivity_index(absent), class_selectivity_index(means))
    assert class_selectivity_index(torch.zeros(3, 1)).isnan().all()
    responses, labels = torch.tensor([[0.9], [0.3], [0.1]]), torch.tensor([0, 2, 3])
    found = measure(responses, labels, 5)
    assert found.class_selectivity.item() == pytest.approx(7 / 11)
    assert found.preferred.tolist() == [0]


def test_auroc_is_that_of_torchmetrics_with_ties(data):
    responses, labels = data
    preferred = torch.tensor([0, 1, 2, 3, 0, 1])
    found = auroc(responses.double(), labels, preferred)
    for k in range(6):
        wanted = BinaryAUROC()(responses[:, k], (labels == preferred[k]).long())
        assert found[k].item() == pytest.approx(wanted.item(), abs=1e-6)


def test_auroc_is_the_share_of_pairs_won(data):
    responses, labels = data
    preferred = torch.tensor([3, 3, 0, 1, 2, 2])
    for k, found in enumerate(auroc(responses.double(), labels, preferred)):
        inside = responses[labels == preferred[k], k]
        outside = responses[labels != preferred[k], k]
        difference = inside[:, None] - outside[None]
        wanted = (difference > 0).float().mean() + 0.5 * (difference == 0).float().mean()
        assert found.item() == pytest.approx(wanted.item(), abs=1e-6)


def test_auroc_of_perfect_reversed_constant_and_missing():
    labels = torch.tensor([0, 0, 1, 1, 1])
    responses = torch.tensor(
        [[0.1, 0.9, 0.4], [0.2, 0.8, 0.4], [0.7, 0.1, 0.4], [0.8, 0.0, 0.4], [0.9, 0.0, 0.4]]
    )
    assert auroc(responses, labels, torch.tensor([1, 1, 1])).tolist() == [1.0, 0.0, 0.5]
    assert auroc(responses, labels, torch.tensor([2, 2, 2])).isnan().all()
    assert auroc(responses, labels * 0, torch.tensor([0, 0, 0])).isnan().all()


def test_lifetime_sparseness_in_closed_form():
    num = 10
    constant, one_hot, half = torch.full((num,), 0.3), torch.zeros(num), torch.zeros(num)
    one_hot[4], half[:5] = 0.7, 1.0
    found = lifetime_sparseness(
        torch.stack([constant, one_hot, half, torch.zeros(num)], 1).double()
    )
    # Half of the images alike: A = 1/2, so (1/2) / (9/10).
    wanted = torch.tensor([0.0, 1.0, 5 / 9, torch.nan], dtype=torch.float64)
    torch.testing.assert_close(found, wanted, equal_nan=True, atol=1e-6, rtol=0)


def test_lifetime_sparseness_knows_the_coefficient_of_variation(data):
    # mean(r^2) = mean^2 (1 + cv^2), hence 1 - A = cv^2 / (1 + cv^2).
    responses = data[0][:, [0, 1, 2, 4, 5]].double()
    squared = responses.var(0, correction=0) / responses.mean(0) ** 2
    wanted = squared / (1 + squared) / (1 - 1 / 40)
    torch.testing.assert_close(lifetime_sparseness(responses), wanted)
    torch.testing.assert_close(lifetime_sparseness(responses * 0.01), wanted)


def test_all_measures_at_once(data):
    responses, labels = data
    found = measure(responses, labels, 4)
    means = class_means(responses, labels, 4)
    heard = torch.tensor([0, 1, 2, 4, 5])
    assert torch.equal(found.preferred[heard], means.argmax(0)[heard])
    torch.testing.assert_close(
        found.class_selectivity[heard], class_selectivity_index(means)[heard]
    )
    torch.testing.assert_close(
        found.lifetime_sparseness[heard], lifetime_sparseness(responses)[heard]
    )
    for k in heard.tolist():
        wanted = BinaryAUROC()(responses[:, k], (labels == found.preferred[k]).long())
        assert found.auroc[k].item() == pytest.approx(wanted.item(), abs=1e-6)
    for values in (found.class_selectivity, found.auroc, found.lifetime_sparseness):
        assert values.dtype == torch.float32
        assert ((values[heard] >= 0) & (values[heard] <= 1)).all()


def test_a_silent_neuron_prefers_nothing(data):
    found = measure(*data, 4)
    assert found.is_silent.tolist() == [False, False, False, True, False, False]
    assert found.preferred[3] == -1
    assert math.isnan(found.class_selectivity[3])
    assert math.isnan(found.auroc[3])
    assert math.isnan(found.lifetime_sparseness[3])


def test_the_order_of_the_images_does_not_matter(data):
    responses, labels = data
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    one, other = measure(responses, labels, 4), measure(responses[order], labels[order], 4)
    assert torch.equal(one.preferred, other.preferred)
    torch.testing.assert_close(one.auroc, other.auroc, equal_nan=True)


def test_a_label_for_each_response(data):
    responses, labels = data
    with pytest.raises(ValueError, match="each of the 40 responses, but got 39"):
        measure(responses, labels[:-1], 4)
