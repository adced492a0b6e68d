"""A codebook learned by moving averages."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Codebook(nn.Module):
    """Vectors that are learned as moving averages of what is assigned to them.

    Args:
        num_codes: Number of vectors n.
        code_size: Length of each vector.
        decay: Decay a step of the moving averages, in (0, 1).
        dead_after: A code whose moving share of assignments falls below `1 / dead_after` of an
            equal share is moved onto a random input of the batch.

    Source: van den Oord et al., "Neural discrete representation learning", 2017, appendix A.1.
    """

    vectors: Tensor
    sizes: Tensor
    sums: Tensor

    def __init__(
        self, num_codes: int, code_size: int, decay: float = 0.99, dead_after: float = 100.0
    ) -> None:
        super().__init__()
        self.decay, self.dead_after = decay, dead_after
        # Nothing counted yet: the first update finds every unused code dead and moves it onto data.
        self.register_buffer("vectors", torch.randn(num_codes, code_size))
        self.register_buffer("sizes", torch.zeros(num_codes))
        self.register_buffer("sums", torch.zeros(num_codes, code_size))

    def assign(self, inputs: Tensor) -> Tensor:
        """Return the index of the nearest vector of each input `(M, code_size)`, int64 `(M,)`."""
        distance = self.vectors.square().sum(1) - 2.0 * inputs @ self.vectors.T
        return distance.argmin(1)

    @torch.no_grad()
    def update(self, inputs: Tensor, codes: Tensor) -> None:
        """Move the averages towards inputs `(M, code_size)` assigned to codes `(M,)`."""
        one_hot = F.one_hot(codes, len(self.vectors)).to(inputs.dtype)
        self.sizes.lerp_(one_hot.sum(0), 1.0 - self.decay)
        self.sums.lerp_(one_hot.T @ inputs, 1.0 - self.decay)
        dead = self.sizes < self.sizes.mean() / self.dead_after
        if dead.any():
            chosen = inputs[torch.randint(len(inputs), (int(dead.sum()),), device=inputs.device)]
            share = self.sizes.mean()
            self.sizes[dead] = share
            self.sums[dead] = chosen * share
        self.vectors.copy_(self.sums / self.sizes.clamp_min(1e-5).unsqueeze(1))
