import pytest
import torch

from spikelens.am import tensor_train
from spikelens.am.optimizers.protes import PRESETS, Preset, SamplingTrain


def set_cores(train, cores):
    with torch.no_grad():
        for own, given in zip(train.cores, cores, strict=True):
            own.copy_(given)


def test_presets_are_the_papers():
    assert PRESETS["tt"] == Preset(10, 1, 0.05, rank=5, num_steps=1)
    assert PRESETS["tt_s"] == Preset(5, 1, 0.05, rank=5, num_steps=1)
    assert PRESETS["tt_b"] == Preset(25, 5, 0.05, rank=5, num_steps=1)
    assert PRESETS["tt_exp"] == Preset(100, 10, 0.1, rank=5, num_steps=1)


@pytest.mark.parametrize("sizes", [(4,), (1, 3), (2, 5, 1, 3), (2,) * 40])
def test_ascend_raises_the_likelihood_of_each_neurons_elites(sizes):
    train = SamplingTrain(3, sizes, rank=4, learning_rate=0.05)
    elites = train.sample(2)
    before = tensor_train.log_likelihood(train.cores, elites).mean(1)
    for _ in range(20):
        train.ascend(elites)
    after = tensor_train.log_likelihood(train.cores, elites).mean(1)
    assert (after > before).all()


def test_it_learns_to_sample_what_it_is_shown():
    train = SamplingTrain(2, (4,) * 6, rank=3, learning_rate=0.1, num_steps=5)
    wanted = torch.tensor([[[0, 1, 2, 3, 0, 1]], [[3, 3, 0, 0, 1, 2]]])
    for _ in range(30):
        train.ascend(wanted)
    # Untrained, one draw in 4**6 = 4096 hits; the loss has then long fallen below log 2.
    assert ((train.sample(100) == wanted).all(-1).float().mean(1) > 0.5).all()


@pytest.mark.parametrize("sizes", [(3, 2, 4), (5,)])
def test_neurons_learn_together_as_they_do_alone(sizes):
    settings = {"rank": 3, "learning_rate": 0.1, "num_steps": 4}
    both = SamplingTrain(2, sizes, seed=1, **settings)
    alone = [SamplingTrain(1, sizes, seed=2, **settings) for _ in range(2)]
    for k in range(2):
        set_cores(alone[k], [core[k : k + 1] for core in both.cores])
    for _ in range(5):
        elites = both.sample(3)
        both.ascend(elites)
        for k in range(2):
            alone[k].ascend(elites[k : k + 1])
    for k in range(2):
        for core, own in zip(both.cores, alone[k].cores, strict=True):
            # float32: other batch shapes may add in another order.
            torch.testing.assert_close(core[k : k + 1], own, rtol=1e-4, atol=1e-5)


def test_one_step_is_adams():
    train = SamplingTrain(1, (3, 2), rank=2, learning_rate=0.05)
    start = [core.detach().clone() for core in train.cores]
    elites = torch.tensor([[[2, 0], [1, 1]]])
    leaves = [core.clone().requires_grad_() for core in start]
    tensor_train.log_likelihood(leaves, elites).mean().backward()
    train.ascend(elites)
    for core, first, leaf in zip(train.cores, start, leaves, strict=True):
        # Bias-corrected moments of one step are g and g**2.
        wanted = first + 0.05 * leaf.grad / (leaf.grad.abs() + 1e-8)
        torch.testing.assert_close(core.detach(), wanted)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_callers_grad_mode_does_not_matter(mode):
    reference = SamplingTrain(2, (3, 4), rank=2, learning_rate=0.1, seed=5)
    reference.ascend(reference.sample(2))
    with mode():
        train = SamplingTrain(2, (3, 4), rank=2, learning_rate=0.1, seed=5)
        elites = train.sample(2)
        train.ascend(elites)
    assert not elites.requires_grad
    for core, wanted in zip(train.cores, reference.cores, strict=True):
        assert core.equal(wanted)


def test_the_seed_decides_cores_and_samples_and_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    first, again, other = (SamplingTrain(1, (9,) * 5, 2, 0.1, seed=s) for s in (3, 3, 4))
    draws = first.sample(10)
    assert draws.equal(again.sample(10))
    assert not draws.equal(other.sample(10))
    assert torch.get_rng_state().equal(state)


def test_the_number_of_threads_survives_success_and_crash():
    num_threads = torch.get_num_threads()
    train = SamplingTrain(1, (3, 4), rank=2, learning_rate=0.1)
    train.ascend(train.sample(2))
    assert torch.get_num_threads() == num_threads
    with pytest.raises(IndexError):
        train.ascend(torch.full((1, 2, 2), 99))
    assert torch.get_num_threads() == num_threads


def test_elites_are_left_as_they_were():
    train = SamplingTrain(1, (3, 4), rank=2, learning_rate=0.1)
    elites = train.sample(2)
    copy = elites.clone()
    train.ascend(elites)
    assert elites.equal(copy)


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_neurons", 0), ("rank", 0), ("learning_rate", 0.0), ("num_steps", -1)],
)
def test_settings_must_be_positive(name, value):
    settings = {"num_neurons": 1, "mode_sizes": (2, 2), "rank": 2, "learning_rate": 0.1}
    with pytest.raises(ValueError, match=f"`{name}` must be positive, but got {value}"):
        SamplingTrain(**{**settings, name: value})


@pytest.mark.parametrize("sizes", [(), (2, 0)])
def test_mode_sizes_must_be_positive(sizes):
    with pytest.raises(ValueError, match="`mode_sizes` must hold positive integers"):
        SamplingTrain(1, sizes, rank=2, learning_rate=0.1)
