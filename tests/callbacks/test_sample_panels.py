import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image, ImageChops
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks.sample_panels import SamplePanels, spherical_walk
from spikelens.models.sngan import SNGAN


def build(data):
    torch.manual_seed(0)
    sizes = {"generator_width": 4, "discriminator_width": 4, "encoder_width": 4}
    return SNGAN(data.spec, z_size=6, num_discriminator_steps=1, precision="float32", **sizes)


def test_panels_are_logged_and_saved(stripes, fit, tmp_path):
    logger = TensorBoardLogger(tmp_path, name="tb")
    panels = SamplePanels(4, str(tmp_path / "panels"))
    fit(build(stripes), stripes, [panels], logger=logger)
    events = EventAccumulator(logger.log_dir, size_guidance={"images": 0})
    events.Reload()
    steps = [event.step for event in events.Scalars("val/score")]
    assert [event.step for event in events.Images("sngan/panel")] == steps
    first, last = (Image.open(tmp_path / "panels" / f"samples_epoch00{i}.png") for i in (0, 1))
    assert first.size == last.size
    # Seven rows: four of samples, a walk, the images and what is drawn of their encodings.
    _, top, _, bottom = ImageChops.difference(first, last).getbbox()
    assert top < first.height / 7
    assert bottom > 6 / 7 * first.height
    images = [picture.crop((0, 376, picture.width, 440)) for picture in (first, last)]
    assert images[0].tobytes() == images[1].tobytes()
    assert images[0].getextrema()[0][0] < images[0].getextrema()[0][1]


def test_nothing_is_saved_unless_asked_for(stripes, fit, tmp_path):
    fit(build(stripes), stripes, [SamplePanels(2)], max_epochs=1)
    assert not list(tmp_path.rglob("*.png"))


def test_training_is_the_same_with_and_without_panels(stripes, fit, tmp_path):
    models = []
    for callbacks in ([], [SamplePanels(3, str(tmp_path))]):
        models.append(build(stripes))
        torch.manual_seed(1)
        fit(models[-1], stripes, callbacks)
    for name, value in models[0].state_dict().items():
        assert torch.equal(value, models[1].state_dict()[name]), name


def test_drawing_leaves_modes_weights_and_random_state(stripes, fit, tmp_path):
    class Watched(SamplePanels):
        def on_train_epoch_end(self, trainer, pl_module):
            pl_module.generator.blocks.eval()  # modes that differ
            before, random = state_of(pl_module), torch.get_rng_state()
            super().on_train_epoch_end(trainer, pl_module)
            after = state_of(pl_module)
            assert after[0] == before[0]
            assert all(torch.equal(after[1][name], value) for name, value in before[1].items())
            assert torch.equal(torch.get_rng_state(), random)
            assert torch.is_grad_enabled()
            seen.append(trainer.current_epoch)

    def state_of(module):
        modes = [child.training for child in module.modules()]
        return modes, {name: value.clone() for name, value in module.state_dict().items()}

    seen = []
    fit(build(stripes), stripes, [Watched(2, str(tmp_path))])
    assert seen == [0, 1]


def test_there_may_be_fewer_images_than_asked_for(stripes, fit, tmp_path):
    fit(build(stripes), stripes, [SamplePanels(30, str(tmp_path))], max_epochs=1)
    with Image.open(tmp_path / "samples_epoch000.png") as picture:
        assert picture.width > 30 * 64


def test_other_modules_are_refused(stripes, build_model, fit):
    with pytest.raises(ValueError, match="must be an SN-GAN for these panels, but got"):
        fit(build_model(), stripes, [SamplePanels()])


@pytest.mark.parametrize("num_images", [0, 1])
def test_a_walk_has_two_ends(num_images):
    with pytest.raises(ValueError, match="`num_images` must be an integer of at least 2"):
        SamplePanels(num_images)


def test_a_walk_by_hand():
    # A quarter of a circle in three steps of 30 degrees.
    walk = spherical_walk(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0]), 4)
    root = 3**0.5
    torch.testing.assert_close(walk, torch.tensor([[2, 0], [root, 1], [1, root], [0, 2]]))


@pytest.mark.parametrize("size", [2, 6, 128])
def test_a_walk_keeps_its_length_and_turns_evenly(size):
    begin, end = torch.randn(2, size, generator=torch.Generator().manual_seed(size))
    end = end * begin.norm() / end.norm()
    walk = spherical_walk(begin, end, 9)
    assert walk.shape == (9, size)
    torch.testing.assert_close(walk[0], begin)
    torch.testing.assert_close(walk[-1], end)
    torch.testing.assert_close(walk.norm(dim=1), begin.norm().expand(9))
    turns = torch.cosine_similarity(walk[1:], walk[:-1])
    torch.testing.assert_close(turns, turns[:1].expand(8))


def test_a_walk_between_lengths_stays_near_them():
    begin, end = torch.randn(2, 128, generator=torch.Generator().manual_seed(0))
    walk = spherical_walk(begin, 2.0 * end, 9)
    torch.testing.assert_close(walk[0], begin)
    torch.testing.assert_close(walk[-1], 2.0 * end)
    # A straight line would pass at 0.9 of the shorter one, and less in between equals.
    assert walk.norm(dim=1).min() >= 0.99 * begin.norm()
    assert (walk.norm(dim=1).diff() > 0).all()


@pytest.mark.parametrize("factor", [1.0, 2.0, -1.0, -3.0])
def test_a_walk_along_one_line_is_straight(factor):
    begin = torch.randn(6, generator=torch.Generator().manual_seed(0))
    walk = spherical_walk(begin, factor * begin, 5)
    wanted = torch.linspace(1.0, factor, 5)[:, None] * begin
    torch.testing.assert_close(walk, wanted, rtol=1e-3, atol=2e-3)
