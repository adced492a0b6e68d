import itertools
import math

import pytest
import torch
import trains

from spikelens.am import tensor_train

SIZES = [(4,), (1,), (3, 3, 3), (2, 5, 1, 3), (1, 1, 2)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def double_cores(sizes, rank=3, num_neurons=2, seed=0, is_signed=False):
    cores = tensor_train.random_cores(num_neurons, sizes, rank, generator(seed))
    return [core.double() - (0.5 if is_signed else 0.0) for core in cores]


def all_indices(sizes, num_neurons=2):
    every = torch.tensor(list(itertools.product(*map(range, sizes))))
    return every.expand(num_neurons, *every.shape)


def random_kernels(sizes, num_kernels=1, seed=0):
    draw = generator(seed)
    tables = [torch.rand(num_kernels, n, n, generator=draw, dtype=torch.double) for n in sizes]
    return [table / table.sum(-1, keepdim=True) for table in tables]


def log_conditionals(cores, index):
    """The definition, for one neuron and one multi-index, with plain matrices and no rescaling."""
    total = 0.0
    for j, core in enumerate(cores):
        left = torch.ones(1, 1, dtype=core.dtype)
        for before, i in zip(cores[:j], index[:j], strict=True):
            left = left @ before[:, i]
        right = torch.ones(1, 1, dtype=core.dtype)
        for after in reversed(cores[j + 1 :]):
            right = after.sum(1) @ right
        mass = torch.stack([(left @ core[:, i] @ right).abs() for i in range(core.shape[1])])
        total += math.log(mass[index[j]] / mass.sum())
    return total


def test_random_cores_have_the_ranks_of_a_train():
    shapes = [tuple(core.shape) for core in tensor_train.random_cores(2, (3, 4, 5), 6)]
    assert shapes == [(2, 1, 3, 6), (2, 6, 4, 6), (2, 6, 5, 1)]


@pytest.mark.parametrize("sizes", SIZES)
def test_evaluate_equals_the_dense_tensor(sizes):
    cores = double_cores(sizes, is_signed=True)
    entries = trains.evaluate(cores, all_indices(sizes))
    torch.testing.assert_close(entries, trains.dense(cores).flatten(1))


def test_dense_equals_one_contraction():
    first, second, third = double_cores((2, 4, 3))
    full = torch.einsum("kaib,kbjc,kcld->kijl", first, second, third)
    torch.testing.assert_close(trains.dense([first, second, third]), full)


@pytest.mark.parametrize("sizes", SIZES)
def test_right_interfaces_point_along_the_dense_marginals(sizes):
    cores = double_cores(sizes, is_signed=True)
    interfaces = trains.right_interfaces(cores)
    right = torch.ones(2, 1, 1, dtype=torch.double)
    for core, interface in zip(reversed(cores), reversed(interfaces), strict=True):
        unit = right / right.norm(dim=1, keepdim=True)
        torch.testing.assert_close(interface, unit.squeeze(2))
        right = core.sum(2) @ right


def test_elite_cores_equal_the_sum_over_all_paths_of_elites():
    num_modes, n, num_elites, chi = 3, 3, 2, torch.tensor([0.3, 0.8], dtype=torch.double)
    elites = torch.randint(0, n, (2, num_elites, num_modes), generator=generator(1))
    weights = torch.tensor([[0.7, 0.3], [0.1, 0.9]], dtype=torch.double)
    kernels = random_kernels([n] * num_modes, num_kernels=2)
    full = trains.dense(trains.elite_cores(elites, weights, kernels, chi))
    for k, index in itertools.product(range(2), itertools.product(range(n), repeat=num_modes)):
        expected = 0.0
        for path in itertools.product(range(num_elites), repeat=num_modes):
            chance = weights[k, path[0]]
            for before, after in itertools.pairwise(path):
                chance = chance * ((1 - chi[k]) * (before == after) + chi[k] * weights[k, after])
            for j, s in enumerate(path):
                chance = chance * kernels[j][k, elites[k, s, j], index[j]]
            expected += chance
        torch.testing.assert_close(full[(k, *index)], expected)


@pytest.mark.parametrize("sizes", SIZES)
def test_elite_cores_sum_to_one_and_so_does_every_right_marginal(sizes):
    elites = torch.stack([torch.randint(0, n, (2, 4)) for n in sizes], -1)
    weights = torch.softmax(torch.randn(2, 4, dtype=torch.double), -1)
    switch = torch.tensor([0.0, 0.6], dtype=torch.double)
    cores = trains.elite_cores(elites, weights, random_kernels(sizes), switch)
    ones = torch.ones(2, dtype=torch.double)
    torch.testing.assert_close(trains.dense(cores).flatten(1).sum(1), ones)
    for interface in trains.right_interfaces(cores):
        torch.testing.assert_close(interface, interface[:, :1].expand_as(interface))


def test_without_switch_and_mutation_only_elites_are_sampled():
    elites = torch.randint(0, 6, (3, 4, 20), generator=generator())
    keep = [torch.eye(6).unsqueeze(0)] * 20
    cores = trains.elite_cores(elites, torch.full((3, 4), 0.25), keep, torch.zeros(3))
    draws = tensor_train.sample(cores, 200, generator())
    is_elite = (draws[:, :, None] == elites[:, None]).all(-1)  # (K, M, R)
    assert is_elite.any(-1).all()
    # Each elite is missed by 200 draws with probability .75**200 = 1e-25.
    assert is_elite.any(1).all()


def test_a_uniform_kernel_gives_the_uniform_tensor():
    sizes = (2, 3, 4)
    kernels = [torch.full((1, n, n), 1 / n) for n in sizes]
    elites = torch.zeros(2, 5, 3, dtype=torch.int64)
    weights = torch.full((2, 5), 0.2)
    cores = trains.elite_cores(elites, weights, kernels, torch.tensor([0.1, 1.0]))
    torch.testing.assert_close(trains.dense(cores), torch.full((2, *sizes), 1 / 24))


def test_elite_cores_want_one_kernel_a_mode():
    elites, weights = torch.zeros(1, 1, 3, dtype=torch.int64), torch.ones(1, 1)
    with pytest.raises(ValueError, match="`kernels` must hold d=3 tensors, but got 2"):
        trains.elite_cores(elites, weights, random_kernels((2, 2)), torch.zeros(1))


@pytest.mark.parametrize("is_elite", [False, True])
def test_sampled_frequencies_are_the_dense_tensor(is_elite):
    sizes, num = (3, 1, 4, 2), 40_000
    cores = double_cores(sizes)
    if is_elite:
        elites = torch.stack([torch.randint(0, n, (2, 3)) for n in sizes], -1)
        weights = torch.tensor([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0]], dtype=torch.double)
        switch = torch.tensor([0.4, 0.4], dtype=torch.double)
        cores = trains.elite_cores(elites, weights, random_kernels(sizes), switch)
    full = trains.dense(cores).flatten(1)
    wanted = full / full.sum(1, keepdim=True)
    draws = tensor_train.sample(cores, num, generator())
    places = torch.tensor([8, 8, 2, 1])  # row-major strides of the sizes
    cells = (draws * places).sum(-1)
    found = torch.stack([row.bincount(minlength=24) for row in cells]) / num
    # A cell's count is binomial: its frequency has the standard error sqrt(p (1 - p) / num). Five
    # of them are left by one of 48 cells with probability 3e-5, and the seed is fixed.
    error = (wanted * (1 - wanted) / num).sqrt()
    assert ((found - wanted).abs() <= 5 * error + 1 / num).all()


def test_signed_cores_are_sampled_by_the_magnitude_of_their_conditionals():
    sizes, num = (2, 3), 40_000
    cores = double_cores(sizes, num_neurons=1, is_signed=True)
    every = all_indices(sizes, num_neurons=1)
    wanted = tensor_train.log_likelihood(cores, every).exp().squeeze(0)
    draws = tensor_train.sample(cores, num, generator()).squeeze(0)
    found = (draws * torch.tensor([3, 1])).sum(-1).bincount(minlength=6) / num
    # Five binomial standard errors, as above.
    error = (wanted * (1 - wanted) / num).sqrt()
    assert ((found - wanted).abs() <= 5 * error + 1 / num).all()


def test_impossible_symbols_are_never_sampled():
    core = torch.tensor([0.0, 1.0, 0.0, 2.0, 0.0]).view(1, 1, 5, 1)
    draws = tensor_train.sample([core, core], 100_000, generator())
    assert set(draws.unique().tolist()) == {1, 3}


def test_a_zero_train_still_yields_valid_symbols():
    cores = [torch.zeros_like(core) for core in tensor_train.random_cores(1, (2, 3), 2)]
    draws = tensor_train.sample(cores, 4)
    assert draws.tolist() == [[[1, 2]] * 4]
    assert tensor_train.log_likelihood(cores, draws).isfinite().all()


def test_the_generator_decides_the_draws():
    cores = tensor_train.random_cores(2, (3, 4, 5), 2, generator())
    first, again, other = (tensor_train.sample(cores, 50, generator(s)) for s in (7, 7, 8))
    assert first.equal(again)
    assert not first.equal(other)


@pytest.mark.parametrize("sizes", SIZES)
def test_log_likelihood_of_a_non_negative_train_is_its_normalised_entry(sizes):
    # The conditionals telescope where no magnitude is taken of anything negative.
    cores = double_cores(sizes)
    full = trains.dense(cores).flatten(1)
    wanted = (full / full.sum(1, keepdim=True)).log()
    found = tensor_train.log_likelihood(cores, all_indices(sizes))
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("sizes", SIZES)
def test_log_likelihood_of_a_signed_train_is_the_sum_of_its_conditionals(sizes):
    cores = double_cores(sizes, is_signed=True)
    every = all_indices(sizes)
    found = tensor_train.log_likelihood(cores, every)
    for k in range(2):
        own = [core[k] for core in cores]
        wanted = [log_conditionals(own, index) for index in every[k].tolist()]
        torch.testing.assert_close(found[k], torch.tensor(wanted, dtype=torch.double))


@pytest.mark.parametrize("is_signed", [False, True])
@pytest.mark.parametrize("sizes", [(4,), (2, 5, 1, 3), (2, 2, 2, 2, 2)])
def test_gradient_equals_finite_differences(sizes, is_signed):
    cores = [c.requires_grad_() for c in double_cores(sizes, rank=2, is_signed=is_signed)]
    indices = torch.stack([torch.randint(0, n, (2, 3), generator=generator(1)) for n in sizes], -1)

    def likelihood(*cores):
        return tensor_train.log_likelihood(cores, indices)

    # One signed conditional here is 2e-5, so the gradient g reaches 6e4. Central differences of a
    # logarithm err by (step * g)**2 / 3 of g: 1e-3 at the default step of 1e-6, 1e-5 at 1e-7.
    assert torch.autograd.gradcheck(likelihood, cores, eps=1e-7)


def test_hundreds_of_modes_stay_finite():
    # Entries are around 2.5**576 = 1e229, far beyond float32.
    cores = tensor_train.random_cores(2, [2] * 576, 5, generator())
    cores = [core.requires_grad_() for core in cores]
    draws = tensor_train.sample(cores, 3, generator())
    found = tensor_train.log_likelihood(cores, draws)
    found.sum().backward()
    exact = [core.detach().double() for core in cores]
    scale = 2.5  # keeps the exact product inside the range of a double
    entries = trains.evaluate([core / scale for core in exact], draws)
    total = torch.ones(2, 1, 1, dtype=torch.double)
    for core in exact:
        total = total @ core.sum(2) / (2 * scale)
    wanted = entries.log() - total.squeeze(2).log() - 576 * math.log(2)
    # 576 logarithms of about 0.7, each with float32's relative error of 6e-8 times a few roundings.
    torch.testing.assert_close(found.detach().double(), wanted, rtol=1e-5, atol=1e-3)
    assert all(core.grad.isfinite().all() for core in cores)
    assert all(z.isfinite().all() for z in trains.right_interfaces(cores))
