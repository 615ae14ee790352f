"""Tensors of a network."""

from __future__ import annotations

import itertools
import weakref
from typing import TYPE_CHECKING

from lamina.tensorrt.check import checked
from lamina.tensorrt.enums import DataType, TensorLocation
from lamina.tensorrt.foundation.dims import Dims

if TYPE_CHECKING:
    from lamina.tensorrt.network.layer import ILayer
    from lamina.tensorrt.network.state import NetworkState


_SERIAL = itertools.count()


class ITensor:
    """An input of the network or a result of a layer; sizes of -1 are dynamic."""

    def __init__(
        self, state: NetworkState, name: str, producer: ILayer | None = None, index: int = 0
    ) -> None:
        self._owner = weakref.ref(state)
        self._serial = next(_SERIAL)
        self._name = name
        self._producer = producer
        self._index = index
        self._given_shape: tuple[int, ...] = ()
        self._given_dtype: DataType | None = None
        self._dimension_names: dict[int, str] = {}
        self._range: tuple[float, float] | None = None
        self._formats = 1
        self._location = "DEVICE"
        self._broadcast = False

    @property
    def _state(self) -> NetworkState:
        state = self._owner()
        assert state is not None, "the network of this tensor is gone"
        return state

    @property
    def name(self) -> str:
        """Name, by which inputs and outputs are called at run time."""
        return self._name

    @name.setter
    @checked
    def name(self, value: str) -> None:
        self._name = value

    @property
    def shape(self) -> Dims:
        """Sizes; only those of network inputs can be set."""
        return Dims(self._state.shape_of(self))

    @shape.setter
    @checked
    def shape(self, value: Dims) -> None:
        if self._producer is not None:
            self._state.reporter.error(f"{self._name}: the shape of a computed tensor follows")
            return
        self._given_shape = tuple(value)
        self._state.changed(None)

    @property
    def dtype(self) -> DataType:
        """Element type."""
        return self._state.dtype_of(self)

    @dtype.setter
    @checked
    def dtype(self, value: DataType) -> None:
        self._given_dtype = value
        self._state.changed(self._producer)

    @property
    def broadcast_across_batch(self) -> bool:
        """Whether all items of an implicit batch share this tensor; kept, without effect."""
        return self._broadcast

    @broadcast_across_batch.setter
    @checked
    def broadcast_across_batch(self, value: bool) -> None:
        self._broadcast = value

    @property
    def location(self) -> TensorLocation:
        """Where the bytes are; shape tensors that are inputs are on the host."""
        if self._location == "DEVICE" and self._state.is_shape_io(self):
            return TensorLocation.named("HOST")
        return TensorLocation.named(self._location)

    @location.setter
    @checked
    def location(self, value: TensorLocation) -> None:
        self._location = value.name

    @property
    def allowed_formats(self) -> int:
        """Bits of TensorFormat that an input or output may have."""
        return self._formats

    @allowed_formats.setter
    @checked
    def allowed_formats(self, value: int) -> None:
        self._formats = value

    @property
    def is_network_input(self) -> bool:
        """Whether the caller gives this tensor."""
        return self in self._state.inputs

    @property
    def is_network_output(self) -> bool:
        """Whether the caller gets this tensor."""
        return self in self._state.outputs or self in self._state.shape_outputs

    @property
    def is_shape_tensor(self) -> bool:
        """Whether the elements of this tensor decide shapes."""
        return self._state.is_shape_tensor(self)

    @property
    def is_execution_tensor(self) -> bool:
        """Whether the elements of this tensor are computed on the device."""
        return not self.is_shape_tensor

    @property
    def dynamic_range(self) -> tuple[float, float] | None:
        """Smallest and largest value for INT8; a symmetric pair is used."""
        return self._range

    @dynamic_range.setter
    def dynamic_range(self, value: tuple[float, float]) -> None:
        low, high = value
        self.set_dynamic_range(float(low), float(high))

    @checked
    def set_dynamic_range(self, min: float, max: float) -> bool:
        """Set the range for INT8; returns False for one that is not a range."""
        if not min <= max:
            self._state.reporter.error(f"{self._name}: {min} to {max} is not a range")
            return False
        self._range = (min, max)
        return True

    def reset_dynamic_range(self) -> None:
        """Forget the range."""
        self._range = None

    @checked
    def set_dimension_name(self, index: int, name: str) -> None:
        """Name a dynamic size of an input; equal names are equal sizes."""
        self._dimension_names[index] = name
        self._state.changed(self._producer)

    @checked
    def get_dimension_name(self, index: int) -> str | None:
        """Return the name of a dimension, None without one."""
        return self._dimension_names.get(index)

    def __repr__(self) -> str:
        return f"<ITensor {self._name!r}>"


__all__ = ["ITensor"]
