import pytest
import teneva
import torch

from spikelens.am.quantised import bits_of_modes, dequantise, quantise


def some_indices(num_bits):
    return torch.randint(0, 2**num_bits, (20, 7), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("num_bits", [1, 3, 9])
def test_quantise_is_teneva_s_on_any_batch(num_bits):
    indices = some_indices(num_bits)
    wanted = torch.from_numpy(teneva.ind_tt_to_qtt(indices.numpy(), 2**num_bits))
    assert torch.equal(quantise(indices, num_bits), wanted)
    assert torch.equal(quantise(indices.view(4, 5, 7), num_bits), wanted.view(4, 5, -1))


@pytest.mark.parametrize("num_bits", [1, 3, 9])
def test_dequantise_undoes_quantise(num_bits):
    indices = some_indices(num_bits).view(4, 5, 7)
    bits = quantise(indices, num_bits)
    assert set(bits.unique().tolist()) == {0, 1}
    assert torch.equal(dequantise(bits, num_bits), indices)


def test_quantise_undoes_dequantise():
    every = torch.cartesian_prod(*[torch.arange(2)] * 6)
    assert torch.equal(quantise(dequantise(every, 3), 3), every)


@pytest.mark.parametrize(("sizes", "num_bits"), [((2,), 1), ((8, 8), 3), ((512,) * 3, 9)])
def test_the_number_of_bits_is_the_logarithm_of_the_size(sizes, num_bits):
    assert bits_of_modes(sizes) == num_bits


@pytest.mark.parametrize("sizes", [(4, 8), (6, 6), (1, 1)])
def test_other_modes_cannot_be_quantised(sizes):
    with pytest.raises(ValueError, match="`quantised` must be False unless all modes"):
        bits_of_modes(sizes)
