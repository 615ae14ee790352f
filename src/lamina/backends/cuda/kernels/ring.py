"""Buffers in shared memory that groups of warps fill and empty in turn."""

from __future__ import annotations

import triton.experimental.gluon.language as gl
from triton.experimental import gluon


@gluon.jit
def following(stage, phase, STAGES: gl.constexpr):
    """Return the stage that follows in a ring, and the parity of its round."""
    stage += 1
    if stage == STAGES:
        stage = 0
        phase ^= 1
    return stage, phase
