"""Networks that fidelity is measured in, as torch-fidelity takes them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor

from spikelens.data.base import ImageSpec, unit_range
from spikelens.models.feature_extractor import load_feature_extractor


class Extractor(Protocol):
    """What a network of our own must offer; `FeatureExtractor` does.

    Attributes:
        training: Whether it is in training mode; to measure, it must not be.
    """

    training: bool

    @property
    def images(self) -> ImageSpec:
        """Channels and size of the images it takes."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    @property
    def head(self) -> Callable[[Tensor], Tensor]:
        """Takes features `(N, F)` to logits `(N, classes)`."""

    def features(self, images: Tensor) -> Tensor:
        """Return features `(N, F)` of images `(N, C, H, W)` in [0, 1]."""

    def to(self, device: torch.device) -> Self:
        """Move it to a device and return it."""


@dataclass(frozen=True)
class Inception:
    """The network of the published scores, for images of any size.

    Attributes:
        weights: torch-fidelity's file of its weights.
        device: Where it computes.
    """

    weights: str
    device: torch.device | str = "cpu"

    def to(self, device: torch.device | str) -> "Inception":
        """Return it on another device."""
        return replace(self, device=device)


class InceptionWeightsError(ConnectionError):
    """Inception's weights are neither there nor to be had."""


def load_extractor(name: str, inception_weights: str | None = None) -> Extractor | Inception:
    """Load an extractor by name.

    Args:
        name: `inception`, or the file of a `FeatureExtractor` (`.ckpt` or `.safetensors`).
        inception_weights: torch-fidelity's file of Inception's weights; None to download it into
            torch's cache (95 MB) unless it is there.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file holds something else.
        ConnectionError: If Inception's weights cannot be downloaded.
    """
    if name != "inception":
        return load_feature_extractor(name)
    path = Path(_download() if inception_weights is None else inception_weights)
    if not path.is_file():
        raise FileNotFoundError(
            f"Argument `inception_weights` must be a file, but found no {path}; it is at "
            f"{URL_INCEPTION_V3}."
        )
    try:
        # torch-fidelity would run code that hides in the file; this refuses such a file.
        state = torch.load(path, map_location="cpu", weights_only=True)
        is_inception = state["fc.weight"].shape == (1008, 2048)
    except Exception:  # each format fails in its own way on something else
        is_inception = False
    if not is_inception:
        raise ValueError(
            f"Argument `inception_weights` must be the file at {URL_INCEPTION_V3}, but {path} "
            "holds something else."
        )
    return Inception(str(path))


def _download() -> Path:
    """Return where torch's cache has Inception's weights, once they are there."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(URL_INCEPTION_V3).name
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), "6726825d", progress=False)
    except Exception as error:  # network, disk, checksum: one remedy for all
        raise InceptionWeightsError(
            f"Inception's weights are not in {path.parent} and cannot be downloaded ({error}): "
            f"check the network, or fetch {URL_INCEPTION_V3} elsewhere and give the file as "
            "`inception_weights`, or use an extractor of your own (model=features)."
        ) from None
    return path


def name_of(extractor: Extractor | Inception) -> str:
    """Return the word that values measured in an extractor are named by."""
    return "inception" if isinstance(extractor, Inception) else "spikelens"


def require_shape(extractor: Extractor | Inception, shape: tuple[int, ...]) -> None:
    """Refuse images `(C, H, W)` that an extractor does not take.

    Raises:
        ValueError: If they are neither grey nor RGB, or not of the extractor's own shape.
    """
    if not isinstance(extractor, Inception) and shape != extractor.images.image_shape:
        raise ValueError(
            f"Argument `extractor` must take images {tuple(shape)}, but it was trained on "
            f"{extractor.images.image_shape}."
        )
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise ValueError(
            f"The images must have a shape (C, H, W) with 1 or 3 channels, but got {tuple(shape)}."
        )


def fidelity_options(extractor: Extractor | Inception) -> dict[str, Any]:
    """Return the arguments by which torch-fidelity finds an extractor.

    Raises:
        ValueError: If the extractor is in training mode.
    """
    if isinstance(extractor, Inception):
        return {
            "feature_extractor": "inception-v3-compat",
            "feature_extractor_weights_path": extractor.weights,
            "cuda": torch.device(extractor.device).type == "cuda",
        }
    if extractor.training:
        raise ValueError("Argument `extractor` must be in evaluation mode: call its `eval` first.")
    # torch-fidelity hands all its arguments on; ours sees to its device itself.
    return {"feature_extractor": _Adapter.NAME, "spikelens_extractor": extractor, "cuda": False}


class _Adapter(FeatureExtractorBase):  # type: ignore[misc] # torch-fidelity has no types
    """Show torch-fidelity, which knows uint8 RGB images alone, a network of our own."""

    NAME: ClassVar[str] = "spikelens"

    def __init__(
        self, name: str, features_list: list[str], spikelens_extractor: Extractor, **_: Any
    ) -> None:
        super().__init__(name, features_list)
        # In a tuple: torch-fidelity freezes and moves the modules that it can see.
        self._hidden = (spikelens_extractor,)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return "features", "logits"

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "logits" if metric == "isc" else "features"

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the asked ones of features and logits for images uint8 `(N, 3, H, W)`."""
        (extractor,) = self._hidden
        images = images[:, : extractor.images.channels].to(extractor.device)
        features = extractor.features(unit_range(images))
        # Covariances and distances lose digits in float32.
        found = {"features": features.double(), "logits": extractor.head(features)}
        return tuple(found[name] for name in self.features_list)


if _Adapter.NAME not in FEATURE_EXTRACTORS_REGISTRY:  # a reloaded module would be refused
    register_feature_extractor(_Adapter.NAME, _Adapter)
