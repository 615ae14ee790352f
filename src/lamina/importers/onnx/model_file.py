"""Reads the source of a model: a path, bytes, or a ModelProto."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

import onnx

from lamina.errors import ImportFailed
from lamina.importers.onnx.detach import without_data

Source: TypeAlias = "str | Path | bytes | onnx.ModelProto"

_OTHER_FORMATS = (
    (b"PK\x03\x04", "a zip archive, such as a PyTorch checkpoint; export it to ONNX first"),
    (b"\x89HDF", "an HDF5 file, such as a Keras model; convert it to ONNX first"),
    (b"ftrt", "a TensorRT engine; engines cannot be converted, start from the ONNX model"),
    (b"version https://git-lfs", "a Git LFS pointer; fetch the file with 'git lfs pull'"),
    (b"<!DOCTYPE", "an HTML page; the download did not give the file itself"),
    (b"<html", "an HTML page; the download did not give the file itself"),
)


LARGEST_BYTES = 1 << 31
"""What the serialization of ONNX can hold in one message."""


def read_model(source: Source, folder: Path | None = None) -> tuple[onnx.ModelProto, Path | None]:
    """Return the parsed model and the folder that external data is relative to.

    That is the folder of a file; ``folder`` tells it for a model that is already in memory.
    Raises ImportFailed when the file cannot be read or does not hold an ONNX model.
    """
    if isinstance(source, onnx.ModelProto):
        return source, folder
    data, what, folder = _contents(source, folder)
    return parse_model(data, what), folder


def open_model(
    source: Source, folder: Path | None = None
) -> tuple[onnx.ModelProto, Path | None, bytes]:
    """Return what ``read_model`` does, but large initializers as external data inside the bytes.

    These are the third result (see :mod:`lamina.importers.onnx.detach`), empty for a ModelProto.
    """
    if isinstance(source, onnx.ModelProto):
        return source, folder, b""
    data, what, folder = _contents(source, folder)
    return parse_model(data, what, detach=True), folder, data


def _contents(
    source: str | Path | bytes | bytearray | memoryview, folder: Path | None
) -> tuple[bytes, str, Path | None]:
    """Return the bytes of a model, what to call it, and its folder; raises ImportFailed."""
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source), "the model in memory", folder
    if not isinstance(source, str | os.PathLike):
        raise ImportFailed(
            f"a model is a path, bytes or an onnx.ModelProto, not {type(source).__name__}"
        )
    path = Path(source)
    try:
        if path.stat().st_size >= LARGEST_BYTES:
            raise ImportFailed(
                f"{str(path)!r} has {path.stat().st_size} bytes, a message can have "
                f"{LARGEST_BYTES}",
                hint="save the model with its weights as external data",
            )
        data = path.read_bytes()
    except OSError as e:
        raise ImportFailed(
            f"cannot read the model {str(path)!r}: {e.strerror or e}", hint="check the path"
        ) from e
    return data, repr(str(path)), path.parent


def parse_model(data: bytes, what: str, *, detach: bool = False) -> onnx.ModelProto:
    """Parse a serialized ModelProto; ``what`` names it in messages.

    With ``detach`` the data of large initializers is left out of the message.
    """
    if not data:
        raise ImportFailed(f"{what} is empty", hint="an ONNX model has at least a graph")
    for magic, meaning in _OTHER_FORMATS:
        if data.startswith(magic):
            raise ImportFailed(f"{what} is not an ONNX model", hint=f"it looks like {meaning}")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(without_data(data) if detach else data)
    except Exception as e:
        raise ImportFailed(
            f"{what} is not an ONNX model or is truncated: {len(data)} bytes do not parse",
            hint="check that the file was copied or downloaded completely",
        ) from e
    if not model.HasField("graph"):
        raise ImportFailed(
            f"{what} is not an ONNX model: it has no graph",
            hint="check that the file was copied or downloaded completely",
        )
    return model
