import pytest
import torch

from spikelens.models.encoding import ENCODINGS, Encoder, noisy_encoders, repeated


@pytest.fixture
def images():
    return torch.rand(6, 2, 3, 3, generator=torch.Generator().manual_seed(5))


def test_direct_is_the_image_itself(images):
    for is_training in (True, False):
        signal = Encoder("direct", 7).train(is_training)(images)
        assert signal.shape == (1, 6, 2, 3, 3)
        assert torch.equal(signal[0], images)


@pytest.mark.parametrize("is_training", [True, False])
def test_rate_spikes_with_the_pixel_as_probability(is_training):
    torch.manual_seed(0)
    values = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0])
    num_steps = 10_000
    encoder = Encoder("rate", num_steps, seed=3).train(is_training)
    signal = encoder(values.view(1, 1, 1, 5))
    assert signal.shape == (num_steps, 1, 1, 1, 5)
    assert set(signal.unique().tolist()) == {0.0, 1.0}
    frequency = signal.mean((0, 1, 2, 3))
    # Five standard deviations of a mean of 10 000 Bernoulli draws, at most 0.5 / 100 each.
    torch.testing.assert_close(frequency, values, atol=5 * 0.005, rtol=0)
    assert frequency[0] == 0.0
    assert frequency[-1] == 1.0


def test_frozen_noise_makes_an_image_s_spikes_its_own(images):
    encoder = Encoder("rate", 9, seed=1).eval()
    whole = encoder(images)
    torch.rand(3)  # the global generator has no say
    parts = torch.cat([encoder(part) for part in images.flip(0).split(4)], 1)
    assert torch.equal(whole, parts.flip(1))
    assert torch.equal(whole, Encoder("rate", 9, seed=1).eval()(images))
    assert not torch.equal(whole, Encoder("rate", 9, seed=2).eval()(images))
    state = torch.get_rng_state()
    encoder(images)
    assert torch.equal(torch.get_rng_state(), state)


def test_frozen_noise_is_monotone_and_shared_by_all_images():
    encoder = Encoder("rate", 50).eval()
    dark, bright = encoder(torch.stack([torch.full((1, 4, 4), v) for v in (0.3, 0.6)])).unbind(1)
    assert (dark <= bright).all()
    assert not torch.equal(dark, bright)
    assert not torch.equal(bright[:, 0, 0, 0], bright[:, 0, 0, 1])  # noise differs among pixels


def test_noise_is_fresh_in_training(images):
    encoder = Encoder("rate", 9).train()
    assert not torch.equal(encoder(images), encoder(images))


def test_latency_by_hand():
    # Linear: time round((T - 1) (1 - v)) for T = 5, never later than the last step.
    values, times = [1.0, 0.76, 0.5, 0.24, 0.0], [0, 1, 2, 3, 4]
    signal = Encoder("latency", 5)(torch.tensor(values).view(1, 1, 1, 5))
    assert signal.shape == (5, 1, 1, 1, 5)
    assert torch.equal(signal.flatten(1).argmax(0), torch.tensor(times))
    assert torch.equal(signal.sum(0), torch.ones(1, 1, 1, 5))


def test_latency_spikes_once_bright_first_and_purely(images):
    encoder = Encoder("latency", 8)
    signal = encoder(images)
    assert set(signal.unique().tolist()) == {0.0, 1.0}
    assert (signal.sum(0) <= 1).all()
    order = images.flatten().argsort(descending=True)
    times = signal.flatten(1).argmax(0)[order]
    assert (times.diff() >= 0).all()
    assert times.unique().numel() == 8
    parts = torch.cat([encoder(part) for part in images.flip(0).split(4)], 1)
    assert torch.equal(signal, parts.flip(1))
    torch.testing.assert_close(encoder(images[:1] * 0.5), encoder(images * 0.5)[:, :1])


@pytest.mark.parametrize("encoding", ["rate", "latency"])
def test_rounding_beyond_the_range_does_no_harm(encoding):
    images = torch.tensor([-1e-6, 1 + 1e-6]).view(1, 1, 1, 2)
    encoder = Encoder(encoding, 6).eval()
    assert torch.equal(encoder(images), encoder(images.clamp(0, 1)))


def test_bad_arguments_are_refused():
    assert ENCODINGS == ("direct", "rate", "latency")
    with pytest.raises(ValueError, match="one of direct, rate, latency, but got 'phase'"):
        Encoder("phase", 4)
    with pytest.raises(ValueError, match="at least 2 for latency codes, but got 1"):
        Encoder("latency", 1)
    assert Encoder("latency", 2)(torch.ones(1, 1, 1, 1)).flatten().tolist() == [1.0, 0.0]


def test_repeats_are_other_draws_each_the_same_every_time(images):
    encoder = Encoder("rate", 9, seed=1).eval()
    draws = []
    for repeat in (0, 1, 2, 2**62, 1):
        with repeated([encoder], repeat):
            draws.append(encoder(images))
    assert torch.equal(draws[0], encoder(images))  # what is seen otherwise is repeat 0
    assert torch.equal(draws[1], draws[4])
    for one in range(4):
        assert not any(torch.equal(draws[one], draws[other]) for other in range(one))


def test_repeats_average_to_the_pixel():
    value, num = 0.3, 400
    encoder = Encoder("rate", 5).eval()
    total = torch.zeros(5, 1, 1, 2, 2)
    for repeat in range(num):
        with repeated([encoder], repeat):
            total += encoder(torch.full((1, 1, 2, 2), value))
    # Five standard deviations of a mean of 400 Bernoulli draws, of 20 of them.
    assert (total / num - value).abs().max() < 5 * (value * (1 - value) / num) ** 0.5


def test_a_failure_puts_the_draw_back():
    encoder = Encoder("rate", 3)
    with pytest.raises(ArithmeticError), repeated([encoder], 4):
        raise ArithmeticError
    assert encoder.repeat == 0


@pytest.mark.parametrize(("encoding", "is_noisy"), [("rate", 1), ("direct", 0), ("latency", 0)])
def test_only_rate_codes_are_noisy(encoding, is_noisy):
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), Encoder(encoding, 3))
    assert len(noisy_encoders(network)) == is_noisy
