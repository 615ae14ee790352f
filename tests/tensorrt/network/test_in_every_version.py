"""Layers of every kind, made and built in each version that has them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import lamina.tensorrt as trt
from lamina.tensorrt import table

Add = Callable[[Any, Any], Any]


@pytest.fixture(autouse=True)
def _back_to_the_default() -> Iterator[None]:
    yield
    trt.use("10")


def _weights(*shape: int) -> Any:
    return np.ones(shape, np.float32)


def _constant(network: Any, array: Any) -> Any:
    array = np.asarray(array)
    return network.add_constant(array.shape, array).get_output(0)


def _quantized(network: Any, x: Any) -> Any:
    scale = _constant(network, np.float32(0.1))
    types = ((), ()) if _major() == 8 else ((trt.int8,), (trt.float32,))
    q = network.add_quantize(x, scale, *types[0]).get_output(0)
    return network.add_dequantize(q, scale, *types[1])


def _filled(network: Any, x: Any) -> Any:
    types = () if _major() == 8 else (trt.float32,)
    return network.add_fill((2, 3), trt.FillOperation.LINSPACE, *types)


def _resized(network: Any, x: Any) -> Any:
    layer = network.add_resize(x)
    layer.shape = (1, 3, 16, 16)
    return layer


def _nms(network: Any, x: Any) -> Any:
    boxes, scores = _constant(network, _weights(1, 5, 4)), _constant(network, _weights(1, 5, 2))
    return network.add_nms(boxes, scores, _constant(network, np.int32(3)))


def _major() -> int:
    return int(trt.__version__.split(".")[0])


LAYERS: dict[str, Add] = {
    "activation": lambda n, x: n.add_activation(x, trt.ActivationType.LEAKY_RELU),
    "cast": lambda n, x: n.add_cast(x, trt.int32),
    "convolution": lambda n, x: n.add_convolution_nd(x, 4, (3, 3), _weights(4, 3, 3, 3)),
    "deconvolution": lambda n, x: n.add_deconvolution_nd(x, 4, (3, 3), _weights(3, 4, 3, 3)),
    "fill": _filled,
    "gather": lambda n, x: n.add_gather(x, _constant(n, np.int32([0, 1])), 1),
    "lrn": lambda n, x: n.add_lrn(x, 5, 1e-4, 0.75, 1.0),
    "nms": _nms,
    "nonzero": lambda n, x: n.add_non_zero(x),
    "normalization": lambda n, x: n.add_normalization(
        x, *[_constant(n, _weights(1, 3, 1, 1))] * 2, 1 << 2 | 1 << 3
    ),
    "padding": lambda n, x: n.add_padding_nd(x, (1, 1), (2, 2)),
    "pooling": lambda n, x: n.add_pooling_nd(x, trt.PoolingType.AVERAGE, (2, 2)),
    "quantize": _quantized,
    "reduce": lambda n, x: n.add_reduce(x, trt.ReduceOperation.AVG, 6, True),
    "resize": _resized,
    "scale": lambda n, x: n.add_scale(x, trt.ScaleMode.UNIFORM, _weights(1)),
    "shuffle": lambda n, x: n.add_shuffle(x),
    "slice": lambda n, x: n.add_slice(x, (0, 1, 0, 0), (1, 2, 4, 4), (1, 1, 1, 1)),
    "softmax": lambda n, x: n.add_softmax(x),
    "topk": lambda n, x: n.add_topk(x, trt.TopKOperation.MAX, 2, 1 << 1),
}


@pytest.mark.parametrize("version", table.VERSIONS)
@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_is_built(version: str, kind: str) -> None:
    trt.use(version)
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 if version == "8" else 0)
    x = network.add_input("x", trt.float32, (1, 3, 8, 8))
    layer = LAYERS[kind](network, x)
    network.mark_output(network.add_identity(x).get_output(0))
    for i in range(layer.num_outputs):
        network.mark_output(layer.get_output(i))
    config = builder.create_builder_config()
    config.builder_optimization_level = 0
    assert builder.build_serialized_network(network, config) is not None


@pytest.mark.parametrize("version", table.VERSIONS)
def test_what_dir_lists_can_be_read(version: str) -> None:
    trt.use(version)
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(1 if version == "8" else 0)
    x = network.add_input("x", trt.float32, (1, 3, 8, 8))
    for add in LAYERS.values():
        layer = add(network, x)
        listed = [name for name in dir(layer) if not name.startswith("_")]
        assert all(hasattr(layer, name) for name in listed), layer
    assert ("stride" in dir(LAYERS["pooling"](network, x))) == (version == "8")
