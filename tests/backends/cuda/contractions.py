"""Runs candidates of contractions in the interpreter and compares them with their meaning."""

from __future__ import annotations

import numpy as np
from tests.backends.cuda.interpreter import run

from lamina.codegen.layout import Layout
from lamina.ir.dims import evaluate, product
from lamina.ir.graph import Graph, emit, emit_node
from lamina.ir.loc import Loc
from lamina.ir.types import DType, TensorType
from lamina.ops import Const
from lamina.tactics.candidate import Placement
from lamina.tactics.form import Form, layout

HERE = Loc("test")
TOLERANCE = {"f32": 2e-5, "f16": 4e-3, "bf16": 3e-2, "f64": 1e-12}
"""Relative to the largest result: the interpreter sums in another order than NumPy."""


def node_of(op, given, constants=(1, 2, 3, 4), shapes=None):
    """Return the node of an operator on arrays; ``shapes`` replaces shapes by symbolic ones."""
    graph = Graph()
    values = []
    for i, array in enumerate(given):
        if i in constants and not (i == len(given) - 1 and i >= 3 and array.ndim > 1):
            values.append(emit(Const.of(array), (), loc=HERE))
            continue
        shape = (shapes or {}).get(i, array.shape)
        values.append(graph.input(f"x{i}", TensorType(DType.of(array.dtype), shape)))
    return emit_node(op, values, loc=HERE)


def laid_out(array, form):
    """Return the array whose memory has a form."""
    if form == Form.CHANNELS_LAST:
        return np.ascontiguousarray(np.moveaxis(array, 1, -1))
    return np.ascontiguousarray(array)


def run_candidate(node, candidate, given, env=None, gap=0):
    """Return the result; with ``gap`` each pixel or row of it is followed by that many others."""
    y = node.output.tensor.substitute(env or {})
    form = candidate.writes[0]
    forms = [f or Form.PLAIN for f in candidate.reads]
    operands = tuple(layout(v.tensor, f) for v, f in zip(node.inputs, forms, strict=True))
    result = layout(node.output.tensor, form)
    shape = list(y.static_shape)
    inner = 1 if form == Form.CHANNELS_LAST else y.rank - 1
    if gap:
        shape[inner] += gap
        wide = layout(TensorType(y.dtype, tuple(shape)), form)
        result = Layout(wide.strides, 0)
    whole = np.full(shape, 77, y.dtype.numpy)
    memory = laid_out(whole, form)
    arrays = [laid_out(a, f) for a, f in zip(given, forms, strict=True)]
    run(candidate.draft(Placement(operands, (result,), "")), arrays, [memory], env)
    got = np.moveaxis(memory, -1, 1) if form == Form.CHANNELS_LAST else memory
    size = y.static_shape[inner]
    assert (np.take(got, range(size, size + gap), inner) == 77).all(), "wrote into its neighbour"
    return np.take(got, range(size), inner)


def programs(node, candidate, env=None):
    """Return how many programs a candidate has: the interpreter's time grows with them."""
    forms = [f or Form.PLAIN for f in candidate.reads]
    operands = tuple(layout(v.tensor, f) for v, f in zip(node.inputs, forms, strict=True))
    result = layout(node.output.tensor, candidate.writes[0])
    draft = candidate.draft(Placement(operands, (result,), ""))
    sizes = [evaluate(product(launch.grid), env or {}) for launch in draft.launches]
    return sum(sizes)


def check(tactic, op, given, target, most=2, pick="", **how):
    """Run candidates (``most`` of those whose name has ``pick``) against the meaning."""
    node = node_of(op, given, **{k: how.pop(k) for k in ("constants", "shapes") if k in how})
    offered = tactic.candidates(node, target)
    assert isinstance(offered, list), offered
    assert len({(c.tactic, c.reads) for c in offered}) == len(offered), "names must be unique"
    matching = [c for c in offered if pick in c.tactic]
    chosen = sorted(matching, key=lambda c: programs(node, c, how.get("env")))[:most]
    assert chosen, [c.tactic for c in offered]
    wanted = op.reference(*given)
    for candidate in chosen:
        got = run_candidate(node, candidate, given, **how)
        assert got.dtype == wanted.dtype
        compare(got, wanted, candidate.tactic)
    return chosen


def compare(got, wanted, name):
    """Assert that results agree as well as their type allows."""
    dtype = DType.of(wanted.dtype)
    if dtype in (DType.I8, DType.U8):
        steps = np.abs(got.astype(int) - wanted.astype(int))
        # Factors and bias may be fused to one rounding, so that ties fall to the other side.
        assert steps.max() <= 1 and (steps > 0).mean() < 0.01, name
        assert len(np.unique(wanted)) > 5, "the scale leaves too little to compare"
        return
    if not dtype.is_float:
        np.testing.assert_array_equal(got, wanted, err_msg=name)
        return
    wide = np.float64 if dtype is DType.F64 else np.float32
    error = np.abs(got.astype(wide) - wanted.astype(wide)).max()
    assert error <= TOLERANCE[dtype.value] * np.abs(wanted.astype(wide)).max(), (name, error)
