"""The registry of plugin creators, and parameters of plugins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import lamina.tensorrt as trt


class Creator(trt.IPluginCreatorV3One):
    def __init__(self) -> None:
        trt.IPluginCreatorV3One.__init__(self)
        self.name, self.plugin_version = "Mine", "1"
        self.field_names = trt.PluginFieldCollection([trt.PluginField("axis", np.array([1]))])


@pytest.fixture
def creator() -> Iterator[Any]:
    made = Creator()
    yield made
    trt.get_plugin_registry().deregister_creator(made)


def test_creators_are_found_by_type_version_and_namespace(creator: Any) -> None:
    registry = trt.get_plugin_registry()
    assert registry is trt.Builder(trt.Logger()).get_plugin_registry()
    assert trt.get_builder_plugin_registry(trt.EngineCapability.STANDARD) is registry
    assert registry.register_creator(creator, "space")
    assert not registry.register_creator(creator, "space")
    assert registry.get_creator("Mine", "1", "space") is creator
    assert creator.plugin_namespace == "space" and creator in registry.all_creators
    assert registry.get_creator("Mine", "2", "space") is None
    assert registry.get_plugin_creator("Mine", "1", "space") is None
    assert registry.deregister_creator(creator) and not registry.deregister_creator(creator)
    with pytest.raises(TypeError):
        registry.register_creator("creator")
    assert trt.init_libnvinfer_plugins(None, "")


def test_parameters_know_their_type_and_size() -> None:
    cases = [
        (np.zeros(3, np.float32), "FLOAT32", 3),
        (np.zeros((2, 2), np.int64), "INT64", 4),
        (b"text", "CHAR", 4),
        (None, "UNKNOWN", 0),
    ]
    for data, kind, size in cases:
        field = trt.PluginField("x", data)
        assert (field.name, field.type.name, field.size) == ("x", kind, size)
    given = trt.PluginField("x", np.zeros(2, np.int32), trt.PluginFieldType.DIMS)
    assert given.type == trt.PluginFieldType.DIMS
    fields = trt.PluginFieldCollection([given])
    fields.append(trt.PluginField())
    assert len(fields) == 2 and fields[0] is given


def test_resources_are_shared_until_the_last_user_gives_them_back() -> None:
    class Resource(trt.IPluginResource):
        released = 0

        def clone(self) -> Any:
            return Resource()

        def release(self) -> None:
            Resource.released += 1

    registry = trt.get_plugin_registry()
    first = registry.acquire_plugin_resource("table", Resource())
    assert registry.acquire_plugin_resource("table", Resource()) is first
    assert registry.release_plugin_resource("table") == 0 and Resource.released == 0
    assert registry.release_plugin_resource("table") == 0 and Resource.released == 1
    assert registry.release_plugin_resource("table") == -1
