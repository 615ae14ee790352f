"""Functions and layers are found in every spelling that exporters use, and mean the same."""

from __future__ import annotations

import itertools

import pytest

from lamina import ops
from lamina.ir.graph import Graph
from lamina.ir.verify import verify
from lamina.passes.pipeline import default_pipeline
from lamina.passes.specialize import copy
from tests.passes.checking import assert_same, parse


def recognized(graph: Graph) -> dict[str, int]:
    """Optimize without regions, check the meaning, and count operators (activations by kind)."""
    result = copy(graph)
    default_pipeline().without("FuseRegions")(result)
    verify(result)
    assert_same(graph, result)
    counts: dict[str, int] = {}
    for node in result.nodes():
        op = node.op
        name = op.kind.value if isinstance(op, ops.Activation | ops.Unary | ops.Binary) else op.name
        if not isinstance(op, ops.Const):
            counts[name] = counts.get(name, 0) + 1
    return counts


def body(lines: str, *, inputs: str = "%x: f32[b,3,8]") -> Graph:
    return parse(f"graph({inputs}) {{\n{lines}\n return %y\n}}")


HALF = "%h = const() type=f32[] value=0.5\n%o = const() type=f32[] value=1.0\n"
ERF = {
    "division": (
        "%r = const() type=f32[] value=1.4142135623730951\n%a = binary(%x, %r) kind=div\n"
    ),
    "multiplication": (
        "%r = const() type=f32[1] value=(0.70710677,)\n%a = binary(%r, %x) kind=mul\n"
    ),
}
PRODUCTS = (
    "%d = binary(%x, %g) kind=mul\n%y = binary(%d, %h) kind=mul",
    "%d = binary(%x, %h) kind=mul\n%y = binary(%d, %g) kind=mul",
    "%d = binary(%h, %g) kind=mul\n%y = binary(%d, %x) kind=mul",
)


@pytest.mark.parametrize(("inner", "outer"), list(itertools.product(ERF, PRODUCTS)))
def test_gelu(inner: str, outer: str) -> None:
    gate = "%b = unary(%a) kind=erf\n%g = binary(%b, %o) kind=add\n"
    assert recognized(body(HALF + ERF[inner] + gate + outer)) == {"gelu": 1}


CUBES = {
    "pow": "%t = const() type=f32[] value=3.0\n%p = binary(%x, %t) kind=pow\n"
    "%q = binary(%p, %c) kind=mul\n%s = binary(%x, %q) kind=add\n",
    "products": "%p = binary(%x, %x) kind=mul\n%r = binary(%p, %x) kind=mul\n"
    "%q = binary(%c, %r) kind=mul\n%s = binary(%x, %q) kind=add\n",
    "factored": "%p = binary(%c, %x) kind=mul\n%r = binary(%p, %x) kind=mul\n"
    "%q = binary(%r, %o) kind=add\n%s = binary(%x, %q) kind=mul\n",
}


@pytest.mark.parametrize(("cube", "outer"), list(itertools.product(CUBES, PRODUCTS)))
def test_gelu_tanh(cube: str, outer: str) -> None:
    lines = (
        HALF
        + "%c = const() type=f32[] value=0.044715\n%k = const() type=f32[] value=0.79788456\n"
        + CUBES[cube]
        + "%u = binary(%s, %k) kind=mul\n%v = unary(%u) kind=tanh\n"
        + "%g = binary(%v, %o) kind=add\n"
        + outer
    )
    assert recognized(body(lines)) == {"gelu_tanh": 1}


SMALL = {
    "silu": "%a = activation(%x) kind=sigmoid\n%y = binary(%a, %x) kind=mul",
    "hard_swish": """%c = const() type=f32[] value=3.0
        %s = const() type=f32[] value=6.0
        %a = binary(%x, %c) kind=add
        %b = activation(%a) kind=clip alpha=0.0 beta=6.0
        %d = binary(%b, %s) kind=div
        %y = binary(%x, %d) kind=mul""",
    "hard_swish ": """%c = const() type=f32[] value=3.0
        %z = const() type=f32[] value=0.0
        %s = const() type=f32[] value=6.0
        %a = binary(%x, %c) kind=add
        %b = binary(%a, %z) kind=max
        %d = binary(%b, %s) kind=min
        %e = binary(%x, %d) kind=mul
        %y = binary(%e, %s) kind=div""",
    "hard_sigmoid": """%c = const() type=f32[] value=0.5
        %s = const() type=f32[] value=0.2
        %a = binary(%x, %s) kind=mul
        %b = binary(%a, %c) kind=add
        %y = activation(%b) kind=clip alpha=0.0 beta=1.0""",
    "mish": """%o = const() type=f32[] value=1.0
        %a = unary(%x) kind=exp
        %b = binary(%a, %o) kind=add
        %c = unary(%b) kind=log
        %d = unary(%c) kind=tanh
        %y = binary(%x, %d) kind=mul""",
    "sigmoid": """%o = const() type=f32[] value=1.0
        %a = unary(%x) kind=neg
        %b = unary(%a) kind=exp
        %c = binary(%o, %b) kind=add
        %y = binary(%o, %c) kind=div""",
}


@pytest.mark.parametrize("name", SMALL)
def test_activations(name: str) -> None:
    assert recognized(body(SMALL[name])) == {name.strip(): 1}


CENTRED = "%m = reduce(%x) kind=mean axes=(2,)\n%c = binary(%x, %m) kind=sub\n"
SQUARES = {
    "pow": "%t = const() type=f32[] value=2.0\n%s = binary(%c, %t) kind=pow\n",
    "product": "%s = binary(%c, %c) kind=mul\n",
    "twice": "%n = reduce(%x) kind=mean axes=(2,)\n%d = binary(%x, %n) kind=sub\n"
    "%s = binary(%d, %d) kind=mul\n",
}
ROOTS = {
    "sqrt": "%r = unary(%w) kind=sqrt\n%y = binary(%c, %r) kind=div",
    "rsqrt": "%r = unary(%w) kind=rsqrt\n%y = binary(%c, %r) kind=mul",
    "reciprocal": "%q = unary(%w) kind=sqrt\n%r = unary(%q) kind=reciprocal\n"
    "%y = binary(%r, %c) kind=mul",
    "power": "%p = const() type=f32[] value=0.5\n%r = binary(%w, %p) kind=pow\n"
    "%y = binary(%c, %r) kind=div",
}
VARIANCE = """%e = const() type=f32[] value=1e-05
    %v = reduce(%s) kind=mean axes=(2,)
    %w = binary(%v, %e) kind=add
"""
AFFINE = """
    %g = const() type=f32[8] seed=1
    %b = const() type=f32[1,8] seed=2
    %z = binary(%y, %g) kind=mul
    %y = binary(%b, %z) kind=add"""


@pytest.mark.parametrize(("square", "root"), list(itertools.product(SQUARES, ROOTS)))
def test_layer_norm(square: str, root: str) -> None:
    lines = CENTRED + SQUARES[square] + VARIANCE + ROOTS[root]
    assert recognized(body(lines)) == {"layer_norm": 1}
    assert recognized(body(lines + AFFINE)) == {"layer_norm": 1}


@pytest.mark.parametrize("root", ROOTS)
def test_rms_norm(root: str) -> None:
    square = "%t = const() type=f32[] value=2.0\n%s = binary(%x, %t) kind=pow\n"
    lines = square + VARIANCE + ROOTS[root].replace("%c", "%x")
    lines += "\n%g = const() type=f32[8] seed=1\n%y = binary(%g, %y) kind=mul"
    assert recognized(body(lines)) == {"rms_norm": 1}


def test_group_norm_of_a_reshaped_image() -> None:
    graph = body(
        """%o = const() type=f32[4] value=(1.0,1.0,1.0,1.0)
        %z = const() type=f32[4] value=(0.0,0.0,0.0,0.0)
        %a = reshape(%x) shape=(b,4,50)
        %n = instance_norm(%a, %o, %z) epsilon=1e-05
        %c = reshape(%n) shape=(b,8,5,5)
        %s = const() type=f32[8,1,1] seed=1
        %t = const() type=f32[8,1,1] seed=2
        %d = binary(%c, %s) kind=mul
        %y = binary(%d, %t) kind=add""",
        inputs="%x: f32[b,8,5,5]",
    )
    assert recognized(graph) == {"group_norm": 1}


def test_group_norm_of_decomposed_statistics() -> None:
    graph = body(
        """%r = reshape(%x) shape=(b,4,50)
        %m = reduce(%r) kind=mean axes=(2,)
        %c = binary(%r, %m) kind=sub
        %q = binary(%c, %c) kind=mul
        %u = reduce(%q) kind=mean axes=(2,)
        %e = const() type=f32[] value=1e-05
        %w = binary(%u, %e) kind=add
        %z = unary(%w) kind=sqrt
        %n = binary(%c, %z) kind=div
        %d = reshape(%n) shape=(b,8,5,5)
        %s = const() type=f32[1,8,1,1] seed=1
        %y = binary(%d, %s) kind=mul""",
        inputs="%x: f32[b,8,5,5]",
    )
    assert recognized(graph) == {"group_norm": 1}


QKV = "%q: f32[b,2,3,4], %k: f32[b,2,5,4], %v: f32[b,2,5,4]"
SCORES = {
    "scaled": "%t = transpose(%k) perm=(0,1,3,2)\n%s = matmul(%q, %t)\n"
    "%z = binary(%s, %c) kind=mul",
    "divided": "%s = matmul(%q, %k) transpose_b=true\n%z = binary(%s, %c) kind=div",
    "query": "%p = binary(%q, %c) kind=mul\n%z = matmul(%p, %k) transpose_b=true",
    "both": "%p = binary(%q, %c) kind=mul\n%t = transpose(%k) perm=(0,1,3,2)\n"
    "%u = binary(%t, %c) kind=mul\n%z = matmul(%p, %u)",
    "capped": "%s = matmul(%q, %k) transpose_b=true\n%r = binary(%s, %c) kind=div\n"
    "%h = unary(%r) kind=tanh\n%z = binary(%h, %c) kind=mul",
}
MASKS = {
    "none": "%m = binary(%z, %zero) kind=add",
    "added": "%m = binary(%z, %a) kind=add",
    "selected": "%m = select(%keep, %z, %low)",
    "hidden": "%m = select(%keep, %low, %z)",
    "two": "%n = select(%keep, %z, %low)\n%m = binary(%n, %a) kind=add",
}
ENDS = {
    "plain": "%w = softmax(%m) axis=3\n",
    "decomposed": "%f = reduce(%m) kind=max axes=(3,)\n%g = binary(%m, %f) kind=sub\n"
    "%i = unary(%g) kind=exp\n%j = reduce(%i) kind=sum axes=(3,)\n%w = binary(%i, %j) kind=div\n",
}


def attention(scores: str, mask: str, end: str) -> Graph:
    return body(
        "%c = const() type=f32[] value=0.5\n%zero = const() type=f32[] value=0.0\n"
        "%low = const() type=f32[] value=-100000.0\n"
        f"{SCORES[scores]}\n{MASKS[mask]}\n{ENDS[end]}%y = matmul(%w, %v)",
        inputs=f"{QKV}, %a: f32[b,1,1,5], %keep: bool[3,5]",
    )


@pytest.mark.parametrize(("scores", "mask", "end"), list(itertools.product(SCORES, MASKS, ENDS)))
def test_attention(scores: str, mask: str, end: str) -> None:
    counts = recognized(attention(scores, mask, end))
    assert counts.pop("attention") == 1
    assert not set(counts) - {"logical_not", "select"}


def test_attention_guarded_against_nan() -> None:
    graph = body(
        """%s = matmul(%q, %k) transpose_b=true
        %w = softmax(%s) axis=3
        %zero = const() type=f32[] value=0.0
        %n = unary(%w) kind=isnan
        %g = select(%n, %zero, %w)
        %y = matmul(%g, %v)""",
        inputs=QKV,
    )
    assert recognized(graph) == {"attention": 1}


def test_attention_over_flattened_heads() -> None:
    graph = body(
        """%s = matmul(%q, %k) transpose_b=true
        %c = const() type=f32[] value=0.5
        %t = binary(%s, %c) kind=mul
        %w = softmax(%t) axis=2
        %y = matmul(%w, %v)""",
        inputs="%q: f32[6,3,4], %k: f32[6,5,4], %v: f32[6,5,4]",
    )
    counts = recognized(graph)
    assert counts.pop("attention") == 1
    assert set(counts) == {"reshape"}


def test_shared_scores_are_not_attention() -> None:
    graph = parse(f"""graph({QKV}) {{
        %s = matmul(%q, %k) transpose_b=true
        %w = softmax(%s) axis=3
        %y = matmul(%w, %v)
        return %y, %w
    }}""")
    assert recognized(graph) == {"matmul": 2, "softmax": 1}
