import random

import numpy as np
import pytest
import torch
from stubs import Quadrants
from torch import nn

from spikelens.data.base import ImageSpec
from spikelens.extractors import Inception
from spikelens.fidelity import Fidelity, as_bytes, measure_fidelity
from spikelens.models.feature_extractor import FeatureExtractor

FEW = {"kid_subsets": 3}


def noise(num, channels=1, side=4, low=0, high=100, seed=0):
    """Draw uint8 images of independent pixels."""
    generator = torch.Generator().manual_seed(seed)
    shape = num, channels, side, side
    return torch.randint(low, high, shape, generator=generator, dtype=torch.uint8)


def test_a_set_and_itself():
    images = noise(60)
    found = measure_fidelity(images, images, Quadrants(), **FEW)
    # Rounding: features are double and of order 1.
    assert abs(found.fid) < 1e-9
    assert found.precision == found.recall == 1.0


def test_images_of_the_same_kind_are_near_and_of_another_kind_far():
    near = measure_fidelity(noise(200, seed=1), noise(200), Quadrants(), **FEW)
    far = measure_fidelity(noise(200, low=155, high=255), noise(200), Quadrants(), **FEW)
    # The unbiased estimate is 0 on average, and its own spread is the scale.
    assert abs(near.kid) < 5 * near.kid_std + 1e-3
    assert far.fid > 100 * near.fid
    assert far.kid > 100 * abs(near.kid)
    assert far.precision == far.recall == 0.0


def test_fid_of_shifted_features_by_hand():
    # The same covariance, each of 4 features shifted by 50/255: (50/255)^2 * 4.
    images = noise(40)
    found = measure_fidelity(images + 50, images, Quadrants(), **FEW)
    assert found.fid == pytest.approx(4 * (50 / 255) ** 2, rel=1e-5)


def test_fid_of_scaled_features_by_hand():
    # Means m against 2 m, covariances S against 4 S: |m|^2 + trace(S + 4 S - 2 (4 S S)^(1/2)).
    images = noise(40)
    features = Quadrants().features(images / 255).double()
    wanted = features.mean(0).square().sum() + features.var(0).sum()
    found = measure_fidelity(images * 2, images, Quadrants(), **FEW)
    assert found.fid == pytest.approx(float(wanted), rel=1e-5)


def test_kid_of_whole_sets_against_its_definition():
    generated, real = noise(30, high=200), noise(30, seed=1)
    found = measure_fidelity(generated, real, Quadrants(), kid_subset_size=30, **FEW)
    x, y = (Quadrants().features(images / 255).double() for images in (generated, real))
    kernel = [(a @ b.T / 4 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y))]
    within = [(k.sum() - k.trace()) / (30 * 29) for k in kernel[:2]]
    assert found.kid == pytest.approx(float(sum(within) - 2 * kernel[2].mean()), rel=1e-4)
    assert found.kid_std < 1e-12  # every subset is the whole


def test_exchanging_the_sets():
    a, b = noise(40, high=130), noise(40, seed=1)
    whole = {"kid_subset_size": 40, **FEW}
    forth, back = (measure_fidelity(*sets, Quadrants(), **whole) for sets in ((a, b), (b, a)))
    assert forth.fid == pytest.approx(back.fid, abs=1e-9)
    assert forth.kid == pytest.approx(back.kid, abs=1e-9)
    assert (forth.precision, forth.recall) == (back.recall, back.precision)
    assert forth.precision != forth.recall


def test_one_image_repeated_is_realistic_but_not_varied():
    real = noise(100)
    found = measure_fidelity(real[:1].expand(100, -1, -1, -1), real, Quadrants(), **FEW)
    assert found.precision == 1.0
    assert found.recall < 0.1
    assert found.inception_score == pytest.approx(1.0)


def test_inception_score_of_two_sure_classes():
    # Of two equally frequent classes it is 2; a part of 40 images sees frequencies p that miss 1/2
    # by sqrt(1/160) on average, and exp(entropy) is then about 2 (1 - 2 * 1/160) = 1.975.
    images = torch.zeros(400, 1, 4, 4, dtype=torch.uint8)
    images[::2, ..., :2, :2], images[1::2, ..., 2:, 2:] = 255, 255
    found = measure_fidelity(images, images, Quadrants(sureness=100.0), **FEW)
    assert 1.94 < found.inception_score < 2.0
    assert 0.0 < found.inception_score_std < 0.1


def test_bytes_and_floats_are_the_same():
    generated, real = noise(40), noise(40, seed=1)
    wanted = measure_fidelity(generated, real, Quadrants(), **FEW)
    assert measure_fidelity(generated / 255, real / 255, Quadrants(), **FEW) == wanted


def test_order_of_batches_does_not_matter():
    generated, real = noise(40), noise(40, seed=1)
    wanted = measure_fidelity(generated, real, Quadrants(), **FEW)
    found = measure_fidelity(generated, real, Quadrants(), batch_size=7, **FEW)
    assert found.named() == pytest.approx(wanted.named(), rel=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_our_extractor_sees_its_own_number_of_channels(channels):
    torch.manual_seed(0)
    spec = ImageSpec(channels, 16, ("a", "b", "c"))
    extractor = FeatureExtractor(spec, width=8, num_features=5).eval()
    generated, real = noise(30, channels, 16), noise(20, channels, 16, seed=1)
    found = measure_fidelity(generated, real, extractor, **FEW)
    with torch.no_grad():
        means = [extractor.features(images / 255).mean(0) for images in (generated, real)]
    assert found.fid >= float((means[0] - means[1]).square().sum()) - 1e-9
    assert 1.0 <= found.inception_score <= 3.0
    assert all(parameter.requires_grad for parameter in extractor.parameters())


def test_random_states_stay_as_they_are():
    torch.manual_seed(3)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    measure_fidelity(noise(20), noise(20), Quadrants(), **FEW)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_random_states_do_not_matter():
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        found.append(measure_fidelity(noise(20), noise(20, seed=1), Quadrants(), **FEW))
    assert found[0] == found[1]


def test_names_tell_the_extractor():
    values = Fidelity(2.0, 0.1, 9.0, 0.5, 0.2, 0.7, 0.6, "inception").named()
    assert values["fid_inception"] == 9.0
    assert values["kid_std_inception"] == 0.2
    assert len(values) == 7
    assert all(name.endswith("_inception") for name in values)
    assert measure_fidelity(noise(20), noise(20), Quadrants(), **FEW).extractor == "spikelens"


def test_inception_sees_rgb_bytes_and_is_named(fake_inception):
    extractor = Inception(str(fake_inception.path))
    found = measure_fidelity(noise(12), noise(12, seed=1), extractor, **FEW)
    assert found.extractor == "inception"
    assert fake_inception.seen[0].shape == (12, 3, 4, 4)
    assert torch.equal(fake_inception.seen[0], noise(12).expand(-1, 3, -1, -1))


def test_bytes_are_rounded():
    images = torch.tensor([0.0, 0.499 / 255, 0.501 / 255, 1.0, 1.0005])
    assert as_bytes(images).tolist() == [0, 0, 1, 255, 255]
    same = noise(2)
    assert torch.equal(as_bytes(same / 255), same)


@pytest.mark.parametrize(
    ("generated", "real", "argument", "says"),
    [
        (noise(9), noise(20), {}, "`generated` must hold at least 10 images, one for each part"),
        (noise(20), noise(3), {}, "`real` must hold more images than the 3 neighbours .* got 3"),
        (noise(20), noise(12), {"kid_subset_size": 13}, "at most the 12 images of the smaller"),
        (noise(20), noise(12), {"kid_subset_size": 1}, "an integer of at least 2"),
        (noise(20), noise(20), {"kid_subsets": 0}, "`kid_subsets` must be a positive integer"),
        (noise(20), noise(20), {"batch_size": 0}, "`batch_size` must be a positive integer"),
        (noise(20), noise(20), {"seed": -1}, "`seed` must be an integer of at least 0"),
        (noise(20, side=5), noise(20), {}, r"images \(1, 4, 4\) like `real`, but got \(1, 5, 5\)"),
        (noise(20, 3), noise(20, 3), {}, r"trained on \(1, 4, 4\)"),
        (noise(20).long(), noise(20), {}, "`generated` must be uint8, or float in"),
        (noise(20), noise(20).float(), {}, "`real` must be uint8, or float in"),
        (noise(20) * torch.nan, noise(20), {}, "`generated` must be uint8, or float in"),
    ],
)
def test_what_cannot_be_measured_is_refused(generated, real, argument, says):
    with pytest.raises(ValueError, match=says):
        measure_fidelity(generated, real, Quadrants(), **argument)


def test_other_numbers_of_channels_are_refused():
    with pytest.raises(ValueError, match="1 or 3 channels"):
        measure_fidelity(noise(20, 2), noise(20, 2), Inception("file"))


def test_an_extractor_in_training_mode_is_refused():
    extractor: nn.Module = Quadrants().train()
    with pytest.raises(ValueError, match="must be in evaluation mode"):
        measure_fidelity(noise(20), noise(20), extractor)


def test_a_missing_file_is_refused():
    with pytest.raises(FileNotFoundError, match="found no missing"):
        measure_fidelity(noise(20), noise(20), "missing.ckpt")
