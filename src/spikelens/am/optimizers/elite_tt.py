"""The elite tensor train: a sampling train written down in closed form from the elites."""

import torch
from torch import Tensor

from spikelens.am.additive_model import AdditiveModel
from spikelens.am.archive import Archive
from spikelens.am.moves import KEEP, Moves, check_mix
from spikelens.am.optimizers.base import Optimizer
from spikelens.am.tensor_train import sample_chain
from spikelens.arguments import require_integers
from spikelens.generators.base import LatentSpace

_NUM_LEARNED = 8  # points that the model must have seen before it tilts anything
_LARGEST_TILT = 30.0  # of a symbol's logarithm; its exponential stays far inside a float


class EliteTT(Optimizer):
    """Sample the product of two trains: one of the elites, and one of what was learned of symbols.

    The first is `tensor_train.elite_cores`, a hidden Markov chain over a neuron's R elites along
    the space's order: it keeps a run of one elite, switches to another (drawn by rank) with
    probability chi, and mutates a symbol with probability mu, to a neighbour symbol, a draw from
    the prior, or a uniform draw. The second has rank 1: `exp(eta f(x))`, where the additive model f
    of `spikelens.am.additive_model` is fitted to all evaluated points. Their product is a train of
    rank R again, and is sampled exactly, by one sweep for its right interfaces and one for the
    symbols. Each proposal draws its own mu and chi around a centre that follows the successful
    ones, and so does the mix of the three mutations (Zhang & Sanderson, "JADE", 2009, applied to
    the rates of the train). Some proposals are not tilted, so that the model sees what it would
    not have proposed.

    Args:
        space: See `Optimizer`.
        archive: See `Optimizer`; its elites are the train. Empty: the space is sampled.
        seed: See `Optimizer`.
        batch: See `Optimizer`.
        num_elites: Elites R in the train, positive.
        switch: First chi, in [0, 1].
        mutations: First expected number of mutated symbols a proposal, mu * d, not negative.
        mix: First shares of neighbour, prior and uniform mutations, not negative, sum 1.
        learning_rate: How far a round's successes move rates and mix, in [0, 1]; 0 fixes them.
        spread: Standard deviation of the natural logarithm of a proposal's rates, not negative.
        tilt: eta in units of 1 / the standard deviation of f over a symbol's neighbours, not
            negative; 0 for no model.
        explore: Share of proposals that are not tilted, in [0, 1].

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
        tilt: float = 1.0,
        explore: float = 0.2,
    ) -> None:
        super().__init__(space, archive, seed=seed, batch=batch)
        _check(num_elites, switch, mutations, tuple(mix), learning_rate, spread, tilt, explore)
        self.num_elites = min(num_elites, archive.scores.shape[1])
        self.learning_rate, self.spread, self.tilt = learning_rate, spread, tilt
        self.is_tilted = torch.arange(batch, device=self.device) >= round(explore * batch)
        self.num_modes = len(space.mode_sizes)
        one = torch.ones(self.num_neurons, device=self.device)
        self.switch = one * switch
        self.mutation = one * min(mutations / self.num_modes, 1.0)
        self.mix = one[:, None] * torch.tensor(mix, device=self.device)
        self.order = space.order.to(self.device)
        self.model = AdditiveModel(space, self.num_neurons, device=self.device)
        self.moves = Moves(space, self.device)
        self._has_elites = False

    def watch(self, points: Tensor, scores: Tensor) -> None:
        """Let the model learn from all that was shown; see `Optimizer`."""
        if self.tilt:
            self.model.add(points, scores)

    def _propose(self) -> Tensor:
        elites = self.archive.indices[:, : self.num_elites]
        self._bar = self.archive.scores[:, self.num_elites - 1].clone()
        self._switches = self._around(self.switch)
        self._mutations = self._around(self.mutation)
        tilts = self._tilts(elites)
        masses = self._masses(tilts, elites)
        states = self._states(masses)
        masses = masses.gather(4, states.expand(4, *states.shape)[..., None]).squeeze(4).cumsum(0)
        kinds = (masses <= self._uniform(tuple(states.shape)) * masses[-1]).sum(0).clamp_max(3) - 1
        self._kinds, states = kinds.permute(1, 2, 0), states.permute(1, 2, 0)  # (K, b, d)
        return self._or_sampled(self._mutated(elites.gather(1, states), tilts))

    def _tilts(self, elites: Tensor) -> Tensor:
        """Return what the model multiplies each symbol's probability by, `(K, d, n)`."""
        if not self.tilt or self.model.num_seen < _NUM_LEARNED:
            return self.moves.uniform.new_ones(self.num_neurons, *self.moves.uniform.shape)
        values = self.model.table()
        eta = self.tilt / self.moves.deviation(values, elites).clamp_min(1e-12)
        gains = values - values.gather(2, elites[:, 0, :, None])  # on the best elite's symbol
        return (eta[:, None, None] * gains).clamp(-_LARGEST_TILT, _LARGEST_TILT).exp()

    def _masses(self, tilts: Tensor, elites: Tensor) -> Tensor:
        """Return the mass of keeping a symbol and of each kind of mutation, `(4, d, K, b, R)`."""
        sums = self.moves.masses(tilts, elites).permute(0, 2, 1, 3).unsqueeze(3)
        mutations = self._mutations[..., None] * self.mix.T[:, :, None, None]  # (3, K, b, 1)
        shares = torch.cat([1.0 - self._mutations[None, ..., None], mutations])
        return shares[:, None] * sums.where(self.is_tilted[:, None], 1.0)

    def _states(self, masses: Tensor) -> Tensor:
        """Draw the elite that each mode of each proposal follows, `(d, K, b)`."""
        path = masses.sum(0)[self.order]
        followed = sample_chain(path, self._weights(), self._switches, self.random)
        states = torch.empty_like(followed)
        states[self.order] = followed  # path -> position in the latent
        return states

    def _mutated(self, symbols: Tensor, tilts: Tensor) -> Tensor:
        """Draw the mutated ones of the symbols `(K, b, d)` anew."""
        # To look for them makes the host wait for the device; but they are few.
        neurons, proposals, modes = places = (self._kinds != KEEP).nonzero(as_tuple=True)
        weights = tilts[neurons, modes].where(self.is_tilted[proposals, None], 1.0)
        symbols[places] = self.moves.draw(
            self._kinds[places], symbols[places], modes, weights, self.random
        )
        return symbols

    def _or_sampled(self, proposals: Tensor) -> Tensor:
        """Replace the proposals `(K, b, d)` of neurons that have no elite yet."""
        if not self._has_elites:
            has_elites = self.archive.scores[:, 0].isfinite()
            self._has_elites = bool(has_elites.all())
            drawn = self.space.sample(self.num_neurons * self.batch, self.random)
            proposals = torch.where(
                has_elites[:, None, None], proposals, drawn.view(proposals.shape)
            )
        return proposals

    def _learn(self, own: Tensor) -> None:
        gain = own - self._bar.clamp_min(own.where(own.isfinite(), torch.inf).amin(1))[:, None]
        gain = gain.where(gain.isfinite(), 0.0).clamp_min(0.0)
        total = gain.sum(1)
        weights = (gain / total.clamp_min(1e-30)[:, None]).float()  # (K, b)
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

    def _weights(self) -> Tensor:
        """Return the elites' weights by rank, `(K, R)`, rows sum to 1."""
        ranks = torch.arange(1, self.num_elites + 1, device=self.device)
        weights = torch.log(torch.tensor(self.num_elites + 0.5)) - ranks.log()
        weights = weights * self.archive.scores[:, : self.num_elites].isfinite()
        weights[:, 0] += weights.sum(1) == 0  # an empty archive: any state will do
        return weights / weights.sum(1, keepdim=True)

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
    tilt: float,
    explore: float,
) -> None:
    require_integers(1, num_elites=num_elites)
    rates = {"switch": switch, "learning_rate": learning_rate, "explore": explore}
    for name, rate in rates.items():
        if not 0.0 <= rate <= 1.0:
            raise ValueError(f"Argument `{name}` must lie in [0, 1], but got {rate}.")
    for name, size in (("mutations", mutations), ("spread", spread), ("tilt", tilt)):
        if size < 0.0:
            raise ValueError(f"Argument `{name}` must not be negative, but got {size}.")
    check_mix(mix)
