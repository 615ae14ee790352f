"""Answer: how far are generated kernels from the time that copying their bytes takes.

    python -m benchmarks.region_kernels_bench [--rounds 25] [--json [FILE]]

Each kernel runs on one thread.  Its floor is ``numpy.copyto`` of arrays that together have as many
bytes as the kernel reads and writes, called in turn with the kernel in the same process.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.primitive_timing import interleaved_ms
from lamina import ops
from lamina.backends.cpu import image
from lamina.codegen.kernels import KernelSource, Reject, copy_kernel, kernel_for
from lamina.codegen.layout import Layout
from lamina.codegen.llvm import link, target
from lamina.codegen.llvm.module import Module
from lamina.ir.graph import Graph, Op, emit, emit_node
from lamina.ir.loc import Loc
from lamina.ir.types import DType, TensorType
from lamina.ops.kinds import ActivationKind, BinaryKind, PoolKind, ReduceKind

RESULTS = pathlib.Path(__file__).parents[1] / "benchmarks/results/region_kernels.json"
_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
_HERE = Loc("bench")
Shape = tuple[int, ...]


class Runnable:
    """A compiled kernel with operands full of normal numbers."""

    def __init__(self, kernel: KernelSource, inputs: list[TensorType], outputs: list[int]) -> None:
        start = time.perf_counter()
        module = Module(target.host_isa())
        names = kernel.emit(module, "kernel")
        linked = link.link([target.compile_module(str(module), module.isa)])
        self.compile_ms = (time.perf_counter() - start) * 1e3
        self.image = image.load_image(linked.code, linked.symbols, linked.externals)
        self.functions = [_FUNCTION(self.image.address(n)) for n in names]
        rng = np.random.default_rng(0)
        self.arrays = [
            rng.integers(0, 100, t.static_shape).astype(t.dtype.numpy)
            if t.dtype.is_integer
            else rng.standard_normal(t.static_shape, np.float32).astype(t.dtype.numpy)
            for t in inputs
        ]
        self.arrays += [np.zeros(n, np.uint8) for n in outputs]
        workspace = kernel.workspace_bytes(1)
        if workspace != 0:
            self.arrays.append(np.zeros(workspace, np.uint8))
        pointers = [a.ctypes.data for a in self.arrays]
        self.args = (ctypes.c_void_p * len(pointers))(*pointers)
        self.nbytes = sum(a.nbytes for a in self.arrays)

    def __call__(self) -> None:
        for function in self.functions:
            function(ctypes.addressof(self.args), 0, 0, 1)


def of_op(op: Op, *shapes: Shape, dtypes: tuple[DType, ...] = ()) -> Runnable:
    """Compile one operator on row-major operands."""
    types = [
        TensorType(d, s) for d, s in zip(dtypes or [DType.F32] * len(shapes), shapes, strict=True)
    ]
    graph = Graph()
    operands = [graph.input(f"x{i}", t) for i, t in enumerate(types)]
    node = emit_node(op, operands, loc=_HERE)
    kernel = kernel_for(node)
    if isinstance(kernel, Reject):
        raise SystemExit(f"{op.name}: {kernel.reason}")
    sizes = [int(np.prod(v.tensor.static_shape)) * v.tensor.dtype.itemsize for v in node.outputs]
    return Runnable(kernel, types, sizes)


def residual_norm(rows: int, columns: int) -> Runnable:
    """Compile residual add + LayerNorm with both results, as one region."""
    body = Graph()
    row = TensorType(DType.F32, (rows, columns))
    scale = TensorType(DType.F32, (columns,))
    x, r, s, b = (body.input(n, t) for n, t in zip("xrsb", (row, row, scale, scale), strict=True))
    total = emit(ops.Binary(kind=BinaryKind.ADD), [x, r], loc=_HERE)
    body.output(emit(ops.LayerNorm(axis=1, epsilon=1e-5), [total, s, b], loc=_HERE))
    body.output(total)
    return of_op(
        ops.Region(body=body, kind="row"), (rows, columns), (rows, columns), (columns,), (columns,)
    )


def reorder(shape: Shape, source: Layout, target_layout: Layout) -> Runnable:
    """Compile a copy between two layouts."""
    kernel = copy_kernel(TensorType(DType.F32, shape), source, target_layout)
    if isinstance(kernel, Reject):
        raise SystemExit(kernel.reason)
    nbytes = 4 * int(target_layout.span(shape))  # type: ignore[arg-type]
    return Runnable(kernel, [TensorType(DType.F32, (nbytes // 4,))], [nbytes])


def cases() -> dict[str, Callable[[], Runnable]]:
    """Return what is measured, by name."""
    image_shape = (1, 64, 56, 56)
    dense, last = Layout.dense(image_shape), Layout.channels_last(image_shape)
    blocked = Layout.blocked(image_shape)
    pool = {"dilations": (1, 1), "pads_begin": (1, 1), "pads_end": (1, 1)}
    return {
        "softmax 12x128x128": lambda: of_op(ops.Softmax(axis=2), (12, 128, 128)),
        "layer norm 128x768": lambda: of_op(
            ops.LayerNorm(axis=1, epsilon=1e-5), (128, 768), (768,), (768,)
        ),
        "add + layer norm 128x768": lambda: residual_norm(128, 768),
        "gelu 128x3072": lambda: of_op(ops.Activation(kind=ActivationKind.GELU), (128, 3072)),
        "add 256x56x56": lambda: of_op(
            ops.Binary(kind=BinaryKind.ADD), (1, 256, 56, 56), (1, 256, 56, 56)
        ),
        "mean 2048x7x7": lambda: of_op(
            ops.Reduce(kind=ReduceKind.MEAN, axes=(2, 3)), (1, 2048, 7, 7)
        ),
        "sum of columns 1024x1024": lambda: of_op(
            ops.Reduce(kind=ReduceKind.SUM, axes=(0,)), (1024, 1024)
        ),
        "max pool 64x112x112": lambda: of_op(
            ops.Pool(kind=PoolKind.MAX, kernel=(3, 3), strides=(2, 2), **pool), (1, 64, 112, 112)
        ),
        "transpose 1024x768": lambda: of_op(ops.Transpose(perm=(1, 0)), (1024, 768)),
        "heads 128x12x64": lambda: of_op(ops.Transpose(perm=(0, 2, 1, 3)), (1, 128, 12, 64)),
        "gather rows 128 of 1000x768": lambda: of_op(
            ops.Gather(axis=0), (1000, 768), (128,), dtypes=(DType.F32, DType.I64)
        ),
        "concat 2x64x56x56": lambda: of_op(ops.Concat(axis=1), image_shape, image_shape),
        "NCHW to NHWC": lambda: reorder(image_shape, dense, last),
        "NHWC to NCHW": lambda: reorder(image_shape, last, dense),
        "NCHW to nChw16c": lambda: reorder(image_shape, dense, blocked),
        "nChw16c to NCHW": lambda: reorder(image_shape, blocked, dense),
    }


def measure(rounds: int) -> list[dict[str, Any]]:
    """Return one row of figures per case."""
    rows = []
    for name, make in cases().items():
        kernel = make()
        half = np.zeros(kernel.nbytes // 2, np.uint8)
        other = np.ones_like(half)
        times = interleaved_ms(
            {"kernel": kernel, "copy": lambda a=half, b=other: np.copyto(a, b)}, rounds
        )
        rows.append(
            {
                "case": name,
                "microseconds": round(times["kernel"] * 1e3, 2),
                "copy_microseconds": round(times["copy"] * 1e3, 2),
                "over_copy": round(times["kernel"] / times["copy"], 2),
                "compile_ms": round(kernel.compile_ms, 1),
            }
        )
    return rows


def main() -> None:
    """Print a table, and write JSON when asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--json", nargs="?", const=str(RESULTS), default=None)
    options = parser.parse_args()
    rows = measure(options.rounds)
    for row in rows:
        print("  ".join(f"{v!s:>28}" if k == "case" else f"{k} {v}" for k, v in row.items()))
    if options.json is not None:
        report = {"machine": machine.describe(), "threads": 1, "rows": rows}
        pathlib.Path(options.json).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
