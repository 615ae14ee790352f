"""Refitting through the refitter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lamina.tensorrt as trt
from tests.tensorrt.engine.models import WEIGHTS, affine, engine_of, point
from tests.tensorrt.running import Messages, close, random

ROW = np.array([[1, 2]], np.float32)


def refittable() -> tuple[Any, Messages]:
    net = affine(batch=2, flags=[trt.BuilderFlag.REFIT])
    return engine_of(net), net.logger


def test_weights_change_under_contexts_that_exist() -> None:
    engine, logger = refittable()
    context = engine.create_execution_context()
    x, y = random(2, 3), np.zeros((2, 2), np.float32)
    point(context, x=x, y=y)
    assert context.execute_async_v3(0)
    close(y, x @ WEIGHTS + ROW)
    refitter = trt.Refitter(engine, logger)
    assert refitter.get_all_weights() == ["matrix CONSTANT", "row CONSTANT"]
    layers, roles = refitter.get_all()
    assert layers == ["matrix", "row"] and roles[0] == trt.WeightsRole.CONSTANT
    other = random(3, 2, seed=9)
    assert refitter.set_weights("matrix", trt.WeightsRole.CONSTANT, other)
    assert refitter.get_missing() == ([], []) and refitter.get_missing_weights() == []
    assert refitter.refit_cuda_engine()
    assert context.execute_async_v3(0)
    close(y, x @ other + ROW)
    assert refitter.set_named_weights("row CONSTANT", np.zeros((1, 2), np.float32))
    assert refitter.refit_cuda_engine_async(0) and context.execute_async_v3(0)
    close(y, x @ other)
    again = trt.Runtime(logger).deserialize_cuda_engine(engine.serialize())
    context = again.create_execution_context()
    point(context, x=x, y=y)
    y[:] = 0
    assert context.execute_async_v3(0)
    close(y, x @ other)


def test_weights_that_do_not_fit_are_refused() -> None:
    engine, logger = refittable()
    refitter = trt.Refitter(engine, logger)
    assert not refitter.set_named_weights("matrix", np.zeros(6, np.float32))
    assert "no refittable weights 'matrix'; it has matrix CONSTANT" in logger.errors[-1]
    assert not refitter.set_weights("matrix", trt.WeightsRole.KERNEL, np.zeros(6, np.float32))
    assert "layer 'matrix' has no refittable weights of role KERNEL" in logger.errors[-1]
    assert not refitter.set_named_weights("row CONSTANT", np.zeros(3, np.float32))
    assert "are 2 of type FLOAT, 3 of type FLOAT were given" in logger.errors[-1]
    assert not refitter.set_named_weights("row CONSTANT", np.zeros(2, np.float16))
    with pytest.raises(TypeError):
        refitter.set_named_weights("row CONSTANT", [1.0, 2.0])
    assert refitter.get_weights_prototype("row CONSTANT").size == 2


def test_all_weights_change_or_none() -> None:
    engine, logger = refittable()
    before = bytes(engine.serialize())
    refitter = trt.Refitter(engine, logger)
    assert refitter.set_named_weights("row CONSTANT", np.ones(2, np.float32))
    assert refitter.set_named_weights("matrix CONSTANT", np.full(6, np.nan, np.float32))
    assert refitter.get_weights_location("row CONSTANT") == trt.TensorLocation.HOST
    assert not refitter.refit_cuda_engine()
    assert "'matrix CONSTANT' hold numbers that are not finite" in logger.errors[-1]
    assert bytes(engine.serialize()) == before
    assert refitter.unset_named_weights("matrix CONSTANT")
    assert not refitter.unset_named_weights("matrix CONSTANT")
    assert refitter.refit_cuda_engine()
    assert bytes(engine.serialize()) != before


def test_an_engine_without_the_flag_cannot_be_refitted() -> None:
    net = affine(batch=2)
    engine = engine_of(net)
    with pytest.raises(TypeError, match="not refittable"):
        trt.Refitter(engine, net.logger)
    assert "was not built with BuilderFlag.REFIT" in net.logger.errors[-1]
