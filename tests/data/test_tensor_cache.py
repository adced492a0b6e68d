import pytest
import torch

from spikelens.data.tensor_cache import read_tensors, write_tensors

TENSORS = {"a": torch.arange(6).view(2, 3), "b": torch.zeros(0, dtype=torch.uint8)}


def test_what_is_written_is_read_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "deeper" / "cache.safetensors"
    write_tensors(path, TENSORS)
    found = read_tensors(path, {"a", "b"})
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"rubbish", b"\xff" * 64])
def test_missing_and_damaged_files_hold_nothing(tmp_path, content):
    path = tmp_path / "cache.safetensors"
    assert read_tensors(path, {"a"}) is None
    path.write_bytes(content)
    assert read_tensors(path, {"a"}) is None


def test_a_cut_file_and_one_with_other_tensors_hold_nothing(tmp_path):
    path = tmp_path / "cache.safetensors"
    write_tensors(path, TENSORS)
    assert read_tensors(path, {"a"}) is None
    path.write_bytes(path.read_bytes()[:-8])
    assert read_tensors(path, {"a", "b"}) is None


def test_a_failed_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "cache.safetensors"
    write_tensors(path, TENSORS)
    with pytest.raises(ValueError, match="non contiguous"):
        write_tensors(path, {"a": torch.zeros(3, 4).T})
    assert read_tensors(path, {"a", "b"}) is not None
    assert list(tmp_path.iterdir()) == [path]
