"""Compiles generated kernels and calls them, every thread's share one after the other."""

from __future__ import annotations

import ctypes

import numpy as np

from lamina.backends.cpu import image
from lamina.codegen.kernels import Reject, kernel_for
from lamina.codegen.llvm import link, target
from lamina.codegen.llvm.module import Module
from lamina.ir.dims import evaluate
from lamina.ir.graph import Graph, emit_node
from lamina.ir.interpret import interpret
from lamina.ir.loc import Loc
from lamina.ir.types import DType, TensorType

ISAS = (target.host_isa(), target.AVX2)
_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)


class Compiled:
    """A kernel in memory that can be called."""

    def __init__(self, kernel, isa=None):
        self.kernel = kernel
        module = Module(isa or target.host_isa())
        names = kernel.emit(module, "kernel")
        assert len(names) == kernel.phases
        self.text = str(module)
        linked = link.link([target.compile_module(self.text, module.isa)])
        self.image = image.load_image(linked.code, linked.symbols, linked.externals)
        self.functions = [_FUNCTION(self.image.address(n)) for n in names]

    def __call__(self, arrays, *, nthreads=2, symbols=None):
        values = [int((symbols or {})[s]) for s in self.kernel.params]
        arrays = list(arrays)
        self.counts = np.full(self.kernel.count_slots, -1, np.int64)
        if self.kernel.count_slots:
            arrays.append(self.counts)
        workspace = int(evaluate(self.kernel.workspace_bytes(nthreads), symbols or {}))
        if workspace:
            arrays.append(np.full(workspace + 64, 0xA5, np.uint8))
        args = (ctypes.c_void_p * max(1, len(arrays)))(*[a.ctypes.data for a in arrays])
        params = (ctypes.c_int64 * max(1, len(values)))(*values)
        for function in self.functions:
            for tid in range(nthreads):
                function(ctypes.addressof(args), ctypes.addressof(params), tid, nthreads)


def type_of(x) -> TensorType:
    return TensorType(DType.of(np.asarray(x).dtype), np.asarray(x).shape)


def node_graph(op, types) -> Graph:
    graph = Graph()
    inputs = [graph.input(f"x{i}", t) for i, t in enumerate(types)]
    for value in emit_node(op, inputs, loc=Loc("test")).outputs:
        graph.output(value)
    return graph


def offsets(shape, layout):
    """Return the element where each index of a shape lies."""
    total = np.full(shape, layout.offset, np.int64)
    for axis, index in enumerate(np.indices(shape, sparse=True)):
        if layout.is_blocked and axis == layout.block_axis:
            total = total + index // layout.block * layout.strides[axis]
            total = total + index % layout.block * layout.lane_stride
        else:
            total = total + index * layout.strides[axis]
    return total


GUARD_BYTES, POISON = 512, 0xA5


class Guarded:
    """Memory of one tensor between guard bytes: poisoned, or ``x`` with zeros as padding.

    It ends where the layout ends, so that any access beyond it hits a guard.
    """

    def __init__(self, shape, dtype, layout, x=None):
        elements = int(layout.span(shape)) if np.prod(shape) else 0
        nbytes = elements * np.dtype(dtype).itemsize
        self.bytes = np.full(nbytes + 2 * GUARD_BYTES, POISON, np.uint8)
        self.tensor = self.bytes[GUARD_BYTES : GUARD_BYTES + nbytes].view(dtype)
        self.where, self.layout = offsets(shape, layout), layout
        self.fill = POISON
        if x is not None:
            self.fill = 0
            self.tensor[...] = 0
            self.tensor[self.where] = x

    def check(self, wanted, tolerance=0):
        """Assert the elements, zeros in the last block's padding, and that nothing else changed."""
        assert_close(self.tensor[self.where], wanted, tolerance)
        untouched = np.ones(self.tensor.size, bool)
        untouched[self.where] = False
        if self.layout.is_blocked:
            padded = list(wanted.shape)
            padded[self.layout.block_axis] += -padded[self.layout.block_axis] % self.layout.block
            padding = np.setdiff1d(offsets(padded, self.layout), self.where)
            assert not self.tensor[padding].any(), "padded lanes must be zero"
            untouched[padding] = False
        gaps = self.tensor[untouched].view(np.uint8)
        assert (gaps == self.fill).all(), "wrote between the elements"
        assert (self.bytes[:GUARD_BYTES] == POISON).all(), "wrote before the tensor"
        assert (self.bytes[-GUARD_BYTES:] == POISON).all(), "wrote behind the tensor"


def assert_close(found, expected, tolerance):
    """Compare with NaN equal to NaN; ``tolerance`` is relative to max(1, |expected|)."""
    assert found.shape == expected.shape
    if expected.dtype.kind in "iub" or found.dtype.kind == "V" and tolerance == 0:
        np.testing.assert_array_equal(found, expected)
        return
    a, b = found.astype(np.float64), expected.astype(np.float64)
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)


def run_node(op, inputs, isa=None, nthreads=3):
    """Return (kernel or Reject, results, expected results) of one operator."""
    graph = node_graph(op, [type_of(x) for x in inputs])
    node = graph.outputs[0].node
    kernel = kernel_for(node)
    if isinstance(kernel, Reject):
        return kernel, None, None
    expected = [np.asarray(y) for y in interpret(graph, [x.copy() for x in inputs])]
    results = [np.empty(y.shape, y.dtype) for y in expected]
    for y in results:
        y.reshape(-1).view(np.uint8)[...] = 0x5A
    symbols = {}
    for value, y in zip(node.outputs, expected, strict=True):
        for d, n in zip(value.tensor.shape, y.shape, strict=True):
            if not isinstance(d, int):
                symbols[str(d)] = n
    held = [np.ascontiguousarray(x) for x in inputs]
    Compiled(kernel, isa)([*held, *results], nthreads=nthreads, symbols=symbols)
    return kernel, results, expected
