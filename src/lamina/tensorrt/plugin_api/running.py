"""Runs plugins: makes them from the plan and gives them addresses of operands and results."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lamina.errors import ExecutionError
from lamina.ir.dims import Expr
from lamina.ir.graph import Array
from lamina.ir.types import DType, TensorType
from lamina.ops.plugin import ON_DEVICE, PROVIDERS, Computation, DeviceTensor, DeviceWork
from lamina.tensorrt.enums import TensorRTPhase
from lamina.tensorrt.plugin_api.calls import V2, V3, capability, parts, results_v3
from lamina.tensorrt.plugin_api.descriptions import described, dynamic
from lamina.tensorrt.plugin_api.fields import decode
from lamina.tensorrt.plugin_api.registry import REGISTRY
from lamina.tensorrt.plugin_api.v2 import IPluginCreator
from lamina.tensorrt.plugin_api.v3 import IPluginResourceContext
from lamina.tensorrt.plugin_api.v3_quick import create


@dataclass(frozen=True)
class Space:
    """Where a plugin works: ``workspace`` gives the address of as many bytes as it wants."""

    on_gpu: bool
    stream: int
    workspace: Callable[[int], int]


class Running(ABC):
    """A plugin that runs on host memory, or enqueues work on a GPU's."""

    shape_operands_from: int | None = None
    """Operands from here on are shape tensors, whose elements are sizes; None for none."""
    sizes: Sequence[int] = ()
    """The scalar results that tell sizes, in the order in which their sizes appear."""
    aliases: Mapping[int, int] = {}
    """The operand that a result begins with, by the number of the result."""

    @abstractmethod
    def upper(
        self, inputs: Sequence[TensorType], elements: Sequence[tuple[int, ...]]
    ) -> Sequence[TensorType]:
        """Return the largest types of the results, for elements of shape tensors."""

    @abstractmethod
    def enqueue(
        self,
        inputs: Sequence[TensorType],
        outputs: Sequence[TensorType],
        given: Sequence[int],
        wanted: Sequence[int],
        space: Space,
    ) -> None:
        """Compute results at the addresses ``wanted`` from operands at ``given``."""

    def __call__(self, operands: Sequence[Array], types: Sequence[TensorType]) -> list[Array]:
        """Compute on the host; sizes that only the run tells are cut to what it told."""
        inputs = [np.ascontiguousarray(x) for x in operands[: self.shape_operands_from]]
        known = [type_of(x) for x in inputs]
        upper = types
        if not all(t.is_static for t in types):
            upper = self.upper(known, [_elements(x) for x in operands[len(inputs) :]])
        results = [np.empty(t.static_shape, t.dtype.numpy) for t in upper]
        for i, source in self.aliases.items():
            results[i] = inputs[source] = inputs[source].copy()
        kept: list[Array] = []

        def workspace(size: int) -> int:
            kept.append(np.empty(max(size, 1), np.uint8))
            return _address(kept[-1])

        space = Space(on_gpu=False, stream=0, workspace=workspace)
        addresses = [[_address(a) for a in group] for group in (inputs, results)]
        self.enqueue(known, upper, addresses[0], addresses[1], space)
        return cut(results, types, self.sizes)

    def run_on_device(
        self,
        operands: Sequence[DeviceTensor],
        results: Sequence[DeviceTensor | None],
        types: Sequence[TensorType],
        work: DeviceWork,
    ) -> list[DeviceTensor | Array]:
        """Enqueue work on a GPU; see :class:`lamina.ops.plugin.DeviceComputation`."""
        inputs = list(operands[: self.shape_operands_from])
        known = [TensorType(x.type, x.shape) for x in inputs]
        upper = types
        if any(r is None for r in results):
            rest = operands[len(inputs) :]
            upper = self.upper(known, [_elements(work.read(x)) for x in rest])
        targets = [r or work.tensor(t) for r, t in zip(results, upper, strict=True)]
        for i, source in self.aliases.items():
            work.copy(targets[i], inputs[source])
            inputs[source] = targets[i]

        def workspace(size: int) -> int:
            return work.tensor(TensorType(DType.U8, (max(size, 1),))).pointer

        space = Space(on_gpu=True, stream=work.stream, workspace=workspace)
        addresses = [[x.pointer for x in group] for group in (inputs, targets)]
        self.enqueue(known, upper, addresses[0], addresses[1], space)
        if all(r is not None for r in results):
            return list(targets)
        return _cut_on_device(targets, types, self.sizes, work)


def cut(results: list[Array], types: Sequence[TensorType], tellers: Sequence[int]) -> list[Array]:
    """Cut results at the sizes that scalar results tell, by the order in which they appear."""
    told = [int(results[i].reshape(-1)[0]) for i in tellers]
    return [
        np.ascontiguousarray(array[tuple(map(slice, shape))]) if shape else array
        for array, shape in zip(results, _told_shapes(types, told), strict=True)
    ]


def _cut_on_device(
    targets: Sequence[DeviceTensor],
    types: Sequence[TensorType],
    tellers: Sequence[int],
    work: DeviceWork,
) -> list[DeviceTensor | Array]:
    """Cut results on a GPU; those that are not at the begin of their memory go over the host."""
    told = [int(work.read(targets[i]).reshape(-1)[0]) for i in tellers]
    found: list[DeviceTensor | Array] = []
    for tensor, shape in zip(targets, _told_shapes(types, told), strict=True):
        if shape[1:] == tensor.shape[1:]:
            found.append(work.part(tensor, shape))
        else:
            found.append(np.ascontiguousarray(work.read(tensor)[tuple(map(slice, shape))]))
    return found


def _told_shapes(types: Sequence[TensorType], told: Sequence[int]) -> list[tuple[int, ...]]:
    """Return shapes with numbers for sizes that only the run tells, in their order."""
    numbers = iter(told)
    names: dict[Expr, int] = {}
    shapes = []
    for type_ in types:
        for d in type_.shape:
            if isinstance(d, Expr) and d not in names:
                names[d] = next(numbers)
        shapes.append(tuple(names[d] if isinstance(d, Expr) else int(d) for d in type_.shape))
    return shapes


def creator_of(key: str) -> Any:
    """Return the creator of a plugin that a plan names; raises ExecutionError for none."""
    name, version, namespace = parts(key)
    found = REGISTRY._creators.get((name, version, namespace))
    if found is None:
        raise ExecutionError(
            f"the engine needs plugin {name!r}, version {version}, of the namespace "
            f"{namespace!r}, and no creator of it is registered",
            hint="register the creator with get_plugin_registry().register_creator first",
        )
    return found


class _Told:
    """What a plugin was told of its operands and results, and the workspace that it wants."""

    def __init__(
        self, inputs: Sequence[TensorType] = (), outputs: Sequence[TensorType] = ()
    ) -> None:
        self._types = (list(inputs), list(outputs))
        self.before = [described(t) for t in inputs]
        self.after = [described(t) for t in outputs]
        self.workspace: int | None = None

    def fits(self, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> bool:
        """Whether it was told of these types."""
        return self.workspace is not None and self._types == (list(inputs), list(outputs))

    def enqueue(
        self, plugin: Any, part: Any, given: Sequence[int], wanted: Sequence[int], space: Space
    ) -> None:
        """Let a part of a plugin compute; raises ExecutionError for a status that is not 0."""
        assert self.workspace is not None
        workspace = space.workspace(self.workspace)
        status = part.enqueue(
            self.before, self.after, list(given), list(wanted), workspace, space.stream
        )
        if status:
            raise ExecutionError(f"plugin {type(plugin).__name__}.enqueue returned {status}")


class _Described(Running):
    """A plugin that learns types from descriptions before it computes."""

    plugin: Any
    _part: Any
    """What has the plugin's ``enqueue``."""
    _told = _Told()

    @abstractmethod
    def learn(
        self, told: _Told, inputs: Sequence[TensorType], outputs: Sequence[TensorType]
    ) -> int:
        """Tell the plugin of types; returns the bytes of the workspace that it wants then."""

    def enqueue(
        self,
        inputs: Sequence[TensorType],
        outputs: Sequence[TensorType],
        given: Sequence[int],
        wanted: Sequence[int],
        space: Space,
    ) -> None:
        """Let the plugin compute."""
        if not self._told.fits(inputs, outputs):
            told = _Told(inputs, outputs)
            told.workspace = self.learn(told, inputs, outputs)
            self._told = told
        self._told.enqueue(self.plugin, self._part, given, wanted, space)


class RunningV2(_Described):
    """A plugin of the second generation that runs."""

    def __init__(self, key: str, settings: bytes) -> None:
        creator = creator_of(key)
        assert isinstance(creator, IPluginCreator)
        self.plugin = self._part = creator.deserialize_plugin(creator.name, settings)
        self.plugin.initialize()

    def upper(
        self, inputs: Sequence[TensorType], elements: Sequence[tuple[int, ...]]
    ) -> Sequence[TensorType]:
        """Raise: sizes of the results follow from those of the operands."""
        raise ExecutionError("plugins of the second generation know the sizes of their results")

    def learn(
        self, told: _Told, inputs: Sequence[TensorType], outputs: Sequence[TensorType]
    ) -> int:
        """Configure the plugin."""
        self.plugin.configure_plugin(list(map(dynamic, inputs)), list(map(dynamic, outputs)))
        return int(self.plugin.get_workspace_size(told.before, told.after) or 0)


class RunningV3(_Described):
    """A plugin of the third generation that runs."""

    def __init__(self, key: str, settings: bytes) -> None:
        creator = creator_of(key)
        self._settings: Mapping[str, Any] = json.loads(settings)
        fields = decode(self._settings["fields"].encode())
        self.plugin = create(creator, creator.name, fields, TensorRTPhase.named("RUNTIME"))
        runtime = capability(self.plugin, "RUNTIME")
        self.plugin = runtime.attach_to_context(IPluginResourceContext()) or self.plugin
        self._part = capability(self.plugin, "RUNTIME")
        self._part.set_tactic(self._settings["tactic"])
        self.shape_operands_from = self._settings["inputs"]
        self.sizes = self._settings["sizes"]
        self.aliases = {int(i): source for i, source in self._settings["aliases"].items()}

    def upper(
        self, inputs: Sequence[TensorType], elements: Sequence[tuple[int, ...]]
    ) -> Sequence[TensorType]:
        """Return the largest types of the results."""
        return results_v3(self.plugin, inputs, elements, None).types

    def learn(
        self, told: _Told, inputs: Sequence[TensorType], outputs: Sequence[TensorType]
    ) -> int:
        """Tell the part that runs of the shapes."""
        self._part.on_shape_change(told.before, told.after)
        build = capability(self.plugin, "BUILD")
        ask = getattr(build, "get_workspace_size", None)
        size = ask(list(map(dynamic, inputs)), list(map(dynamic, outputs))) if ask else 0
        return int(size or 0)


def type_of(x: Array) -> TensorType:
    """Return the type of an array."""
    return TensorType(next(t for t in DType if t.numpy == x.dtype), x.shape)


def _elements(x: Array) -> tuple[int, ...]:
    return tuple(int(v) for v in x.reshape(-1))


def _address(x: Array) -> int:
    return int(x.__array_interface__["data"][0])


def _provide_v2(key: str, settings: bytes) -> Computation:
    return RunningV2(key, settings)


def _provide_v3(key: str, settings: bytes) -> Computation:
    return RunningV3(key, settings)


PROVIDERS[V2] = _provide_v2
PROVIDERS[V3] = _provide_v3
ON_DEVICE.update((V2, V3))

__all__: list[str] = []
