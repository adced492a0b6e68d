"""The elite tensor train: a sampling train written down in closed form from the elites."""

import math

import torch
from torch import Tensor

from spikelens.am.archive import Archive
from spikelens.am.guided_moves import GuidedMoves
from spikelens.am.moves import Moves, draw_kinds
from spikelens.am.optimizers.base import Optimizer
from spikelens.am.pairwise_model import WINDOW, PairwiseModel
from spikelens.arguments import require_amounts, require_integers, require_shares
from spikelens.generators.base import LatentSpace

_NUM_LEARNED = 8  # points that the model must have seen before it guides anything
_SETTLED = 3  # times as many as are recent must have been shown before those of old are let go
_MOST_PARTED = 2**29  # bytes of points of neurons' own; some four hundred neurons on codes
_BETTER_SHARE = 1 / 3  # of recent points that are elites


class EliteTT(Optimizer):
    """Sample a train of the elites; let a model of what was shown guide the mutations.

    The train is a hidden Markov chain over a neuron's R elites along the space's order: it keeps a
    run of one elite, switches to another (drawn by rank) with probability chi, and mutates a symbol
    with probability mu, to a look-alike or to any symbol. Its cores are `G_1[1, x, s] = w_s K_1(x |
    e_s1)` and `G_j[s', x, s] = T[s', s] K_j(x | e_sj)` with weights w, mutations K and `T = (1 -
    chi) I + chi 1 w^T`: its right interfaces are constant, so that one sweep from left to right
    samples it, and no core need be written down.

    Elites are at first the best points of all times. Once a neuron was shown 300 points of its own
    they are the better third of its last 100, by the sum of standardised score and model: among
    points that came out best by luck, or along a slope that leads on, the search does not stay.
    What is best of all is kept in the archive. In a pool one model learns from the points of all
    neurons until then, and then one for each neuron from its own: early there are few points, late
    those of others lie far off. Neurons whose models would take more than half a GiB stay together,
    and so they do without recent elites.

    Mutations of all proposals, or of half in a space without relations, are guided:
    `spikelens.am.pairwise_model` is fitted to the last evaluated points, expanded to first order
    around what the chain drew, and multiplies each symbol's probability by `exp(eta * its
    promise)`; see `spikelens.am.guided_moves`. Guided proposals may be bold; the plain ones are
    timid, and show the model what it would not have proposed.

    Args:
        space: See `Optimizer`.
        archive: See `Optimizer`; its elites are the train. Empty: the space is sampled.
        seed: See `Optimizer`.
        batch: See `Optimizer`.
        num_elites: Elites of all times R, positive; no more than the archive keeps.
        recent: Last points of a neuron's own of which the better third are its elites, at least 8.
            None, without a model, in a pool that stays together, and until it has been shown three
            times as many: its elites are the archive's, those of all times.
        switch: chi, in [0, 1].
        mutations: Expected number of mutated symbols of a plain proposal, mu * d, not negative.
        guided_mutations: The same of a guided one, if the model promised nothing. None: 8 in a
            space with relations, whose model learns from few points; else as `mutations`.
        near: Share of mutations to a look-alike, in [0, 1].
        guidance: eta in units of 1 / the root mean square of what look-alikes of the best elite's
            symbols are promised beyond these, not negative; 0 for no model. None: 5 in a space
            with relations, else 3.
        explore: Share of proposals that are plain, in [0, 1], of a batch rounded to whole ones.
            None: 0 in a space with relations, else .5.
        is_pairwise: Whether the model has terms that are shared by all places; else it is additive.
        is_ranked: Whether the model learns the order of scores; else the scores themselves.
        least: Normal score from which on all worse points count alike, not positive: -1 for the
            worst sixth, -inf for none.

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
        recent: int | None = 100,
        switch: float = 0.2,
        mutations: float = 1.5,
        guided_mutations: float | None = None,
        near: float = 0.75,
        guidance: float | None = None,
        explore: float | None = None,
        is_pairwise: bool = True,
        is_ranked: bool = True,
        least: float = -1.0,
    ) -> None:
        super().__init__(space, archive, seed=seed, batch=batch)
        # A model with shared terms learns from few points: it is trusted, and may be bold.
        if getattr(space, "relations", ()):
            bold, trust, plain = 8.0, 5.0, 0.0
        else:
            bold, trust, plain = mutations, 3.0, 0.5
        guided_mutations = bold if guided_mutations is None else guided_mutations
        self.guidance = trust if guidance is None else guidance
        explore = plain if explore is None else explore
        require_shares(switch=switch, near=near, explore=explore)
        require_amounts(
            mutations=mutations, guided_mutations=guided_mutations, guidance=self.guidance
        )
        _check(num_elites, recent, least)
        self.num_elites, self.recent = min(num_elites, archive.scores.shape[1]), recent
        self.switch, self.order = switch, space.order.to(self.device)
        self.num_plain = round(explore * batch) if self.guidance else batch
        d = len(space.mode_sizes)
        self.rate, self.guided_rate = min(mutations / d, 1.0), min(guided_mutations / d, 1.0)
        self.mix = torch.tensor([[near, 0.0, 1.0 - near]], device=self.device)
        window = max(WINDOW, _SETTLED * (recent or 0))
        self.model = PairwiseModel(
            space, self.num_neurons, window, is_pairwise, is_ranked, least, device=self.device
        )
        self.moves = Moves(space, self.device)
        self.guided_moves = GuidedMoves(self.moves, near, self.model.features)
        self._has_elites = self._is_parted = False
        # Points of each neuron's own while it is in a pool, `(K, b, d)`, and their scores.
        self._own: list[tuple[Tensor, Tensor]] = []

    def watch(self, points: Tensor, scores: Tensor) -> None:
        """Let the model learn from all that was shown; see `Optimizer`."""
        if self.num_plain < self.batch and not self._is_parted:
            self.model.add(points, scores)

    def _propose(self) -> Tensor:
        is_guided = self.num_plain < self.batch and self.model.num_seen >= _NUM_LEARNED
        if is_guided:
            self.model.fit()
        parents = self._follow(*self._elites())
        num_plain = self.num_plain if is_guided else self.batch
        proposals = []
        if num_plain:
            proposals.append(self._mutated(parents[:, :num_plain]))
        if is_guided:
            proposals.append(self._guided(parents[:, num_plain:]))
        self._asked = self._or_sampled(torch.cat(proposals, 1))
        return self._asked

    def _mutated(self, parents: Tensor) -> Tensor:
        rates = self.mix.new_full(parents.shape[:2], self.rate)
        mix = self.mix.expand(len(parents), 3)
        kinds = draw_kinds(mix, rates, parents.shape[2], self.random)
        return self.moves.mutate(parents, kinds, self.random)

    def _elites(self) -> tuple[Tensor, Tensor]:
        """Return the multi-indices in the train, best first, `(K, R, d)`, and which there are."""
        if self.recent is None or not self.model.has_own(_SETTLED * self.recent):
            is_known = self.archive.scores[:, : self.num_elites].isfinite()
            return self.archive.indices[:, : self.num_elites], is_known
        recent, scores, fitted = self.model.latest(self.recent)
        is_new = scores.isfinite()
        merits = _standardised(scores, is_new) + _standardised(fitted, is_new)
        num_elites = math.ceil(_BETTER_SHARE * self.recent)
        merits, places = merits.masked_fill(~is_new, -torch.inf).topk(num_elites, 1)
        elites = recent.gather(1, places[..., None].expand(-1, -1, recent.shape[2]))
        has_new = is_new.any(1)[:, None, None]  # else all were infeasible, say
        return elites.where(has_new, self.archive.indices[:, :1]), merits.isfinite()

    def _follow(self, elites: Tensor, is_known: Tensor) -> Tensor:
        """Draw what the chain copies from the elites `(K, R, d)` that there are, `(K, b, d)`."""
        k, _, d = elites.shape
        shape = k, self.batch, d
        redraws = torch.rand(shape, generator=self.random, device=self.device) < self.switch
        redraws[..., 0] = True
        drawn = torch.multinomial(
            rank_weights(is_known), self.batch * d, replacement=True, generator=self.random
        )
        steps = torch.arange(d, device=self.device)
        since = steps.where(redraws, 0).cummax(2).values  # the step at which it was drawn
        states = torch.empty_like(since)
        states[..., self.order] = drawn.view(shape).gather(2, since)
        return elites.gather(1, states)

    def _guided(self, parents: Tensor) -> Tensor:
        best = self.archive.indices[:, :1]
        slopes = self.model.slopes(torch.cat([best, parents], 1))
        gain = self.guided_moves.typical_gain(slopes[:, 0], best.squeeze(1))
        slopes = slopes[:, 1:] * (self.guidance / gain.clamp_min(1e-12))[:, None, None, None]
        return self.guided_moves.mutate(parents, slopes, self.guided_rate, self.random)

    def _or_sampled(self, proposals: Tensor) -> Tensor:
        """Replace the proposals `(K, b, d)` of neurons that have no elite yet."""
        if self._has_elites:
            return proposals
        has_elites = self.archive.scores[:, 0].isfinite()
        self._has_elites = bool(has_elites.all())
        if self._has_elites:
            return proposals
        drawn = self.space.sample(self.num_neurons * self.batch, self.random)
        return torch.where(has_elites[:, None, None], proposals, drawn.view(proposals.shape))

    def _learn(self, own: Tensor) -> None:
        # The archive has the elites, and `watch` saw the rest, unless the pool was parted.
        if self._is_parted:
            self.model.add(self._asked, own)
        elif self._will_part():
            self._own.append((self._asked, own))
            if len(self._own) * self.batch >= _SETTLED * (self.recent or 0):
                points, scores = zip(*self._own, strict=True)
                self.model.forget()
                self.model.add(torch.cat(points, 1), torch.cat(scores, 1))
                self._is_parted, self._own = True, []

    def _will_part(self) -> bool:
        is_pool = self.model.num_seen > 0 and not self.model.has_own(1)
        return self.recent is not None and is_pool and self.model.bytes_of_own <= _MOST_PARTED


def _check(num_elites: int, recent: int | None, least: float) -> None:
    require_integers(1, num_elites=num_elites)
    require_integers(_NUM_LEARNED, recent=_NUM_LEARNED if recent is None else recent)
    if not least <= 0.0:
        raise ValueError(f"Argument `least` must not be positive, but got {least}.")


def rank_weights(is_known: Tensor) -> Tensor:
    """Return elites' weights by rank, rows sum to 1, for bool `(K, R)`: which there are."""
    num = is_known.shape[1]
    weights = math.log(num + 0.5) - torch.arange(1, num + 1, device=is_known.device).log()
    weights = weights * is_known
    weights[:, 0] += weights.sum(1) == 0  # no elite: any state will do
    return weights / weights.sum(1, keepdim=True)


def _standardised(values: Tensor, is_known: Tensor) -> Tensor:
    """Return values `(K, m)` less their mean, by their standard deviation, over what is known."""
    values = values.where(is_known, 0.0)
    values = values / values.abs().amax(1, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)
    num = is_known.sum(1, keepdim=True).clamp_min(1)
    values = (values - values.sum(1, keepdim=True) / num).where(is_known, 0.0)
    deviation = (values.square().sum(1, keepdim=True) / num).sqrt()
    return values / deviation.clamp_min(torch.finfo(values.dtype).eps)
