"""Sequences of different lengths: packed one behind the other, or padded with lengths beside them.

Packed tensors are [tokens, heads, size]; their lengths are cumulative, [0, n0, n0 + n1, ...], one
more than there are sequences.  Padded tensors are [sequences, heads, tokens, size]; their lengths,
where given, are one number for each sequence.
"""

from __future__ import annotations

from dataclasses import dataclass

from lamina import ops
from lamina.errors import GraphError
from lamina.ir.dims import Dim
from lamina.ir.graph import Value
from lamina.ir.types import DType
from lamina.ops.kinds import BinaryKind, ReduceKind
from lamina.tensorrt.lowering.emitter import LayerEmitter


@dataclass(frozen=True)
class Ragged:
    """Tokens of all sequences as one sequence [1, heads, tokens, size], and where each belongs.

    ``sequence`` and ``position`` are i64 [tokens], ``length`` the i64 length of each token's
    sequence (or one number for all); ``valid`` is false for padding (None: there is none).
    """

    tensor: Value
    sequence: Value
    position: Value
    length: Value
    valid: Value | None = None


def packed(e: LayerEmitter, x: Value, lengths: Value | None) -> Ragged:
    """Return packed tokens; raises GraphError for tensors and lengths that are not packed."""
    if lengths is None:
        raise GraphError("packed sequences need their lengths", hint="set the lengths as well")
    if x.tensor.rank != 3 or lengths.tensor.rank != 1:
        raise GraphError(
            f"packed sequences are [tokens, heads, size] with a row of lengths, got {x.tensor} and "
            f"{lengths.tensor}"
        )
    tokens, heads, size = x.tensor.shape
    sequence, start, length = token_places(e, tokens, lengths)
    position = e.binary(BinaryKind.SUB, _count(e, tokens), start)
    tensor = e.reshape(e.transpose(x, (1, 0, 2)), (1, heads, tokens, size))
    return Ragged(tensor, sequence, position, length)


def token_places(e: LayerEmitter, tokens: Dim, lengths: Value) -> tuple[Value, Value, Value]:
    """Return the sequence of each token, the token where it starts, and how many it has."""
    count = lengths.tensor.shape[0] - 1
    ends = e.cast(lengths, DType.I64)
    starts, stops = e.slice(ends, 0, 0, count), e.slice(ends, 0, 1, count)
    token = e.unsqueeze(_count(e, tokens), (1,))
    passed = e.binary(BinaryKind.GREATER_EQUAL, token, e.unsqueeze(stops, (0,)))
    sequence = e.reduce(ReduceKind.SUM, e.cast(passed, DType.I64), (1,), keepdims=False)
    sizes = e.binary(BinaryKind.SUB, stops, starts)
    return sequence, e.gather(starts, sequence, 0), e.gather(sizes, sequence, 0)


def padded(e: LayerEmitter, x: Value, lengths: Value | None) -> Ragged:
    """Return padded tokens."""
    batch, heads, tokens, size = x.tensor.shape
    total = batch * tokens
    item = e.expand(e.unsqueeze(_count(e, batch), (1,)), (batch, tokens))
    place = e.expand(e.unsqueeze(_count(e, tokens), (0,)), (batch, tokens))
    sequence, position = e.reshape(item, (total,)), e.reshape(place, (total,))
    tensor = e.reshape(e.transpose(x, (1, 0, 2, 3)), (1, heads, total, size))
    if lengths is None:
        return Ragged(tensor, sequence, position, _size(e, tokens))
    length = e.gather(e.cast(lengths, DType.I64), sequence, 0)
    return Ragged(tensor, sequence, position, length, e.binary(BinaryKind.LESS, position, length))


def visible(e: LayerEmitter, queries: Ragged, keys: Ragged, causal: str) -> Value:
    """Return which keys each query sees, a bool [queries, keys].

    ``causal`` is NONE, UPPER_LEFT (first tokens are aligned) or LOWER_RIGHT (last ones are).
    """
    mask = e.binary(BinaryKind.EQUAL, _column(e, queries.sequence), _row(e, keys.sequence))
    if causal != "NONE":
        query, key = queries.position, keys.position
        if causal == "LOWER_RIGHT":
            query = e.binary(BinaryKind.SUB, query, queries.length)
            key = e.binary(BinaryKind.SUB, key, keys.length)
        before = e.binary(BinaryKind.LESS_EQUAL, _row(e, key), _column(e, query))
        mask = e.binary(BinaryKind.LOGICAL_AND, mask, before)
    if keys.valid is not None:
        mask = e.binary(BinaryKind.LOGICAL_AND, mask, _row(e, keys.valid))
    return mask


def visible_padded(e: LayerEmitter, q: Value, k: Value, lengths: Value, causal: str) -> Value:
    """Return which keys the queries of padded sequences see, a bool [sequences, 1, queries, keys].

    Only keys have ``lengths``; with LOWER_RIGHT the last query is aligned with the last of them.
    """
    queries, keys = q.tensor.shape[2], k.tensor.shape[2]
    length = e.unsqueeze(e.cast(lengths, DType.I64), (1, 2, 3))
    key = e.unsqueeze(_count(e, keys), (0, 1, 2))
    mask = e.binary(BinaryKind.LESS, key, length)
    if causal == "NONE":
        return mask
    query = e.unsqueeze(_count(e, queries), (0, 1, 3))
    if causal == "LOWER_RIGHT":
        ahead = e.binary(BinaryKind.SUB, length, e.unsqueeze(_size(e, queries), (0, 1, 2, 3)))
        query = e.binary(BinaryKind.ADD, query, ahead)
    return e.binary(BinaryKind.LOGICAL_AND, mask, e.binary(BinaryKind.LESS_EQUAL, key, query))


def unpadded(e: LayerEmitter, y: Value, like: Value) -> Value:
    """Return a result [1, heads, tokens, size] in the form of the queries ``like``."""
    _, heads, total, size = y.tensor.shape
    flat = e.reshape(y, (heads, total, size))
    if like.tensor.rank == 3:
        return e.transpose(flat, (1, 0, 2))
    batch, _, tokens, _ = like.tensor.shape
    return e.transpose(e.reshape(flat, (heads, batch, tokens, size)), (1, 0, 2, 3))


def _count(e: LayerEmitter, length: Dim) -> Value:
    """Return 0, 1, ... as i64."""
    op = ops.Range(length=length)
    return e.emit(op, e.constant(0, DType.I64), e.constant(1, DType.I64))


def _size(e: LayerEmitter, length: Dim) -> Value:
    """Return a length as an i64 number."""
    last = e.reduce(ReduceKind.MAX, _count(e, length), (0,), keepdims=False)
    return e.binary(BinaryKind.ADD, last, e.constant(1, DType.I64))


def _column(e: LayerEmitter, x: Value) -> Value:
    return e.unsqueeze(x, (1,))


def _row(e: LayerEmitter, x: Value) -> Value:
    return e.unsqueeze(x, (0,))
