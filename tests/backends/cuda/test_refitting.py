"""Weights that change on a device, under contexts that exist."""

from __future__ import annotations

import numpy as np
import pytest
from tests.backends.cuda.simulation import simulated
from tests.refit.models import ROWS, products, weights

import lamina


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
