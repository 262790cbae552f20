"""Threads share work in pieces: each item is done once, and a thread that is held up keeps only its piece."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from itk_pdd.kernels import pool, threads


@pytest.mark.parametrize("count", [1, 7, 1000])
@pytest.mark.parametrize("grain", [1, 3])
def test_each_item_is_done_once_whatever_the_pace(count, grain):
    done, pieces = np.zeros(count), []

    def kernel(first: int, last: int) -> None:
        done[first:last] += 1
        pieces.append((first, last))

    for turn in range(1, 4):  # the second and third time the pace is known
        for number in (1, 2, 5):
            pieces.clear()
            with threads.chosen(number):
                pool.run(kernel, count, grain=grain)
            assert all(first % grain == 0 for first, _ in pieces)
        assert (done == 3 * turn).all()


def test_a_thread_that_is_held_up_keeps_only_its_piece():
    rest, done = threading.Event(), []

    def kernel(first: int, last: int) -> None:
        if first == 0:
            rest.wait(20)
        time.sleep(1e-4 * (last - first))
        done.append((first, last))
        if sum(last - first for first, last in done) == 399:
            rest.set()

    with threads.chosen(2):
        pool.run(kernel, 400)
    assert rest.is_set() and done[-1] == (0, 1)


def test_short_work_wakes_no_thread():
    used = set()

    def kernel(first: int, last: int) -> None:
        used.add(threading.get_ident())

    with threads.chosen(2):
        pool.run(kernel, 100)
        used.clear()
        for _ in range(20):
            pool.run(kernel, 100)
    assert used == {threading.get_ident()}


def test_nothing_to_do():
    pool.run(lambda first, last: pytest.fail("called"), 0)
