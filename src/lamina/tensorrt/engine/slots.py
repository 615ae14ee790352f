"""What the user has told a context: shapes, addresses, allocators; and the arrays made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lamina.errors import GraphError, InputError
from lamina.ir.types import TensorType
from lamina.runtime.engine import Engine
from lamina.tensorrt.engine.formats import FORMATS, Format
from lamina.tensorrt.engine.memory import HostSpace, Space, space_of
from lamina.tensorrt.engine.shapes import UNKNOWN, Shape, ShapeRules
from lamina.tensorrt.foundation.dtype import volume
from lamina.tensorrt.metadata import EngineMetadata


@dataclass
class Slot:
    """One input or output, and what the user has set for it."""

    name: str
    type: TensorType
    is_input: bool
    space: Space
    shape: Shape | None = None
    """Set shape of an input, with the batch that is implicit; last shape of an output."""
    address: int = 0
    allocator: Any = None
    own: Any = None
    """Contents given as numbers and not by an address."""
    hidden: bool = False
    """Whether it is a debug tensor, which is not an output of the engine."""
    holds_shape: bool = False
    format: Format = FORMATS["LINEAR"]
    checked: int = 0
    """The last address that was found to be within reach."""

    def array(self, shape: Shape) -> Any:
        """Return the array at the address, with the shape of the memory that a tensor has.

        Raises InputError for an address that the device cannot reach.
        """
        if self.address != self.checked:
            self.space.check(self.address, self.name)
            self.checked = self.address
        memory: Any = self.format.physical(shape)
        return self.space.array(self.address, self.type.dtype, memory)

    def size_bytes(self, shape: Shape) -> int:
        """Return the bytes of the tensor in a shape."""
        memory: Any = self.format.physical(shape)
        return volume(memory) * self.type.dtype.numpy.itemsize


class Slots:
    """All inputs and outputs of a context."""

    def __init__(self, engine: Engine, metadata: EngineMetadata, rules: ShapeRules) -> None:
        self.rules = rules
        self.space = space_of(engine)
        known = {t.name: t for t in metadata.tensors}
        host = HostSpace()

        def slot(name: str, *, is_input: bool) -> Slot:
            info = known.get(name)
            on_host = info is not None and info.location == "HOST"
            return Slot(
                name=name,
                type=rules.types[name],
                is_input=is_input,
                space=host if on_host else self.space,
                hidden=info is None,
                holds_shape=info is not None and info.shape_io,
                format=rules.formats.get(name, FORMATS["LINEAR"]),
            )

        self.inputs = [slot(p.name, is_input=True) for p in engine.inputs]
        self.outputs = [slot(p.name, is_input=False) for p in engine.outputs]
        self.by_name = {s.name: s for s in (*self.inputs, *self.outputs)}
        self.reset_shapes()

    def reset_shapes(self) -> None:
        """Forget the shapes of dynamic inputs."""
        for s in self.inputs:
            s.shape = s.type.static_shape if s.type.is_static else None

    def environment(self) -> dict[str, int]:
        """Return the sizes that shapes and shape tensors tell; InputError for contradictions."""
        shapes = {s.name: s.shape for s in self.inputs if s.shape is not None}
        try:
            env = self.rules.bind(shapes)
        except GraphError as e:
            raise InputError(str(e.args[0]), hint="inputs that share a size must agree") from e
        if all(self.rules.is_known(s.name, env) for s in self.outputs):
            return env
        return self.rules.with_values(env, self._values())

    def _values(self) -> dict[str, Any]:
        """Return the contents of the shape tensors whose address is set."""
        found = {}
        for s in self.inputs:
            if s.own is not None:
                found[s.name] = s.own
            elif s.holds_shape and s.address and s.shape is not None:
                found[s.name] = s.array(s.shape)
        return found

    def shape_of(self, slot: Slot, env: Mapping[str, int]) -> Shape:
        """Return the shape of an input or output, -1 for what is not known."""
        if slot.is_input and slot.shape is not None:
            return slot.shape
        shape = self.rules.shape(slot.name, env)
        complete = all(s.shape is not None for s in self.inputs)
        if UNKNOWN in shape and slot.shape is not None and complete:
            return slot.shape  # what the last run has found
        return shape

    def feed(self) -> dict[str, Any]:
        """Return the arrays of the inputs; InputError for what was not set."""
        arrays = {}
        for s in self.inputs:
            if s.shape is None:
                raise InputError(
                    f"input {s.name!r} has the dynamic shape {self.rules.shape(s.name, {})}, and "
                    f"no shape was set for it",
                    hint=f"call context.set_input_shape({s.name!r}, ...)",
                )
            if s.own is not None:
                arrays[s.name] = s.own
            elif not s.address and volume(s.shape):
                raise InputError(
                    f"no address was set for input {s.name!r}",
                    hint=f"call context.set_tensor_address({s.name!r}, ...)",
                )
            else:
                arrays[s.name] = s.array(s.shape)
        return arrays
