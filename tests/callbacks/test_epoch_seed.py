import pytest
import torch

from callbacks.epoch_seed import EpochSeed


class Draw(EpochSeed):
    """Note the first random number of each epoch."""

    def __init__(self, seed):
        super().__init__(seed)
        self.drawn = []

    def on_train_epoch_start(self, trainer, pl_module):
        super().on_train_epoch_start(trainer, pl_module)
        state = torch.get_rng_state()
        self.drawn.append(float(torch.rand(1)))
        torch.set_rng_state(state)


def test_numbers_depend_on_seed_and_epoch_alone(stripes, build_model, fit):
    runs = []
    for disturbance, seed in ((0, 1), (5, 1), (0, 2)):
        callback = Draw(seed)
        torch.rand(disturbance)
        fit(build_model(), stripes, [callback])
        runs.append(callback.drawn)
    assert runs[0] == runs[1]
    assert runs[0][0] != runs[0][1]
    assert runs[0] != runs[2]


def test_a_seed_is_not_negative():
    with pytest.raises(ValueError, match="`seed` must be an integer of at least 0, but got -1"):
        EpochSeed(-1)
