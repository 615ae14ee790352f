"""Ranges and triangles."""

from __future__ import annotations

import pytest

from lamina import ops
from lamina.errors import TypeMismatch
from lamina.ir.dims import sym
from lamina.ir.text import parse_type


def test_types():
    n = sym("n")
    scalar = parse_type("i64[]")
    assert str(ops.Range(length=n).infer(scalar, scalar)) == "i64[n]"
    with pytest.raises(TypeMismatch, match="start is i64 but delta is f32"):
        ops.Range(length=n).infer(scalar, parse_type("f32[]"))
    with pytest.raises(TypeMismatch, match="at least 2"):
        ops.Trilu().infer(parse_type("f32[3]"))
