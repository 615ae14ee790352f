"""Memory of refits: aligned, apart, and used again when nothing refers to it."""

from __future__ import annotations

import gc

import numpy as np

from lamina.refit.memory import places

LARGE = 4 << 20


def address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def test_places_are_apart_and_begin_at_cache_lines() -> None:
    found = places({"a": 100, "b": 0, "c": 4096, "d": 7})
    assert [a.nbytes for a in found.values()] == [100, 0, 4096, 7]
    for number, array in enumerate(found.values()):
        assert address(array) % 64 == 0
        array[:] = number
    assert all((a == n).all() for n, a in enumerate(found.values()))
    assert places({}) == {} and places({1: 0})[1].size == 0


def test_memory_is_used_again_once_nothing_refers_to_it() -> None:
    found = places({0: LARGE, 1: 64})
    begin, kept = address(found[0]), found[1]
    kept[:] = 5
    del found
    gc.collect()
    other = places({0: LARGE, 1: 64})
    assert address(other[0]) != begin, "a part of it is still in use"
    other[0][:] = 9
    assert (kept == 5).all()
    del kept
    gc.collect()
    again = places({0: LARGE, 1: 64})
    assert address(again[0]) == begin
