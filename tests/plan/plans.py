"""Small plans of every kind, and edits of their bytes."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np

import lamina
from lamina import ops
from lamina.ir.graph import Graph
from lamina.ir.text import parse_graph

HEAD = struct.Struct("<8sIIQ16s")

CONVOLUTION = """graph(%x: f32[1,3,8,8]) {
  %w = const() type=f32[16,3,3,3] seed=1
  %c = convolution(%x, %w) strides=(1,1) dilations=(1,1) pads_begin=(1,1) pads_end=(1,1)
  %r = activation(%c) kind=relu
  %m = reduce(%r) kind=mean axes=(2,3) keepdims=false
  return %m as "y"
}"""

DYNAMIC = """graph(%x: f32[b,12], %s: f32[b,6]) {
  %w = const() type=f32[12,6] seed=2
  %p = matmul(%x, %w)
  %q = activation(%p) kind=silu alpha=1.0
  %y = concat(%q, %s) axis=1
  return %y as "y", %p as "p"
}"""

HOST = """graph(%x: f32[n]) {
  %i = non_zero(%x) count=k
  define k = %i
  %d = activation(%x) kind=tanh
  %b = cast(%x) dtype=bool
  %c = cast(%b) dtype=i32
  %m = reduce(%c) kind=sum axes=(0) keepdims=true
  %q = bind_dims(%m) names=("q")
  define q = %q
  %e = expand(%m) shape=(q,)
  return %i as "places", %d as "d", %e as "e"
}"""

CONTROL = """graph @1(%x: f32[4]) {
  %y = unary(%x) kind=abs
  return %y
}
graph @2(%x: f32[4]) {
  %y = unary(%x) kind=neg
  return %y
}
graph @3(%i: i64[], %go: bool[], %a: f32[4]) {
  %b = binary(%a, %a) kind=add
  return %go, %b
}
graph(%n: i64[], %c: bool[], %x: f32[4]) {
  %y = if(%c, %x) then_branch=@1 else_branch=@2
  %z = loop(%n, %c, %y) body=@3 carried=1
  return %z as "z"
}"""

SHAPES: dict[str, Any] = {
    DYNAMIC: {"x": ((1, 12), (2, 12), (4, 12)), "s": ((1, 6), (2, 6), (4, 6))},
    HOST: {"x": ((1,), (8,), (64,))},
}
KINDS = {"convolution": CONVOLUTION, "dynamic": DYNAMIC, "host": HOST, "control": CONTROL}


def graph(text: str) -> Graph:
    return parse_graph(text, ops.BY_NAME)


@cache
def engine(kind: str) -> lamina.Engine:
    text = KINDS[kind]
    shapes = SHAPES.get(text)
    return lamina.build(graph(text), shapes=shapes, timing_cache="", optimization_level=0)


@cache
def plan_bytes(kind: str) -> bytes:
    return engine(kind).serialize()


def feed(kind: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    if kind == "convolution":
        return {"x": rng.standard_normal((1, 3, 8, 8), np.float32)}
    if kind == "dynamic":
        shapes = {"x": (3, 12), "s": (3, 6)}
        return {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    if kind == "host":
        return {"x": np.where(rng.random(20) < 0.5, 0, rng.standard_normal(20)).astype(np.float32)}
    x = rng.standard_normal(4).astype(np.float32)
    return {"n": np.array(3), "c": np.array(True), "x": x}


def header_of(data: bytes) -> dict[str, Any]:
    length = HEAD.unpack_from(data)[3]
    return json.loads(data[HEAD.size : HEAD.size + length])


def with_header(data: bytes, header: Any) -> bytes:
    """Return the file with another header, its checksum and the place of the blobs corrected."""
    magic, version, zero, length, _ = HEAD.unpack_from(data)
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-(HEAD.size + len(text)) % 64)
    digest = hashlib.blake2b(text, digest_size=16).digest()
    return HEAD.pack(magic, version, zero, len(text), digest) + text + data[HEAD.size + length :]


def edited(kind: str, edit: Callable[[dict[str, Any]], None]) -> bytes:
    """Return a plan whose header was edited, with a checksum that fits."""
    data = plan_bytes(kind)
    header = header_of(data)
    edit(header)
    return with_header(data, header)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield (container, key) of everything inside JSON data."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(items):
        yield value, key
        if isinstance(inner, dict | list):
            yield from places(inner)
