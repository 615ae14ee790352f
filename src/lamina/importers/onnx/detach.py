"""Leaves the data of large initializers where it is: in the bytes of a serialized model.

A parsed message holds a copy of everything, and hands out ``raw_data`` as a further copy.  So large
initializers become external data before the message is parsed; the file that they lie in, at
:data:`INSIDE`, is the model itself.  The fields are those of ``onnx.proto``, in the encoding of
protocol buffers (https://protobuf.dev/programming-guides/encoding).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import onnx

INSIDE: Final = "\0the model itself"
"""The location of data inside the model; no file can be called so."""

_LEAST_BYTES: Final = 1 << 16
"""Smaller data is copied: a few numbers must not keep a whole model in memory."""

_GRAPH: Final = onnx.ModelProto.GRAPH_FIELD_NUMBER
_INITIALIZER: Final = onnx.GraphProto.INITIALIZER_FIELD_NUMBER
_RAW_DATA: Final = onnx.TensorProto.RAW_DATA_FIELD_NUMBER
_ELSEWHERE: Final = {
    onnx.TensorProto.EXTERNAL_DATA_FIELD_NUMBER,
    onnx.TensorProto.DATA_LOCATION_FIELD_NUMBER,
}

_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5
_LONGEST_VARINT: Final = 10


class _Field(NamedTuple):
    """A field of a message: its number, and where it, its contents and the next one begin."""

    number: int
    kind: int
    begin: int
    contents: int
    end: int

    @property
    def size(self) -> int:
        """The bytes of the contents."""
        return self.end - self.contents


def without_data(model: bytes) -> bytes:
    """Return a serialized ModelProto whose large initializers refer to bytes of ``model``.

    What is not as expected stays as it is, for the parser to refuse.
    """
    try:
        return b"".join(_model(memoryview(model)))
    except (ValueError, IndexError):
        return model


def _model(data: memoryview) -> Iterator[bytes | memoryview]:
    for field in _fields(data, 0, len(data)):
        if field.number == _GRAPH and field.kind == _BYTES:
            yield from _wrapped(_GRAPH, list(_graph(data, field)))
        else:
            yield data[field.begin : field.end]


def _graph(data: memoryview, graph: _Field) -> Iterator[bytes | memoryview]:
    for field in _fields(data, graph.contents, graph.end):
        large = field.kind == _BYTES and field.size >= _LEAST_BYTES
        if field.number == _INITIALIZER and large:
            yield from _wrapped(_INITIALIZER, _tensor(data, field))
        else:
            yield data[field.begin : field.end]


def _tensor(data: memoryview, tensor: _Field) -> list[bytes | memoryview]:
    fields = list(_fields(data, tensor.contents, tensor.end))
    raw = [f for f in fields if f.number == _RAW_DATA and f.kind == _BYTES]
    if len(raw) != 1 or raw[0].size < _LEAST_BYTES or any(f.number in _ELSEWHERE for f in fields):
        return [data[tensor.contents : tensor.end]]
    place = onnx.TensorProto(data_location=onnx.TensorProto.EXTERNAL)
    entries = {"location": INSIDE, "offset": raw[0].contents, "length": raw[0].size}
    for key, value in entries.items():
        place.external_data.add(key=key, value=str(value))
    others = [data[f.begin : f.end] for f in fields if f is not raw[0]]
    return [*others, place.SerializeToString()]


def _wrapped(number: int, contents: list[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    yield _encoded(number << 3 | _BYTES) + _encoded(sum(map(len, contents)))
    yield from contents


def _fields(data: memoryview, begin: int, end: int) -> Iterator[_Field]:
    """Yield the fields of a message; raises ValueError or IndexError for a damaged one."""
    while begin < end:
        key, contents = _varint(data, begin)
        kind = key & 7
        if kind == _VARINT:
            following = _varint(data, contents)[1]
        elif kind == _BYTES:
            size, contents = _varint(data, contents)
            following = contents + size
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            following = contents + (8 if kind == _EIGHT_BYTES else 4)
        else:
            raise ValueError(f"fields of kind {kind} are not in use")
        if following > end:
            raise ValueError("a field ends after its message")
        yield _Field(key >> 3, kind, begin, contents, following)
        begin = following


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """Return a number and where it ends."""
    number = 0
    for i in range(_LONGEST_VARINT):
        byte = data[at + i]
        number |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return number, at + i + 1
    raise ValueError("a number has too many bytes")


def _encoded(number: int) -> bytes:
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
