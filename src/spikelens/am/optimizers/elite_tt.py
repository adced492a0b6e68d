"""The elite tensor train: a sampling train written down in closed form from the elites."""

import torch
from torch import Tensor

from spikelens.am.archive import Archive
from spikelens.am.mutation import PRIOR, Mutation, check_mix, draw_kinds
from spikelens.am.optimizers.base import Optimizer
from spikelens.arguments import require_integers
from spikelens.generators.base import LatentSpace


class EliteTT(Optimizer):
    """Sample the train of `tensor_train.elite_cores` without building it.

    The train is a hidden Markov chain over a neuron's R elites along the space's order: it keeps
    a run of one elite, switches to another (drawn by rank) with probability chi, and mutates a
    symbol with probability mu, to a neighbour symbol, a draw from the prior, or a uniform draw.
    All right marginals are 1, so that one left-to-right pass samples it; where a chain switches
    is known without a loop. Each proposal draws its own mu and chi around a centre that follows
    the successful ones, and so does the mix of the three mutations (Zhang & Sanderson, "JADE",
    2009, applied to the rates of the train).

    Args:
        space: See `Optimizer`.
        archive: See `Optimizer`; its elites are the train. Empty: the prior is sampled.
        seed: See `Optimizer`.
        batch: See `Optimizer`.
        num_elites: Elites R in the train, positive.
        switch: First chi, in [0, 1].
        mutations: First expected number of mutated symbols a proposal, mu * d, not negative.
        mix: First shares of neighbour, prior and uniform mutations, not negative, sum 1.
        learning_rate: How far a round's successes move rates and mix, in [0, 1]; 0 fixes them.
        spread: Standard deviation of the natural logarithm of a proposal's rates, not negative.

    Raises:
        ValueError: If an argument is out of its range.

    Source: design of this project; Batsheva et al., "PROTES", 2023, for sampling trains.
    """

    def __init__(
        self,
        space: LatentSpace,
        archive: Archive,
        *,
        seed: int = 0,
        batch: int = 10,
        num_elites: int = 10,
        switch: float = 0.3,
        mutations: float = 1.5,
        mix: tuple[float, float, float] = (0.6, 0.2, 0.2),
        learning_rate: float = 0.1,
        spread: float = 0.7,
    ) -> None:
        super().__init__(space, archive, seed=seed, batch=batch)
        _check(num_elites, switch, mutations, tuple(mix), learning_rate, spread)
        self.num_elites = min(num_elites, archive.scores.shape[1])
        self.learning_rate, self.spread = learning_rate, spread
        self.num_modes = len(space.mode_sizes)
        one = torch.ones(self.num_neurons, device=self.device)
        self.switch = one * switch
        self.mutation = one * min(mutations / self.num_modes, 1.0)
        self.mix = one[:, None] * torch.tensor(mix, device=self.device)
        self.order = space.order.to(self.device)
        self.mutate = Mutation(space, self.device)

    def _propose(self) -> Tensor:
        self._bar = self.archive.scores[:, self.num_elites - 1].clone()
        self._switches = self._around(self.switch)
        self._mutations = self._around(self.mutation)
        has_elites = self.archive.scores[:, 0].isfinite()
        elites = self._chain()
        self._kinds = self._kinds_of_mutation(has_elites)
        return self.mutate(elites, self._kinds, self.random)

    def _learn(self, own: Tensor) -> None:
        gain = own - self._bar.clamp_min(own.where(own.isfinite(), torch.inf).amin(1))[:, None]
        gain = gain.where(gain.isfinite(), 0.0).clamp_min(0.0)
        total = gain.sum(1)
        weights = gain / total.clamp_min(1e-30)[:, None]  # (K, b)
        pace = self.learning_rate * (total > 0)
        self.switch = _move(self.switch, self._switches, weights, pace)
        self.mutation = _move(self.mutation, self._mutations, weights, pace)
        counts = torch.stack([(self._kinds == kind).sum(2) for kind in range(3)], 2)  # (K, b, 3)
        shares = (counts * weights[..., None]).sum(1)
        shares = shares / shares.sum(1, keepdim=True).clamp_min(1e-30)
        pace = pace * (shares.sum(1) > 0)
        moved = torch.lerp(self.mix, shares, pace[:, None]).clamp_min(0.02)
        moved /= moved.sum(1, keepdim=True)
        self.mix = torch.where(pace[:, None] > 0, moved, self.mix)

    def _around(self, centre: Tensor) -> Tensor:
        """Draw each proposal's own rate `(K, b)`, log-normal around its neuron's centre."""
        noise = torch.randn(self.num_neurons, self.batch, generator=self.random, device=self.device)
        return (centre[:, None] * (self.spread * noise).exp()).clamp_max(1.0)

    def _chain(self) -> Tensor:
        """Follow the chain over elites: `(K, b, d)` symbols before mutation."""
        shape = (self.num_neurons, self.batch, self.num_modes)
        drawn = torch.multinomial(
            self._weights(), self.batch * self.num_modes, replacement=True, generator=self.random
        ).view(shape)
        is_switch = self._uniform(shape) < self._switches[..., None]
        is_switch[..., 0] = True
        places = torch.arange(self.num_modes, device=self.device)
        last_switch = (places * is_switch).cummax(2).values
        states = torch.empty_like(drawn)
        states[..., self.order] = drawn.gather(2, last_switch)  # path -> position in the latent
        return self.archive.indices[:, : self.num_elites].gather(1, states)

    def _weights(self) -> Tensor:
        """Return the elites' weights by rank, `(K, R)`, rows sum to 1."""
        ranks = torch.arange(1, self.num_elites + 1, device=self.device)
        weights = torch.log(torch.tensor(self.num_elites + 0.5)) - ranks.log()
        weights = weights * self.archive.scores[:, : self.num_elites].isfinite()
        weights[:, 0] += weights.sum(1) == 0  # an empty archive: any state will do
        return weights / weights.sum(1, keepdim=True)

    def _kinds_of_mutation(self, has_elites: Tensor) -> Tensor:
        """Choose how each symbol is drawn, `(K, b, d)`."""
        kinds = draw_kinds(self.mix, self._mutations, self.num_modes, self.random)
        return kinds.masked_fill(~has_elites[:, None, None], PRIOR)  # nothing is known yet

    def _uniform(self, shape: tuple[int, ...]) -> Tensor:
        return torch.rand(shape, generator=self.random, device=self.device)


def _move(centre: Tensor, rates: Tensor, weights: Tensor, pace: Tensor) -> Tensor:
    """Move the logarithm of centres `(K,)` towards the weighted mean of rates `(K, b)`."""
    tiny = 1e-6
    target = (weights * rates.clamp_min(tiny).log()).sum(1)
    moved = torch.lerp(centre.clamp_min(tiny).log(), target, pace).exp()
    return torch.where(pace > 0, moved, centre)


def _check(
    num_elites: int,
    switch: float,
    mutations: float,
    mix: tuple[float, ...],
    learning_rate: float,
    spread: float,
) -> None:
    require_integers(1, num_elites=num_elites)
    for name, rate in (("switch", switch), ("learning_rate", learning_rate)):
        if not 0.0 <= rate <= 1.0:
            raise ValueError(f"Argument `{name}` must lie in [0, 1], but got {rate}.")
    for name, size in (("mutations", mutations), ("spread", spread)):
        if size < 0.0:
            raise ValueError(f"Argument `{name}` must not be negative, but got {size}.")
    check_mix(mix)
