"""PROTES: learn a sampling tensor train by gradient steps on the best multi-indices."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spikelens.am import tensor_train
from spikelens.am.archive import Archive
from spikelens.am.optimizers.base import Optimizer
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

    def ascend(self, elites: Tensor) -> None:
        """Raise the mean log-likelihood of each neuron's best multi-indices.

        Works whatever the caller's grad mode is.

        Args:
            elites: Multi-indices, int64 `(K, num_top, d)`.
        """
        with one_thread(), torch.inference_mode(False), torch.enable_grad():
            elites = elites.clone()
            for _ in range(self.num_steps):
                loss = -tensor_train.log_likelihood(self.cores, elites).mean(dim=1).sum()
                self.optimizer.zero_grad()
                torch.autograd.backward(loss)
                self.optimizer.step()


class Protes(Optimizer):
    """Search with a learned sampling train, as published; each neuron learns from its own images.

    Each round samples every neuron's train, keeps the best `num_top` of that sample and raises
    their likelihood. Start images and the pool are not used: they are no part of the method.

    Args:
        space: See `Optimizer`.
        archive: See `Optimizer`; not read.
        seed: See `Optimizer`.
        preset: One of `PRESETS`; the paper's TT, TT-s, TT-b, TT-exp.
        quantised: Split each mode of size 2**q into q binary modes (QTT), as the paper does;
            only for a latent whose modes all have the same size, a power of two.

    Raises:
        ValueError: If the preset is unknown, or the latent cannot be quantised.

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
    ) -> None:
        if preset not in PRESETS:
            raise ValueError(
                f"Argument `preset` must be one of {', '.join(PRESETS)}, but got {preset!r}."
            )
        chosen = PRESETS[preset]
        super().__init__(space, archive, seed=seed, batch=chosen.num_samples)
        self.num_top = chosen.num_top
        self.num_bits = _num_bits(space.mode_sizes) if quantised else 0
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
        self._sampled = self.train.sample(self.batch)
        # A copy: what the caller does to it must not change what is learned.
        return dequantise(self._sampled, self.num_bits) if self.num_bits else self._sampled.clone()

    def _learn(self, own: Tensor) -> None:
        best = own.topk(min(self.num_top, self.batch), 1)
        # A neuron none of whose images was shown (it is at its ceiling) has nothing to learn, but
        # what it learns no longer matters either: the trains are independent.
        rows = best.indices.unsqueeze(2).expand(-1, -1, self._sampled.shape[2])
        self.train.ascend(self._sampled.gather(1, rows))


def _num_bits(mode_sizes: Sequence[int]) -> int:
    size = mode_sizes[0]
    if set(mode_sizes) != {size} or size < 2 or size & (size - 1):
        raise ValueError(
            "Argument `quantised` must be False unless all modes have one size, a power of two, "
            f"but the mode sizes are {sorted(set(mode_sizes))}."
        )
    return size.bit_length() - 1


def dequantise(bits: Tensor, num_bits: int) -> Tensor:
    """Join groups of binary modes, the lowest bit first, into modes of size 2**num_bits.

    The order is teneva's (`teneva.ind_qtt_to_tt`).

    Args:
        bits: Bits, int64 `(..., d * q)`.
        num_bits: Binary modes q that make one mode, positive.

    Returns:
        Multi-indices, int64 `(..., d)`.

    Example:
        >>> dequantise(torch.tensor([0, 1, 1, 1, 0, 0]), 3).tolist()
        [6, 1]
    """
    shifts = torch.arange(num_bits, device=bits.device)
    groups = bits.reshape(*bits.shape[:-1], bits.shape[-1] // num_bits, num_bits)
    return torch.sum(groups << shifts, dim=-1)


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"Argument `{name}` must be positive, but got {value}.")
