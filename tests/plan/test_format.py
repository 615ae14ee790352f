"""The plan format: equal bytes for equal plans, what comes back, what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import lamina
from lamina.errors import ConfigError, PlanError
from lamina.ir.weight import Weight
from lamina.plan.format import ALIGN, MAGIC, VERSION, read_plan, write_plan
from lamina.plan.plan import Plan
from tests.plan.plans import HEAD, KINDS, edited, engine, feed, header_of, plan_bytes, with_header


def _plan(**changes: object) -> Plan:
    fields = dict(graph="", weights={}, config=(), ranges=(), sections=())
    return Plan(**{**fields, **changes})


@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_comes_back_as_it_was(kind: str) -> None:
    written, plan = plan_bytes(kind), engine(kind).plan
    again = read_plan(written)
    assert again.sections == plan.sections
    assert dict(again.weights) == dict(plan.weights)
    for field in dataclasses.fields(Plan):
        if field.name != "weights":
            assert getattr(again, field.name) == getattr(plan, field.name)
    assert write_plan(again) == written


@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_plan_gives_the_same_results(kind: str) -> None:
    wanted = engine(kind).run(feed(kind))
    found = lamina.load(plan_bytes(kind)).run(feed(kind))
    assert wanted.keys() == found.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array)


def test_the_layout_of_the_file_is_what_the_specification_says() -> None:
    data = plan_bytes("convolution")
    magic, version, zero, length, _ = HEAD.unpack_from(data)
    assert (magic, version, zero) == (MAGIC, VERSION, 0)
    assert (HEAD.size + length) % ALIGN == 0
    blobs = header_of(data)["blobs"]
    assert all(b["at"] % ALIGN == 0 for b in blobs)
    ends = [b["at"] + b["bytes"] for b in blobs]
    assert len(data) == HEAD.size + length + ends[-1]
    for end, after in zip(ends, blobs[1:], strict=False):
        gap = data[HEAD.size + length + end : HEAD.size + length + after["at"]]
        assert len(gap) < ALIGN
        assert not any(gap)


def test_equal_blobs_are_stored_once() -> None:
    w = np.arange(1000, dtype=np.float32)
    once = write_plan(_plan(weights={"a": Weight(w)}))
    twice = write_plan(_plan(weights={"a": Weight(w), "b": Weight(w.copy())}))
    assert len(header_of(twice)["blobs"]) == 1
    assert len(twice) - len(once) < 128


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((0, 3), np.float32),
        np.array(5, np.int64),
        np.array(["a", "ü", ""], object),
        np.arange(6, dtype=np.float16).reshape(3, 2)[:, ::-1],
        np.array([True, False]),
    ],
    ids=["empty", "scalar", "strings", "strided", "bool"],
)
def test_every_kind_of_constant_comes_back(array: np.ndarray) -> None:
    found = read_plan(write_plan(_plan(weights={"a": Weight(array)}))).weights["a"].array
    assert found.shape == array.shape
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def test_another_version_is_named_with_both_numbers() -> None:
    data = bytearray(plan_bytes("convolution"))
    data[8:12] = (VERSION + 6).to_bytes(4, "little")
    with pytest.raises(PlanError, match=f"format {VERSION + 6}, .*reads format {VERSION}"):
        lamina.load(bytes(data))


@pytest.mark.parametrize("data", [b"", b"LAMPLAN", b"\x08\x07onnx" * 30, b"LAMPLAN\0" + b"\0" * 9])
def test_what_is_no_plan_is_refused(data: bytes) -> None:
    with pytest.raises(PlanError, match="not a plan file"):
        lamina.load(data)


def test_an_empty_or_missing_file_is_refused(tmp_path) -> None:
    empty = tmp_path / "empty.plan"
    empty.touch()
    with pytest.raises(PlanError, match="empty"):
        lamina.load(empty)
    with pytest.raises(PlanError, match="No such file"):
        lamina.load(tmp_path / "none.plan")
    with pytest.raises(PlanError, match="Is a directory"):
        lamina.load(tmp_path)
    with pytest.raises(PlanError, match="a path or bytes, not int"):
        lamina.load(3)
    with pytest.raises(ConfigError, match="-1 threads"):
        lamina.load(plan_bytes("convolution"), threads=-1)


def test_a_damaged_file_is_named_with_what_to_do(tmp_path) -> None:
    path = tmp_path / "half.plan"
    path.write_bytes(plan_bytes("convolution")[:-64])
    with pytest.raises(PlanError) as error:
        lamina.load(path)
    assert "truncated" in str(error.value)
    assert str(path) in str(error.value)
    assert "build the plan again" in str(error.value)


def test_a_header_that_is_no_object_is_refused() -> None:
    for header in ([], 3, None, "x", {}, {"blobs": 3}, {"blobs": [3]}, {"blobs": []}):
        with pytest.raises(PlanError, match="damaged"):
            read_plan(with_header(plan_bytes("convolution"), header))


def test_deep_json_is_refused() -> None:
    nested: object = 0
    for _ in range(400):
        nested = [nested]
    with pytest.raises(PlanError, match="damaged"):
        read_plan(edited("convolution", lambda h: h.update(ranges=nested)))
    text = "[" * 100_000
    data = plan_bytes("convolution")
    with pytest.raises(PlanError, match="checksum"):
        read_plan(data[: HEAD.size] + text.encode() + data[HEAD.size :])


def test_a_weight_of_the_portable_graph_is_checked_when_it_is_read() -> None:
    data = bytearray(plan_bytes("convolution"))
    header = header_of(bytes(data))
    (number,) = header["weights"].values()
    begin = HEAD.size + HEAD.unpack_from(data)[3] + header["blobs"][number]["at"]
    data[begin + 5] ^= 4
    plan = read_plan(bytes(data))
    with pytest.raises(PlanError, match="checksum"):
        plan.weights[next(iter(plan.weights))]
    with pytest.raises(PlanError, match="checksum"):
        lamina.load(bytes(data), native_code=False)
