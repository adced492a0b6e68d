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
        autocast("float16", CPU)
