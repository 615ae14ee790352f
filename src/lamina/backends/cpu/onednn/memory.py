"""Memory descriptors: what is asked of oneDNN, and what it chose."""

from __future__ import annotations

import ctypes
import itertools
from dataclasses import dataclass

import numpy as np

from lamina.backends.cpu.onednn.enums import (
    DTYPE,
    DTYPE_NAME,
    FORMAT_KIND,
    MAX_RANK,
    NUMPY_DTYPE,
    QUERY_DIMS,
    QUERY_DTYPE,
    QUERY_FORMAT_KIND,
    QUERY_INNER_AXES,
    QUERY_INNER_BLOCKS,
    QUERY_INNER_COUNT,
    QUERY_NDIMS,
    QUERY_OFFSET,
    QUERY_PADDED_DIMS,
    QUERY_STRIDES,
)
from lamina.backends.cpu.onednn.library import Library
from lamina.errors import DeviceError

Dims = ctypes.c_int64 * MAX_RANK
ALIGNMENT_BYTES = 64

_ALPHABET = "abcdefghijkl"
_ACTIVATION_LETTERS = {3: "ncw", 4: "nchw", 5: "ncdhw"}
_WEIGHTS_LETTERS = {3: "oiw", 4: "oihw", 5: "oidhw"}


@dataclass(frozen=True)
class Layout:
    """How a tensor lies in memory, as a request to oneDNN.

    ``strides`` counts elements between neighbours of each axis: dense, channels-last or a view
    into a larger buffer.  ``tag`` names a blocked format by axis letters (``aBcd16b``) or by the
    usual word (``nChw16c``, ``nhwc``).  With neither, the library chooses.  ``parent_dims`` says
    that a tagged tensor is a slice of a tensor of these dims in the same format, so that its
    strides are the parent's; the memory handle then points at the slice's first element.
    """

    dims: tuple[int, ...]
    dtype: str = "f32"
    strides: tuple[int, ...] | None = None
    tag: str | None = None
    parent_dims: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPE:
            raise DeviceError(f"oneDNN has no element type {self.dtype}")
        if not 1 <= len(self.dims) <= MAX_RANK:
            raise DeviceError(f"oneDNN takes 1 to {MAX_RANK} dimensions, not {len(self.dims)}")
        if self.strides is not None and len(self.strides) != len(self.dims):
            raise DeviceError(f"{len(self.dims)} dims but {len(self.strides)} strides")

    @staticmethod
    def any(dims: tuple[int, ...], dtype: str = "f32") -> Layout:
        """Let the library choose the format."""
        return Layout(dims, dtype)

    @staticmethod
    def dense(dims: tuple[int, ...], dtype: str = "f32") -> Layout:
        """Row-major without gaps: the layout of a C-contiguous array."""
        return Layout(dims, dtype, strides=dense_strides(dims))

    @staticmethod
    def channels_last(dims: tuple[int, ...], dtype: str = "f32") -> Layout:
        """Axis 1 innermost: ``nhwc`` and its relatives of other ranks."""
        order = (0, *range(2, len(dims)), 1)
        inner = dense_strides(tuple(dims[axis] for axis in order))
        strides = dict(zip(order, inner, strict=True))
        return Layout(dims, dtype, strides=tuple(strides[axis] for axis in range(len(dims))))

    @staticmethod
    def blocked(dims: tuple[int, ...], block: int, dtype: str = "f32") -> Layout:
        """Channels in blocks that lie innermost: ``nChw16c`` for block 16, of any rank."""
        letters = _ALPHABET[: len(dims)]
        return Layout(dims, dtype, tag=f"a{letters[1].upper()}{letters[2:]}{block}b")

    def within(self, parent_dims: tuple[int, ...]) -> Layout:
        """Return this layout as a slice of a larger tensor of the same format.

        Axes of the parent may only be larger, and a blocked axis must start at a whole block.
        """
        if self.strides is None:
            return Layout(self.dims, self.dtype, tag=self.tag, parent_dims=parent_dims)
        order = sorted(range(len(self.dims)), key=lambda axis: (-self.strides_or_zero(axis), axis))
        inner = dense_strides(tuple(parent_dims[axis] for axis in order))
        strides = dict(zip(order, inner, strict=True))
        return Layout(self.dims, self.dtype, tuple(strides[a] for a in range(len(self.dims))))

    def strides_or_zero(self, axis: int) -> int:
        """Return the stride of an axis, 0 where the layout has none."""
        return self.strides[axis] if self.strides is not None else 0


@dataclass(frozen=True)
class ChosenLayout:
    """How a tensor lies in memory, as read back from the library; equal layouts are equal values.

    ``padded_dims`` are the dims rounded up to whole blocks, ``strides`` the elements between
    outer blocks, ``inner_blocks`` and ``inner_axes`` the sizes and axes of the nested blocks, from
    the outermost inwards.  ``kind`` is ``blocked``, or ``opaque`` where only the library knows.
    ``size_bytes`` is what a buffer needs, compensation data included.
    """

    dims: tuple[int, ...]
    dtype: str
    kind: str
    padded_dims: tuple[int, ...]
    strides: tuple[int, ...]
    inner_blocks: tuple[int, ...]
    inner_axes: tuple[int, ...]
    offset: int
    size_bytes: int

    @property
    def fingerprint(self) -> str:
        """Short text that two equal layouts share: what a plan stores beside packed weights."""
        numbers = (self.dims, self.padded_dims, self.strides, self.inner_blocks, self.inner_axes)
        parts = ",".join("x".join(map(str, n)) for n in (*numbers, (self.offset, self.size_bytes)))
        return f"{self.dtype}:{self.kind}:{parts}"

    @property
    def is_plain(self) -> bool:
        """Whether NumPy can look at it with strides alone."""
        return self.kind == "blocked" and not self.inner_blocks

    @property
    def is_dense(self) -> bool:
        """Whether it is the layout of a C-contiguous array (axes of size 1 do not matter)."""
        dense = dense_strides(self.dims)
        return self.is_plain and all(
            s == d or n == 1 for s, d, n in zip(self.strides, dense, self.dims, strict=True)
        )

    @property
    def has_padding(self) -> bool:
        """Whether some axis was rounded up to a whole block."""
        return self.dims != self.padded_dims

    def view(self, buffer: np.ndarray) -> np.ndarray:
        """Return a plain layout's buffer of bytes as an array of ``dims``, without a copy."""
        if not self.is_plain:
            raise DeviceError(f"a {self.kind} layout with inner blocks has no array view")
        dtype = NUMPY_DTYPE[self.dtype]
        strides = tuple(s * dtype.itemsize for s in self.strides)
        return np.ndarray(self.dims, dtype, buffer.data, strides=strides)


def dense_strides(dims: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides, in elements, of a C-contiguous array."""
    strides = [1] * len(dims)
    for axis in range(len(dims) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * dims[axis + 1]
    return tuple(strides)


def generic_tag(tag: str, rank: int) -> str:
    """Translate a customary tag (``nChw16c``, ``goihw``) into axis letters (``aBcd16b``)."""
    names = tag.lower()
    if names[0] == "n" and rank in _ACTIVATION_LETTERS:
        letters = _ACTIVATION_LETTERS[rank]
    elif "o" in names and names[0] in "go":
        grouped = names[0] == "g"
        letters = ("g" if grouped else "") + _WEIGHTS_LETTERS.get(rank - grouped, "oi")
    else:
        return tag
    table = {old: new for old, new in zip(letters, _ALPHABET, strict=False)}
    return "".join(
        table.get(c, c) if c.islower() else table.get(c.lower(), c.lower()).upper() for c in tag
    )


def create_descriptor(library: Library, layout: Layout) -> int:
    """Return a new descriptor of the layout, which the caller destroys."""
    rank = len(layout.dims)
    dims = Dims(*layout.dims)
    dtype = DTYPE[layout.dtype]
    if layout.strides is not None:
        strides = Dims(*layout.strides)
        return library.create("memory_desc_create_with_strides", rank, dims, dtype, strides)
    if layout.tag is None:
        return library.create("memory_desc_create_with_tag", rank, dims, dtype, 1)
    tag = library.tags.get(generic_tag(layout.tag, rank))
    if tag is None:
        raise DeviceError(f"oneDNN has no memory format {layout.tag} of {rank} dimensions")
    if layout.parent_dims is None:
        return library.create("memory_desc_create_with_tag", rank, dims, dtype, tag)
    parent_dims = Dims(*layout.parent_dims)
    parent = library.create("memory_desc_create_with_tag", rank, parent_dims, dtype, tag)
    try:
        return library.create("memory_desc_create_submemory", parent, dims, Dims())
    finally:
        library.call("memory_desc_destroy", parent)


def read_descriptor(library: Library, descriptor: int) -> ChosenLayout:
    """Return what a descriptor says."""
    query = library.function("memory_desc_query")
    number = ctypes.c_int()
    pointer = ctypes.POINTER(ctypes.c_int64)()

    def integer(what: int) -> int:
        query(descriptor, what, ctypes.byref(number))
        return number.value

    def integers(what: int, count: int) -> tuple[int, ...]:
        query(descriptor, what, ctypes.byref(pointer))
        return tuple(pointer[:count])

    rank = integer(QUERY_NDIMS)
    kind = FORMAT_KIND.get(integer(QUERY_FORMAT_KIND), "opaque") if rank else "undefined"
    blocked = kind == "blocked"
    inner = integer(QUERY_INNER_COUNT) if blocked else 0
    offset = ctypes.c_int64()
    query(descriptor, QUERY_OFFSET, ctypes.byref(offset))
    return ChosenLayout(
        dims=integers(QUERY_DIMS, rank),
        dtype=DTYPE_NAME.get(integer(QUERY_DTYPE), "undefined"),
        kind=kind,
        padded_dims=integers(QUERY_PADDED_DIMS, rank),
        strides=integers(QUERY_STRIDES, rank) if blocked else (),
        inner_blocks=integers(QUERY_INNER_BLOCKS, inner) if inner else (),
        inner_axes=integers(QUERY_INNER_AXES, inner) if inner else (),
        offset=offset.value,
        size_bytes=library.function("memory_desc_get_size")(descriptor),
    )


def as_request(library: Library, chosen: ChosenLayout) -> Layout | None:
    """Return the request that gives exactly this layout, or None where only "any" does.

    None is the answer for opaque formats and for weights with compensation data.
    """
    if chosen.kind != "blocked":
        return None
    if chosen.is_plain:
        candidates = [Layout(chosen.dims, chosen.dtype, strides=chosen.strides)]
    else:
        candidates = [
            Layout(chosen.dims, chosen.dtype, tag=tag)
            for tag in _possible_tags(chosen)
            if tag in library.tags
        ]
    for layout in candidates:
        descriptor = create_descriptor(library, layout)
        try:
            if read_descriptor(library, descriptor) == chosen:
                return layout
        finally:
            library.call("memory_desc_destroy", descriptor)
    return None


def _possible_tags(chosen: ChosenLayout) -> list[str]:
    """Names that may describe a blocked layout: axes of equal stride come in every order."""
    blocked_axes = set(chosen.inner_axes)
    suffix = "".join(
        f"{block}{_ALPHABET[axis]}"
        for block, axis in zip(chosen.inner_blocks, chosen.inner_axes, strict=True)
    )
    by_stride = sorted(range(len(chosen.dims)), key=lambda axis: -chosen.strides[axis])
    groups = [
        list(itertools.permutations(group))
        for _, group in itertools.groupby(by_stride, key=lambda axis: chosen.strides[axis])
    ]
    orders = (tuple(itertools.chain(*parts)) for parts in itertools.product(*groups))
    return [
        "".join(_ALPHABET[a].upper() if a in blocked_axes else _ALPHABET[a] for a in order) + suffix
        for order in orders
    ]


def allocate(size_bytes: int) -> np.ndarray:
    """Return uninitialized bytes that start at a cache line, as oneDNN's kernels like them."""
    raw = np.empty(size_bytes + ALIGNMENT_BYTES, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT_BYTES
    return raw[start : start + size_bytes]
