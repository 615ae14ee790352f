"""Compares results as the test runner of the onnx package does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

BF16_RTOL = 2**-6
"""What that runner allows for bfloat16: two units in the last place."""


def compare_all(
    actual: Sequence[Any], expected: Sequence[Any], *, rtol: float, atol: float
) -> None:
    """Raise AssertionError unless every result has the expected type, shape and contents."""
    assert len(actual) == len(expected), f"{len(actual)} results, expected {len(expected)}"
    for a, e in zip(actual, expected, strict=True):
        compare(a, e, rtol=rtol, atol=atol)


def compare(actual: Any, expected: Any, *, rtol: float, atol: float) -> None:
    """Compare one result: an array, a list of results, or nothing."""
    if isinstance(expected, list | tuple):
        assert isinstance(actual, list | tuple), f"a sequence is expected, got {type(actual)}"
        compare_all(actual, expected, rtol=rtol, atol=atol)
        return
    if expected is None:
        assert actual is None, f"nothing is expected, got {actual!r}"
        return
    a, e = np.asarray(actual), np.asarray(expected)
    assert a.shape == e.shape, f"shape {a.shape}, expected {e.shape}"
    if e.dtype.kind in "OUST":
        np.testing.assert_array_equal(a.astype(str), e.astype(str))
        return
    assert a.dtype == e.dtype, f"type {a.dtype}, expected {e.dtype}"
    if e.dtype.kind not in "biufc":
        rtol = max(rtol, BF16_RTOL) if e.dtype.name == "bfloat16" else rtol
        a, e = a.astype(np.float32), e.astype(np.float32)
    np.testing.assert_allclose(a, e, rtol=rtol, atol=atol)
