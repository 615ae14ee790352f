"""f16 as the type in which weights are stored.

Few CPUs have f16 arithmetic, so the weights of contractions are rounded to numbers that f16 holds,
kept in that form in the plan and widened once, when it is loaded.  Everything is computed in f32.
Weights beyond the range of f16 stay as they are, and so do those that a kernel transforms
(Winograd).
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from lamina import ops
from lamina.ir.graph import Array, Value
from lamina.ir.rewrite import Match, Rewrite, match
from lamina.ir.threads import cast
from lamina.ir.types import DType
from lamina.passes.constants import array_of
from lamina.passes.contractions import CONTRACTIONS


def _weight(v: Value) -> Array | None:
    """Return the constant f32 weights of a contraction that f16 can hold, or None."""
    assert v.node is not None
    a = array_of(v.node.inputs[1])
    if a is None or a.dtype != np.float32 or not a.size:
        return None
    return a if np.abs(a).max() <= np.finfo(np.float16).max else None


class _WeightRewrite(Rewrite):
    """A rule that leaves the weights of some source nodes, ``kept``, as they are."""

    def __init__(self, kept: Collection[str] = ()) -> None:
        super().__init__()
        self.kept = kept

    def is_kept(self, m: Match) -> bool:
        """Whether the contraction is to stay f32."""
        return m.node(self.pattern).loc.comes_from(self.kept)


class StoreWeightsAsHalves(_WeightRewrite):
    """The weights of a contraction are stored as f16.

    Before::

        graph(%x: f32[2,8]) {
          %w = const() type=f32[8,4] seed=1
          %y = matmul(%x, %w)
          return %y
        }

    After::

        graph(%x: f32[2,8]) {
          %a = const() type=f16[8,4]
          %w = cast(%a) dtype=f32
          %y = matmul(%x, %w)
          return %y
        }
    """

    pattern = match(CONTRACTIONS)

    def check(self, m: Match) -> bool:
        """Require constant f32 weights."""
        return not self.is_kept(m) and _weight(m[self.pattern]) is not None

    def replace(self, m: Match) -> Value:
        """Round the weights."""
        node, a = m.node(self.pattern), _weight(m[self.pattern])
        assert a is not None
        x, w, *rest = node.inputs
        assert isinstance(w.op, ops.Const)
        half = m.emit(ops.Const.of(cast(a, np.float16), w.op.weight.name))
        return m.emit(node.op, x, m.emit(ops.Cast(dtype=DType.F32), half), *rest)


class RoundWeightsToHalves(_WeightRewrite):
    """Folded weights are rounded to numbers that f16 holds, so that the plan can store them so.

    Before::

        graph(%x: f32[2,2]) {
          %w = const() type=f32[2,1] value=((1.0001),(2.0))
          %y = matmul(%x, %w)
          return %y
        }

    After::

        graph(%x: f32[2,2]) {
          %w = const() type=f32[2,1]
          %y = matmul(%x, %w)
          return %y
        }
    """

    pattern = match(CONTRACTIONS)

    def check(self, m: Match) -> bool:
        """Require constant f32 weights that rounding changes."""
        a = None if self.is_kept(m) else _weight(m[self.pattern])
        return a is not None and not bool((a.astype(np.float16).astype(np.float32) == a).all())

    def replace(self, m: Match) -> Value:
        """Round the weights."""
        node, a = m.node(self.pattern), _weight(m[self.pattern])
        assert a is not None
        x, _, *rest = node.inputs
        rounded = ops.Const.of(a.astype(np.float16).astype(np.float32))
        return m.emit(node.op, x, m.emit(rounded), *rest)
