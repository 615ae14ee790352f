"""Attention with a head's keys in shared memory: its meaning, what it declines, its code."""

from __future__ import annotations

import pytest
from tests.backends.cuda.test_attention import check, drafts

from lamina import ops
from lamina.backends.cuda.kernels.attention_hopper import blocks
from lamina.backends.cuda.tactics.attention_hopper import HopperAttention, widths_of
from lamina.backends.cuda.target import TARGETS
from lamina.backends.cuda.triton_compile import compile_request
from lamina.ir.text import parse_graph


def graph(dtype, rows, keys, head, heads=(2, 1), options=""):
    q, k = (f"{dtype}[1,{h},{n},{head}]" for h, n in zip(heads, (rows, keys), strict=True))
    return (
        f"graph(%q: {q}, %k: {k}, %v: {k}) {{\n"
        f"  %y = attention(%q, %k, %v) scale=0.3 {options}\n  return %y\n}}"
    )


def offered(text, arch=90):
    parsed = parse_graph(text, ops.BY_NAME)
    return HopperAttention().candidates(parsed.outputs[0].node, TARGETS[arch])


@pytest.mark.parametrize(
    "dtype, rows, keys, head",
    [
        ("f16", 90, 197, 32),  # blocks of three widths, a tile that is not full
        ("bf16", 70, 40, 32),  # last rows in a small tile
        ("f16", 72, 256, 32),  # blocks of one width
        ("f16", 10, 130, 16),  # fewer rows than a tile has
        ("f16", 140, 77, 24),  # heads of no power of two
    ],
)
def test_every_configuration(dtype, rows, keys, head):
    check(graph(dtype, rows, keys, head), configs=("64x",), tactic=HopperAttention)


@pytest.mark.parametrize("mask", ["f16[70,40]", "f16[2,1,1,40]", "bool[2,2,70,40]", "bool[70,1]"])
def test_masks(mask):
    check(
        "graph(%q: f16[2,2,70,16], %k: f16[2,2,40,16], %v: f16[2,2,40,16], "
        f"%m: {mask}) {{\n  %y = attention(%q, %k, %v, %m) scale=0.25\n  return %y\n}}",
        configs=("64x",),
        tactic=HopperAttention,
    )


def test_symbolic_rows_take_several_programs():
    check(
        "graph(%q: f16[1,2,s,16], %k: f16[1,2,40,16], %v: f16[1,2,40,16]) {\n"
        "  %y = attention(%q, %k, %v) scale=0.3\n  return %y\n}",
        configs=("64x",),
        env={"s": 530},
        tactic=HopperAttention,
    )


def test_blocks_hold_the_keys_with_little_left_over():
    assert widths_of(197, 128) == (128, 64, 16)
    for width in (64, 128):
        for keys in range(1, 400):
            widths = widths_of(keys, width)
            assert tuple(blocks(keys, width)) == widths
            assert keys <= sum(widths) < max(17, 1.35 * keys + 16)
            assert sum(widths[:-1]) < keys


@pytest.mark.parametrize(
    "text, why",
    [
        (graph("f32", 64, 64, 64), "f16"),
        (graph("f16", 64, 64, 64, options="causal=true"), "causal"),
        (graph("f16", 64, 64, 64, options="softcap=2.0"), "bounded"),
        (graph("f16", 64, 64, 20), "16 bytes"),
        (graph("f16", 64, 4096, 64), "shared memory"),
        (graph("f16", 64, "t", 64), "keys"),
    ],
)
def test_declined(text, why):
    assert why in offered(text).reason


@pytest.mark.parametrize("arch", sorted(set(TARGETS) - {90}))
def test_other_architectures(arch):
    assert "9.0" in offered(graph("f16", 64, 64, 64), arch).reason


def test_compiles():
    text = graph("f16", 197, 197, 64, (12, 12))
    wanted = ("64x128", "64x64 ahead whole")
    _, found = drafts(
        parse_graph(text, ops.BY_NAME),
        pick=lambda c: c.tactic.endswith(wanted),
        tactic=HopperAttention,
    )
    assert len(found) == len(wanted)
    for _, draft in found:
        code = compile_request(draft.launches[0].kernel, 90)
        assert 0 < code.shared_bytes <= TARGETS[90].shared_bytes
