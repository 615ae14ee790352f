"""Damaged models must fail with an error of this package: no crash, no other exception, no hang."""

import random
import time

import onnx
import pytest

from lamina.errors import LaminaError
from lamina.importers.onnx import load
from tests.conformance.cases import node_cases
from tests.importers.models import model
from tests.importers.test_control_flow import CHOOSE, FUNCTION, SCAN

MUTATIONS = 1200
LIMIT_SECONDS = 60
INTEGERS = (0, 1, -1, 2, 3, 7, -5, 2**31, 2**62, -(2**62), 1_000_000_007)


def seeds():
    texts = [model(CHOOSE), model(SCAN)]
    texts.append(
        model("agraph (float[2] x) => (float[2] y) { y = acme.Scaled<alpha = 3.0>(x, x) }",
              functions=FUNCTION, domains=', "acme" : 1')
    )  # fmt: skip
    protos = [*texts, *(c.load() for c in node_cases()[::7])]
    return [p for p in protos if p.ByteSize() < 10_000]


def survives(data):
    try:
        load(data)
    except LaminaError:
        return False
    return True


@pytest.mark.parametrize("seed", [1, 2])
def test_mutated_bytes(seed):
    rng = random.Random(seed)
    sources = [p.SerializeToString() for p in seeds()]
    started = time.perf_counter()
    for _ in range(MUTATIONS):
        data = bytearray(rng.choice(sources))
        for _ in range(rng.randint(1, 4)):
            at, kind = rng.randrange(len(data)), rng.random()
            if kind < 0.5:
                data[at] = rng.randrange(256)
            elif kind < 0.7:
                del data[at : at + rng.randint(1, 8)]
            elif kind < 0.9:
                data[at:at] = rng.randbytes(rng.randint(1, 8))
            else:
                del data[at + 1 :]
            data = data or bytearray(b"x")
        survives(bytes(data))
    assert time.perf_counter() - started < LIMIT_SECONDS


@pytest.mark.parametrize("seed", [1, 2])
def test_mutated_fields(seed):
    rng = random.Random(seed)
    sources = seeds()
    started, loaded = time.perf_counter(), 0
    for _ in range(MUTATIONS):
        proto = onnx.ModelProto()
        proto.CopyFrom(rng.choice(sources))
        for _ in range(rng.randint(1, 3)):
            change_one_field(proto, rng)
        loaded += survives(proto)
    assert time.perf_counter() - started < LIMIT_SECONDS
    assert 0 < loaded < MUTATIONS  # some changes are harmless, most are not


def change_one_field(proto, rng):
    found = []
    collect(proto, found)
    message, field, repeated = rng.choice(found)
    old = getattr(message, field.name)
    try:
        if not repeated and rng.random() < 0.8:
            setattr(message, field.name, other(field, old, rng))
        elif not repeated:
            message.ClearField(field.name)
        elif rng.random() < 0.3:
            del old[rng.randrange(len(old))]
        elif field.message_type is not None:
            old.add().CopyFrom(rng.choice(list(old)))
        else:
            old[rng.randrange(len(old))] = other(field, old[0], rng)
    except (TypeError, ValueError):
        pass  # the field does not take that value


def collect(message, found):
    for field, value in message.ListFields():
        repeated = not isinstance(value, bytes | str | int | float) and hasattr(value, "__len__")
        if field.message_type is not None:
            for item in value if repeated else [value]:
                collect(item, found)
        if field.message_type is None or repeated:
            found.append((message, field, repeated))


def other(field, old, rng):
    if isinstance(old, bytes):
        return rng.randbytes(rng.randint(0, 9))
    if isinstance(old, str):
        return rng.choice(["", "x", "y", "Relu", "Shape", "axis", "../z", old + "1"])
    if isinstance(old, float):
        return rng.choice([0.0, float("nan"), float("inf"), -1.5, 1e30])
    if field.cpp_type in (field.CPPTYPE_INT64, field.CPPTYPE_UINT64):
        return rng.choice(INTEGERS)
    return rng.choice([0, 1, 2, 3, 7, 8, 9, 10, 11, 13, 16, 21, 23])
