"""Descriptors and attributes that live while one primitive is being described."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from lamina.backends.cpu.onednn.attributes import (
    Attributes,
    BinaryPostOp,
    DepthwisePostOp,
    EltwisePostOp,
    PReluPostOp,
    SumPostOp,
)
from lamina.backends.cpu.onednn.enums import (
    BINARY,
    DTYPE,
    ELTWISE,
    FPMATH_MODE,
    SCRATCHPAD_USER,
    argument_code,
)
from lamina.backends.cpu.onednn.library import Library
from lamina.backends.cpu.onednn.memory import Dims, Layout, create_descriptor


class Construction:
    """Makes the pieces that a primitive's description needs, and frees them when it ends."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self._temporaries: list[tuple[str, int]] = []

    def __enter__(self) -> Construction:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        while self._temporaries:
            destroy, pointer = self._temporaries.pop()
            self.library.call(destroy, pointer)

    def descriptor(self, layout: Layout | None) -> int | None:
        """Return a temporary memory descriptor, None for an absent operand."""
        if layout is None:
            return None
        pointer = create_descriptor(self.library, layout)
        self._temporaries.append(("memory_desc_destroy", pointer))
        return pointer

    def descriptors(self, layouts: Sequence[Layout]) -> Any:
        """Return a C array of temporary memory descriptors."""
        pointers = [self.descriptor(layout) for layout in layouts]
        return (ctypes.c_void_p * len(pointers))(*pointers)

    def dims(self, values: Sequence[int]) -> Any:
        """Return a C array of sizes."""
        return Dims(*values)

    def attributes(self, attributes: Attributes) -> int:
        """Return temporary primitive attributes; the scratchpad is always the caller's."""
        library = self.library
        pointer = library.create("primitive_attr_create")
        self._temporaries.append(("primitive_attr_destroy", pointer))
        library.call("primitive_attr_set_scratchpad_mode", pointer, SCRATCHPAD_USER)
        if attributes.fpmath_mode != "strict":
            mode = FPMATH_MODE[attributes.fpmath_mode]
            library.call("primitive_attr_set_fpmath_mode", pointer, mode)
        for scale in attributes.scales:
            code = argument_code(scale.argument)
            library.call("primitive_attr_set_scales_mask", pointer, code, scale.mask)
        for zero in attributes.zero_points:
            code = argument_code(zero.argument)
            library.call("primitive_attr_set_zero_points_mask", pointer, code, zero.mask)
        if attributes.post_ops:
            library.call("primitive_attr_set_post_ops", pointer, self._post_ops(attributes))
        return pointer

    def describe(self, name: str, *arguments: Any) -> int:
        """Return a new primitive description, which the caller destroys."""
        return self.library.create(name, *arguments)

    def _post_ops(self, attributes: Attributes) -> int:
        library = self.library
        chain = library.create("post_ops_create")
        self._temporaries.append(("post_ops_destroy", chain))
        for op in attributes.post_ops:
            if isinstance(op, EltwisePostOp):
                kind = ELTWISE[op.algorithm]
                library.call("post_ops_append_eltwise", chain, kind, op.alpha, op.beta)
            elif isinstance(op, SumPostOp):
                dtype = DTYPE[op.dtype] if op.dtype else 0
                library.call("post_ops_append_sum", chain, op.scale, op.zero_point, dtype)
            elif isinstance(op, BinaryPostOp):
                operand = self.descriptor(op.operand)
                library.call("post_ops_append_binary", chain, BINARY[op.algorithm], operand)
            elif isinstance(op, PReluPostOp):
                library.call("post_ops_append_prelu", chain, op.mask)
            else:
                self._append_depthwise(chain, op)
        return chain

    def _append_depthwise(self, chain: int, op: DepthwisePostOp) -> None:
        self.library.call(
            "post_ops_append_dw",
            chain,
            DTYPE[op.weights_dtype],
            DTYPE[op.bias_dtype] if op.bias_dtype else 0,
            DTYPE[op.dst_dtype],
            op.kernel,
            op.stride,
            op.padding,
        )
