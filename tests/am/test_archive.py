import pytest
import torch

from spikelens.am.activations import Response
from spikelens.am.archive import Archive


def offer(archive, indices, scores):
    scores = torch.tensor(scores)
    archive.add(torch.tensor(indices), Response(scores * 10, scores))


def test_every_neuron_keeps_its_own_best_of_the_pool():
    archive = Archive(num_neurons=2, num_modes=2, capacity=2)
    offer(archive, [[0, 0], [0, 1], [1, 0]], [[1.0, 9.0], [2.0, 8.0], [3.0, 7.0]])
    assert archive.indices.tolist() == [[[1, 0], [0, 1]], [[0, 0], [0, 1]]]
    assert archive.scores.tolist() == [[3.0, 2.0], [9.0, 8.0]]
    assert archive.activations.tolist() == [[30.0, 20.0], [90.0, 80.0]]
    offer(archive, [[1, 1]], [[2.5, 0.0]])
    assert archive.indices.tolist() == [[[1, 0], [1, 1]], [[0, 0], [0, 1]]]
    assert archive.best.tolist() == [3.0, 9.0]


def test_a_multi_index_is_kept_once():
    archive = Archive(1, 3, capacity=4)
    for _ in range(2):
        offer(archive, [[1, 2, 3], [1, 2, 3], [3, 2, 1]], [[0.5], [0.5], [0.4]])
    assert archive.scores.tolist()[0][:2] == pytest.approx([0.5, 0.4])
    assert not archive.scores[0, 2:].isfinite().any()


def test_what_is_not_finite_is_never_kept():
    archive = Archive(1, 1, capacity=3)
    offer(archive, [[0], [1], [2]], [[float("nan")], [float("inf")], [0.0]])
    assert archive.indices[0, 0].tolist() == [2]
    assert archive.scores.isfinite().sum() == 1


@pytest.mark.parametrize("name", ["num_neurons", "num_modes", "capacity"])
def test_sizes_must_be_positive(name):
    sizes = {"num_neurons": 1, "num_modes": 1, "capacity": 1} | {name: 0}
    with pytest.raises(ValueError, match=f"`{name}` must be a positive integer, but got 0"):
        Archive(**sizes)


def test_what_is_not_kept_is_forgotten_by_that_neuron_alone():
    archive = Archive(num_neurons=2, num_modes=2, capacity=3)
    offer(archive, [[0, 0], [0, 1], [1, 0]], [[1.0, 9.0], [2.0, 8.0], [3.0, 7.0]])
    archive.keep(torch.tensor([[False, True, True], [True, False, True]]))
    assert archive.indices[:, :2].tolist() == [[[0, 1], [0, 0]], [[0, 0], [1, 0]]]
    assert archive.scores.tolist() == [[2.0, 1.0, -torch.inf], [9.0, 7.0, -torch.inf]]
    assert archive.activations.tolist() == [[20.0, 10.0, 0.0], [90.0, 70.0, 0.0]]
    offer(archive, [[1, 0]], [[0.5, 0.5]])  # forgotten, so it may come back; known to neuron 1
    assert archive.scores.tolist() == [[2.0, 1.0, 0.5], [9.0, 7.0, -torch.inf]]
