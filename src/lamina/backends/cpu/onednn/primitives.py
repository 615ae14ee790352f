"""Compiled primitives: creation from a specification, execution arguments, running.

A ``Primitive`` is immutable code and may be shared by threads.  ``Arguments`` is the table of
memory handles that one execution context re-points; it must not be shared.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from contextlib import nullcontext
from functools import cached_property
from math import prod
from typing import Protocol

import numpy as np

from lamina.backends.cpu.onednn.attributes import Attributes
from lamina.backends.cpu.onednn.construction import Construction
from lamina.backends.cpu.onednn.enums import (
    NUMPY_DTYPE,
    QUERY_EXEC_ARG_MD,
    QUERY_IMPLEMENTATION,
    argument_code,
)
from lamina.backends.cpu.onednn.library import ExecutionArgument, Library, Stream, release
from lamina.backends.cpu.onednn.memory import (
    ChosenLayout,
    allocate,
    create_descriptor,
    read_descriptor,
)
from lamina.errors import DeviceError, InputError


class Specification(Protocol):
    """What every family's dataclass offers: its operands and its description."""

    @property
    def attributes(self) -> Attributes:
        """Fused operations, quantization and precision."""

    def operands(self) -> list[str]:
        """Return the names of the primitive's own execution arguments."""

    def describe(self, c: Construction) -> int:
        """Return a new description of the primitive, which the caller destroys."""


class Primitive:
    """Machine code for one operation on fixed shapes and layouts."""

    def __init__(self, library: Library, spec: Specification, threads: int | None = None) -> None:
        self.library = library
        self.spec = spec
        self.threads = threads
        uncached = library.without_cache() if spec.attributes.alternative else nullcontext()
        with library.using_threads(threads), uncached, Construction(library) as construction:
            self.pointer = _compile(construction, spec)
        release(self, library, "primitive_destroy", [self.pointer])
        # The primitive owns this description, so it lives as long as the primitive does.
        self._description = _description_of(library, self.pointer)

    @cached_property
    def implementation(self) -> str:
        """Name of the code that the library chose, such as ``brgconv:avx512_core``."""
        name = ctypes.c_char_p()
        self.library.call(
            "primitive_desc_query", self._description, QUERY_IMPLEMENTATION, 0, ctypes.byref(name)
        )
        return (name.value or b"").decode()

    @cached_property
    def argument_names(self) -> tuple[str, ...]:
        """Every execution argument, in the order of the argument table."""
        names = [*self.spec.operands(), *self.spec.attributes.arguments()]
        names += [extra for extra in ("workspace", "scratchpad") if self.size_bytes(extra)]
        return tuple(names)

    def layout(self, argument: str) -> ChosenLayout:
        """Return the layout of an argument as the library chose or accepted it."""
        parameter = self.spec.attributes.parameter_layout(argument)
        if parameter is None:
            return read_descriptor(self.library, self.descriptor(argument))
        descriptor = create_descriptor(self.library, parameter)
        try:
            return read_descriptor(self.library, descriptor)
        finally:
            self.library.call("memory_desc_destroy", descriptor)

    @property
    def weights_layout(self) -> ChosenLayout:
        """Layout of the argument ``weights``."""
        return self.layout("weights")

    @cached_property
    def scratchpad_bytes(self) -> int:
        """Size of the buffer that an execution needs as argument ``scratchpad``; 0 for none."""
        return self.size_bytes("scratchpad")

    def arguments(self) -> Arguments:
        """Return a new table of memory handles, all null."""
        return Arguments(self)

    def execute(
        self, arrays: Mapping[str, np.ndarray], stream: Stream | None = None
    ) -> dict[str, np.ndarray]:
        """Run once on these buffers and return them with the scratchpad that was added.

        Raises InputError where an argument is missing or its buffer is too small.
        """
        buffers = dict(arrays)
        if self.scratchpad_bytes and "scratchpad" not in buffers:
            buffers["scratchpad"] = allocate(self.scratchpad_bytes)
        arguments = self.arguments()
        for name in self.argument_names:
            if name not in buffers:
                raise InputError(f"argument {name} of {self.implementation} is missing")
            _check_size(name, buffers[name], self.layout(name))
            arguments.point(name, buffers[name].ctypes.data)
        arguments.run(stream or self.library.thread_stream)
        return buffers

    def descriptor(self, argument: str) -> int:
        """Return the library's own descriptor of an argument; valid while the primitive lives."""
        query = self.library.function("primitive_desc_query_md")
        pointer: int | None = query(self._description, QUERY_EXEC_ARG_MD, argument_code(argument))
        if not pointer:
            raise DeviceError(f"{self.implementation} has no argument {argument}")
        return pointer

    def size_bytes(self, argument: str) -> int:
        """Return the bytes that an argument spans in memory, 0 for one that is not used."""
        query = self.library.function("primitive_desc_query_md")
        pointer = query(self._description, QUERY_EXEC_ARG_MD, argument_code(argument))
        return int(self.library.function("memory_desc_get_size")(pointer)) if pointer else 0


class Arguments:
    """The argument table of one context for one primitive, ready for native execution.

    ``array`` is the address of ``count`` elements of dnnl_exec_arg_t.  ``memory`` gives the
    dnnl_memory_t of each argument by name: native code re-points it with
    ``dnnl_memory_set_data_handle`` and runs ``dnnl_primitive_execute(primitive.pointer,
    stream.pointer, count, array)``.
    """

    def __init__(self, primitive: Primitive) -> None:
        self.primitive = primitive
        library = primitive.library
        self._library = library
        names = primitive.argument_names
        created: list[int] = []
        release(self, library, "memory_destroy", created)
        self.memory: dict[str, int] = {}
        for name in names:
            parameter = primitive.spec.attributes.parameter_layout(name)
            if parameter is None:
                memory = self._create_memory(primitive.descriptor(name))
            else:
                descriptor = create_descriptor(library, parameter)
                memory = self._create_memory(descriptor)
                library.call("memory_desc_destroy", descriptor)
            created.append(memory)
            self.memory[name] = memory
        self._table = (ExecutionArgument * len(names))(
            *(ExecutionArgument(argument_code(name), self.memory[name]) for name in names)
        )
        self.count = len(names)
        self.array = ctypes.addressof(self._table)

    def point(self, name: str, address: int) -> None:
        """Make an argument refer to the buffer at this address."""
        self._library.call("memory_set_data_handle", self.memory[name], address)

    def run(self, stream: Stream) -> None:
        """Execute the primitive; the stream of a CPU engine has finished on return."""
        self._library.call(
            "primitive_execute", self.primitive.pointer, stream.pointer, self.count, self.array
        )

    def _create_memory(self, descriptor: int) -> int:
        return self._library.create("memory_create", descriptor, self._library.engine, None)


def create(library: Library, spec: Specification, *, threads: int | None = None) -> Primitive:
    """Compile the primitive that a specification describes.

    ``threads`` is the number of threads it is made for; None takes the calling thread's.  Raises
    OneDnnError, whose ``status`` is "unimplemented" where the library has no code for it.
    """
    return Primitive(library, spec, threads)


def _compile(construction: Construction, spec: Specification) -> int:
    """Return a new primitive of the implementation that the specification asks for."""
    library = construction.library
    try:
        description = spec.describe(construction)
    except (KeyError, TypeError, ValueError, ctypes.ArgumentError) as e:
        raise DeviceError(f"oneDNN cannot express {spec}: {e}") from e
    try:
        for _ in range(spec.attributes.alternative):
            library.call("primitive_desc_next_impl", description)
        return library.create("primitive_create", description)
    finally:
        library.call("primitive_desc_destroy", description)


def _description_of(library: Library, primitive: int) -> int:
    """Return the description that a primitive owns."""
    result = ctypes.c_void_p()
    library.call("primitive_get_primitive_desc", primitive, ctypes.byref(result))
    return result.value or 0


def _check_size(name: str, buffer: np.ndarray, layout: ChosenLayout) -> None:
    """Refuse a buffer that cannot hold the elements; gaps between them are the caller's affair."""
    dtype = NUMPY_DTYPE.get(layout.dtype)
    needed = prod(layout.padded_dims) * dtype.itemsize if dtype else layout.size_bytes
    if buffer.nbytes < needed:
        raise InputError(f"{name} has {buffer.nbytes} bytes but {needed} are needed")
