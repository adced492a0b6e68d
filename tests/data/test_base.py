import pytest
import torch

from spikelens.data.augmentation import Augmentation
from spikelens.data.base import EpochSampler, ImageData, ImageSpec, Split

NUM_IMAGES = {"train": 50, "val": 7, "test": 9}


class Counting(ImageData):
    """Image i of a split is filled with the value i; counts how often it is loaded."""

    channels, image_size = 1, 6
    num_loads = 0

    def _load(self):
        self.num_loads += 1
        return {
            name: Split(
                torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).repeat(1, 1, 6, 6),
                torch.arange(count) % 2,
            )
            for name, count in NUM_IMAGES.items()
        }

    def _class_names(self):
        return ("even", "odd")


@pytest.fixture
def data():
    data = Counting(batch_size=16, eval_batch_size=4)
    data.setup()
    return data


def order_of(loader):
    return torch.cat([images[:, 0, 0, 0] for images, _ in loader]).tolist()


def test_spec_tells_shape_and_classes_before_any_image_is_read():
    data = Counting()
    assert data.spec == ImageSpec(channels=1, size=6, classes=("even", "odd"))
    assert data.spec.image_shape == (1, 6, 6)
    assert data.num_loads == 0


def test_setup_loads_once(data):
    data.setup()
    data.setup("fit")
    assert data.num_loads == 1


def test_nothing_is_served_before_setup():
    data = Counting()
    with pytest.raises(RuntimeError, match="Call `setup` of Counting before asking for a split"):
        data.split("train")


def test_an_unknown_split_lists_those_there_are(data):
    with pytest.raises(ValueError, match="one of train, val, test, but got 'dev'"):
        data.split("dev")


@pytest.mark.parametrize(
    "arguments", [{"batch_size": 0}, {"eval_batch_size": 2.5}, {"seed": -1}, {"seed": True}]
)
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match=f"Argument `{next(iter(arguments))}` must be"):
        Counting(**arguments)


def test_batches_are_uint8_with_their_labels_and_none_is_dropped(data):
    batches = list(data.train_dataloader())
    assert [len(labels) for _, labels in batches] == [16, 16, 16, 2]
    for images, labels in batches:
        assert images.dtype == torch.uint8
        assert images.shape[1:] == (1, 6, 6)
        assert torch.equal(images[:, 0, 0, 0] % 2, labels)


def test_a_dataset_serves_single_images_too(data):
    dataset = data.val_dataloader().dataset
    images, label = dataset[3]
    assert len(dataset) == 7
    assert images.unique().tolist() == [3]
    assert label == 1


def test_evaluation_keeps_the_order(data):
    assert order_of(data.val_dataloader()) == list(range(7))
    assert order_of(data.test_dataloader()) == list(range(9))


def test_training_order_is_a_pure_function_of_seed_and_epoch(data):
    orders = {}
    for epoch in (0, 1, 2):
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        orders[epoch] = order_of(loader)
        assert sorted(orders[epoch]) == list(range(50))
        assert order_of(loader) == orders[epoch]
    assert orders[0] != orders[1] != orders[2]
    assert list(EpochSampler(50, seed=0)) == orders[0]
    assert list(EpochSampler(50, seed=1)) != orders[0]
    assert len(EpochSampler(50, seed=1)) == 50


def test_loading_leaves_torchs_random_state_alone(data):
    before = torch.get_rng_state()
    order_of(data.train_dataloader())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning with torch 2.15
def test_images_arrive_as_floats_and_only_training_is_augmented(watcher, quiet_trainer):
    data = Counting(batch_size=50, augmentation=Augmentation(pad=0, flip=False, brightness=0.9))
    data.setup()
    module = watcher(data.spec)
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    for batches in module.seen.values():
        for images, labels in batches:
            assert images.dtype == torch.float32
            assert labels.dtype == torch.int64
            assert 0.0 <= images.min() <= images.max() <= 1.0
    pixels = {name: batches[-1][0][:, 0, 0, 0] * 255.0 for name, batches in module.seen.items()}
    assert torch.allclose(pixels["val"], torch.arange(7.0))
    assert torch.allclose(pixels["test"], torch.arange(9.0))
    # Without augmentation the training pixels would be integers.
    assert (pixels["train"] - pixels["train"].round()).abs().max() > 1e-3


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning with torch 2.15
def test_the_trainer_moves_on_to_each_epochs_own_order(watcher, quiet_trainer):
    data = Counting(batch_size=50, seed=5)
    data.setup()
    module = watcher(data.spec)
    quiet_trainer(max_epochs=2, num_sanity_val_steps=0).fit(module, datamodule=data)
    for epoch, (images, _) in enumerate(module.seen["train"]):
        sampler = EpochSampler(50, seed=5)
        sampler.set_epoch(epoch)
        assert (images[:, 0, 0, 0] * 255.0).round().long().tolist() == list(sampler)
