"""Runs plugins made of decorated functions."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from lamina.errors import ExecutionError
from lamina.ir.types import TensorType
from lamina.ops.plugin import ON_DEVICE, PROVIDERS, Computation
from lamina.tensorrt.plugin_api.quick import KIND, PLUGINS, QuickPlugin, call
from lamina.tensorrt.plugin_api.quick_types import Tensor
from lamina.tensorrt.plugin_api.running import Running, Space


class RunningQuick(Running):
    """A decorated plugin that runs."""

    def __init__(self, plugin: QuickPlugin, settings: bytes) -> None:
        self._plugin = plugin
        self._settings = json.loads(settings)
        self._attributes = plugin.decoded(self._settings["attributes"])
        self.sizes = self._settings["sizes"]
        self.aliases = {i: a for i, a in enumerate(self._settings["aliases"]) if a >= 0}
        assert plugin.implement is not None
        self._implement: Callable[..., Any] = plugin.implement

    def upper(
        self, inputs: Sequence[TensorType], elements: Sequence[tuple[int, ...]]
    ) -> Sequence[TensorType]:
        """Return the largest types of the results."""
        return self._plugin.results(inputs, self._attributes, None)[0].types

    def enqueue(
        self,
        inputs: Sequence[TensorType],
        outputs: Sequence[TensorType],
        given: Sequence[int],
        wanted: Sequence[int],
        space: Space,
    ) -> None:
        """Compute, or enqueue on a GPU's stream."""
        on_gpu, stream = space.on_gpu, space.stream
        operands = [
            Tensor(t, p, on_gpu=on_gpu, stream=stream) for t, p in zip(inputs, given, strict=True)
        ]
        results = tuple(
            Tensor(t, p, on_gpu=on_gpu, stream=stream, aliased=i in self.aliases)
            for i, (t, p) in enumerate(zip(outputs, wanted, strict=True))
        )
        rest = [results, stream, self._settings["tactic"]]
        call(self._implement, operands, self._attributes, rest)


def _provide(key: str, settings: bytes) -> Computation:
    plugin = PLUGINS.get(key)
    if plugin is None or plugin.implement is None:
        raise ExecutionError(
            f"the engine needs plugin {key!r}, which has no implementation in this process",
            hint="import the module that decorates it with tensorrt.plugin.impl",
        )
    return RunningQuick(plugin, settings)


PROVIDERS[KIND] = _provide
ON_DEVICE.add(KIND)

__all__: list[str] = []
