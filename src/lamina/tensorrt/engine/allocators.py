"""Memory that the user provides."""

from __future__ import annotations

from typing import Any

from lamina.tensorrt.foundation.interface import IVersionedInterface

_ALIGN_BYTES = 256


class IGpuAllocator(IVersionedInterface):
    """Gives device memory; subclass it and define ``allocate`` and ``deallocate``."""

    def allocate(self, size: int, alignment: int, flags: int) -> int | None:
        """Return the address of ``size`` bytes, None or 0 when there are none."""
        raise NotImplementedError(f"{type(self).__name__} must define allocate")

    def deallocate(self, memory: int) -> bool:
        """Take memory back; returns whether it was known."""
        raise NotImplementedError(f"{type(self).__name__} must define deallocate")

    def reallocate(self, address: int, alignment: int, new_size: int) -> int | None:
        """Return other memory for that at an address, None to leave it alone."""
        return None

    def free(self, memory: int) -> None:
        """Take memory back: what ``deallocate`` was called up to version 8."""
        raise NotImplementedError(f"{type(self).__name__} must define free or deallocate")

    def allocate_async(self, size: int, alignment: int, flags: int, stream: int) -> int | None:
        """Return memory for use on a stream."""
        return self.allocate(size, alignment, flags)

    def deallocate_async(self, memory: int, stream: int) -> bool:
        """Take memory back once the stream has no use for it."""
        return self.deallocate(memory)


class IGpuAsyncAllocator(IGpuAllocator):
    """Gives device memory in the order of streams; define the two asynchronous methods."""

    def allocate(self, size: int, alignment: int, flags: int) -> int | None:
        """Return memory for use on the default stream."""
        found: int | None = self._asynchronous("allocate_async")(size, alignment, flags, 0)
        return found

    def deallocate(self, memory: int) -> bool:
        """Take memory back on the default stream."""
        return bool(self._asynchronous("deallocate_async")(memory, 0))

    def _asynchronous(self, name: str) -> Any:
        if getattr(type(self), name, None) is IGpuAllocator.__dict__.get(name):
            raise NotImplementedError(f"{type(self).__name__} must define {name}")
        return getattr(self, name)


class IOutputAllocator(IVersionedInterface):
    """Gives memory for outputs whose size is known late, and is told their shapes.

    Subclass it and define ``notify_shape`` and one of ``reallocate_output`` (tensor name, current
    address, size, alignment) and ``reallocate_output_async`` (the same, and a stream).
    """


def reallocate_output(allocator: Any, name: str, current: int, size_bytes: int, stream: int) -> int:
    """Ask for the memory of an output; 0 when the allocator has none."""
    asynchronous = getattr(allocator, "reallocate_output_async", None)
    if asynchronous is not None:
        return int(asynchronous(name, current, size_bytes, _ALIGN_BYTES, stream) or 0)
    if not hasattr(allocator, "reallocate_output"):
        raise NotImplementedError(f"{type(allocator).__name__} must define reallocate_output")
    return int(allocator.reallocate_output(name, current, size_bytes, _ALIGN_BYTES) or 0)


class AllocatorAdapter:
    """Lets Lamina's runtime take its memory from a TensorRT allocator."""

    def __init__(self, allocator: Any) -> None:
        self.allocator = allocator

    def allocate(self, size_bytes: int, stream: int = 0) -> int:
        """Return the address of memory; raises MemoryError when there is none."""
        if _overrides(self.allocator, "allocate_async"):
            found = self.allocator.allocate_async(size_bytes, _ALIGN_BYTES, 0, stream)
        else:
            found = self.allocator.allocate(size_bytes, _ALIGN_BYTES, 0)
        if not found:
            raise MemoryError(
                f"{type(self.allocator).__name__} gave no memory for {size_bytes} bytes"
            )
        return int(found)

    def free(self, pointer: int, size_bytes: int = 0, stream: int = 0) -> None:
        """Take memory back."""
        if _overrides(self.allocator, "deallocate_async"):
            self.allocator.deallocate_async(pointer, stream)
        elif _overrides(self.allocator, "deallocate"):
            self.allocator.deallocate(pointer)
        else:
            self.allocator.free(pointer)


def _overrides(allocator: Any, name: str) -> bool:
    """Whether the user's class defines a method itself."""
    ours = (IGpuAllocator, IGpuAsyncAllocator)
    return any(name in c.__dict__ for c in type(allocator).__mro__ if c not in ours)


__all__ = ["IGpuAllocator", "IGpuAsyncAllocator", "IOutputAllocator"]
