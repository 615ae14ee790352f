"""The Triton kernel of ``scaled_add.py``, in a file of its own: a CPU may have no Triton."""

import triton
import triton.language as tl


@triton.jit
def scaled_add_kernel(a, b, y, count, FACTOR: tl.constexpr, BLOCK: tl.constexpr):
    """Compute one block of ``a + FACTOR * b``."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < count
    sum = tl.load(a + i, mask=inside) + FACTOR * tl.load(b + i, mask=inside)
    tl.store(y + i, sum, mask=inside)
