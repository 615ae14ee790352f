"""Reading the model that a parser or a refitter is given, and data put into it."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from lamina.errors import ImportFailed
from lamina.importers.onnx.model_file import parse_model, read_model


@dataclass(frozen=True)
class Model:
    """A model and the folder that its external data is relative to."""

    proto: onnx.ModelProto
    folder: Path | None = None


def from_bytes(data: Any, path: str | None) -> Model:
    """Return a serialized model; ``path`` is the file that it came from, if any.

    Raises ImportFailed for data that is no model, TypeError for what is no data.
    """
    try:
        raw = bytes(memoryview(data))
    except TypeError as e:
        raise TypeError(
            f"incompatible function arguments: expected the bytes of a model, got "
            f"{type(data).__name__}"
        ) from e
    folder = Path(path).parent if path else None
    return Model(parse_model(raw, repr(path) if path else "the model in memory"), folder)


def from_file(path: str) -> Model:
    """Return the model in a file; raises ImportFailed."""
    return Model(*read_model(path))


def put_initializer(model: Model, name: str, data: Any, size: int) -> None:
    """Give an initializer other data: ``size`` bytes in a buffer or at an address.

    Raises ImportFailed for an unknown name, and for data that does not fill the initializer.
    """
    found = next((t for t in model.proto.graph.initializer if t.name == name), None)
    if found is None:
        raise ImportFailed(f"the model has no initializer {name!r}")
    raw = (
        ctypes.string_at(data, size)
        if isinstance(data, int)
        else bytes(memoryview(data).cast("B")[:size])
    )
    kind, dims = found.data_type, list(found.dims)
    expected = onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize
    for d in dims:
        expected *= d
    if len(raw) != expected:
        raise ImportFailed(f"initializer {name!r} has {expected} bytes, {len(raw)} are given")
    found.Clear()
    found.name, found.data_type, found.raw_data = name, kind, raw
    found.dims.extend(dims)
