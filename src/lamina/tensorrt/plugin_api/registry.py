"""The creators of all plugins."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Iterator
from typing import Any

from lamina.ops.plugin import forget_plugins
from lamina.tensorrt.check import checked
from lamina.tensorrt.enums import EngineCapability
from lamina.tensorrt.error_reporting import IErrorRecorder
from lamina.tensorrt.logger import ILogger
from lamina.tensorrt.plugin_api.v2 import IPluginCreator, IPluginCreatorInterface
from lamina.tensorrt.plugin_api.v3 import IPluginResource


class IPluginRegistry:
    """Finds creators by name, version and namespace."""

    def __init__(self) -> None:
        self._creators: dict[tuple[str, str, str], IPluginCreatorInterface] = {}
        self._resources: dict[str, tuple[IPluginResource, int]] = {}
        self._error_recorder: IErrorRecorder | None = None
        self._parent_search_enabled = True

    @property
    def all_creators(self) -> list[IPluginCreatorInterface]:
        """All creators."""
        return list(self._creators.values())

    @property
    def all_creators_recursive(self) -> list[IPluginCreatorInterface]:
        """All creators, those of other registries included (there are none)."""
        return list(self._creators.values())

    @property
    def plugin_creator_list(self) -> list[IPluginCreator]:
        """The creators of plugins of the second generation."""
        return [c for c in self._creators.values() if isinstance(c, IPluginCreator)]

    @checked
    def register_creator(
        self, creator: IPluginCreatorInterface, plugin_namespace: str = ""
    ) -> bool:
        """Add a creator; False when there is one of this name, version and namespace."""
        namespace = plugin_namespace or creator.plugin_namespace
        key = (creator.name, str(creator.plugin_version), namespace)
        if key in self._creators:
            return False
        creator.plugin_namespace = namespace
        self._creators[key] = creator
        forget_plugins()
        return True

    @checked
    def deregister_creator(self, creator: IPluginCreatorInterface) -> bool:
        """Remove a creator; False when it is not registered."""
        for key, known in self._creators.items():
            if known is creator:
                del self._creators[key]
                forget_plugins()
                return True
        return False

    @checked
    def get_creator(
        self, type: str, version: str, plugin_namespace: str = ""
    ) -> IPluginCreatorInterface | None:
        """Return a creator, None for none."""
        return self._creators.get((type, version, plugin_namespace))

    @checked
    def get_plugin_creator(
        self, type: str, version: str, plugin_namespace: str = ""
    ) -> IPluginCreator | None:
        """Return a creator of plugins of the second generation, None for none."""
        found = self._creators.get((type, version, plugin_namespace))
        return found if isinstance(found, IPluginCreator) else None

    @checked
    def load_library(self, plugin_path: str) -> str:
        """Run a Python file that registers plugins; returns a handle, the path."""
        runpy.run_path(plugin_path)
        return plugin_path

    def deregister_library(self, handle: Any) -> None:
        """Forget a library; its creators stay until they are removed."""

    @checked
    def acquire_plugin_resource(self, key: str, resource: IPluginResource) -> IPluginResource:
        """Return the resource under a key, which the first caller's becomes."""
        known, count = self._resources.get(key, (None, 0))
        found = known or resource.clone()
        self._resources[key] = (found, count + 1)
        return found

    @checked
    def release_plugin_resource(self, key: str) -> int:
        """Give a resource back; it is released when nobody holds it.  Returns 0, -1 for none."""
        if key not in self._resources:
            return -1
        found, count = self._resources.pop(key)
        if count > 1:
            self._resources[key] = (found, count - 1)
        else:
            found.release()
        return 0

    @property
    def error_recorder(self) -> IErrorRecorder | None:
        """What collects errors; kept."""
        return self._error_recorder

    @error_recorder.setter
    @checked
    def error_recorder(self, value: IErrorRecorder | None) -> None:
        self._error_recorder = value

    @property
    def parent_search_enabled(self) -> bool:
        """Whether other registries are searched; kept, as there is one."""
        return self._parent_search_enabled

    @parent_search_enabled.setter
    @checked
    def parent_search_enabled(self, value: bool) -> None:
        self._parent_search_enabled = value


REGISTRY = IPluginRegistry()
"""The one registry of the process, as in TensorRT."""


def get_plugin_registry() -> IPluginRegistry:
    """Return the registry."""
    return REGISTRY


@checked
def get_builder_plugin_registry(capability: EngineCapability) -> IPluginRegistry:
    """Return the registry for a capability: there is one."""
    return REGISTRY


def find_creators(name: str) -> Iterator[IPluginCreatorInterface]:
    """Yield the creators of plugins with a name, the newest version first."""
    found = [(key, c) for key, c in REGISTRY._creators.items() if key[0] == name]
    for _, creator in sorted(found, key=lambda entry: entry[0][1], reverse=True):
        yield creator


STANDARD: list[Callable[[], IPluginCreatorInterface]] = []
"""Make the creators that ``init_libnvinfer_plugins`` registers; see the standard plugins."""


def init_libnvinfer_plugins(logger: ILogger | None, namespace: str) -> bool:
    """Register the standard plugins in a namespace; those that are registered stay."""
    if logger is not None and not isinstance(logger, ILogger):
        raise TypeError(f"init_libnvinfer_plugins(): {type(logger).__name__} is no ILogger")
    for make in STANDARD:
        creator = make()
        creator.plugin_namespace = namespace
        key = (creator.name, str(creator.plugin_version), namespace)
        REGISTRY._creators.setdefault(key, creator)
    return True


__all__ = [
    "IPluginRegistry",
    "get_builder_plugin_registry",
    "get_plugin_registry",
    "init_libnvinfer_plugins",
]
