"""Turns TensorProto messages into NumPy arrays without copying where the bytes allow it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from lamina.errors import ImportFailed
from lamina.importers.onnx.detach import INSIDE
from lamina.ir.graph import Array
from lamina.ir.types import DType

DTYPES = {
    1: DType.F32,
    2: DType.U8,
    3: DType.I8,
    4: DType.U16,
    5: DType.I16,
    6: DType.I32,
    7: DType.I64,
    8: DType.STR,
    9: DType.BOOL,
    10: DType.F16,
    11: DType.F64,
    12: DType.U32,
    13: DType.U64,
    14: DType.C64,
    15: DType.C128,
    16: DType.BF16,
    17: DType.F8E4M3,
    18: DType.F8E4M3FNUZ,
    19: DType.F8E5M2,
    20: DType.F8E5M2FNUZ,
    21: DType.U4,
    22: DType.I4,
    23: DType.F4E2M1,
    24: DType.F8E8M0,
    25: DType.U2,
    26: DType.I2,
}
"""Element types by their number in TensorProto.DataType."""

NUMBERS = {dtype: number for number, dtype in DTYPES.items()}
"""The number of an element type in TensorProto.DataType."""

DENSE_LIMIT_BYTES = 1 << 31
"""A sparse tensor is not expanded beyond this size."""


def dtype_of(number: int) -> DType:
    """Return the element type with this number; raises ImportFailed for an unknown one."""
    if number not in DTYPES:
        raise ImportFailed(f"element type {number} is not one that Lamina knows")
    return DTYPES[number]


class TensorReader:
    """Reads tensors of one model; files with external data are memory-mapped once.

    ``inside`` is what data inside the model refers to (see :mod:`lamina.importers.onnx.detach`).
    """

    def __init__(self, folder: Path | None, inside: bytes = b"") -> None:
        self.folder = folder
        self._inside = inside
        self._files: dict[Path, Array] = {}

    def read(self, tensor: onnx.TensorProto, name: str = "") -> Array:
        """Return the contents of ``tensor``; raises ImportFailed naming it when they do not fit."""
        what = f"tensor {name or tensor.name!r}"
        dtype = dtype_of(tensor.data_type)
        shape = tuple(tensor.dims)
        if any(d < 0 for d in shape):
            raise ImportFailed(f"{what} has a negative dimension in its shape {list(shape)}")
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            return _from_bytes(self._external(tensor, what, dtype, shape), dtype, shape, what)
        if tensor.HasField("raw_data"):
            return _from_bytes(np.frombuffer(tensor.raw_data, np.uint8), dtype, shape, what)
        return _from_fields(tensor, dtype, shape, what)

    def read_sparse(self, tensor: onnx.SparseTensorProto) -> Array:
        """Return a sparse tensor as a dense array."""
        what = f"sparse tensor {tensor.values.name!r}"
        values, indices = self.read(tensor.values), self.read(tensor.indices)
        shape = tuple(tensor.dims)
        count = math.prod(shape)
        if any(d < 0 for d in shape) or count * values.dtype.itemsize > DENSE_LIMIT_BYTES:
            raise ImportFailed(f"{what} of shape {list(shape)} is too large to expand")
        dense = np.zeros(count, values.dtype)
        flat = indices if indices.ndim == 1 else np.ravel_multi_index(tuple(indices.T), shape)
        if flat.size and not 0 <= int(flat.min()) <= int(flat.max()) < count:
            raise ImportFailed(f"{what} has an index outside its shape {list(shape)}")
        dense[flat] = values
        return dense.reshape(shape)

    def _external(
        self, tensor: onnx.TensorProto, what: str, dtype: DType, shape: tuple[int, ...]
    ) -> Array:
        entries = {e.key: e.value for e in tensor.external_data}
        file = self._map(entries.get("location", ""), what)
        try:
            offset = int(entries.get("offset", "0"))
            length = int(entries.get("length", str(_byte_count(dtype, shape))))
        except ValueError as e:
            raise ImportFailed(f"{what} has a damaged external data entry: {e}") from e
        if offset < 0 or length < 0 or offset + length > file.size:
            raise ImportFailed(
                f"{what} needs bytes {offset} to {offset + length} of "
                f"{entries['location']!r}, which has {file.size}",
                hint="the data file is truncated or belongs to another model",
            )
        return file[offset : offset + length]

    def _map(self, location: str, what: str) -> Array:
        if self._inside and location == INSIDE:
            return np.frombuffer(self._inside, np.uint8)
        if self.folder is None:
            raise ImportFailed(
                f"{what} is stored in the external file {location!r}, but the model's folder is "
                "not known",
                hint="load the model from its path instead of from bytes or a ModelProto",
            )
        path = _inside(self.folder, location, what)
        if path not in self._files:
            try:
                size = path.stat().st_size
                self._files[path] = (
                    np.memmap(path, np.uint8, "r") if size else np.zeros(0, np.uint8)
                )
            except OSError as e:
                raise ImportFailed(
                    f"{what} is stored in {location!r}, which cannot be read: {e.strerror or e}",
                    hint=f"put the data file into {str(self.folder)!r}, beside the model",
                ) from e
        return self._files[path]


def _inside(folder: Path, location: str, what: str) -> Path:
    """Return the file that ``location`` names; links are followed before the check."""
    relative = Path(location)
    if not location or "\0" in location or relative.is_absolute() or ".." in relative.parts:
        raise ImportFailed(
            f"{what} points to {location!r}, outside the model's folder",
            hint="external data must be a relative path below the model's folder",
        )
    root = folder.resolve()
    path = (root / relative).resolve()
    if not path.is_relative_to(root):
        raise ImportFailed(
            f"{what} points to {location!r}, a link to {str(path)!r} outside the model's folder",
            hint="copy the data file into the model's folder",
        )
    return path


def _byte_count(dtype: DType, shape: tuple[int, ...]) -> int:
    return -(-math.prod(shape) * dtype.bits // 8)


def _from_bytes(data: Array, dtype: DType, shape: tuple[int, ...], what: str) -> Array:
    if dtype is DType.STR:
        raise ImportFailed(f"{what} holds strings as raw bytes, which ONNX does not allow")
    expected = _byte_count(dtype, shape)
    if data.size != expected:
        raise ImportFailed(
            f"{what} has {data.size} bytes of data, its type {dtype}{list(shape)} takes {expected}",
            hint="the model is damaged or was truncated",
        )
    if dtype.bits < 8:
        return _unpack(data, dtype, math.prod(shape)).reshape(shape)
    if data.ctypes.data % dtype.itemsize:
        data = data.copy()
    return data.view(dtype.numpy).reshape(shape)


def _unpack(data: Array, dtype: DType, count: int) -> Array:
    """Spread packed 2- and 4-bit elements, the first in the low bits, to a byte each."""
    per_byte = 8 // dtype.bits
    shifts = np.arange(per_byte, dtype=np.uint8) * dtype.bits
    codes = (data[:, None] >> shifts & ((1 << dtype.bits) - 1)).reshape(-1)[:count]
    if dtype in (DType.I4, DType.I2):
        half, full = 1 << (dtype.bits - 1), 1 << dtype.bits
        signed = codes.astype(np.int8)
        return np.where(signed >= half, signed - full, signed).astype(np.int8).astype(dtype.numpy)
    if dtype is DType.F4E2M1:
        return codes.astype(np.uint8).view(dtype.numpy)
    return codes.astype(dtype.numpy)


def _from_fields(
    tensor: onnx.TensorProto, dtype: DType, shape: tuple[int, ...], what: str
) -> Array:
    count = math.prod(shape)
    values: Any
    if dtype is DType.STR:
        values = np.empty(len(tensor.string_data), object)
        values[:] = [s.decode("utf-8") for s in tensor.string_data]
    elif dtype in (DType.F32, DType.C64):
        values = np.array(tensor.float_data, np.float32).view(dtype.numpy)
    elif dtype in (DType.F64, DType.C128):
        values = np.array(tensor.double_data, np.float64).view(dtype.numpy)
    elif dtype is DType.I64:
        values = np.array(tensor.int64_data, np.int64)
    elif dtype in (DType.U64, DType.U32):
        values = np.array(tensor.uint64_data, np.uint64).astype(dtype.numpy)
    else:
        return _from_int32(np.array(tensor.int32_data, np.int32), dtype, shape, what)
    if values.size != count:
        raise ImportFailed(
            f"{what} has {values.size} elements, its shape {list(shape)} takes {count}",
            hint="the model is damaged or was truncated",
        )
    return values.reshape(shape)  # type: ignore[no-any-return]


def _from_int32(data: Array, dtype: DType, shape: tuple[int, ...], what: str) -> Array:
    """Read the types that TensorProto keeps in ``int32_data``, one storage unit per entry."""
    if (dtype.is_integer and dtype.bits >= 8) or dtype is DType.BOOL:
        units = data.astype(dtype.numpy)
        if units.size != math.prod(shape):
            raise ImportFailed(
                f"{what} has {units.size} elements, its shape {list(shape)} takes "
                f"{math.prod(shape)}",
                hint="the model is damaged or was truncated",
            )
        return units.reshape(shape)
    unit = np.uint16 if dtype.bits == 16 else np.uint8
    return _from_bytes(data.astype(unit).view(np.uint8), dtype, shape, what)
