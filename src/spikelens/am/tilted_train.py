"""The product of a train of elites and a weight for each symbol, and draws from it."""

from dataclasses import dataclass
from importlib import import_module

import torch
from torch import Tensor

from spikelens.am.moves import KEEP, Moves
from spikelens.kernels.scan import compiler_of


@dataclass(frozen=True)
class TiltedTrain:
    """A train over the modes of K neurons, one for each proposal.

    The first factor is `tensor_train.elite_cores`: a hidden Markov chain over R elites, which
    redraws the elite with probability chi at each mode, and mutates the elite's symbol with
    probability mu. The second has rank 1: a weight `u_j(x)` of each symbol. Rows of the mutation
    kernel no longer sum to 1 then, but to `c_j(s) = sum_x K_j(x | e_sj) u_j(x)`, and the product's
    right interfaces are `Z_{j-1}(s') = (1 - chi) c_j(s') Z_j(s') + chi sum_s w_s c_j(s) Z_j(s)`:
    O(R) a mode instead of O(R^2 + R n).

    Attributes:
        moves: Distributions of a mutated symbol.
        order: Path through the modes, int64 `(d,)`.
        elites: Multi-indices int64 `(K, R, d)`.
        weights: Probability w of each elite, `(K, R)`, rows sum to 1.
        tilts: Weight u of each symbol, `(K, d, n)`, positive; None for 1, where all are plain.
        num_plain: Proposals without the second factor; they come first.
        mutation: mu of each proposal, `(K, b)`, in [0, 1].
        switch: chi of each proposal, `(K, b)`, in [0, 1].
        mix: Shares of neighbour, prior and uniform mutations, `(3,)`, sum 1.
    """

    moves: Moves
    order: Tensor
    elites: Tensor
    weights: Tensor
    tilts: Tensor | None
    num_plain: int
    mutation: Tensor
    switch: Tensor
    mix: Tensor

    @torch.no_grad()
    def draw(self, random: torch.Generator) -> Tensor:
        """Draw one multi-index for each proposal, exactly: int64 `(K, b, d)`.

        Args:
            random: On the elites' device.
        """
        k, b = self.switch.shape
        device = self.elites.device
        draws = torch.rand(3, k, b, len(self.order), generator=random, device=device)
        # Strictly below 1 even after rounding: a threshold at the total would pick the last one
        # whatever its probability.
        draws *= 1 - 4 * torch.finfo(draws.dtype).eps
        if compiler_of(device.type) == "numba":
            return self.draw_compiled(draws)
        return self.draw_in_torch(draws)

    def draw_compiled(self, draws: Tensor) -> Tensor:
        """Draw by numbers `(3, K, b, d)`: for elites, mutations and symbols.

        They lie in [0, 1 - 4 eps], as the running sums that they are compared with are rounded.
        """
        compiled = import_module("spikelens.kernels.tilted_train_numba")
        moves = self.moves
        # Where all are plain no weight is read.
        tilts = moves.uniform[None] if self.tilts is None else self.tilts
        num_plain = draws.shape[2] if self.tilts is None else self.num_plain
        train = (self.order, self.elites, self.weights, tilts)
        rates = (self.mutation, self.switch, self.mix)
        fixed = (moves.kernels, moves.kernel_of_mode, moves.prior, moves.uniform)
        out = torch.empty(draws.shape[1:], dtype=torch.int64)
        compiled.draw(
            tuple(part.contiguous() for part in (*train, *rates)),
            tuple(part.contiguous() for part in fixed),
            num_plain,
            draws,
            out,
        )
        return out

    def draw_in_torch(self, draws: Tensor) -> Tensor:
        """Draw by the same numbers on any device: the same up to rounding at a border."""
        masses = self._masses()  # (4, d, K, b, R)
        of_elites, of_kinds, of_symbols = draws.unbind(0)
        path = of_elites.permute(2, 0, 1)
        # An elite without weight is no state; left in, it could drown the others in rounding.
        emissions = masses.sum(0)[self.order].where(self.weights[:, None] > 0.0, 0.0)
        followed = _follow(emissions, self.weights, self.switch, path)
        states = torch.empty_like(followed)
        states[self.order] = followed  # path -> position in the latent
        masses = masses.gather(4, states.expand(4, *states.shape)[..., None]).squeeze(4)
        drawn = torch.empty_like(path)
        drawn[self.order] = of_kinds.permute(2, 0, 1)
        kinds = _places(masses.movedim(0, -1), drawn).permute(1, 2, 0) + KEEP  # (K, b, d)
        symbols = self.elites.gather(1, states.permute(1, 2, 0))
        # To look for those that mutate makes the host wait for the device; but they are few.
        neurons, proposals, modes = places = (kinds != KEEP).nonzero(as_tuple=True)
        is_tilted = self._is_tilted()[proposals, None]
        weights = self._weights_of_symbols()[neurons, modes].where(is_tilted, 1.0)
        steps = torch.empty_like(self.order)
        steps[self.order] = torch.arange(len(steps), device=steps.device)
        by = of_symbols[neurons, proposals, steps[modes]]
        symbols[places] = self.moves.draw(kinds[places], symbols[places], modes, weights, by)
        return symbols

    def _is_tilted(self) -> Tensor:
        return torch.arange(self.switch.shape[1], device=self.switch.device) >= self.num_plain

    def _weights_of_symbols(self) -> Tensor:
        if self.tilts is not None:
            return self.tilts
        even = torch.ones_like(self.moves.uniform)
        return even.expand(len(self.elites), *even.shape)

    def _masses(self) -> Tensor:
        """Return the mass of keeping a symbol and of each kind of mutation, `(4, d, K, b, R)`."""
        sums = self.moves.masses(self._weights_of_symbols(), self.elites)  # (4, K, d, R)
        sums = sums.permute(0, 2, 1, 3).unsqueeze(3)
        mutation = self.mutation[..., None]  # (K, b, 1)
        shares = torch.stack([1.0 - mutation, *(share * mutation for share in self.mix)])
        return shares[:, None] * sums.where(self._is_tilted()[:, None], 1.0)


def _follow(emissions: Tensor, weights: Tensor, switch: Tensor, draws: Tensor) -> Tensor:
    """Draw the elite that each step of the path follows, int64 `(d, K, b)`.

    Args:
        emissions: c, `(d, K, b, R)`; 0 for elites without weight.
        weights: `(K, R)`.
        switch: `(K, b)`.
        draws: `(d, K, b)`.
    """
    jump, stay = switch[..., None], (1 - switch)[..., None]
    drawn = jump * weights[:, None]  # chi w_s, (K, b, R)
    ahead = torch.empty_like(emissions)  # c_j(s) Z_j(s)
    z = torch.ones_like(emissions[0])
    for j in range(len(emissions) - 1, -1, -1):
        torch.mul(emissions[j], z, out=ahead[j])
        z = stay * ahead[j] + (drawn * ahead[j]).sum(2, keepdim=True)
        z = z / z.amax(2, keepdim=True).clamp_min(1e-30)
    states = torch.empty_like(draws, dtype=torch.int64)
    states[0] = _places(weights[:, None] * ahead[0], draws[0])
    for j in range(1, len(emissions)):
        before = states[j - 1][..., None]
        masses = drawn * ahead[j]
        masses.scatter_add_(2, before, stay * ahead[j].gather(2, before))
        states[j] = _places(masses, draws[j])
    return states


def _places(masses: Tensor, draws: Tensor) -> Tensor:
    """Return the first of the last dimension's places whose running sum is above the draw."""
    sums = masses.cumsum(-1)
    return (sums <= draws[..., None] * sums[..., -1:]).sum(-1).clamp_max(masses.shape[-1] - 1)
