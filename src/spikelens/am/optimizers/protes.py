"""PROTES: learn a sampling tensor train by gradient steps on the best multi-indices."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spikelens.am import tensor_train
from spikelens.am.archive import Archive
from spikelens.am.optimizers.base import Optimizer
from spikelens.am.quantised import bits_of_modes, dequantise, quantise
from spikelens.arguments import require_integers
from spikelens.generators.base import LatentSpace
from spikelens.threads import one_thread


@dataclass(frozen=True)
class Preset:
    """Settings of one named variant of PROTES.

    Args:
        num_samples: Multi-indices sampled a round and neuron.
        num_top: Best of them that the train learns from.
        learning_rate: Step size of Adam.
        rank: Rank of the train.
        num_steps: Adam steps a round.
    """

    num_samples: int
    num_top: int
    learning_rate: float
    rank: int = 5
    num_steps: int = 1


PRESETS: dict[str, Preset] = {
    "tt": Preset(num_samples=10, num_top=1, learning_rate=0.05),
    "tt_s": Preset(num_samples=5, num_top=1, learning_rate=0.05),
    "tt_b": Preset(num_samples=25, num_top=5, learning_rate=0.05),
    "tt_exp": Preset(num_samples=100, num_top=10, learning_rate=0.1),
}


class SamplingTrain:
    """Tensor trains, one a neuron, that learn to sample what they are shown.

    Cores start uniform in [0, 1) and may turn negative later: magnitudes are what is sampled. The
    neurons share their parameter tensors but learn independently: the loss is a sum over neurons
    and Adam works elementwise.

    Args:
        num_neurons: Number of neurons K, positive.
        mode_sizes: Number of symbols n_j of each mode, each positive.
        rank: Rank of the trains, positive.
        learning_rate: Step size of Adam, positive.
        num_steps: Adam steps a call of `ascend`, positive.
        seed: Seed of the first cores and of the samples.
        device: Where the cores live.

    Raises:
        ValueError: If an argument is out of its range.

    Source: Batsheva et al., "PROTES: probabilistic optimization with tensor sampling", 2023.
    """

    def __init__(
        self,
        num_neurons: int,
        mode_sizes: Sequence[int],
        rank: int,
        learning_rate: float,
        num_steps: int = 1,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        _check_positive("num_neurons", num_neurons)
        _check_positive("rank", rank)
        _check_positive("learning_rate", learning_rate)
        _check_positive("num_steps", num_steps)
        if len(mode_sizes) == 0 or min(mode_sizes) < 1:
            raise ValueError(
                f"Argument `mode_sizes` must hold positive integers, but got {tuple(mode_sizes)}."
            )
        self.num_steps = num_steps
        self.generator = torch.Generator(device).manual_seed(seed)
        # Autograd refuses tensors born in a caller's inference mode.
        with torch.inference_mode(False):
            self.cores = [
                core.requires_grad_()
                for core in tensor_train.random_cores(num_neurons, mode_sizes, rank, self.generator)
            ]
            # Fused, or Adam loops over the d cores in Python.
            self.optimizer = torch.optim.Adam(self.cores, lr=learning_rate, fused=True)

    def sample(self, num: int) -> Tensor:
        """Draw `num` multi-indices a neuron, int64 `(K, num, d)`."""
        with one_thread():
            return tensor_train.sample(self.cores, num, self.generator)

    def ascend(
        self, elites: Tensor, weights: Tensor | None = None, num_steps: int | None = None
    ) -> None:
        """Raise the mean log-likelihood of each neuron's best multi-indices.

        Works whatever the caller's grad mode is.

        Args:
            elites: Multi-indices, int64 `(K, num_top, d)`.
            weights: Their weights in the mean, float `(K, num_top)`; rows sum to 1, or to 0 for a
                neuron that learns nothing. None for equal ones.
            num_steps: Adam steps, not negative; None for the train's own number.
        """
        with one_thread(), torch.inference_mode(False), torch.enable_grad():
            elites = elites.clone()
            shares = 1 / elites.shape[1] if weights is None else weights.clone()
            for _ in range(self.num_steps if num_steps is None else num_steps):
                loss = -(tensor_train.log_likelihood(self.cores, elites) * shares).sum()
                self.optimizer.zero_grad()
                torch.autograd.backward(loss)
                self.optimizer.step()

    def forget_steps(self) -> None:
        """Start Adam's moments afresh; the cores stay as they are."""
        self.optimizer.state.clear()


class Protes(Optimizer):
    """Search with a learned sampling train, as published; each neuron learns from its own images.

    Each round samples every neuron's train, keeps the best `num_top` of that sample and raises
    their likelihood. Start images and the pool are not used: they are no part of the method. Two
    options, off by default, let it be compared with searches that use them: a train that first
    learns the archive's elites, the natural start images, and one that keeps learning from the
    best of the archive rather than from the best of its last sample.

    Args:
        space: See `Optimizer`.
        archive: See `Optimizer`; read only where one of the options asks for it.
        seed: See `Optimizer`.
        preset: One of `PRESETS`; the paper's TT, TT-s, TT-b, TT-exp.
        quantised: Split each mode of size 2**q into q binary modes (QTT), as the paper does;
            only for a latent whose modes all have the same size, a power of two.
        num_warm_steps: Adam steps on the likelihood of the archive's elites before the first
            sample, not negative. Adam's moments then start afresh.
        keeps_best: Learn each round from the `num_top` best of the archive, the pool's and those
            of earlier rounds included, instead of the sample's.

    Raises:
        ValueError: If the preset is unknown, the latent cannot be quantised, or the number of warm
            steps is negative.

    Source: Batsheva et al., "PROTES", 2023; presets: Pospelov et al. 2025.
    """

    def __init__(
        self,
        space: LatentSpace,
        archive: Archive,
        *,
        seed: int = 0,
        preset: str = "tt_exp",
        quantised: bool = True,
        num_warm_steps: int = 0,
        keeps_best: bool = False,
    ) -> None:
        require_integers(0, num_warm_steps=num_warm_steps)
        if preset not in PRESETS:
            raise ValueError(
                f"Argument `preset` must be one of {', '.join(PRESETS)}, but got {preset!r}."
            )
        chosen = PRESETS[preset]
        super().__init__(space, archive, seed=seed, batch=chosen.num_samples)
        self.num_top, self.keeps_best = chosen.num_top, keeps_best
        self._warm_steps_left = num_warm_steps
        self.num_bits = bits_of_modes(space.mode_sizes) if quantised else 0
        sizes = (2,) * (self.num_bits * len(space.mode_sizes)) or space.mode_sizes
        self.train = SamplingTrain(
            self.num_neurons,
            sizes,
            chosen.rank,
            chosen.learning_rate,
            chosen.num_steps,
            seed,
            self.device,
        )

    def _propose(self) -> Tensor:
        if self._warm_steps_left:
            self._learn_elites(len(self.archive.scores[0]), self._warm_steps_left)
            self.train.forget_steps()
            self._warm_steps_left = 0
        self._sampled = self.train.sample(self.batch)
        return dequantise(self._sampled, self.num_bits) if self.num_bits else self._sampled

    def _learn(self, own: Tensor) -> None:
        if self.keeps_best:
            self._learn_elites(self.num_top)
            return
        best = own.topk(min(self.num_top, self.batch), 1)
        rows = best.indices.unsqueeze(2).expand(-1, -1, self._sampled.shape[2])
        self.train.ascend(self._sampled.gather(1, rows), _even_weights(best.values))

    def _learn_elites(self, num: int, num_steps: int | None = None) -> None:
        """Ascend on the `num` best of the archive, as far as there are any."""
        elites = self.archive.indices[:, :num]
        weights = _even_weights(self.archive.scores[:, :num])
        bits = quantise(elites, self.num_bits) if self.num_bits else elites
        self.train.ascend(bits, weights, num_steps)


def _even_weights(scores: Tensor) -> Tensor:
    """Weigh what has a finite score evenly, and the rest not at all, `(K, m)`."""
    is_known = scores.isfinite().float()
    return is_known / is_known.sum(1, keepdim=True).clamp_min(1)


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"Argument `{name}` must be positive, but got {value}.")
