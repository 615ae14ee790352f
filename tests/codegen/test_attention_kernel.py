"""The fused attention kernel against the operator's reference, over shapes, masks and layouts."""

from __future__ import annotations

import numpy as np
import pytest
from tests.codegen.running import ISAS, Compiled, assert_close, offsets, run_node

from lamina import ops
from lamina.codegen.kernels import Reject, kernel_for
from lamina.codegen.layout import Layout
from lamina.ir.dims import sym
from lamina.ir.graph import Graph, emit_node
from lamina.ir.interpret import interpret
from lamina.ir.loc import Loc
from lamina.ir.types import DType, TensorType


def operands(q, heads, keys, columns, dtype=np.float32):
    rng = np.random.default_rng(0)
    batch, _, _, depth = q
    shapes = [q, (batch, heads, keys, depth), (batch, heads, keys, columns)]
    return [rng.standard_normal(s).astype(dtype) for s in shapes]


CASES = {
    "encoder": (dict(), operands((1, 4, 32, 64), 4, 32, 64), None),
    "odd sizes": (dict(), operands((2, 3, 13, 20), 3, 29, 37), None),
    "one query": (dict(), operands((1, 8, 1, 16), 2, 70, 16), None),
    "few heads": (dict(), operands((1, 1, 40, 32), 1, 40, 32), None),
    "causal": (dict(causal=True), operands((1, 2, 21, 24), 2, 50, 24), None),
    "causal behind a cache": (
        dict(causal=True, causal_offset=29), operands((1, 2, 21, 24), 2, 50, 24), None,
    ),
    "softcap": (dict(softcap=3.0), operands((1, 2, 8, 16), 2, 19, 16), None),
    "key mask": (dict(), operands((2, 2, 9, 16), 2, 33, 16), (2, 1, 1, 33)),
    "full mask": (dict(causal=True), operands((2, 2, 9, 16), 2, 33, 16), (9, 33)),
}  # fmt: skip


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
@pytest.mark.parametrize("name", CASES)
def test_attention(name, isa):
    attributes, inputs, mask = CASES[name]
    op = ops.Attention(scale=0.25, **attributes)
    rng = np.random.default_rng(1)
    masks = [None]
    if mask is not None:
        masks = [rng.standard_normal(mask).astype(np.float32), rng.integers(0, 2, mask) > 0]
    for m in masks:
        kernel, (found,), (wanted,) = run_node(op, inputs if m is None else [*inputs, m], isa)
        assert not isinstance(kernel, Reject)
        assert_close(found, wanted, 5e-6)


@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16])
def test_halves(dtype):
    inputs = operands((1, 2, 12, 24), 2, 30, 24, dtype.numpy)
    _, (found,), (wanted,) = run_node(ops.Attention(scale=0.2), inputs)
    assert_close(found, wanted, 1e-2 if dtype is DType.BF16 else 2e-3)


def test_heads_may_be_views_of_one_projection():
    """q, k, v and y as [B, H, S, D] views of [B, S, H, D] memory need no transposed copies."""
    shape = (2, 3, 18, 32)
    layout = Layout.ordered(shape, (0, 2, 1, 3))
    graph = Graph()
    values = [graph.input(n, TensorType(DType.F32, shape)) for n in "qkv"]
    node = emit_node(ops.Attention(scale=0.2), values, loc=Loc("test"))
    graph.output(node.output)
    kernel = kernel_for(node, [layout] * 3, [layout])
    assert not isinstance(kernel, Reject), kernel.reason
    rng = np.random.default_rng(0)
    flat = [rng.standard_normal(2 * 3 * 18 * 32).astype(np.float32) for _ in range(3)]
    where = offsets(shape, layout)
    (wanted,) = interpret(graph, [x[where] for x in flat])
    found = np.zeros_like(flat[0])
    Compiled(kernel)([*flat, found], nthreads=2)
    assert_close(found[where], wanted, 5e-6)


def test_symbolic_sequence_lengths():
    shape = (sym("b"), 2, sym("s"), 16)
    graph = Graph()
    values = [graph.input(n, TensorType(DType.F32, shape)) for n in "qkv"]
    node = emit_node(ops.Attention(scale=0.3, causal=True), values, loc=Loc("test"))
    graph.output(node.output)
    kernel = kernel_for(node)
    assert not isinstance(kernel, Reject), kernel.reason
    compiled = Compiled(kernel)
    rng = np.random.default_rng(0)
    for b, s in [(1, 1), (2, 5), (1, 40)]:
        inputs = [rng.standard_normal((b, 2, s, 16)).astype(np.float32) for _ in range(3)]
        (wanted,) = interpret(graph, inputs)
        found = np.zeros_like(wanted)
        compiled([*inputs, found], symbols={"b": b, "s": s})
        assert_close(found, wanted, 5e-6)


def test_a_row_that_sees_nothing_is_zero():
    inputs = operands((1, 1, 8, 16), 1, 20, 16)
    mask = np.zeros((8, 20), bool)
    mask[3] = True
    _, (found,), (wanted,) = run_node(ops.Attention(scale=1.0), [*inputs, mask])
    assert_close(found, wanted, 5e-6)
    assert (found[0, 0, 0] == 0).all()
