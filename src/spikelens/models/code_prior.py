"""How often codes stand where, and beside which: a model of a code map's neighbourhoods."""

import torch
from torch import Tensor, nn

from spikelens.arguments import require_integers

# A code's neighbour is seen so many times more, spread as codes are in all.
_PSEUDO_COUNT = 5.0


class CodePrior(nn.Module):
    """Counts of codes and of pairs of neighbours on maps `(side, side)`.

    The code at a place is thought to depend on the one at its left and the one above it:
    p(c | l, a) is proportional to p(c | l) p(c | a) / p(c), both neighbours telling of c
    independently. A map is drawn from the top left to the bottom right.

    Args:
        side: Side of the map.
        num_codes: Number of codes n; memory grows with its square.

    Raises:
        ValueError: If an argument is not positive.
    """

    place_counts: Tensor
    right_counts: Tensor
    below_counts: Tensor

    def __init__(self, side: int, num_codes: int) -> None:
        super().__init__()
        require_integers(1, side=side, num_codes=num_codes)
        self.side, self.num_codes = side, num_codes
        self.register_buffer("place_counts", torch.zeros(side**2, num_codes))
        # (n, n): the row's code, and the one right of it, or below it.
        self.register_buffer("right_counts", torch.zeros(num_codes, num_codes))
        self.register_buffer("below_counts", torch.zeros(num_codes, num_codes))

    def reset(self) -> None:
        """Forget all counts."""
        for counts in (self.place_counts, self.right_counts, self.below_counts):
            counts.zero_()

    def count(self, codes: Tensor) -> None:
        """Count the codes int64 `(N, side, side)` and their neighbours."""
        places = codes.flatten(1).T
        one = torch.ones_like(places, dtype=torch.float32)
        self.place_counts.scatter_add_(1, places, one)
        for counts, pairs in (
            (self.right_counts, codes[:, :, :-1] * self.num_codes + codes[:, :, 1:]),
            (self.below_counts, codes[:, :-1] * self.num_codes + codes[:, 1:]),
        ):
            flat = pairs.flatten()
            counts.view(-1).scatter_add_(0, flat, torch.ones_like(flat, dtype=torch.float32))

    def sample(self, num_images: int, random: torch.Generator) -> Tensor:
        """Draw codes int64 `(num_images, side * side)`, each after its left and upper neighbour."""
        share, right, below = self._log_shares()
        codes = torch.zeros(
            num_images, self.side, self.side, dtype=torch.int64, device=share.device
        )
        for row in range(self.side):
            for column in range(self.side):
                scores = share.expand(num_images, -1)
                if column:
                    scores = scores + right[codes[:, row, column - 1]]
                if row:
                    scores = scores + below[codes[:, row - 1, column]]
                drawn = torch.multinomial(scores.softmax(1), 1, generator=random)
                codes[:, row, column] = drawn.squeeze(1)
        return codes.flatten(1)

    def log_likelihood(self, codes: Tensor) -> Tensor:
        """Return the mean log probability of a map's codes in nats, `(N,)`.

        Args:
            codes: int64 `(N, side * side)`.
        """
        share, right, below = self._log_shares()
        maps = codes.view(-1, self.side, self.side)
        scores = share.repeat(*maps.shape, 1)  # (N, side, side, n)
        scores[:, :, 1:] += right[maps[:, :, :-1]]
        scores[:, 1:] += below[maps[:, :-1]]
        found = scores.log_softmax(3).gather(3, maps[..., None])
        return found.mean((1, 2, 3))

    def _log_shares(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return log p(c) `(n,)`, and log p(c | l) / p(c), log p(c | a) / p(c) `(n, n)`."""
        counts = self.place_counts.sum(0) + 1e-3
        share = counts / counts.sum()
        ratios = []
        for pairs in (self.right_counts, self.below_counts):
            smoothed = pairs + _PSEUDO_COUNT * share
            ratios.append((smoothed / smoothed.sum(1, keepdim=True) / share).log())
        return share.log(), ratios[0], ratios[1]
