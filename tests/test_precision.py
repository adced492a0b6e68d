import pytest
import torch

from spikelens.precision import PRECISIONS, autocast, require_precision

CPU = torch.device("cpu")


def product_type(precision):
    with autocast(precision, CPU):
        return (torch.ones(2, 2) @ torch.ones(2, 2)).dtype


def test_a_precision_is_that_of_matrix_products():
    assert product_type("float32") == torch.float32
    assert product_type("bfloat16") == torch.bfloat16
    assert torch.ones(1).dtype == torch.float32


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        ({"amx_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": True, "amx_bf16": False}, torch.bfloat16),
        ({"avx512_bf16": False, "avx512_f": True}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_auto_asks_the_processor(monkeypatch, found, wanted):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    assert product_type("auto") == wanted


def test_auto_is_float32_where_torch_cannot_tell(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert product_type("auto") == torch.float32


def test_an_unknown_precision_is_refused():
    for precision in PRECISIONS:
        require_precision(precision)
    with pytest.raises(ValueError, match="`precision` must be auto, bfloat16, float32, but got '"):
        autocast("float16", CPU).__enter__()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("wish", ["highest", "high"])
def test_float32_is_float32_on_a_gpu_too(wish):
    """TF32 keeps 10 bits of a factor; its errors are a thousand times those allowed here."""
    images, weight = torch.rand(8, 64, 16, 16), torch.rand(64, 64, 3, 3)
    flat = images.flatten(1)
    wanted = (
        torch.nn.functional.conv2d(images.double(), weight.double()),
        flat.double() @ flat.T.double(),
    )
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(wish)
    try:
        with autocast("float32", torch.device("cuda")):
            on_gpu = flat.cuda()
            found = torch.nn.functional.conv2d(images.cuda(), weight.cuda()), on_gpu @ on_gpu.T
        assert torch.get_float32_matmul_precision() == wish
    finally:
        torch.set_float32_matmul_precision(before)
    for ours, exact in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours.double().cpu(), exact, rtol=2e-6, atol=0)
