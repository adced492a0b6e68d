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


@pytest.mark.parametrize("capacity", [1, 5, 40])
@pytest.mark.parametrize("is_pooled", [True, False])
def test_it_holds_what_a_dictionary_would_hold(capacity, is_pooled):
    """Against each neuron's own dictionary from multi-index to score, over many additions."""
    random = torch.Generator().manual_seed(0)
    num_neurons, sizes = 3, (3, 2, 4)
    # Few points, many times: each has one score a neuron, some of them none.
    table = torch.rand(num_neurons, *sizes, generator=random)
    table[table < 0.2] = torch.nan
    archive = Archive(num_neurons, 3, capacity)
    known = [{} for _ in range(num_neurons)]
    for _ in range(12):
        points = torch.stack([torch.randint(n, (9,), generator=random) for n in sizes], 1)
        scores = table[:, *points.T].T
        if not is_pooled:
            owner = torch.randint(num_neurons, (9, 1), generator=random)
            scores = scores.where(owner == torch.arange(num_neurons), torch.nan)
        archive.add(points, Response(scores * 10, scores))
        for neuron, own in enumerate(known):
            rows = zip(map(tuple, points.tolist()), scores[:, neuron].tolist(), strict=True)
            own.update((point, score) for point, score in rows if score == score)
    for neuron, own in enumerate(known):
        best = sorted(own.items(), key=lambda pair: -pair[1])[:capacity]
        kept = archive.scores[neuron].isfinite()
        assert list(map(tuple, archive.indices[neuron][kept].tolist())) == [p for p, _ in best]
        assert archive.scores[neuron][kept].tolist() == [score for _, score in best]
        torch.testing.assert_close(
            archive.activations[neuron][kept], archive.scores[neuron][kept] * 10
        )


def test_an_archive_in_double_precision_tells_apart_what_floats_do_not():
    archive = Archive(1, 1, capacity=2, dtype=torch.float64)
    scores = torch.tensor([[1e9], [1e9 + 1]], dtype=torch.float64)
    archive.add(torch.tensor([[0], [1]]), Response(scores, scores))
    assert archive.scores.tolist() == [[1e9 + 1, 1e9]]
    assert archive.activations.dtype == torch.float64


def test_what_overflows_in_the_archives_type_is_never_kept():
    archive = Archive(1, 1, capacity=2)
    scores = torch.tensor([[1e300], [1.0]], dtype=torch.float64)
    archive.add(torch.tensor([[0], [1]]), Response(scores, scores))
    assert archive.scores.tolist() == [[1.0, -torch.inf]]


def test_what_is_not_kept_is_forgotten_by_that_neuron_alone():
    archive = Archive(num_neurons=2, num_modes=2, capacity=3)
    offer(archive, [[0, 0], [0, 1], [1, 0]], [[1.0, 9.0], [2.0, 8.0], [3.0, 7.0]])
    archive.keep(torch.tensor([[False, True, True], [True, False, True]]))
    assert archive.indices[:, :2].tolist() == [[[0, 1], [0, 0]], [[0, 0], [1, 0]]]
    assert archive.scores.tolist() == [[2.0, 1.0, -torch.inf], [9.0, 7.0, -torch.inf]]
    assert archive.activations.tolist() == [[20.0, 10.0, 0.0], [90.0, 70.0, 0.0]]
    offer(archive, [[1, 0]], [[0.5, 0.5]])  # forgotten, so it may come back; known to neuron 1
    assert archive.scores.tolist() == [[2.0, 1.0, 0.5], [9.0, 7.0, -torch.inf]]
