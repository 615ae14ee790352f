"""Rows that nothing reads: what is computed without them, and what is left alone."""

from __future__ import annotations

import pytest

from lamina.ops import Slice
from lamina.passes.unread_rows import DropUnreadRows
from tests.passes.checking import assert_same, parse

BLOCK = """graph(%x: f32[2,6,8], %m: f32[6,1]) {
  %w = const() type=f32[8,16] seed=1
  %b = const() type=f32[16] seed=2
  %v = const() type=f32[8,16] seed=3
  %s = const() type=f32[8] seed=4
  %p = const() type=f32[6,8] seed=5
  %n = layer_norm(%x, %s) axis=2 epsilon=1e-05
  %h = matmul(%n, %w, %b) activation={gelu,0.0,0.0}
  %i = matmul(%h, %v) transpose_b=true
  %k = binary(%i, %p) kind=add
  %a = binary(%k, %m) kind=mul
  %r = binary(%a, %x) kind=add
  %o = rms_norm(%r, %s) axis=2 epsilon=1e-05
  %y = slice(%o) starts=(0,4,0) sizes=(2,1,8) steps=(1,1,1)
  return %y
}"""


def slices(graph):
    return [n for n in graph.nodes() if isinstance(n.op, Slice)]


def test_a_block_of_which_one_row_is_read():
    before, graph = parse(BLOCK), parse(BLOCK)
    assert DropUnreadRows()(graph) == 1
    assert_same(before, graph)
    assert {str(n.inputs[0].type) for n in slices(graph)} == {"f32[2,6,8]", "f32[6,1]", "f32[6,8]"}
    assert len(slices(graph)) == 3  # the rows are cut once for the norm and the sum
    assert DropUnreadRows()(graph) == 0


def test_several_rows_in_steps():
    text = BLOCK.replace(
        "starts=(0,4,0) sizes=(2,1,8) steps=(1,1,1)", "starts=(0,5,0) sizes=(2,3,8) steps=(1,-2,1)"
    )
    before, graph = parse(text), parse(text)
    assert DropUnreadRows()(graph) == 1
    assert_same(before, graph)


@pytest.mark.parametrize(
    "old, new",
    [
        ("return %y", "return %y, %r"),  # all rows are a result
        ("starts=(0,4,0) sizes=(2,1,8)", "starts=(0,0,4) sizes=(2,6,2)"),  # columns
        ("starts=(0,4,0) sizes=(2,1,8)", "starts=(0,1,0) sizes=(2,4,8)"),  # most of the rows
        ("starts=(0,4,0) sizes=(2,1,8)", "starts=(0,4,0) sizes=(1,1,8)"),  # along two axes
        ("%o = rms_norm(%r, %s) axis=2", "%o = rms_norm(%r) axis=1"),  # rows are not alone
    ],
)
def test_rows_that_are_read(old, new):
    text = BLOCK.replace(old, new)
    assert text != BLOCK
    assert DropUnreadRows()(parse(text)) == 0


def test_without_a_product_slices_stay():
    text = """graph(%x: f32[2,6,8]) {
      %a = activation(%x) kind=relu
      %y = slice(%a) starts=(0,4,0) sizes=(2,1,8) steps=(1,1,1)
      return %y
    }"""
    assert DropUnreadRows()(parse(text)) == 0


def test_the_rows_of_a_product_are_those_of_its_first_operand():
    text = """graph(%x: f32[6,8], %z: f32[8,6]) {
      %w = const() type=f32[8,6] seed=1
      %a = matmul(%x, %w)
      %t = matmul(%x, %z)
      %u = matmul(%t, %a)
      %y = slice(%u) starts=(1,0) sizes=(2,6) steps=(1,1)
      return %y
    }"""
    before, graph = parse(text), parse(text)
    assert DropUnreadRows()(graph) == 1
    assert_same(before, graph)
    types = [str(n.output.type) for n in graph.nodes() if str(n.op).startswith("matmul")]
    assert sorted(types) == ["f32[2,6]", "f32[2,6]", "f32[6,6]"]


def test_any_number_of_sequences():
    text = BLOCK.replace("f32[2,6,8]", "f32[b,6,8]").replace("sizes=(2,1,8)", "sizes=(b,1,8)")
    before, graph = parse(text), parse(text)
    assert DropUnreadRows()(graph) == 1
    assert_same(before, graph)
