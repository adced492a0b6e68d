"""The elite tensor train: a sampling train written down in closed form from the elites."""

import torch
from torch import Tensor

from spikelens.am.additive_model import AdditiveModel
from spikelens.am.archive import Archive
from spikelens.am.moves import KEEP, Moves, check_mix
from spikelens.am.optimizers.base import Optimizer
from spikelens.am.tensor_train import sample_chain
from spikelens.arguments import require_amounts, require_integers, require_shares
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
    symbols. Each proposal draws its own mu and chi, so that bold and timid ones come in every
    round. Some proposals are not tilted, so that the model sees what it would not have proposed.

    Args:
        space: See `Optimizer`.
        archive: See `Optimizer`; its elites are the train. Empty: the space is sampled.
        seed: See `Optimizer`.
        batch: See `Optimizer`.
        num_elites: Elites R in the train, positive.
        switch: Median of chi, in [0, 1].
        mutations: Median of the expected number of mutated symbols a proposal, mu * d, not
            negative.
        mix: Shares of neighbour, prior and uniform mutations, not negative, sum 1.
        spread: Standard deviation of the natural logarithm of a proposal's rates, not negative.
        tilt: eta in units of 1 / the standard deviation of f over the neighbours of the best
            elite's symbols, not negative; 0 for no model.
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
        num_elites: int = 20,
        switch: float = 0.2,
        mutations: float = 1.5,
        mix: tuple[float, float, float] = (0.6, 0.2, 0.2),
        spread: float = 0.7,
        tilt: float = 2.0,
        explore: float = 0.5,
    ) -> None:
        super().__init__(space, archive, seed=seed, batch=batch)
        _check(num_elites, switch, mutations, tuple(mix), spread, tilt, explore)
        self.num_elites = min(num_elites, archive.scores.shape[1])
        self.switch, self.spread, self.tilt = switch, spread, tilt
        self.is_tilted = torch.arange(batch, device=self.device) >= round(explore * batch)
        self.num_modes = len(space.mode_sizes)
        self.mutation = min(mutations / self.num_modes, 1.0)
        self.mix = torch.tensor(mix, dtype=torch.float32, device=self.device)
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
        tilts = self._tilts(elites)
        masses = self._masses(tilts, elites)
        states = self._states(masses)
        masses = masses.gather(4, states.expand(4, *states.shape)[..., None]).squeeze(4).cumsum(0)
        draws = torch.rand(states.shape, generator=self.random, device=self.device)
        kinds = (masses <= draws * masses[-1]).sum(0).clamp_max(3) - 1
        kinds, states = kinds.permute(1, 2, 0), states.permute(1, 2, 0)  # (K, b, d)
        return self._or_sampled(self._mutated(elites.gather(1, states), kinds, tilts))

    def _tilts(self, elites: Tensor) -> Tensor:
        """Return what the model multiplies each symbol's probability by, `(K, d, n)`."""
        if not self.tilt or self.model.num_seen < _NUM_LEARNED:
            return self.moves.uniform.new_ones(self.num_neurons, *self.moves.uniform.shape)
        values = self.model.table()
        eta = self.tilt / self.moves.deviation(values, elites[:, 0]).clamp_min(1e-12)
        gains = values - values.gather(2, elites[:, 0, :, None])  # on the best elite's symbol
        return (eta[:, None, None] * gains).clamp(-_LARGEST_TILT, _LARGEST_TILT).exp()

    def _masses(self, tilts: Tensor, elites: Tensor) -> Tensor:
        """Return the mass of keeping a symbol and of each kind of mutation, `(4, d, K, b, R)`."""
        sums = self.moves.masses(tilts, elites).permute(0, 2, 1, 3).unsqueeze(3)
        mutations = self._around(self.mutation)[..., None]  # (K, b, 1)
        shares = torch.stack([1.0 - mutations, *(share * mutations for share in self.mix)])
        return shares[:, None] * sums.where(self.is_tilted[:, None], 1.0)

    def _states(self, masses: Tensor) -> Tensor:
        """Draw the elite that each mode of each proposal follows, `(d, K, b)`."""
        path = masses.sum(0)[self.order]
        switches = self._around(self.switch)
        followed = sample_chain(path, self._weights(), switches, self.random)
        states = torch.empty_like(followed)
        states[self.order] = followed  # path -> position in the latent
        return states

    def _mutated(self, symbols: Tensor, kinds: Tensor, tilts: Tensor) -> Tensor:
        """Draw symbols `(K, b, d)` anew as their kinds say."""
        # To look for them makes the host wait for the device; but they are few.
        neurons, proposals, modes = places = (kinds != KEEP).nonzero(as_tuple=True)
        weights = tilts[neurons, modes].where(self.is_tilted[proposals, None], 1.0)
        drawn = self.moves.draw(kinds[places], symbols[places], modes, weights, self.random)
        symbols[places] = drawn
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
        pass  # the archive has the elites, and `watch` saw the rest

    def _weights(self) -> Tensor:
        """Return the elites' weights by rank, `(K, R)`, rows sum to 1."""
        ranks = torch.arange(1, self.num_elites + 1, device=self.device)
        weights = torch.log(torch.tensor(self.num_elites + 0.5)) - ranks.log()
        weights = weights * self.archive.scores[:, : self.num_elites].isfinite()
        weights[:, 0] += weights.sum(1) == 0  # an empty archive: any state will do
        return weights / weights.sum(1, keepdim=True)

    def _around(self, centre: float) -> Tensor:
        """Draw each proposal's own rate `(K, b)`, log-normal around a median."""
        shape = self.num_neurons, self.batch
        noise = torch.randn(shape, generator=self.random, device=self.device)
        return (centre * (self.spread * noise).exp()).clamp_max(1.0)


def _check(
    num_elites: int,
    switch: float,
    mutations: float,
    mix: tuple[float, ...],
    spread: float,
    tilt: float,
    explore: float,
) -> None:
    require_integers(1, num_elites=num_elites)
    require_shares(switch=switch, explore=explore)
    require_amounts(mutations=mutations, spread=spread, tilt=tilt)
    check_mix(mix)
