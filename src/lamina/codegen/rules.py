"""All loop-nest rules, one per operator."""

from __future__ import annotations

from lamina.codegen import (
    rules_elementwise,
    rules_gather,
    rules_move,
    rules_quantize,
    rules_random,
    rules_reduce,
    rules_resize,
    rules_roi,
    rules_sampling,
    rules_window,
)
from lamina.codegen.lowering import Rule
from lamina.ir.graph import Op

RULES: dict[type[Op], Rule] = {
    **rules_elementwise.RULES,
    **rules_reduce.RULES,
    **rules_move.RULES,
    **rules_gather.RULES,
    **rules_window.RULES,
    **rules_quantize.RULES,
    **rules_resize.RULES,
    **rules_roi.RULES,
    **rules_sampling.RULES,
    **rules_random.RULES,
}
"""What :func:`lamina.codegen.kernels.kernel_for` can lower to loop nests, alone or in regions."""
