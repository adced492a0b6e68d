"""Networks that others saved as a program in a file: TorchScript and ONNX."""

import importlib.util
import warnings
from pathlib import Path

import torch
from torch import nn


def load_torchscript(path: str) -> nn.Module:
    """Load a network saved by `torch.jit.save`.

    A TorchScript file is a program: load only those you would run.

    Args:
        path: The file.

    Returns:
        The network, on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is of another format.
    """
    _require_file(path, "a TorchScript file")
    try:
        with warnings.catch_warnings():
            # torch discourages writing new ones; the files there are can still be read.
            warnings.filterwarnings("ignore", message=".*jit.load.*deprecated")
            module: nn.Module = torch.jit.load(path, map_location="cpu")
    except RuntimeError as error:
        raise ValueError(
            f"Argument `path` must name a TorchScript file, but {path} holds something else."
        ) from error
    return module


def load_onnx(path: str) -> nn.Module:
    """Load a network in ONNX format; it runs in onnxruntime, mostly on the CPU.

    Its first output is the image. It has no gradients, and so cannot encode.

    Args:
        path: The file; the first axis of its input and output must be free (a dynamic axis).

    Returns:
        The network.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If onnxruntime is missing, or the file is of another format.
    """
    _require_file(path, "an ONNX file")
    if importlib.util.find_spec("onnxruntime") is None:
        raise ValueError(
            "Argument `path` must name a file that can be read here, but ONNX files need "
            "onnxruntime: pip install 'spikelens[onnx]'."
        )
    # Only here: it imports much.
    from torch_fidelity.generative_model_onnx import GenerativeModelONNX

    try:
        # Size and kind of noise are for its own draws; ours come from the grid.
        module: nn.Module = GenerativeModelONNX(path, z_size=1, z_type="normal", num_classes=0)
    except Exception as error:  # onnxruntime's own, one for each cause
        raise ValueError(
            f"Argument `path` must name an ONNX file, but {path} holds something else."
        ) from error
    return module


def _require_file(path: str, what: str) -> None:
    if not Path(path).is_file():
        raise FileNotFoundError(f"Argument `path` must be {what}, but found no {path}.")
