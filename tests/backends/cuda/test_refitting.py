"""Weights that change on a device, under contexts that exist."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
from tests.backends.cuda.simulation import simulated
from tests.refit.models import ROWS, products, weights

import lamina
from lamina import ops
from lamina.backends.cuda.packing import Delivery
from lamina.ir.graph import Graph, emit
from lamina.ir.loc import Loc
from lamina.ir.types import DType, TensorType


def test_contexts_go_on_with_other_weights_on_the_device() -> None:
    engine = simulated(products(weights(1)))
    context = engine.create_context()
    before = context(ROWS)
    old = engine._loaded.resources
    engine.refit({"last": weights(2)["last"]})
    new = engine._loaded.resources
    mixed = {**weights(1), "last": weights(2)["last"]}
    expected = simulated(products(mixed))(ROWS)
    np.testing.assert_array_equal(context(ROWS), expected)
    np.testing.assert_array_equal(engine(ROWS), expected)
    assert not np.allclose(before, expected)
    same = [old.constant(n) == new.constant(n) for n in old._addresses]
    assert same.count(False) == 1, "constants that stay the same are shared"
    assert new.modules is old.modules and new.constant_bytes == old.constant_bytes


NEW = {name: weights(2)[name] for name in ("matrix", "gain", "last")}


def test_all_weights_change_at_once() -> None:
    engine = simulated(products(weights(1)), precision="fp16")
    expected = simulated(products(weights(2)), precision="fp16")(ROWS)
    engine.refit(NEW)
    np.testing.assert_array_equal(engine(ROWS), expected)


def test_a_refit_that_fails_leaves_the_device_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = simulated(products(weights(1)))
    before, plan = engine(ROWS), engine.plan
    device = engine._loaded.resources.device

    def fail(*_: object) -> None:
        raise lamina.DeviceError("the copy failed")

    monkeypatch.setattr(device, "copy", fail)
    with pytest.raises(lamina.DeviceError, match="the copy failed"):
        engine.refit(NEW)
    monkeypatch.undo()
    assert engine.plan is plan
    np.testing.assert_array_equal(engine(ROWS), before)


LARGE = {"matrix": (620, 640), "gain": (640,), "last": (300, 640)}


def large(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {n: rng.standard_normal(s).astype(np.float32) for n, s in LARGE.items()}


def large_products(given: dict[str, np.ndarray]) -> Graph:
    """A product whose columns are scaled, and one with a transposed matrix."""
    g = Graph()
    x = g.input("x", TensorType(DType.F32, (2, 620)))
    c = {n: emit(ops.Const.of(w, n), (), loc=Loc(n)) for n, w in given.items()}
    y = emit(ops.Matmul(), (x, c["matrix"]), loc=Loc("product"))
    y = emit(ops.Binary(kind=ops.BinaryKind.MUL), (y, c["gain"]), loc=Loc("gain"))
    g.output(emit(ops.Matmul(transpose_b=True), (y, c["last"]), loc=Loc("last")), "y")
    return g


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_the_device_makes_large_constants(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = simulated(large_products(large(1)), precision=precision)
    new = large(2)
    if precision != "fp16":  # a build keeps these as f32
        new["matrix"][3, :2] = [np.nan, np.inf]
    new["matrix"][4, :3] = [-0.0, 1e-42, 1e-6]
    wanted = simulated(large_products(new), precision=precision)
    made = []
    whole = Delivery._make

    def counted(self: Delivery, *arguments: Any) -> None:
        made.append(arguments)
        whole(self, *arguments)

    monkeypatch.setattr(Delivery, "_make", counted)
    engine.refit(new)
    assert len(made) == 2
    resources, expected = engine._loaded.resources, wanted._loaded.resources
    for number, blob in enumerate(wanted.section.blobs):
        size = blob.nbytes
        here, there = (ctypes.string_at(r.constant(number), size) for r in (resources, expected))
        assert here == there == blob.contents.tobytes()
    again = lamina.load(engine.serialize(), device="none")
    for a, b in zip(again.plan.sections[0].blobs, wanted.section.blobs, strict=True):
        assert a.contents.tobytes() == b.contents.tobytes()


def test_a_stripped_plan_and_streamed_weights() -> None:
    """What comes back goes to the device, or stays in host memory where it has no room."""
    whole = simulated(large_products(large(1)))
    x = np.random.default_rng(1).standard_normal((2, 620)).astype(np.float32)
    data = whole.serialize(weights=False)
    engine = lamina.load(data, device="cuda:simulated")
    engine.refit({name: large(1)[name] for name in engine.missing_weights()})
    resources = engine._loaded.resources
    for number, blob in enumerate(whole.section.blobs):
        here = ctypes.string_at(resources.constant(number), blob.nbytes)
        assert here == blob.contents.tobytes()
    engine.stream_weights(0)
    engine.refit(large(2))
    wanted = simulated(large_products(large(2)))
    np.testing.assert_array_equal(engine(x), wanted(x))


def test_memory_for_weights_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = simulated(large_products(large(1)))
    device, taken = engine._loaded.resources.device, []
    allocate = device.allocate_host
    monkeypatch.setattr(device, "allocate_host", lambda n: taken.append(n) or allocate(n))
    monkeypatch.setattr(Delivery, "_make", lambda *_: None)
    for seed in range(2, 8):
        engine.refit(large(seed))
    # Two blocks of weights, one of them in use, and what the small constants need.
    assert len(taken) <= 4
    assert device.faults == []
