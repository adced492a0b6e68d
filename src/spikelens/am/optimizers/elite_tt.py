"""The elite tensor train: a sampling train written down in closed form from the elites."""

import torch
from torch import Tensor

from spikelens.am.additive_model import AdditiveModel
from spikelens.am.archive import Archive
from spikelens.am.moves import Moves, check_mix
from spikelens.am.optimizers.base import Optimizer
from spikelens.am.tilted_train import TiltedTrain
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
    of `spikelens.am.additive_model` is fitted to the last evaluated points. Their product is a
    train of rank R again, and is sampled exactly, by one sweep for its right interfaces and one for
    the symbols. Each proposal draws its own mu and chi, so that bold and timid ones come in every
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
        self.num_plain = round(explore * batch)
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
        is_tilted = (
            self.tilt > 0.0 and self.num_plain < self.batch and self.model.num_seen >= _NUM_LEARNED
        )
        train = TiltedTrain(
            self.moves,
            self.order,
            elites,
            self._weights(),
            self._tilts(elites[:, 0]) if is_tilted else None,
            self.num_plain if is_tilted else self.batch,
            self._around(self.mutation),
            self._around(self.switch),
            self.mix,
        )
        return self._or_sampled(train.draw(self.random))

    def _tilts(self, best: Tensor) -> Tensor:
        """Return what the model multiplies each symbol's probability by, `(K, d, n)`."""
        values = self.model.table()
        eta = self.tilt / self.moves.deviation(values, best).clamp_min(1e-12)
        gains = values - values.gather(2, best[..., None])
        return gains.mul_(eta[:, None, None]).clamp_(-_LARGEST_TILT, _LARGEST_TILT).exp_()

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
