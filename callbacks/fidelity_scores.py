"""How close a generator's images come to real ones, at epoch ends and in the test."""

import lightning as L
import torch
from torch import Tensor

from spikelens.arguments import require_integers
from spikelens.data.base import ImageData, Split, unit_range
from spikelens.extractors import Extractor, Inception, load_extractor, require_shape
from spikelens.fidelity import Fidelity, as_bytes, measure_fidelity
from spikelens.undisturbed import undisturbed

_MEASURES = ("fid", "kid", "precision", "recall", "inception_score")


class FidelityScores(L.Callback):
    """Measure the images a module draws; training is the same, bit for bit, as without.

    The module has a method `drawn(images, random)`: from real images `(N, C, H, W)` in [0, 1] and a
    `torch.Generator` on its device, named batches of as many images in [0, 1]. It is given the real
    images in chunks, and the same random numbers each time. Logs for each name, with the suffix
    `_spikelens` or `_inception` for the extractor, the values that `spikelens.fidelity.Fidelity`
    describes:

    - `fidelity/<name>/fid_…`, `kid_…`, `precision_…`, `recall_…`, `inception_score_…`: at the end
      of an epoch, against validation images.
    - `test_fidelity/<name>/…`: the same in the test, against test images.
    - `fidelity/control/…`, `test_fidelity/control/…`: training images in place of the drawn ones:
      what images without a fault score. Compare with this, not with 0.

    What is compared has the same number of images on both sides.

    Args:
        extractor: What to measure in: `inception`, the file of a `FeatureExtractor`, or an
            extractor in evaluation mode.
        every_n_epochs: Measure at the end of every n-th epoch, positive.
        num_images: Validation images at most, the first of the split, positive.
        num_test_images: Test images at most, positive; None for all.
        chunk: Images drawn at once, at most, positive.
        kid_subsets: Subsets of KID, positive; one of 1000 images takes a tenth of a second.
        inception_weights: torch-fidelity's file of Inception's weights; None to download it.
        seed: Seed of what is drawn, not negative.

    Raises:
        ValueError: If an argument is out of its range or the extractor's file holds something else;
            in `setup`, if the module draws nothing or the extractor does not fit the data; while
            measuring, if there are too few images, or as many were not drawn.
        FileNotFoundError: If there is no such file.
        ConnectionError: If Inception's weights cannot be downloaded.
    """

    def __init__(
        self,
        extractor: str | Extractor | Inception,
        every_n_epochs: int = 1,
        num_images: int = 1000,
        num_test_images: int | None = None,
        chunk: int = 256,
        kid_subsets: int = 20,
        inception_weights: str | None = None,
        seed: int = 0,
    ) -> None:
        require_integers(1, every_n_epochs=every_n_epochs, num_images=num_images, chunk=chunk)
        require_integers(1, kid_subsets=kid_subsets)
        require_integers(0, seed=seed)
        if num_test_images is not None:
            require_integers(1, num_test_images=num_test_images)
        if isinstance(extractor, str):
            extractor = load_extractor(extractor, inception_weights)
        self.extractor = extractor
        self.every_n_epochs, self.kid_subsets = every_n_epochs, kid_subsets
        self.num_images, self.num_test_images = num_images, num_test_images
        self.chunk, self.seed = chunk, seed
        self.control: Fidelity | None = None  # of the epochs: it does not change

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Check module, data and extractor before anything is trained."""
        if not callable(getattr(pl_module, "drawn", None)):
            raise ValueError(
                "Argument `model` must have a method `drawn` for fidelity to be measured, but "
                f"{type(pl_module).__name__} has none."
            )
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, ImageData):
            raise ValueError(
                "Argument `datamodule` of the Trainer must be a spikelens ImageData, but got "
                f"{type(data).__name__}."
            )
        require_shape(self.extractor, data.spec.image_shape)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare a few images with the validation split."""
        if (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        data: ImageData = trainer.datamodule  # type: ignore[attr-defined]
        real, other = _as_many(data.split("val"), data.split("train"), self.num_images)
        if self.control is None:
            self.control = self._measure(pl_module, other, real)
        self._log(pl_module, "fidelity/control", self.control)
        for name, images in self._draw(pl_module, real).items():
            self._log(pl_module, f"fidelity/{name}", self._measure(pl_module, images, real))

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare with the test split, training images first."""
        data: ImageData = trainer.datamodule  # type: ignore[attr-defined]
        real, other = _as_many(data.split("test"), data.split("train"), self.num_test_images)
        control = {"control": other}
        for name, images in (control | self._draw(pl_module, real)).items():
            self._log(pl_module, f"test_fidelity/{name}", self._measure(pl_module, images, real))

    def _draw(self, module: L.LightningModule, real: Tensor) -> dict[str, Tensor]:
        """Return what the module draws for real images uint8 `(N, C, H, W)`, as uint8 by name."""
        random = torch.Generator(module.device).manual_seed(self.seed)
        chunks: dict[str, list[Tensor]] = {}
        with undisturbed(module):
            for images in real.split(self.chunk):
                drawn = module.drawn(unit_range(images.to(module.device)), random)  # type: ignore[operator]
                for name, batch in drawn.items():
                    _require_as_many(name, batch, images)
                    chunks.setdefault(name, []).append(as_bytes(batch, name))
        return {name: torch.cat(parts) for name, parts in chunks.items()}

    def _measure(self, module: L.LightningModule, images: Tensor, real: Tensor) -> Fidelity:
        extractor = self.extractor.to(module.device)
        with torch.no_grad():
            return measure_fidelity(images, real, extractor, kid_subsets=self.kid_subsets)

    def _log(self, module: L.LightningModule, prefix: str, fidelity: Fidelity) -> None:
        for name, value in fidelity.named().items():
            if name.rsplit("_", 1)[0] in _MEASURES:
                module.log(f"{prefix}/{name}", value)


def _as_many(one: Split, other: Split, most: int | None) -> tuple[Tensor, Tensor]:
    """Return the first images of two splits, as many of each, `most` at most."""
    num = min(len(one.images), len(other.images))
    num = num if most is None else min(num, most)
    return one.images[:num], other.images[:num]


def _require_as_many(name: str, batch: Tensor, images: Tensor) -> None:
    if batch.shape != images.shape:
        raise ValueError(
            f"Method `drawn` must return images {tuple(images.shape)} like the given ones, but "
            f"{name!r} has the shape {tuple(batch.shape)}."
        )
