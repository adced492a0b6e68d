"""The codes of a VQ-VAE as a discretised latent space."""

import torch
from torch import Tensor, nn

from spikelens.models.vqvae import VQVAE
from spikelens.weights import load_trained


class VQCodes(nn.Module):
    """One mode a position of the code map, one symbol a code of the codebook.

    Args:
        vqvae: A trained VQ-VAE; its `prior` was counted in training.
        smoothing: Pseudo-count added to each code's count in the prior, positive.

    Source: Pospelov et al. 2025, section 3.2; van den Oord et al. 2017.
    """

    def __init__(self, vqvae: VQVAE, smoothing: float = 0.1) -> None:
        super().__init__()
        # The format in which convolutions run fastest: decoding is part of every evaluation.
        self.vqvae = vqvae.requires_grad_(False).eval().to(memory_format=torch.channels_last)
        side, (num_positions, num_codes) = vqvae.code_side, vqvae.prior.place_counts.shape
        self.image_shape = vqvae.images.image_shape
        self.mode_sizes = (num_codes,) * num_positions
        self.order = boustrophedon(side)
        self.relations = touching(side)
        counts = vqvae.prior.place_counts + smoothing
        self.prior = list(counts / counts.sum(1, keepdim=True))
        self._kernel = codebook_kernel(vqvae.codebook.vectors)

    def decode(self, indices: Tensor) -> Tensor:
        """Draw images float32 `(N, C, H, W)` in [0, 1] from codes int64 `(N, d)`."""
        with torch.no_grad():
            return self.vqvae.decode(indices)

    def encode(self, images: Tensor) -> Tensor:
        """Return the nearest codes int64 `(N, d)` of images `(N, C, H, W)` in [0, 1]."""
        with torch.no_grad():
            return self.vqvae.encode(images)

    def embed(self, indices: Tensor) -> Tensor:
        """Return the codebook's vectors `(..., d, code_size)` of codes int64 `(..., d)`."""
        return self.vqvae.codebook.vectors[indices]

    def draw(self, embedding: Tensor) -> Tensor:
        """Draw what `decode` does from vectors `(N, d, code_size)`; differentiable."""
        return self.vqvae.draw(embedding)

    def nearest(self, embedding: Tensor) -> Tensor:
        """Return the codes int64 `(..., d)` nearest to vectors `(..., d, code_size)`."""
        codes = self.vqvae.codebook.assign(embedding.flatten(0, -2))
        return codes.view(embedding.shape[:-1])

    def realism(self, images: Tensor) -> Tensor:
        """Return the mean log probability of the codes of images `(N, C, H, W)`, `(N,)` in nats.

        The reconstruction error would not do: whatever was drawn from codes, at random even, is
        reconstructed better than natural images are.
        """
        with torch.no_grad():
            return self.vqvae.prior.log_likelihood(self.vqvae.encode(images))

    def sample(self, num_images: int, random: torch.Generator) -> Tensor:
        """Draw codes int64 `(num_images, d)`, each after its left and upper neighbour."""
        return self.vqvae.prior.sample(num_images, random)

    def neighbours(self, mode: int) -> Tensor:
        """Return `(n, n)`, rows sum to 1: which codes look like the row's code, itself excluded."""
        return self._kernel


def boustrophedon(side: int) -> Tensor:
    """Walk a `(side, side)` map row by row, every other row backwards.

    Returns:
        Positions in row-major numbering, int64 `(side * side,)`.

    >>> boustrophedon(2).tolist()
    [0, 1, 3, 2]
    """
    rows = torch.arange(side * side).view(side, side)
    rows[1::2] = rows[1::2].flip(1)
    return rows.flatten()


def touching(side: int) -> list[Tensor]:
    """Pair the positions of a `(side, side)` map that touch: right of, below, and across corners.

    Returns:
        Four groups of pairs in row-major numbering, each int64 `(m, 2)`, the upper or left first.

    >>> [pairs.tolist() for pairs in touching(2)]
    [[[0, 1], [2, 3]], [[0, 2], [1, 3]], [[0, 3]], [[1, 2]]]
    """
    places = torch.arange(side * side).view(side, side)
    pairs = [
        (places[:, :-1], places[:, 1:]),
        (places[:-1], places[1:]),
        (places[:-1, :-1], places[1:, 1:]),
        (places[:-1, 1:], places[1:, :-1]),
    ]
    return [torch.stack(pair, 2).flatten(0, 1) for pair in pairs]


def codebook_kernel(vectors: Tensor, num_near: int = 8) -> Tensor:
    """Softmax of minus the squared distance between codes over a temperature.

    The temperature is the median squared distance to the `num_near`-th nearest code, so that a
    move goes to about that many look-alikes whatever the codebook's scale.

    Args:
        vectors: The codebook `(n, code_size)`.
        num_near: See above; clipped to n - 1.

    Returns:
        `(n, n)`, rows sum to 1, diagonal 0 (1 for a codebook of one code).
    """
    num_codes = len(vectors)
    if num_codes == 1:
        return torch.ones(1, 1)
    distance = torch.cdist(vectors, vectors).square().fill_diagonal_(torch.inf)
    near = distance.kthvalue(min(num_near, num_codes - 1), dim=1).values
    temperature = near.median().clamp_min(1e-12)
    return torch.softmax(-distance / temperature, dim=1)


def load_vq_codes(path: str) -> VQCodes:
    """Load the codes of a trained VQ-VAE, on the CPU.

    Args:
        path: A Lightning checkpoint (`.ckpt`) of `VQVAE`, or shipped weights (`.safetensors`).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file holds no VQ-VAE, or is not the one its card describes.
    """
    return VQCodes(load_trained(path, VQVAE.from_state, "a VQ-VAE"))
