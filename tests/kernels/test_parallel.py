import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest

from spikelens.kernels.parallel import in_parallel

# Never waited for in full, unless something is wrong.
PATIENCE = 30.0


@pytest.mark.parametrize("num_threads", [1, 2, 3, 5])
@pytest.mark.parametrize("num_items", [0, 1, 2, 3, 7, 100])
def test_every_item_is_worked_once(set_threads, num_threads, num_items):
    set_threads(num_threads)
    runs = []
    in_parallel(lambda start, stop: runs.append((start, stop)), num_items)
    assert sorted(i for run in runs for i in range(*run)) == list(range(num_items))
    sizes = [stop - start for start, stop in runs]
    assert len(runs) == max(1, min(num_threads, num_items))
    assert max(sizes) - min(sizes) <= 1


def test_runs_are_worked_at_the_same_time(set_threads):
    set_threads(3)
    # Opens when three threads are there together.
    barrier = threading.Barrier(3)
    in_parallel(lambda start, stop: barrier.wait(PATIENCE), 3)
    assert not barrier.broken


@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize("bad", [0, 4, 8])
def test_an_exception_reaches_the_caller_and_the_next_call_works(set_threads, num_threads, bad):
    set_threads(num_threads)

    def work(start, stop):
        if start <= bad < stop:
            raise ArithmeticError(f"item {bad}")

    with pytest.raises(ArithmeticError, match=f"item {bad}"):
        in_parallel(work, 9)
    test_every_item_is_worked_once(set_threads, num_threads, 9)


@pytest.mark.parametrize("bad", [0, 1])
def test_nothing_runs_any_more_when_an_exception_comes(set_threads, bad):
    set_threads(3)
    done = []

    def work(start, stop):
        if start == bad:
            raise ArithmeticError
        time.sleep(0.02 * start)
        done.append(start)

    with pytest.raises(ArithmeticError):
        in_parallel(work, 3)
    assert sorted(done) == [i for i in range(3) if i != bad]


@numba.njit(nogil=True)
def squares(start, stop, out):
    for i in range(start, stop):
        out[i] = i * i


def test_python_threads_call_it_at_once(set_threads):
    set_threads(3)
    num_callers, num_items = 4, 1000
    barrier = threading.Barrier(num_callers)

    def call(_):
        # A thread of Python's may have its own idea of torch's threads.
        set_threads(3)
        barrier.wait(PATIENCE)
        outs = np.zeros((50, num_items), np.int64)
        for out in outs:
            in_parallel(lambda start, stop, out=out: squares(start, stop, out), num_items)
        return outs

    with ThreadPoolExecutor(num_callers) as callers:
        for outs in callers.map(call, range(num_callers)):
            assert (outs == np.arange(num_items) ** 2).all()
