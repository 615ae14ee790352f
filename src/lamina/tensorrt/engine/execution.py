"""Runs on addresses: arrays are made once and used until a shape or an address changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lamina.backends.cuda.device import LEGACY_STREAM
from lamina.errors import ExecutionError, InputError
from lamina.runtime.context import ExecutionContext
from lamina.tensorrt.engine.allocators import reallocate_output
from lamina.tensorrt.engine.debug import IDebugListener
from lamina.tensorrt.engine.slots import Slot, Slots
from lamina.tensorrt.enums import TensorLocation
from lamina.tensorrt.foundation.dims import Dims
from lamina.tensorrt.foundation.dtype import from_ir, volume


class Execution:
    """Runs a context of Lamina's on what the slots say.

    ``feed`` and ``out`` are the arrays of the next run; they are ``ready`` when nothing has
    changed since the last one and every output has an address.
    """

    def __init__(self, context: ExecutionContext, slots: Slots) -> None:
        self.context, self.slots = context, slots
        self.ready = False
        self.feed: dict[str, Any] = {}
        self.out: dict[str, Any] = {}
        self._late: list[Slot] = []
        self._results: dict[str, Any] = {}

    def prepare(self, stream: int) -> None:
        """Make the arrays of the next run; raises InputError for what is missing."""
        slots = self.slots
        self.ready = False
        self.feed = slots.feed()
        env = slots.environment()
        self.out, self._late = {}, []
        for slot in slots.outputs:
            if slot.hidden:
                continue
            shape = slots.rules.shape(slot.name, env)
            if -1 in shape:
                self._late.append(slot)
                continue
            if any(n < 0 for n in shape):
                raise InputError(
                    f"output {slot.name!r} would have the shape {shape}",
                    hint="look at the contents of the shape tensors",
                )
            if slot.allocator is not None:
                self._reallocate(slot, shape, stream)
            elif not slot.address and volume(shape):
                raise InputError(
                    f"no address was set for output {slot.name!r}",
                    hint="call context.set_tensor_address or set_output_allocator",
                )
            slot.shape = shape
            self.out[slot.name] = slot.array(shape)
        asked = any(s.allocator is not None for s in slots.outputs)
        # What lies at the address of a shape tensor may be something else in the next run.
        self.ready = not (self._late or asked or any(s.holds_shape for s in slots.inputs))

    def run(self, stream: int | None) -> None:
        """Prepare and run once; raises LaminaError.

        ``stream`` is None to wait for the results.
        """
        handle = stream or 0
        if not self.ready:
            self.prepare(handle)
        on = (handle or LEGACY_STREAM) if self.slots.space.on_gpu and stream is not None else None
        self._results = self.context.run(self.feed, self.out, on)
        for slot in self._late:
            self._deliver(slot, self._results[slot.name], handle)
        for slot in self.slots.outputs:
            if slot.allocator is not None:
                slot.allocator.notify_shape(slot.name, Dims(slot.shape or ()))

    def release(self) -> None:
        """Drop arrays of the last run, while the stream exists in whose order their memory goes."""
        self._results = {}

    def profile(self) -> list[float]:
        """Run once and return the microseconds of each step; raises LaminaError."""
        return self.context.profile(self.feed or self.slots.feed())

    def _reallocate(self, slot: Slot, shape: tuple[int, ...], stream: int) -> None:
        size = slot.size_bytes(shape)
        address = reallocate_output(slot.allocator, slot.name, slot.address, size, stream)
        if not address and size:
            raise ExecutionError(
                f"the output allocator gave no memory for the {size} bytes of {slot.name!r}"
            )
        slot.address = address

    def _deliver(self, slot: Slot, result: Any, stream: int) -> None:
        """Copy an output, whose size only the run could tell, to where the user wants it."""
        slot.shape = self.slots.rules.of_memory(slot.name, result.shape)
        if slot.allocator is not None:
            self._reallocate(slot, slot.shape, stream)
        if not slot.address and result.size:
            raise InputError(
                f"data decides the shape of output {slot.name!r}, {slot.shape} in this run, and no "
                f"memory was set for it",
                hint="call context.set_output_allocator",
            )
        if slot.address:
            slot.space.store(slot.address, result, stream)

    def show(self, listener: IDebugListener, states: Mapping[str, bool], stream: int) -> None:
        """Give a listener the debug tensors of the last run."""
        for slot in self.slots.outputs:
            if not states.get(slot.name, False):
                continue
            array = self._results[slot.name]
            address = self.slots.space.address(array)
            on_gpu = self.slots.space.on_gpu and not hasattr(array, "__array_interface__")
            shown = listener.process_debug_tensor(
                address,
                TensorLocation.named("DEVICE" if on_gpu else "HOST"),
                from_ir(slot.type.dtype),
                Dims(array.shape),
                slot.name,
                stream,
            )
            if not shown:
                raise ExecutionError(f"the debug listener refused tensor {slot.name!r}")
