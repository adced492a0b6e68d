"""What a search is asked for: the most or the least exciting point, far from those found."""

from collections.abc import Callable

import torch
from torch import Tensor

from spikelens.am.activations import Response
from spikelens.am.distance import LatentDistance

DIRECTIONS = ("maximize", "minimize")

Showing = Callable[[Tensor, int], Response]


class Target:
    """An objective as a search takes it: its scores are to be maximised.

    Scores are turned round where the least exciting stimulus is wanted; activations stay in the
    neurons' own units. A point that is too near one of the stimuli that a neuron has already got
    is scored -inf for that neuron. Each call is the next repeat, so that a noisy network shows
    fresh noise each time: a search that saw one draw throughout fits its stimulus to it.

    Args:
        objective: Multi-indices int64 `(N, d)` and the number of the repeat to activations and
            scores `(N, K)`.
        direction: One of `DIRECTIONS`.
        found: Stimuli that the K neurons have got, int64 `(K, s, d)`, or None.
        distance: Measures points; needed with `found`.
        min_distance: Least distance of what is asked for to each of `found`.
        first_repeat: Number of the first call's repeat.
    """

    def __init__(
        self,
        objective: Showing,
        direction: str = "maximize",
        found: Tensor | None = None,
        distance: LatentDistance | None = None,
        min_distance: float = 0.0,
        first_repeat: int = 0,
    ) -> None:
        self.objective, self.direction = objective, direction
        self.found, self.distance, self.min_distance = found, distance, min_distance
        self.repeat = first_repeat

    def __call__(self, indices: Tensor) -> Response:
        """Evaluate multi-indices int64 `(N, d)`; returns activations and scores `(N, K)`."""
        response = oriented(self.objective(indices, self.repeat), self.direction)
        self.repeat += 1
        return Response(
            response.activations, response.scores.where(self.allows(indices), -torch.inf)
        )

    def allows(self, indices: Tensor) -> Tensor:
        """Tell for which neurons points int64 `(N, d)` are far enough: `(N, K)` or `(1, 1)`."""
        if self.found is None or self.distance is None:
            return torch.ones(1, 1, dtype=torch.bool, device=indices.device)
        to_each = self.distance(indices, self.found.flatten(0, 1))  # (N, K * s)
        is_far: Tensor = (to_each >= self.min_distance).unflatten(1, self.found.shape[:2])
        return is_far.all(2)

    def allows_own(self, points: Tensor) -> Tensor:
        """Tell which of each neuron's own points int64 `(K, n, d)` are far enough, `(K, n)`."""
        if self.found is None or self.distance is None:
            return torch.ones(points.shape[:2], dtype=torch.bool, device=points.device)
        return (self.distance(points, self.found) >= self.min_distance).all(2)

    def nearest(self, points: Tensor) -> Tensor:
        """Return how far each neuron's point `(K, d)` is from the nearest found, `(K,)`, or NaN."""
        if self.found is None or self.distance is None:
            return torch.full((len(points),), torch.nan, device=points.device)
        return self.distance(points[:, None], self.found).amin((1, 2))


def oriented(response: Response, direction: str) -> Response:
    """Turn scores round where the least exciting is the best."""
    return response if direction == "maximize" else Response(response.activations, -response.scores)


def own_answers(response: Response, num: int) -> Response:
    """Take what each neuron answered to its own: of a response `(K * num, K)` `(K, num)`."""
    own = torch.arange(response.scores.shape[1], device=response.scores.device)[:, None, None]
    return Response(
        *(
            values.unflatten(0, (-1, num)).gather(2, own.expand(-1, num, -1)).squeeze(2)
            for values in response
        )
    )
