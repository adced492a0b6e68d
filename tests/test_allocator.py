import ctypes
import sys

import pytest
import torch

from spikelens import allocator


def test_tensors_work_as_before():
    assert allocator.keep_freed_memory() == (sys.platform.startswith("linux"))
    blocks = [torch.full((1024, 4096), float(k)) for k in range(4)]
    assert [float(block.mean()) for block in blocks] == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_elsewhere_nothing_is_done(monkeypatch, platform):
    monkeypatch.setattr(sys, "platform", platform)
    assert not allocator.keep_freed_memory()


def test_without_glibc_nothing_is_done(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not allocator.keep_freed_memory()
