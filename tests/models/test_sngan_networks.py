import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from spikelens.models.sngan_networks import (
    DownBlock,
    LatentEncoder,
    ResNetDiscriminator,
    ResNetGenerator,
    UpBlock,
    bottom_side,
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def settled(module):
    """Let the power iterations of a training module converge, then put it in evaluation mode."""
    module.train()
    for _ in range(80):
        for layer in weighted(module):
            _ = layer.weight
    return module.eval()


def weighted(module):
    return [child for child in module.modules() if isinstance(child, nn.Conv2d | nn.Linear)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 28, 32, 48, 64])
def test_shapes_and_ranges(size, channels):
    z = torch.randn(2, 6)
    images = ResNetGenerator(6, 4, channels, size)(z)
    assert images.shape == (2, channels, size, size)
    assert ResNetDiscriminator(4, channels, size)(images).shape == (2,)
    assert LatentEncoder(6, 4, channels, size)(images).shape == (2, 6)
    far = ResNetGenerator(6, 4, channels, size).eval()(100.0 * z)
    for drawn in (images, far):
        assert drawn.isfinite().all()
        assert drawn.abs().max() <= 1.0
    assert far.abs().max() > 0.99  # the range is used


@pytest.mark.parametrize(
    ("size", "side", "num_doublings"), [(8, 4, 1), (16, 4, 2), (20, 5, 2), (30, 15, 1), (40, 5, 3)]
)
def test_the_first_map_is_halved_until_it_is_odd_or_small(size, side, num_doublings):
    assert bottom_side(size) == (side, num_doublings)
    assert side * 2**num_doublings == size


@pytest.mark.parametrize("size", [0, 4, 6, 7, 15, 33, 34, 68])
def test_sizes_without_a_small_first_map_are_refused(size):
    with pytest.raises(ValueError, match=rf"`images` must have a size .*, but got {size}\.$"):
        bottom_side(size)


@pytest.mark.parametrize("size", [28, 32])
def test_every_weight_of_a_discriminator_has_spectral_norm_one(size):
    discriminator = ResNetDiscriminator(5, 3, size)
    layers = weighted(discriminator)
    # Three blocks halve 28 to 14 and 7, or 32 to 16 and 8; two of four have a shortcut.
    assert len(layers) == 2 * 4 + 2 + 1
    assert all(is_parametrized(layer, "weight") for layer in layers)
    settled(discriminator)
    for layer in layers:
        norm = torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2)
        torch.testing.assert_close(norm, torch.ones(()), rtol=0.01, atol=0)


def test_the_score_does_not_depend_on_the_scale_of_the_weights():
    discriminator = ResNetDiscriminator(4, 1, 8).eval()
    images = torch.randn(3, 1, 8, 8)
    score = discriminator(images)
    with torch.no_grad():
        for layer in weighted(discriminator):
            layer.parametrizations.weight.original.mul_(7.0)
    torch.testing.assert_close(discriminator(images), score)


def test_the_last_layer_stretches_nothing():
    last = settled(ResNetDiscriminator(4, 1, 8)).last
    features = torch.randn(2, 50, 4)
    before = (features[0] - features[1]).norm(dim=1)
    after = (last(features[0]) - last(features[1])).squeeze(1).abs()
    assert (after <= before * 1.01).all()


def test_a_generator_s_block_is_the_paper_s():
    block = UpBlock(4).eval()
    for norm in (block.norm1, block.norm2):  # not the identity
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.running_mean)
    nn.init.normal_(block.shortcut.bias)
    x = torch.randn(2, 4, 5, 5)
    doubled = nn.Upsample(scale_factor=2)
    hidden = block.conv1(doubled(block.norm1(x).relu()))
    hidden = block.conv2(block.norm2(hidden).relu())
    # The shortcut of the doubled map, where the block doubles the shortcut's map.
    torch.testing.assert_close(block(x), hidden + block.shortcut(doubled(x)))
    block.conv2 = nn.Conv2d(4, 4, 3, padding=1)
    nn.init.zeros_(block.conv2.weight)
    nn.init.zeros_(block.conv2.bias)
    alone = F.conv2d(x.repeat_interleave(2, 2).repeat_interleave(2, 3), block.shortcut.weight)
    torch.testing.assert_close(block(x), alone + block.shortcut.bias.view(1, 4, 1, 1))


@pytest.mark.parametrize("is_halving", [True, False])
@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("channels", [(3, 4), (4, 4)])
def test_a_discriminator_s_block_is_the_paper_s(channels, is_first, is_halving):
    block = DownBlock(*channels, is_first=is_first, is_halving=is_halving).eval()
    x = torch.randn(2, channels[0], 6, 6)
    hidden = block.conv2(block.conv1(x if is_first else x.relu()).relu())
    has_shortcut = is_halving or channels[0] != channels[1]
    assert isinstance(block.shortcut, nn.Conv2d) == has_shortcut
    shortcut = block.shortcut(x)
    if has_shortcut:
        nn.init.normal_(block.shortcut.bias)
        shortcut = F.conv2d(x, block.shortcut.weight, block.shortcut.bias)
    whole = hidden + shortcut
    # The mean of the shortcut's map, where the block takes the shortcut of the mean.
    torch.testing.assert_close(block(x), F.avg_pool2d(whole, 2) if is_halving else whole)


def test_small_maps_are_not_halved_further():
    for size, num_halvings in ((8, 1), (16, 1), (28, 2), (32, 2), (64, 3)):
        blocks = ResNetDiscriminator(4, 1, size).blocks
        assert sum(block.is_halving for block in blocks) == num_halvings
        assert [block.is_halving for block in blocks][-2:] == [False, False]
        assert [block.is_first for block in blocks] == [True] + [False] * (len(blocks) - 1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_norms_are_float32_under_autocast():
    """A CPU's autocast leaves products of a matrix and a vector alone; a GPU's does not."""

    def powers(is_enabled):
        torch.manual_seed(0)
        discriminator = ResNetDiscriminator(8, 3, 32).cuda()
        with torch.autocast("cuda", torch.bfloat16, enabled=is_enabled):
            discriminator(torch.rand(2, 3, 32, 32).cuda())
        return discriminator.blocks[0].conv1.parametrizations.weight[0]._u

    torch.testing.assert_close(powers(True), powers(False), atol=1e-6, rtol=0)
