"""Standard plugins as functions on arrays, for comparison with their meaning in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

import lamina.tensorrt as trt
from tests.tensorrt.running import Messages, Net


def plugin(name: str, version: str = "1", **attributes: Any) -> Any:
    """Return a standard plugin with these attributes."""
    assert trt.init_libnvinfer_plugins(Messages(), "")
    creator = trt.get_plugin_registry().get_plugin_creator(name, version)
    fields = trt.PluginFieldCollection([_field(k, v) for k, v in attributes.items()])
    return creator.create_plugin("it", fields)


def _field(name: str, value: Any) -> Any:
    if isinstance(value, str):
        return trt.PluginField(name, value.encode(), trt.PluginFieldType.CHAR)
    array = np.atleast_1d(np.asarray(value))
    kinds = {"f": np.float32, "i": np.int32, "b": np.int32}
    return trt.PluginField(name, array.astype(kinds[array.dtype.kind]))


def net(name: str, inputs: list[Any], version: str = "1", shapes: Any = None, **more: Any) -> Net:
    """Return a network with one standard plugin; ``shapes`` are those to declare."""
    made = Net()
    tensors = [
        made.input(f"x{i}", x, None if shapes is None else shapes[i]) for i, x in enumerate(inputs)
    ]
    layer = made.network.add_plugin_v2(tensors, plugin(name, version, **more))
    made.output(*(layer.get_output(i) for i in range(layer.num_outputs)))
    return made


def apply(name: str, inputs: list[Any], version: str = "1", **attributes: Any) -> list[Any]:
    """Run a standard plugin and return its results."""
    engine = net(name, inputs, version, **attributes).build()
    return list(engine.run({f"x{i}": x for i, x in enumerate(inputs)}).values())
