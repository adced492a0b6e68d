import copy
import functools
import itertools
import math

import lightning as L
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from callbacks.epoch_seed import EpochSeed
from spikelens.data.base import ImageSpec
from spikelens.models.sngan import SNGAN

GREY = ImageSpec(1, 8, ())
TAGS = ("score", "score_sample", "encoder_relative_mse")


def build(images=GREY, seed=0, **kwargs):
    torch.manual_seed(seed)
    sizes = {"z_size": 6, "generator_width": 4, "discriminator_width": 4, "encoder_width": 4}
    return SNGAN(
        images, **{"precision": "float32", "num_discriminator_steps": 1, **sizes, **kwargs}
    )


@pytest.fixture
def noise(fake_data):
    """Twenty 8 x 8 images: an epoch is five batches of four."""
    images = torch.randint(0, 256, (20, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(20, dtype=torch.int64)
    return fake_data(images.to(torch.uint8), labels, batch_size=4, eval_batch_size=10)


class Watch(L.Callback):
    """Copies of a generator after each batch, the learning rates, and what was logged."""

    def __init__(self):
        self.generators, self.rates = [], []

    def on_fit_start(self, trainer, pl_module):
        self._note(pl_module)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self._note(pl_module)
        self.rates.append([o.param_groups[0]["lr"] for o in trainer.optimizers])

    def _note(self, model):
        self.generators.append(copy.deepcopy(model.generator.state_dict()))


def fit(trainer, model, data, **kwargs):
    torch.manual_seed(5)
    trainer.fit(model, datamodule=data, **kwargs)
    return model


def weights_of(part):
    # Biases before a normalisation, and of a hinge at its start, have no gradient.
    return {name: value for name, value in part.named_parameters() if value.ndim > 1}


def test_training_moves_every_network_and_logs_every_tag(noise, quiet_trainer):
    model = build()
    before = copy.deepcopy(model)
    trainer = quiet_trainer(max_epochs=1)
    fit(trainer, model, noise)
    for part in ("generator", "discriminator", "encoder", "average"):
        old, new = weights_of(getattr(before, part)), weights_of(getattr(model, part))
        assert len(new) > 3
        for name, value in new.items():
            assert not torch.equal(value, old[name]), f"{part}.{name}"
    trained = [f"train/{name}_loss" for name in ("discriminator", "generator", "encoder")]
    logged = dict(trainer.callback_metrics)
    assert set(trained) | {f"val/{tag}" for tag in TAGS} == set(logged)
    trainer.test(model, datamodule=noise, verbose=False)
    logged |= trainer.callback_metrics
    assert {f"test/{tag}" for tag in TAGS} <= set(logged)
    assert all(math.isfinite(value) for value in logged.values())


def test_the_generator_moves_at_every_third_batch(noise, quiet_trainer):
    watch = Watch()
    fit(quiet_trainer(max_epochs=2, callbacks=[watch]), build(num_discriminator_steps=3), noise)
    weights = [state["first.weight"] for state in watch.generators]
    moved = [not torch.equal(*pair) for pair in itertools.pairwise(weights)]
    # Ten batches in two epochs: counted on from one epoch to the next.
    assert moved == [i % 3 == 0 for i in range(10)]


def test_the_discriminator_learns_nothing_in_the_generator_s_step(noise, quiet_trainer):
    model, seen = build(), []
    step = model._step_generator

    def watched(*args):
        model.discriminator.zero_grad()
        before = [parameter.clone() for parameter in model.discriminator.parameters()]
        step(*args)
        after = list(model.discriminator.parameters())
        seen.append(
            all(parameter.grad is None and parameter.requires_grad for parameter in after)
            and all(torch.equal(*pair) for pair in zip(before, after, strict=True))
            and all(value.grad is not None for value in model.generator.parameters())
        )

    model._step_generator = watched
    fit(quiet_trainer(max_epochs=1), model, noise)
    assert seen == [True] * 5


@pytest.mark.parametrize("is_decayed", [True, False])
def test_learning_rates_fall_linearly_to_nothing(noise, quiet_trainer, is_decayed):
    watch = Watch()
    model = build(is_decayed=is_decayed, num_discriminator_steps=2)
    fit(quiet_trainer(max_epochs=2, callbacks=[watch]), model, noise)
    left = [1.0 - (i + 1) / 10 if is_decayed else 1.0 for i in range(10)]
    for rates, share in zip(watch.rates, left, strict=True):
        assert rates == pytest.approx([2e-4 * share] * 3, abs=1e-12)


@pytest.mark.parametrize("decay", [0.0, 0.6])
def test_the_average_by_hand(noise, quiet_trainer, decay):
    watch = Watch()
    model = build(ema_decay=decay, num_discriminator_steps=2, is_decayed=False)
    fit(quiet_trainer(max_epochs=1, callbacks=[watch]), model, noise)
    # Steps of the generator at batches 0, 2 and 4: the copies 1, 3 and 5.
    first, *others = [watch.generators[i] for i in (1, 3, 5)]
    for name, found in model.average.module.state_dict().items():
        wanted = first[name].double()
        for state in others:
            wanted = decay * wanted + (1.0 - decay) * state[name]
        if found.is_floating_point():
            torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-7, msg=name)
        if decay == 0.0:
            assert torch.equal(found, model.generator.state_dict()[name]), name


class Save(L.Callback):
    """Keeps the checkpoint of each epoch."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.save_checkpoint(self.folder / f"{trainer.current_epoch}.ckpt")


def test_a_resumed_run_equals_an_unbroken_one(noise, quiet_trainer, tmp_path):
    def run(**kwargs):
        model = build(num_discriminator_steps=3)
        trainer = quiet_trainer(max_epochs=4, callbacks=[EpochSeed(2), Save(tmp_path)])
        trainer.fit(model, datamodule=noise, weights_only=True, **kwargs)
        return model, trainer

    whole, of_whole = run()
    torch.rand(7)  # where the random state was does not matter
    resumed, of_resumed = run(ckpt_path=tmp_path / "1.ckpt")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    for pair in zip(of_whole.optimizers, of_resumed.optimizers, strict=True):
        rates = [optimizer.param_groups[0]["lr"] for optimizer in pair]
        assert rates == [0.0, 0.0]
    assert dict(of_whole.callback_metrics) == dict(of_resumed.callback_metrics)


@pytest.mark.parametrize(
    ("images", "sizes"),
    [
        (GREY, {"generator_width": 5, "discriminator_width": 3, "encoder_width": 2, "z_size": 1}),
        (ImageSpec(3, 28, ("a", "b")), {}),
        (ImageSpec(3, 32, ()), {"z_size": 9}),
    ],
)
def test_the_state_alone_rebuilds_the_model(images, sizes):
    model = build(images, **sizes)
    with torch.no_grad():
        for part in (model.average, model.generator):  # statistics of their own
            part(torch.randn(8, model.z_size))
        model.average.module.first.weight.add_(0.1)
    model.eval()
    z = torch.randn(3, model.z_size)
    content = {name: value.contiguous() for name, value in model.shipped_state().items()}
    shipped = safetensors.torch.load(safetensors.torch.save(content))
    assert not [name for name in shipped if name.startswith("generator.")]
    for state in (model.state_dict(), shipped):
        twin = SNGAN.from_state(state).eval()
        assert twin.images.image_shape == images.image_shape
        drawn = twin(z)
        assert torch.equal(drawn, model(z))
        assert torch.equal(twin.score(drawn), model.score(drawn))
        assert torch.equal(twin.encode(drawn), model.encode(drawn))
    # What shipped goes on from the average.
    assert torch.equal(twin.generator.first.weight, model.average.module.first.weight)
    assert set(twin.state_dict()) == set(model.state_dict())


@pytest.mark.parametrize("state", [{}, {"encoder.0.weight": torch.zeros(2)}])
def test_the_state_of_another_model_is_refused(state):
    with pytest.raises(KeyError):
        SNGAN.from_state(state)


def test_images_are_drawn_scored_and_encoded_in_the_unit_range():
    model = build().eval()
    z = torch.randn(5, 6)
    with torch.no_grad():
        images = model(z)
        assert torch.equal(images, 0.5 * (model.average.module(z) + 1.0))
        assert torch.equal(model.score(images), model.discriminator(2.0 * images - 1.0))
        assert torch.equal(model.encode(images), model.encoder(2.0 * images - 1.0))
    assert images.min() >= 0.0
    assert images.max() <= 1.0


def test_drawn_images_depend_on_the_random_state_alone():
    model = build().eval()
    with torch.no_grad():
        model.generator.last.bias.fill_(9.0)

    def draw(seed):
        return model.drawn(torch.zeros(3, 1, 8, 8), torch.Generator().manual_seed(seed))

    first, again, other = draw(1), draw(1), draw(2)
    z = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    assert torch.equal(first["sample"], model(z))
    assert first["last_step_sample"].min() > 0.99
    assert list(first) == ["sample", "last_step_sample"]
    for name, images in first.items():
        assert images.shape == (3, 1, 8, 8)
        assert torch.equal(images, again[name])
    assert not torch.equal(first["sample"], other["sample"])


class Flat(nn.Module):
    """Draws images of one level."""

    def __init__(self, level):
        super().__init__()
        self.level = nn.Parameter(torch.tensor(level))

    def forward(self, z):
        return self.level.expand(len(z), 1, 8, 8)


class Brightness(nn.Module):
    """Scores images by scale * mean."""

    def __init__(self, scale):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, images):
        return self.scale * images.mean((1, 2, 3))


class Ignorant(nn.Module):
    """Encodes everything as 0."""

    def __init__(self):
        super().__init__()
        self.zero = nn.Parameter(torch.zeros(6))

    def forward(self, images):
        return self.zero.expand(len(images), 6)


def test_losses_by_hand(fake_data, quiet_trainer):
    # Levels -1, -0.6, 0.2 and 1 of [-1, 1].
    levels = torch.tensor([0, 51, 153, 255], dtype=torch.uint8).repeat(64)
    images = levels.view(-1, 1, 1, 1).expand(-1, 1, 8, 8)
    labels = torch.zeros(256, dtype=torch.int64)
    data = fake_data(images, labels, batch_size=256, eval_batch_size=256)
    model = build(optimizer=functools.partial(torch.optim.SGD, lr=0.0))
    model.generator, model.discriminator, model.encoder = Flat(0.3), Brightness(2.0), Ignorant()
    model.average = AveragedModel(model.generator)
    trainer = quiet_trainer(max_epochs=1)
    fit(trainer, model, data)
    logged = trainer.callback_metrics
    # Real ones score -2, -1.2, .4 and 2: short of 1 by 3, 2.2, .6 and 0. Drawn ones score .6.
    wanted = (3.0 + 2.2 + 0.6) / 4 + 1.6
    assert logged["train/discriminator_loss"] == pytest.approx(wanted, abs=1e-5)
    assert logged["train/generator_loss"] == pytest.approx(-0.6, abs=1e-6)
    assert logged["val/score"] == pytest.approx((-2.0 - 1.2 + 0.4 + 2.0) / 4, abs=1e-5)
    assert logged["val/score_sample"] == pytest.approx(0.6, abs=1e-6)
    # z^2 has mean 1 and variance 2: five standard errors of 256 * 6 numbers.
    assert logged["train/encoder_loss"] == pytest.approx(1.0, abs=5 * (2 / (256 * 6)) ** 0.5)
    # In [0, 1]: levels 0, .2, .6, 1 beside .65; the variance is that of the pixels, over n - 1.
    truth = torch.tensor([0.0, 0.2, 0.6, 1.0]).repeat_interleave(64 * 64)
    relative = (truth - 0.65).square().mean() / truth.var()
    assert logged["val/encoder_relative_mse"] == pytest.approx(float(relative), rel=1e-4)


def test_bfloat16_changes_losses_little_and_no_type(noise, quiet_trainer):
    losses = []
    for precision in ("float32", "bfloat16"):
        trainer = quiet_trainer(max_epochs=1, limit_train_batches=1)
        model = fit(trainer, build(precision=precision), noise)
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        found = trainer.callback_metrics
        losses.append([float(found[f"train/{n}_loss"]) for n in ("discriminator", "encoder")])
        assert found["train/discriminator_loss"].dtype == torch.float32
        # Nothing is measured in bfloat16 but what is trained.
        assert found["val/score"].dtype == torch.float32
    # bfloat16 has 8 bits: a rounding changes 1 by 1/256 at most, and there are some twenty layers.
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=20 / 256)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"z_size": 0}, "`z_size` must be a positive integer, but got 0"),
        ({"generator_width": -1}, "`generator_width` must be a positive"),
        ({"discriminator_width": -3}, "`discriminator_width` must be a positive"),
        ({"encoder_width": 0}, "`encoder_width` must be a positive"),
        ({"num_discriminator_steps": 0}, "`num_discriminator_steps` must be a positive"),
        ({"ema_decay": 1.0}, r"`ema_decay` must lie in \[0, 1\), but got 1.0"),
        ({"ema_decay": -0.1}, r"`ema_decay` must lie in \[0, 1\), but got -0.1"),
        ({"ema_decay": math.nan}, r"`ema_decay` must lie in \[0, 1\), but got nan"),
        ({"precision": "half"}, "`precision` must be auto, bfloat16, float32, but got 'half'"),
        ({"images": ImageSpec(1, 33, ())}, "`images` must have a size .*, but got 33"),
    ],
)
def test_a_bad_argument_is_one_sentence(arguments, says):
    with pytest.raises(ValueError, match=rf"^Argument {says}[^.]*\.$"):
        build(**arguments)


def test_optimizers_are_the_paper_s_unless_others_are_given(noise, quiet_trainer):
    trainer = quiet_trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    fit(trainer, build(), noise)
    assert len(trainer.optimizers) == 3
    for optimizer in trainer.optimizers:
        assert optimizer.param_groups[0]["betas"] == (0.0, 0.9)
    model = build(optimizer=functools.partial(torch.optim.SGD, lr=0.5), is_decayed=False)
    parts = model.discriminator, model.generator, model.encoder
    for optimizer, part in zip(model.configure_optimizers(), parts, strict=True):
        assert isinstance(optimizer, torch.optim.SGD)
        trained = {id(p) for p in optimizer.param_groups[0]["params"]}
        assert trained == {id(p) for p in part.parameters()}
