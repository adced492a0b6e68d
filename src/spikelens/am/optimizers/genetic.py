"""A genetic algorithm: tournaments, uniform crossover, mutation, the best survive."""

import torch
from torch import Tensor

from spikelens.am.archive import Archive
from spikelens.am.moves import KEEP, PRIOR, Moves, check_mix, draw_kinds
from spikelens.am.optimizers.base import Optimizer
from spikelens.arguments import require_amounts, require_integers, require_shares
from spikelens.generators.base import LatentSpace


class Genetic(Optimizer):
    """Breed a population of each neuron's own; the search that closed-loop experiments began with.

    Each round breeds `batch` children and keeps the best distinct ones of them and the population
    (mu + lambda): the best is never lost. A child's two parents win a tournament each; of each
    symbol it takes either parent's, and at least one symbol mutates. The first population are the
    start images, as the archive holds them at the first `ask`, and mutants of them; where it holds
    none, draws from the space. What is proposed for other neurons afterwards is not looked at.
    The defaults are greedy and the population is small: with some hundreds of images a neuron that
    does better than the customary 50 and tournaments of two.

    Args:
        space: See `Optimizer`.
        archive: See `Optimizer`; read at the first `ask` alone.
        seed: See `Optimizer`.
        batch: See `Optimizer`: children lambda a round.
        population: Individuals mu kept for each neuron, at least 2.
        tournament: Individuals, drawn with replacement, the best of which is a parent; positive.
        crossover: Probability that a child has two parents and not one, in [0, 1].
        mutations: Expected number of mutated symbols a child, not negative; one mutates anyway.
        mix: Shares of neighbour, prior and uniform mutations, not negative, sum 1.

    Raises:
        ValueError: If an argument is out of its range.

    Source: Eiben & Smith, "Introduction to Evolutionary Computing", 2015, chapters 4 and 5.
    """

    def __init__(
        self,
        space: LatentSpace,
        archive: Archive,
        *,
        seed: int = 0,
        batch: int = 10,
        population: int = 20,
        tournament: int = 3,
        crossover: float = 1.0,
        mutations: float = 1.0,
        mix: tuple[float, float, float] = (0.6, 0.2, 0.2),
    ) -> None:
        super().__init__(space, archive, seed=seed, batch=batch)
        require_integers(2, population=population)
        require_integers(1, tournament=tournament)
        require_shares(crossover=crossover)
        require_amounts(mutations=mutations)
        check_mix(tuple(mix))
        self.tournament, self.crossover = tournament, crossover
        self.num_modes = len(space.mode_sizes)
        rate = min(mutations / self.num_modes, 1.0)
        self.rates = torch.full((self.num_neurons, batch), rate, device=self.device)
        self.mix = torch.tensor([mix], dtype=torch.float32, device=self.device).expand(
            self.num_neurons, 3
        )
        self.moves = Moves(space, self.device)
        shape = (self.num_neurons, population)
        self.individuals = torch.zeros(
            *shape, self.num_modes, dtype=torch.int64, device=self.device
        )
        self.scores = archive.scores.new_full(shape, -torch.inf)  # descending
        # Twins are told by a random 64-bit linear hash (wrap-around arithmetic).
        self._multipliers = torch.randint(
            -(2**62), 2**62, (self.num_modes,), generator=self.random, device=self.device
        )
        self._is_founded = False
        self._num_random = 0  # images that neurons without a start image are still to draw

    def _propose(self) -> Tensor:
        if not self._is_founded:
            self._found()
        is_known = self.scores[:, :1].isfinite()  # (K, 1)
        children = self._cross(self._parents(), self._parents())
        kinds = draw_kinds(self.mix, self.rates, self.num_modes, self.random)
        kinds = self._with_one_at_least(kinds)
        kinds = kinds.masked_fill(~is_known[..., None], PRIOR)
        self._children = self.moves.mutate(children, kinds, self.random)
        if self._num_random > 0:
            self._num_random -= self.batch
            drawn = self.space.sample(self.num_neurons * self.batch, self.random)
            self._children = self._children.where(self._has_start, drawn.view_as(children))
        return self._children

    def _learn(self, own: Tensor) -> None:
        self._survive(self._children, own)

    def _found(self) -> None:
        """Take in the start images."""
        self._is_founded = True
        self._survive(self.archive.indices, self.archive.scores)
        self._has_start = self.scores[:, :1, None].isfinite()
        if not self._has_start.all():
            self._num_random = self.scores.shape[1]

    def _survive(self, new: Tensor, scores: Tensor) -> None:
        """Keep the best of the population and of `new` `(K, m, d)` with its scores `(K, m)`."""
        both = torch.cat([self.individuals, new], 1)
        all_scores = torch.cat([self.scores, scores], 1)
        hashes = (both * self._multipliers).sum(2)
        is_same = hashes[:, :, None] == hashes[:, None, :]
        # A place that is empty still, or was not shown, is nobody's twin.
        is_twin = (is_same & all_scores.isfinite()[:, None, :]).tril(-1).any(2)
        all_scores = all_scores.masked_fill(is_twin, -torch.inf)
        self.scores, chosen = all_scores.topk(self.scores.shape[1], 1)
        self.individuals = both.gather(1, chosen[..., None].expand(-1, -1, self.num_modes))

    def _parents(self) -> Tensor:
        """Let each child's parent win a tournament: `(K, b, d)`."""
        shape = (self.num_neurons, self.batch, self.tournament)
        draws = torch.rand(shape, generator=self.random, device=self.device).amin(2)
        num_known = self.scores.isfinite().sum(1, keepdim=True)
        # The population is sorted: the smallest of the places drawn is the best's.
        places = (draws * num_known).long()
        return self.individuals.gather(1, places[..., None].expand(-1, -1, self.num_modes))

    def _cross(self, first: Tensor, second: Tensor) -> Tensor:
        """Take each symbol of either parent, of some children all of the first; `(K, b, d)`."""
        takes_second = self._uniform(first.shape) < 0.5
        has_two = self._uniform(first.shape[:2]) < self.crossover
        return torch.where(takes_second & has_two[..., None], second, first)

    def _with_one_at_least(self, kinds: Tensor) -> Tensor:
        """Let one symbol of each child mutate that would keep all; kinds `(K, b, d)`."""
        mode = torch.randint(
            self.num_modes, kinds.shape[:2], generator=self.random, device=self.device
        )
        kind = torch.multinomial(self.mix, self.batch, replacement=True, generator=self.random)
        is_mode = torch.arange(self.num_modes, device=self.device) == mode[..., None]
        is_idle = (kinds == KEEP).all(2, keepdim=True)
        return torch.where(is_idle & is_mode, kind[..., None], kinds)

    def _uniform(self, shape: tuple[int, ...]) -> Tensor:
        return torch.rand(shape, generator=self.random, device=self.device)
