"""Softmax and scaled dot-product attention."""

from __future__ import annotations

import numpy as np

from lamina.errors import TypeMismatch
from lamina.ir.dims import Dim, is_static
from lamina.ir.graph import Array, Op, operator
from lamina.ir.types import DType, TensorType
from lamina.ops import check
from lamina.ops.accumulate import narrow, widen


@operator
class Softmax(Op):
    """``exp(x) / sum(exp(x))`` along an axis, or the logarithm of that."""

    axis: int
    log: bool = False

    def infer(self, x: TensorType) -> TensorType:
        """Return the operand's type."""
        check.floating("x", x)
        check.axis_in(self.axis, x)
        return x

    def reference(self, x: Array) -> Array:
        """Subtract the maximum first, so that nothing overflows."""
        wide = widen(x)
        if not wide.size:
            return x
        with np.errstate(all="ignore"):
            shifted = wide - np.max(wide, axis=self.axis, keepdims=True)
            total = np.sum(np.exp(shifted), axis=self.axis, keepdims=True)
            y = shifted - np.log(total) if self.log else np.exp(shifted) / total
        return narrow(y, x.dtype)


@operator
class Attention(Op):
    """``softmax(scale * q @ k^T + mask) @ v`` for every head.

    q is [B, Hq, S, D], k is [B, Hkv, T, D], v is [B, Hkv, T, Dv]; query heads share key heads in
    consecutive groups when Hq is a multiple of Hkv.  The mask broadcasts to [B, Hq, S, T]: bool
    keeps where True, a float mask is added.  With ``causal`` query i sees the keys up to
    ``i + causal_offset`` (the number of keys before the first query).  A ``softcap`` above 0 bounds
    the scores before the mask to ``softcap * tanh(scores / softcap)``.  A query that sees no key
    gives zeros.
    """

    scale: float
    causal: bool = False
    softcap: float = 0.0
    causal_offset: Dim = 0

    def infer(
        self, q: TensorType, k: TensorType, v: TensorType, mask: TensorType | None = None
    ) -> TensorType:
        """Return [B, Hq, S, Dv]."""
        check.floating("q", q)
        for name, operand in (("q", q), ("k", k), ("v", v)):
            check.rank_is(name, operand, 4)
            check.same_dtype(name, operand, "q", q)
            check.same_size(f"the batch of {name}", operand.shape[0], "the batch of q", q.shape[0])
        check.same_size("the head size of k", k.shape[3], "the head size of q", q.shape[3])
        check.same_size("the number of heads of v", v.shape[1], "that of k", k.shape[1])
        check.same_size("the length of v", v.shape[2], "the length of k", k.shape[2])
        heads, shared = q.shape[1], k.shape[1]
        if is_static(heads) and is_static(shared) and int(heads) % int(shared):  # type: ignore[arg-type]
            raise TypeMismatch(f"q has {heads} heads, not a multiple of the {shared} heads of k")
        if mask is not None:
            if mask.dtype is not DType.BOOL:
                check.same_dtype("mask", mask, "q", q)
            check.broadcasts_to("mask", mask, (*q.shape[:3], k.shape[2]))
        return q.with_shape((*q.shape[:3], v.shape[3]))

    def reference(self, q: Array, k: Array, v: Array, mask: Array | None = None) -> Array:
        """Compute all scores, then the softmax, then the weighted sum of the values."""
        group = q.shape[1] // k.shape[1]
        keys, values = (np.repeat(widen(a), group, axis=1) for a in (k, v))
        wide = widen(q)
        with np.errstate(all="ignore"):
            scores = wide @ np.swapaxes(keys, -1, -2) * wide.dtype.type(self.scale)
            if self.softcap > 0:
                scores = self.softcap * np.tanh(scores / wide.dtype.type(self.softcap))
            if mask is not None:
                additive = mask.dtype != np.bool_
                scores = scores + widen(mask) if additive else np.where(mask, scores, -np.inf)
            if self.causal:
                s, t = scores.shape[-2:]
                last = np.arange(s)[:, None] + int(self.causal_offset)  # type: ignore[arg-type]
                scores = np.where(np.arange(t) <= last, scores, -np.inf)
            top = np.max(scores, axis=-1, keepdims=True, initial=-np.inf)
            weights = np.exp(scores - np.where(np.isneginf(top), 0, top))
            total = np.sum(weights, axis=-1, keepdims=True)
            weights = weights / np.where(total == 0, 1, total)
            y = weights.astype(wide.dtype) @ values
        return narrow(y, q.dtype)
