"""A Triton kernel, in a file of its own: where engines run on the CPU there may be no Triton."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def soft_clip_kernel(x, limit_millis, count, y, BLOCK: tl.constexpr):
    """Compute ``limit * tanh(x / limit)`` for the elements of one block."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    limit = limit_millis / 1000.0
    value = tl.load(x + i, mask=i < count, other=0.0).to(tl.float32)
    # tanh(z) = 2 / (1 + exp(-2 z)) - 1
    result = limit * (2.0 / (1.0 + tl.exp(-2.0 * value / limit)) - 1.0)
    tl.store(y + i, result.to(y.dtype.element_ty), mask=i < count)


def compile_soft_clip(element: str, block: int) -> triton.compiler.CompiledKernel:
    """Compile for tensors of ``element`` (``fp32``, ``fp16``), ahead of time.

    The device is the one that the engine is built for.
    """
    signature = {"x": f"*{element}", "limit_millis": "i32", "count": "i32", "y": f"*{element}"}
    source = triton.compiler.ASTSource(
        fn=soft_clip_kernel,
        signature=signature | {"BLOCK": "constexpr"},
        constexprs={"BLOCK": block},
    )
    return triton.compile(source, options={"num_warps": 4})
