import importlib.util
import sys
import warnings

import pytest
import torch
from conftest import LinearImages

from spikelens.generators.external import ExternalLatent
from spikelens.generators.model_files import load_onnx, load_torchscript


@pytest.fixture
def points():
    return torch.randint(0, 64, (6, 5), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def scripted(tmp_path):
    path = str(tmp_path / "linear.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch discourages writing new ones
        program = torch.jit.trace(LinearImages(), torch.zeros(2, 5))
        torch.jit.save(program, path)
    return path


def test_a_torchscript_file_draws_and_encodes_as_its_network(scripted, points):
    generator = ExternalLatent(load_torchscript(scripted), 5, num_encode_steps=50)
    own = ExternalLatent(LinearImages(), 5, num_encode_steps=50)
    torch.testing.assert_close(generator.decode(points), own.decode(points))
    assert torch.equal(generator.encode(own.decode(points)), own.encode(own.decode(points)))
    assert not any(p.requires_grad for p in generator.parameters())
    with pytest.raises(ValueError, match=r"float32 \(4, 6\), but it says: RuntimeError: .*shapes"):
        ExternalLatent(load_torchscript(scripted), 6)


def save_onnx(path):
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    rows = 0.1 * LinearImages().rows.detach().numpy()
    constants = {"rows": rows, "grey": rows.dtype.type(0.5), "shape": torch.tensor([-1, 1, 8, 8])}
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["z", "rows"], ["product"]),
            helper.make_node("Add", ["product", "grey"], ["sum"]),
            helper.make_node("Reshape", ["sum", "shape"], ["image"]),
        ],
        "linear",
        [helper.make_tensor_value_info("z", kind, ["N", 5])],
        [helper.make_tensor_value_info("image", kind, ["N", 1, 8, 8])],
        [onnx.numpy_helper.from_array(_array(value), name) for name, value in constants.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)


def _array(value):
    return value.numpy() if isinstance(value, torch.Tensor) else value


def test_an_onnx_file_draws_as_its_network(tmp_path, points):
    pytest.importorskip("onnxruntime")
    path = str(tmp_path / "linear.onnx")
    save_onnx(path)
    generator = ExternalLatent(load_onnx(path), 5)
    drawn = ExternalLatent(LinearImages(), 5).decode(points)
    torch.testing.assert_close(generator.decode(points), drawn)
    with pytest.raises(ValueError, match="which cannot encode natural images"):
        generator.encode(drawn)
    with pytest.raises(ValueError, match=r"float32 \(4, 6\), but it says: .*invalid dimensions"):
        ExternalLatent(load_onnx(path), 6)


@pytest.mark.parametrize(("load", "what"), [(load_torchscript, "TorchScript"), (load_onnx, "ONNX")])
def test_a_missing_file_is_said_to_be_missing(tmp_path, load, what):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"must be an? {what} file, but found no"):
            load(str(path))


def test_files_of_another_format_are_refused(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "weights.ckpt")
    (tmp_path / "text").write_text("these are no weights, but a sentence")
    for name in ("weights.ckpt", "text"):
        with pytest.raises(ValueError, match=r"TorchScript file, but .* holds something else"):
            load_torchscript(str(tmp_path / name))
    pytest.importorskip("onnxruntime")
    for name in ("weights.ckpt", "text"):
        with pytest.raises(ValueError, match=r"ONNX file, but .* holds something else"):
            load_onnx(str(tmp_path / name))


def test_onnx_files_need_onnxruntime(tmp_path, monkeypatch):
    (tmp_path / "a.onnx").write_text("")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"need onnxruntime: pip install 'spikelens\[onnx\]'"):
        load_onnx(str(tmp_path / "a.onnx"))
