"""Contexts with numbered bindings and implicit batches, as versions before 10 have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lamina.tensorrt.check import as_handle, checked
from lamina.tensorrt.engine.execution import Execution
from lamina.tensorrt.engine.slots import Slot, Slots
from lamina.tensorrt.error_reporting import Reporter
from lamina.tensorrt.foundation.dims import Dims

if TYPE_CHECKING:
    from lamina.tensorrt.engine.cuda_engine import ICudaEngine


class LegacyContext:
    """What IExecutionContext had up to version 9; bindings of later profiles follow one another."""

    _cuda_engine: ICudaEngine
    _slots: Slots
    _execution: Execution
    _reporter: Reporter
    _profile: int
    _batch: int

    def _bind(self, bindings: Sequence[int]) -> bool:
        raise NotImplementedError

    def _execute(self, stream: int | None) -> bool:
        raise NotImplementedError

    def execute(self, batch_size: int = 1, bindings: Sequence[int] = ()) -> bool:
        """Run a batch; returns when it is done."""
        return self._set_batch(batch_size) and self._bind(bindings) and self._execute(None)

    def execute_async(
        self,
        batch_size: int = 1,
        bindings: Sequence[int] = (),
        stream_handle: int = 0,
        input_consumed: Any = None,
    ) -> bool:
        """Put the run of a batch on a stream."""
        handle = as_handle(stream_handle, "execute_async", "stream_handle")
        return self._set_batch(batch_size) and self._bind(bindings) and self._execute(handle)

    def execute_async_v2(
        self, bindings: Sequence[int], stream_handle: int, input_consumed: Any = None
    ) -> bool:
        """Put a run on a stream."""
        handle = as_handle(stream_handle, "execute_async_v2", "stream_handle")
        return self._bind(bindings) and self._execute(handle)

    def _set_batch(self, size: int) -> bool:
        most = self._batch
        if not most:
            self._reporter.error(
                "the engine has an explicit batch: call execute_v2 or execute_async_v2"
            )
            return False
        if not 1 <= size <= most:
            self._reporter.error(f"batch size {size} is not within 1 to {most}, the maximum")
            return False
        for slot in self._slots.inputs:
            shape = (size, *self._cuda_engine._tensors[slot.name].shape)
            if shape != slot.shape:
                slot.shape = shape
                self._execution.ready = False
        return True

    def _binding(self, binding: int) -> Slot | None:
        """Return the tensor of a binding; None, after reporting it, for a wrong number."""
        count = len(self._cuda_engine._names)
        profile, index = divmod(binding, count)
        if binding < 0 or profile >= self._cuda_engine.num_optimization_profiles:
            self._reporter.error(f"there is no binding {binding}")
            return None
        return self._slots.by_name[self._cuda_engine._names[index]]

    @checked
    def set_binding_shape(self, binding: int, shape: Dims) -> bool:
        """Set the shape of an input of the active profile."""
        slot = self._binding(binding)
        if slot is None:
            return False
        if binding // len(self._cuda_engine._names) != self._profile:
            self._reporter.error(
                f"binding {binding} does not belong to optimization profile {self._profile}"
            )
            return False
        return bool(self.set_input_shape(slot.name, shape))  # type: ignore[attr-defined]

    @checked
    def get_binding_shape(self, binding: int) -> Dims:
        """Return the shape of a binding, -1 for what is not known."""
        slot = self._binding(binding)
        if slot is None:
            return Dims()
        if not self._batch:
            found: Dims = self.get_tensor_shape(slot.name)  # type: ignore[attr-defined]
            return found
        return Dims(self._cuda_engine._tensors[slot.name].shape)

    @checked
    def get_strides(self, binding: int) -> Dims:
        """Return the elements between neighbours along each axis."""
        slot = self._binding(binding)
        if slot is None:
            return Dims()
        found: Dims = self.get_tensor_strides(slot.name)  # type: ignore[attr-defined]
        return found

    @checked
    def set_shape_input(self, binding: int, shape: list[int]) -> bool:
        """Set the elements of a shape tensor; False, after reporting why, for other tensors."""
        slot = self._binding(binding)
        if slot is None or not (slot.is_input and slot.holds_shape):
            if slot is not None:
                self._reporter.error(f"{slot.name!r} is not an input that holds a shape")
            return False
        limits = self._cuda_engine._metadata.profiles[self._profile].values.get(slot.name)
        if limits and not all(
            a <= n <= b for a, n, b in zip(limits[0], shape, limits[2], strict=False)
        ):
            self._reporter.error(
                f"shape tensor {slot.name!r} with the elements {shape} does not satisfy "
                f"optimization profile {self._profile}: it allows {limits[0]} to {limits[2]}"
            )
            return False
        array = np.array(shape, slot.type.dtype.numpy)
        if slot.type.rank == 0:
            array = array.reshape(())
        slot.own, slot.shape = array, array.shape
        self._execution.ready = False
        return True

    @checked
    def get_shape(self, binding: int) -> list[int]:
        """Return the elements of a shape tensor."""
        slot = self._binding(binding)
        if slot is None or not slot.holds_shape:
            return []
        if slot.own is None and not (slot.address and slot.shape is not None):
            return []
        array = slot.own if slot.own is not None else slot.array(slot.shape or ())
        return [int(n) for n in np.ravel(array)]
