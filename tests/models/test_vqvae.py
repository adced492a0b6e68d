import functools

import lightning as L
import pytest
import torch
from torch import nn

from spikelens.data.base import ImageSpec
from spikelens.models.vqvae import VQVAE, Codebook, Residual

GREY = ImageSpec(1, 8, ())


def build(images=GREY, seed=0, **kwargs):
    torch.manual_seed(seed)
    sizes = {"hidden": 8, "residual_hidden": 4, "num_residuals": 1, "num_codes": 6, "code_size": 3}
    return VQVAE(images, **{**sizes, **kwargs})


def pictures(num, channels=1, side=8, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.rand(num, channels, side, side, generator=random)


def as_bytes(images):
    return (images * 255).round().to(torch.uint8)


def test_a_residual_block_by_hand():
    block = Residual(1, 1)
    with torch.no_grad():
        block.body[1].weight.fill_(1.0)
        block.body[3].weight.fill_(-2.0)
    x = torch.tensor([[-1.0, 1.0], [2.0, 0.0]]).view(1, 1, 2, 2)
    # relu, sum of the 3 x 3 surroundings (here: all four) = 3, relu, times -2, plus x.
    assert torch.equal(block(x), x - 6.0)


def test_inputs_are_assigned_to_the_nearest_vector():
    torch.manual_seed(0)
    codebook = Codebook(17, 5)
    inputs = torch.randn(200, 5)
    brute = ((inputs[:, None] - codebook.vectors[None]) ** 2).sum(2).argmin(1)
    codes = codebook.assign(inputs)
    assert codes.dtype == torch.int64
    assert torch.equal(codes, brute)
    assert torch.equal(codebook.assign(codebook.vectors), torch.arange(17))


def test_moving_averages_by_hand():
    # decay 3/4. First from nothing: sizes (2, 1) / 4, sums (1 + 2, 9) / 4, so the plain means.
    codebook = Codebook(2, 1, decay=0.75)
    codebook.update(torch.tensor([[1.0], [2.0], [9.0]]), torch.tensor([0, 0, 1]))
    assert codebook.sizes.tolist() == [0.5, 0.25]
    assert codebook.vectors.flatten().tolist() == [1.5, 9.0]
    # Then sizes 3/8 + 1/4 and 3/16 + 1/4, sums 9/16 + 3/4 and 27/16 + 5/4.
    codebook.update(torch.tensor([[5.0], [3.0]]), torch.tensor([1, 0]))
    assert codebook.sizes.tolist() == [0.625, 0.4375]
    assert codebook.sums.flatten().tolist() == [1.3125, 2.9375]
    torch.testing.assert_close(codebook.vectors.flatten(), torch.tensor([2.1, 2.9375 / 0.4375]))


def test_a_code_that_is_not_dead_stays_where_it_was_while_unused():
    codebook = Codebook(2, 1, decay=0.75)
    codebook.update(torch.tensor([[1.0], [9.0]]), torch.tensor([0, 1]))
    codebook.update(torch.tensor([[2.0]]), torch.tensor([0]))
    assert codebook.vectors[1].item() == 9.0


def test_dead_codes_move_onto_inputs_of_the_batch():
    torch.manual_seed(0)
    inputs = torch.randn(12, 3) + 5.0
    codebook = Codebook(6, 3)
    codebook.update(inputs, torch.zeros(12, dtype=torch.int64))
    torch.testing.assert_close(codebook.vectors[0], inputs.mean(0))
    distance = torch.cdist(codebook.vectors[1:], inputs).amin(1)
    torch.testing.assert_close(distance, torch.zeros(5), atol=1e-4, rtol=0)


def test_a_code_dies_when_its_share_fades():
    # decay 1/2, dead below 1/4 of an equal share. Unused, code 1's share halves each step:
    # sizes (1, 1)/2, (3, 1)/4, (7, 1)/8: 1/8 is not below 1/8; then 1/16 < 1/8 and it is moved.
    codebook = Codebook(2, 1, decay=0.5, dead_after=4.0)
    codebook.update(torch.tensor([[1.0], [9.0]]), torch.tensor([0, 1]))
    for step in range(3):
        assert codebook.vectors[1].item() == 9.0, step
        codebook.update(torch.tensor([[1.0]]), torch.tensor([0]))
    torch.testing.assert_close(codebook.vectors.flatten(), torch.tensor([1.0, 1.0]))


@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_and_ranges(channels):
    model = build(ImageSpec(channels, 12, ())).eval()
    images = pictures(5, channels, 12)
    codes = model.encode(images)
    assert codes.shape == (5, 9)
    assert codes.dtype == torch.int64
    assert codes.min() >= 0
    assert codes.max() < 6
    with torch.no_grad():
        model.decoder[-1].weight.mul_(100.0)  # far out of the range
        decoded = model.decode(codes)
    assert decoded.shape == images.shape
    assert decoded.min() == 0.0
    assert decoded.max() == 1.0


def test_reconstruction_is_decode_of_encode_and_deterministic():
    model = build().eval()
    images = pictures(7)
    first, second = model.decode(model.encode(images)), model(images)
    assert torch.equal(first, second)
    parts = torch.cat([model.encode(part) for part in images.flip(0).split(3)]).flip(0)
    assert torch.equal(model.encode(images), parts)


def test_codes_stand_row_by_row():
    model = build(ImageSpec(1, 12, ()), code_size=1, num_codes=5)
    # Networks that copy: a code is the grey of its 4 x 4 block.
    model.encoder, model.decoder = nn.AvgPool2d(4), nn.Upsample(scale_factor=4)
    model.codebook.vectors.copy_(torch.linspace(-0.5, 0.5, 5).view(5, 1))
    codes = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3]])
    image = model.decode(codes)
    wanted = torch.tensor([[0.0, 0.25, 0.5], [0.75, 1.0, 0.0], [0.25, 0.5, 0.75]])
    torch.testing.assert_close(image[0, 0], wanted.repeat_interleave(4, 0).repeat_interleave(4, 1))
    assert torch.equal(model.encode(image), codes)


@pytest.mark.parametrize(
    "sizes",
    [
        {"hidden": 16, "num_residuals": 1},
        {"num_residuals": 0},
        {"num_residuals": 3, "residual_hidden": 5},
        {"hidden": 17},
        {"num_codes": 1, "code_size": 2},
    ],
)
@pytest.mark.parametrize("images", [GREY, ImageSpec(3, 20, ("a", "b"))])
def test_the_state_alone_rebuilds_the_model(sizes, images):
    model = build(images, **sizes).eval()
    with torch.no_grad():
        model.prior.place_counts.random_(0, 9)
    twin = VQVAE.from_state(model.state_dict()).eval()
    assert twin.images.image_shape == images.image_shape
    shown = pictures(3, images.channels, images.size)
    assert torch.equal(twin.encode(shown), model.encode(shown))
    assert torch.equal(twin(shown), model(shown))
    assert torch.equal(twin.prior.place_counts, model.prior.place_counts)


@pytest.mark.parametrize("size", [10, 30, 33])
def test_a_size_that_is_no_multiple_of_four_is_refused(size):
    with pytest.raises(ValueError, match=f"size divisible by 4, but got {size}"):
        VQVAE(ImageSpec(1, size, ()))


def test_the_gradient_passes_straight_through_the_codebook(monkeypatch):
    model = build(beta=0.0)
    monkeypatch.setattr(model, "log", lambda *args, **kwargs: None)
    images = pictures(4)
    # By hand: the gradient at the quantised vectors is handed to the features as it is.
    features = model.encoder(images - 0.5)
    codes = model.encode(images).view(4, 2, 2)
    vectors = model.codebook.vectors[codes].permute(0, 3, 1, 2).clone().requires_grad_()
    loss = ((model.decoder(vectors) + 0.5 - images) ** 2).mean()
    loss.backward()
    features.backward(vectors.grad)
    wanted = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    found = model.training_step((images, torch.zeros(4)))
    found.backward()
    torch.testing.assert_close(found, loss)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], msg=name)
    assert model.encoder[0].weight.grad.abs().sum() > 0


def test_the_loss_is_relative_error_plus_commitment(monkeypatch):
    model = build(beta=0.7)
    logged = {}
    monkeypatch.setattr(model, "log", lambda name, value, **kwargs: logged.update({name: value}))
    model.variance.fill_(0.2)
    images = pictures(4)
    with torch.no_grad():
        features = model.encoder(images - 0.5)
        vectors = model.codebook.vectors[model.encode(images).view(4, 2, 2)].permute(0, 3, 1, 2)
        error = ((model.decoder(vectors) + 0.5 - images) ** 2).mean() / 0.2
        wanted = error + 0.7 * ((features - vectors) ** 2).mean()
    loss = model.training_step((images, torch.zeros(4)))
    torch.testing.assert_close(loss.detach(), wanted)
    assert logged == {"train/loss": loss}


def test_training_lowers_the_loss_and_counts_codes(fake_data, quiet_trainer):
    class Curve(L.Callback):
        def on_validation_end(self, trainer, pl_module):
            if not trainer.sanity_checking:
                curve.append(float(trainer.callback_metrics["val/relative_mse"]))

        def on_train_epoch_end(self, trainer, pl_module):
            counts.append(pl_module.prior.place_counts.sum(1).tolist())

    curve, counts = [], []
    # Flat images of eight levels: easy to tell, easy to paint.
    levels = torch.linspace(0, 1, 8).repeat(5).view(40, 1, 1, 1).expand(40, 1, 8, 8)
    data = fake_data(as_bytes(levels), torch.zeros(40, dtype=torch.int64), batch_size=8)
    adam = functools.partial(torch.optim.Adam, lr=3e-3)
    model = build(hidden=16, num_codes=8, decay=0.9, optimizer=adam)
    trainer = quiet_trainer(max_epochs=20, callbacks=[Curve()])
    trainer.fit(model, datamodule=data)
    assert curve[-1] < curve[0]
    assert curve[-1] < 0.3  # the mean image has 1
    assert counts == [[40.0] * 4] * 20  # every image once at every position, each epoch anew
    trainer.test(model, datamodule=data, verbose=False)
    # `val` and `test` are the same images here.
    found = float(trainer.callback_metrics["test/relative_mse"])
    assert found == pytest.approx(curve[-1], rel=1e-4)


def test_the_mean_image_has_a_relative_error_of_one(fake_data, quiet_trainer):
    # Variance is within channels: these channels' means are far apart.
    images = pictures(64, 2) * 0.2 + torch.tensor([0.0, 0.8]).view(2, 1, 1)
    data = fake_data(as_bytes(images), torch.zeros(64, dtype=torch.int64), eval_batch_size=24)
    model = build(data.spec, optimizer=functools.partial(torch.optim.SGD, lr=0.0))
    pixels = data.split("train").images.float() / 255
    with torch.no_grad():
        model.decoder[-1].weight.zero_()
        model.decoder[-1].bias.copy_(pixels.mean((0, 2, 3)) - 0.5)
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(model, datamodule=data)
    # 64 * 64 pixels a channel: n / (n - 1) is 1 to .0003.
    assert float(trainer.callback_metrics["val/relative_mse"]) == pytest.approx(1.0, abs=1e-3)
    trainer.test(model, datamodule=data, verbose=False)
    assert float(trainer.callback_metrics["test/relative_mse"]) == pytest.approx(1.0, abs=1e-3)


def test_perplexity_of_uniform_usage_is_the_number_of_used_codes(monkeypatch):
    model = build()
    logged = {}
    monkeypatch.setattr(model, "log", lambda name, value, **kwargs: logged.update({name: value}))

    def end(counts):
        model.on_validation_epoch_start()
        model.squared_error(torch.tensor(0.5))
        model.epoch_counts += torch.tensor(counts)
        model.on_validation_epoch_end()
        return float(logged["val/perplexity"]), float(logged["val/used_codes"])

    assert end([7.0, 0.0, 7.0, 7.0, 0.0, 0.0]) == pytest.approx((3.0, 3.0))
    assert end([0.0, 0.0, 0.0, 0.0, 0.0, 9.0]) == pytest.approx((1.0, 1.0))
    # Shares 1/2, 1/4, 1/4: entropy 3/2 log 2.
    assert end([8.0, 4.0, 4.0, 0.0, 0.0, 0.0]) == pytest.approx((2**1.5, 3.0))
    assert float(logged["val/relative_mse"]) == 0.5  # of this epoch alone


def test_error_and_perplexity_are_over_the_whole_epoch(fake_data, quiet_trainer):
    images = pictures(10)
    images[8:] = images[8:].round()  # black and white
    data = fake_data(as_bytes(images), torch.zeros(10, dtype=torch.int64), eval_batch_size=4)
    model = build().eval()
    with torch.no_grad():
        shown = data.split("val").images.float() / 255
        model.codebook.vectors.copy_(model.encoder(shown - 0.5).movedim(1, 3).flatten(0, 2)[::7])
    metrics = quiet_trainer().validate(model, datamodule=data, verbose=False)[0]
    share = torch.bincount(model.encode(shown).flatten(), minlength=6) / 40
    known = share[share > 0]
    assert len(known) > 2
    assert metrics["val/used_codes"] == len(known)
    wanted = float((-(known * known.log()).sum()).exp())
    assert metrics["val/perplexity"] == pytest.approx(wanted, rel=1e-5)
    # Ten images in batches of 4, 4 and 2; the last two are the hardest. The variance is still 1.
    wanted = (model(shown) - shown).detach().square().mean().item()
    assert metrics["val/relative_mse"] == pytest.approx(wanted, rel=1e-5)


def test_drawn_images_depend_on_the_random_state_alone():
    model = build(num_codes=6).eval()
    images = pictures(5)

    def random(seed=3):
        return torch.Generator().manual_seed(seed)

    drawn = model.drawn(images, random())
    assert list(drawn) == ["reconstruction", "sample"]
    assert torch.equal(drawn["reconstruction"], model(images))
    codes = model.prior.sample(5, random())
    assert torch.equal(drawn["sample"], model.decode(codes))
    torch.rand(1)  # the global state has no part in it
    assert torch.equal(codes, model.prior.sample(5, random()))
    assert not torch.equal(codes, model.prior.sample(5, random(4)))


def test_optimizer_and_scheduler():
    optimizer = build().configure_optimizers()
    assert isinstance(optimizer, torch.optim.Adam)
    assert optimizer.param_groups[0]["lr"] == 1e-3
    both = build(
        optimizer=functools.partial(torch.optim.SGD, lr=1.0),
        scheduler=functools.partial(torch.optim.lr_scheduler.StepLR, step_size=1),
    ).configure_optimizers()
    assert both["lr_scheduler"].optimizer is both["optimizer"]
