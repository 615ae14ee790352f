"""Damaged plans: whatever the damage, PlanError or a plan that still works."""

from __future__ import annotations

import copy
import dataclasses
import random
from collections.abc import Callable

import numpy as np
import pytest

import lamina
from lamina.errors import PlanError
from lamina.plan.plan import Step
from tests.plan.plans import (
    HEAD,
    KINDS,
    edited,
    engine,
    feed,
    header_of,
    places,
    plan_bytes,
    with_header,
)

ROUNDS = 150
NATIVE = {"symbols", "externals"}
"""Parts of the header that describe machine code, which is trusted."""
NESTED = [f.name for f in dataclasses.fields(Step)].index("programs")


def _outcome(data: bytes) -> lamina.Engine | None:
    """Load; return None for PlanError, and let everything else fail the test."""
    try:
        return lamina.load(data)
    except PlanError as e:
        assert str(e)
        return None


def _check_result(kind: str, loaded: lamina.Engine | None) -> bool:
    if loaded is None:
        return False
    wanted = engine(kind).run(feed(kind))
    for name, array in loaded.run(feed(kind)).items():
        np.testing.assert_array_equal(array, wanted[name])
    return True


@pytest.mark.parametrize("kind", KINDS)
def test_flipped_bits_are_found_or_do_no_harm(kind: str) -> None:
    rng = random.Random(1)
    survived = 0
    for _ in range(ROUNDS):
        data = bytearray(plan_bytes(kind))
        for _ in range(rng.choice((1, 1, 1, 8))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        # What survives hit the gaps between blobs or the portable weights.
        survived += _check_result(kind, _outcome(bytes(data)))
    assert survived < ROUNDS / 2


@pytest.mark.parametrize("kind", KINDS)
def test_every_truncation_is_found(kind: str) -> None:
    data = plan_bytes(kind)
    rng = random.Random(2)
    lengths = {*range(HEAD.size + 3), len(data) - 1, *rng.sample(range(len(data)), ROUNDS)}
    for length in sorted(lengths):
        with pytest.raises(PlanError):
            lamina.load(data[:length])


@pytest.mark.parametrize("kind", KINDS)
def test_moved_removed_and_repeated_pieces_are_found_or_do_no_harm(kind: str) -> None:
    rng = random.Random(3)
    for _ in range(ROUNDS):
        data = bytearray(plan_bytes(kind))
        other = plan_bytes(rng.choice(list(KINDS)))
        begin, size = rng.randrange(len(data)), rng.randrange(1, 200)
        source = rng.randrange(len(other))
        piece = rng.choice((b"", other[source : source + size], bytes(size)))
        data[begin : begin + rng.choice((0, size))] = piece
        _check_result(kind, _outcome(bytes(data)))


VALUES: tuple[object, ...] = (
    *(0, 1, -1, 2, 3, 7, 64, 1 << 31, -(1 << 63), 1 << 70, 0.5, float("inf"), float("nan")),
    *(True, None, "", "x", "b", "-b", "b*1000000", "f32[9999]", "f32[-4]", "seq<f32[2]>"),
    *("view", "constant", "output", "host", "arena", "if", "kernel", "1/0", "floordiv(b,0)"),
    *([], [0], [[0]], {}, {"at": 0}, [None] * 3, "f32[b" + "*b" * 50 + "]", "(" * 3000),
)


def _mutate(header: dict[str, object], rng: random.Random) -> None:
    found = [(c, k) for c, k in places(header) if k not in NATIVE]
    container, key = rng.choice(found)
    action = rng.randrange(6)
    if action == 0:
        del container[key]
    elif action == 1:
        other, where = rng.choice(found)
        container[key] = copy.deepcopy(other[where])
    elif action == 2 and isinstance(container, list):
        container.insert(key, copy.deepcopy(container[key]))
    elif action == 3 and type(container[key]) is int:
        container[key] += rng.choice((-1, 1, 4, 1 << 20))
    else:
        container[key] = copy.deepcopy(rng.choice(VALUES))


@pytest.mark.parametrize("kind", KINDS)
def test_edited_headers_with_a_right_checksum_raise_only_plan_errors(kind: str) -> None:
    rng = random.Random(4)
    refused = 0
    for _ in range(4 * ROUNDS):
        header = header_of(plan_bytes(kind))
        for _ in range(rng.choice((1, 1, 2, 4))):
            try:
                _mutate(header, rng)
            except (IndexError, KeyError):
                continue  # the place went away with an earlier mutation
        refused += _outcome(with_header(plan_bytes(kind), header)) is None
    assert refused > ROUNDS


@pytest.mark.parametrize("kind", ["host", "control"])
def test_edited_steps_on_the_host_fail_with_our_errors_when_they_run(kind: str) -> None:
    rng = random.Random(5)
    ran = 0
    for _ in range(2 * ROUNDS):
        header = header_of(plan_bytes(kind))
        (section,) = header["sections"]
        steps = section["program"][3]
        victim = rng.choice([s for s in steps if s[0] in ("host", "if", "loop")])
        programs = victim.pop(NESTED)
        _mutate({"step": victim}, rng)
        victim.insert(NESTED, programs)
        loaded = _outcome(with_header(plan_bytes(kind), header))
        if loaded is None:
            continue
        try:
            loaded.run(feed(kind))
            ran += 1
        except lamina.LaminaError:
            continue
    assert ran


def _swap(kind: str, edit: Callable[[dict], None]) -> None:
    with pytest.raises(PlanError):
        lamina.load(edited(kind, edit))


def test_the_edits_of_this_test_reach_the_header() -> None:
    assert lamina.load(edited("dynamic", lambda h: None))
    _swap("dynamic", lambda h: h["sections"][0]["program"][0][0].__setitem__(2, 99))
