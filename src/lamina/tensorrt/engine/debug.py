"""Intermediate tensors that the user looks at."""

from __future__ import annotations

from lamina.tensorrt.enums import DataType, TensorLocation
from lamina.tensorrt.foundation.dims import Dims
from lamina.tensorrt.foundation.interface import IVersionedInterface


class IDebugListener(IVersionedInterface):
    """Is shown the tensors marked for debugging; subclass it and define its method."""

    def process_debug_tensor(
        self,
        addr: int,
        location: TensorLocation,
        type: DataType,
        shape: Dims,
        name: str,
        stream: int,
    ) -> bool:
        """Look at a tensor, which is there during the call only; returns whether that worked."""
        raise NotImplementedError("define process_debug_tensor")


__all__ = ["IDebugListener"]
