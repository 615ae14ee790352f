"""Makes constants on the device from weights that were brought there, by kernels of the plan."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lamina.backends.cuda.device import Device, Handle, KernelLaunch, current
from lamina.backends.cuda.memory import Bytes, Memory, PinnedPool, Stream, aligned
from lamina.ir.movement import Axis, Movement, Piece, kernel_name

Array = npt.NDArray[Any]

BLOCK: Final = 1024
"""Elements of a program."""

WARPS: Final = 4

_STAGED_BYTES: Final = 64 << 10
"""Arrays up to which a copy to page-locked memory is faster than one from where they are."""

_AXES: Final = 5
_FACTOR_BYTES: Final = 4
_LARGEST: Final = 2**31 - BLOCK
_NOTHING: Final = Axis(1, 0, 0, 0)
_PACK_TYPES: Final = ("p", "p", "p", *["i32"] * 20, "p", "p")
_TRANSFORM_TYPES: Final = ("p", "p", "p", "p", *["i32"] * 5, "p", "p")


class WeightMemory:
    """Page-locked memory for weights, and as much on the device, to which they are copied."""

    def __init__(
        self, size_bytes: int, device: Device, memory: Memory, pinned: PinnedPool, stream: Stream
    ) -> None:
        self.bytes = pinned.take(size_bytes)
        self._device, self._stream = device, stream
        self._copy = memory.buffer(size_bytes, "the weights of a refit", stream)
        self._begin = _address(self.bytes)
        self._sent: list[range] = []

    def written(self, begin: int, size_bytes: int) -> None:
        """Begin to copy some bytes to the device."""
        with current(self._device):
            target, source = self._copy.pointer + begin, self._begin + begin
            self._device.copy(target, source, size_bytes, self._stream.handle)
        self._sent.append(range(begin, begin + size_bytes + 1))

    def address_of(self, array: Array) -> int | None:
        """Return where the device has an array; None for one that was not sent."""
        begin = _address(array) - self._begin
        is_sent = any(begin in sent and begin + array.nbytes in sent for sent in self._sent)
        return self._copy.pointer + begin if is_sent else None


def function_of(chain: str) -> str:
    """Return what the kernel of a chain is called in its module."""
    return "transform" if "@" in chain else "pack"


def can_pack(movements: Sequence[Movement], symbols: Container[str]) -> bool:
    """Whether a plan with these kernels can make a constant on its device."""
    return bool(movements) and all(_can_pack(m, symbols) for m in movements)


def _can_pack(movement: Movement, symbols: Container[str]) -> bool:
    if kernel_name(movement.course.chain) not in symbols:
        return False
    elements = max(movement.base.size, movement.course.elements)
    return elements < _LARGEST and all(len(p.axes) <= _AXES for p in movement.course.pieces)


@dataclass
class Delivery:
    """Constants on their way to places on a device: some as they are, some to be made there."""

    device: Device
    memory: Memory
    pinned: PinnedPool
    stream: Stream
    kernel: Callable[[str], Handle]
    """Returns the kernel of a chain."""
    arrays: list[tuple[int, Bytes]] = field(default_factory=list)
    """Addresses, and the bytes that are to be there."""
    moved: list[tuple[int, Movement]] = field(default_factory=list)
    """Addresses, and what is to be made there."""
    weights: Sequence[WeightMemory] = ()
    """Where weights lie that are on the device already."""

    def deliver(self) -> None:
        """Enqueue all work, and wait until it is done."""
        device, stream = self.device, self.stream.handle
        there = {id(m.base): self._sent(m.base) for _, m in self.moved}
        bases = {id(m.base): m.base for _, m in self.moved if not there[id(m.base)]}
        few = [a for _, m in self.moved for a in (m.factors, m.matrix) if a is not None]
        others = {id(array): array for array in few}
        at = _offsets({**bases, **others})
        size = sum(aligned(a.nbytes) for a in (*bases.values(), *others.values()))
        scratch = self.memory.buffer(size, "the weights of a refit", self.stream)
        kept: list[Bytes] = []
        for key, base in bases.items():
            kept.append(flat := _bytes(base))
            device.copy(scratch.pointer + at[key], _address(flat), flat.nbytes, stream)
        small = [(scratch.pointer + at[key], _bytes(array)) for key, array in others.items()]
        for target, array in self.arrays:
            if array.nbytes <= _STAGED_BYTES:
                small.append((target, array))
            else:
                device.copy(target, _address(array), array.nbytes, stream)
        staging = self._stage(small)
        chains = {m.course.chain for _, m in self.moved}
        kernels = {chain: self.kernel(chain) for chain in sorted(chains)}
        places = {key: scratch.pointer + begin for key, begin in at.items()}
        places |= {key: address for key, address in there.items() if address}
        for target, m in self.moved:
            source, factors, matrix = (places.get(id(a), 0) for a in (m.base, m.factors, m.matrix))
            self._make(kernels[m.course.chain], m, (source, factors, matrix, target))
        device.synchronize(stream)
        del staging, kept

    def _sent(self, array: Array) -> int:
        """Return where the device has an array already; 0 where it does not."""
        found = (memory.address_of(array) for memory in self.weights)
        return next((address for address in found if address), 0)

    def _stage(self, arrays: Sequence[tuple[int, Bytes]]) -> Bytes:
        """Copy small arrays through page-locked memory, which does not make the host wait.

        Those that lie side by side on the device arrive together.
        """
        staging = self.pinned.take(sum(aligned(array.nbytes) for _, array in arrays))
        begin, at = _address(staging), 0
        first, behind = 0, 0  # the target of the first one, and the end of what is to be copied
        for target, array in arrays:
            if target != first + at - behind:
                self._bring(first, begin + behind, at - behind)
                first, behind = target, at
            staging[at : at + array.nbytes] = array
            at += aligned(array.nbytes)
        self._bring(first, begin + behind, at - behind)
        return staging

    def _bring(self, target: int, source: int, size_bytes: int) -> None:
        if size_bytes:
            self.device.copy(target, source, size_bytes, self.stream.handle)

    def _make(self, kernel: Handle, movement: Movement, places: tuple[int, int, int, int]) -> None:
        """Enqueue the kernels that make a constant of its source, its factors and its matrix."""
        course, (source, factors, _, result) = movement.course, places
        size = course.result_size
        if course.is_padded and not course.before:  # the first of those that are joined
            self.device.clear(result, course.elements * size, self.stream.handle)
        if course.together:
            filters, channels, positions = course.shape
            numbers = (filters * channels, channels, filters, course.padded[1], positions)
            self._launch(kernel, numbers[0], positions, (*places, *numbers), _TRANSFORM_TYPES)
            return
        for piece in course.pieces:
            begins = (
                source + piece.source * movement.base.itemsize,
                factors + piece.factor * _FACTOR_BYTES,
                result + piece.result * size,
            )
            values = (*begins, *_numbers(piece))
            self._launch(kernel, piece.elements, 1, values, _PACK_TYPES)

    def _launch(
        self,
        kernel: Handle,
        elements: int,
        times: int,
        values: tuple[int, ...],
        types: tuple[str, ...],
    ) -> None:
        launch = KernelLaunch(
            function=kernel,
            grid=(-(-elements // BLOCK), times, 1),
            threads=32 * WARPS,
            shared_bytes=0,
            values=(*values, 0, 0),
            types=types,
        )
        self.device.launch(launch, self.stream.handle)


def _offsets(arrays: Mapping[int, Array]) -> dict[int, int]:
    """Return where each array begins when they lie one behind the other."""
    sizes = [aligned(a.nbytes) for a in arrays.values()]
    return dict(zip(arrays, accumulate(sizes, initial=0), strict=False))


def _bytes(array: Array) -> Bytes:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _address(array: Array) -> int:
    result: int = array.__array_interface__["data"][0]
    return result


def _numbers(piece: Piece) -> tuple[int, ...]:
    """Return the numbers that a kernel takes for a piece."""
    axes = (*[_NOTHING] * (_AXES - len(piece.axes)), *piece.axes)
    sizes = [axis.size for axis in axes[1:]]
    steps = [[a.source for a in axes], [a.factor for a in axes], [a.result for a in axes]]
    return (piece.elements, *sizes, *(n for kind in steps for n in kind))
