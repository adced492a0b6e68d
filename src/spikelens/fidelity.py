"""How close generated images are to real ones: Inception score, FID, KID, precision and recall."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch_fidelity
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import Dataset

from spikelens.arguments import require_integers
from spikelens.extractors import (
    Extractor,
    Inception,
    fidelity_options,
    load_extractor,
    name_of,
    require_shape,
)

_PARTS = 10  # of the generated images, for the Inception score
_NEIGHBOURS = 3  # of an image, for precision and recall


@dataclass(frozen=True)
class Fidelity:
    """What `measure_fidelity` found.

    Only values of the same extractor, the same real images and equal numbers of images compare.

    Attributes:
        inception_score: exp of the mean Kullback-Leibler divergence of p(class | image) from
            p(class), in [1, classes]: 1 where the classes of all images look alike. Mean over ten
            parts of the generated images; no real image is read.
        inception_score_std: Its standard deviation over the parts, not negative.
        fid: Squared Fréchet distance of two Gaussians with the features' means and covariances,
            not negative but for rounding, 0 for a set and itself. Leans high where images are few.
        kid: Squared maximum mean discrepancy of the features with a cubic kernel, unbiased: for
            images of the same kind around 0, so often below. Mean over random subsets.
        kid_std: Its standard deviation over the subsets, not negative.
        precision: Fraction in [0, 1] of generated images whose features lie no further from some
            real image's than that one's third nearest real neighbour: are they realistic?
        recall: The same with the two sets exchanged: are they as varied as the real ones?
        extractor: Whose features, `spikelens` or `inception`.

    Source: Salimans et al. 2016 (Inception score), Heusel et al. 2017 (FID), Bińkowski et al. 2018
    (KID), Kynkäänniemi et al. 2019 (precision and recall).
    """

    inception_score: float
    inception_score_std: float
    fid: float
    kid: float
    kid_std: float
    precision: float
    recall: float
    extractor: str

    def named(self) -> dict[str, float]:
        """Return each value by a name that tells whose features it was measured in.

        >>> Fidelity(2.0, 0.1, 9.5, 0.01, 0.0, 0.7, 0.6, "spikelens").named()["fid_spikelens"]
        9.5
        """
        values = asdict(self)
        extractor = values.pop("extractor")
        return {f"{name}_{extractor}": value for name, value in values.items()}


def measure_fidelity(
    generated: Tensor,
    real: Tensor,
    extractor: Extractor | Inception | str,
    *,
    kid_subset_size: int | None = None,
    kid_subsets: int = 100,
    batch_size: int = 256,
    seed: int = 2020,
) -> Fidelity:
    """Compare generated images with real ones; the global random states stay as they are.

    Other real images in place of the generated ones make the control: what perfect images score.

    Args:
        generated: Images `(N, C, H, W)` with 1 or 3 channels, uint8 or float in [0, 1].
        real: Images `(M, C, H, W)`, likewise.
        extractor: Gives the features; a string is loaded by `load_extractor`.
        kid_subset_size: Images of either set in a subset of KID's, in [2, min(N, M)]; None for
            1000, or half of the smaller set if that is less: whole sets would all be the same.
        kid_subsets: Number of KID's subsets, positive.
        batch_size: Images that the extractor sees at once, positive.
        seed: Seed of KID's subsets and the Inception score's parts, not negative.

    Raises:
        ValueError: If an argument is out of its range, the sets or the extractor have different
            image shapes, the extractor is in training mode, or a measure needs more images.
        FileNotFoundError: If the extractor is a file that does not exist.
        ConnectionError: If Inception's weights cannot be downloaded.
    """
    if isinstance(extractor, str):
        extractor = load_extractor(extractor)
    generated, real = as_bytes(generated, "generated"), as_bytes(real, "real")
    _require_alike(generated, real)
    require_shape(extractor, generated.shape[1:])
    require_integers(1, kid_subsets=kid_subsets, batch_size=batch_size)
    require_integers(0, seed=seed)
    settings = {
        **_settings(len(generated), len(real), kid_subset_size),
        **fidelity_options(extractor),
        "kid_subsets": kid_subsets,
        "batch_size": batch_size,
        "rng_seed": seed,
    }
    with isolate_rng():  # loaders draw seeds, and a network its first weights
        found = torch_fidelity.calculate_metrics(
            input1=_Pictures(generated), input2=_Pictures(real), **settings
        )
    return Fidelity(
        inception_score=found[torch_fidelity.KEY_METRIC_ISC_MEAN],
        inception_score_std=found[torch_fidelity.KEY_METRIC_ISC_STD],
        fid=found[torch_fidelity.KEY_METRIC_FID],
        kid=found[torch_fidelity.KEY_METRIC_KID_MEAN],
        kid_std=found[torch_fidelity.KEY_METRIC_KID_STD],
        precision=found[torch_fidelity.KEY_METRIC_PRECISION],
        recall=found[torch_fidelity.KEY_METRIC_RECALL],
        extractor=name_of(extractor),
    )


def as_bytes(images: Tensor, name: str = "images") -> Tensor:
    """Return images as uint8 on the CPU: what torch-fidelity looks at.

    Args:
        images: uint8, or float in [0, 1], which is rounded to the nearest of 256 levels.
        name: What the message calls them.

    Raises:
        ValueError: If the numbers are of another type or out of their range.
    """
    if images.dtype == torch.uint8:
        return images.cpu()
    # Sums of rounded numbers may miss the range by a little; NaN is in no range.
    is_unit = images.is_floating_point() and bool(((images > -1e-3) & (images < 1.001)).all())
    if not is_unit:
        raise ValueError(f"Argument `{name}` must be uint8, or float in [0, 1].")
    return (images.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8).cpu()


def _require_alike(generated: Tensor, real: Tensor) -> None:
    if generated.shape[1:] != real.shape[1:]:
        raise ValueError(
            f"Argument `generated` must hold images {tuple(real.shape[1:])} like `real`, but got "
            f"{tuple(generated.shape[1:])}."
        )


def _settings(num_generated: int, num_real: int, kid_subset_size: int | None) -> dict[str, Any]:
    """Return what torch-fidelity is always told; refuse sets too small for a measure."""
    fewest = min(num_generated, num_real)
    if num_generated < _PARTS:
        raise ValueError(
            f"Argument `generated` must hold at least {_PARTS} images, one for each part of the "
            f"Inception score, but got {num_generated}."
        )
    if fewest <= _NEIGHBOURS:
        raise ValueError(
            f"Argument `real` must hold more images than the {_NEIGHBOURS} neighbours of precision "
            f"and recall, but got {num_real}."
        )
    size = max(2, min(1000, fewest // 2)) if kid_subset_size is None else kid_subset_size
    require_integers(2, kid_subset_size=size)
    if size > fewest:
        raise ValueError(
            f"Argument `kid_subset_size` must be at most the {fewest} images of the smaller set, "
            f"but got {size}."
        )
    return {
        **{"isc": True, "fid": True, "kid": True, "prc": True},
        "isc_splits": _PARTS,
        "prc_neighborhood": _NEIGHBOURS,
        "prc_batch_size": 1000,  # rows of distances in memory at once
        "kid_subset_size": size,
        **{"cache": False, "save_cpu_ram": True, "verbose": False},
    }


class _Pictures(Dataset[Tensor]):
    """Bare uint8 RGB images; grey ones show the same in all three channels."""

    def __init__(self, images: Tensor) -> None:
        self.images = images.expand(-1, 3, -1, -1)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]
