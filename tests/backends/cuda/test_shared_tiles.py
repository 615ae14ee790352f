"""Tiles whose depth programs share, as many as the shapes of a run leave idle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.backends.cuda.contractions import check, node_of
from tests.samples.sample import normal

from lamina.backends.cuda.tactics import product
from lamina.backends.cuda.tactics.convolution import TritonConvolution
from lamina.backends.cuda.tactics.matmul import TritonMatmul
from lamina.backends.cuda.target import TARGETS
from lamina.backends.cuda.triton_compile import compile_request
from lamina.codegen.layout import Layout
from lamina.ir.dims import evaluate, sym
from lamina.ops import ActivationKind, Convolution, Epilogue, Matmul
from lamina.tactics.candidate import Placement
from lamina.tactics.form import Form, layout

LIKELY = {"rows": 16, "n": 1}
H200 = replace(TARGETS[90], env=LIKELY)
RELU = Epilogue(ActivationKind.RELU)
ROWS = sym("rows")


def numbers(rows, depth=512, columns=48):
    return [
        normal(*shape, seed=i, dtype=np.float16)
        for i, shape in enumerate([(rows, depth), (depth, columns), (columns,)])
    ]


def split_launch(node, tactic, target=H200):
    """Return the launch of the first candidate whose depth is split."""
    candidate = next(c for c in tactic.candidates(node, target) if "split" in c.tactic)
    forms = [f or Form.PLAIN for f in candidate.reads]
    operands = tuple(layout(v.tensor, f) for v, f in zip(node.inputs, forms, strict=True))
    result: Layout = layout(node.output.tensor, candidate.writes[0])
    draft = candidate.draft(Placement(operands, (result,), ""))
    return draft, draft.launches[0]


@pytest.mark.parametrize("rows", [5, 40, 100])
@pytest.mark.parametrize("most", [320, 8, 1])
def test_products_of_any_number_of_rows(rows, most, monkeypatch):
    """With room for few shares, many rows leave each tile to one program."""
    monkeypatch.setattr(product, "_MOST_SHARES", most)
    given = numbers(rows)
    shapes = {0: (ROWS, 512)}
    env = {"rows": rows}
    check(
        TritonMatmul(), Matmul(activation=RELU), given, H200,
        most=2, pick="split", shapes=shapes, env=env,
    )  # fmt: skip


@pytest.mark.parametrize("most", [320, 6])
def test_convolutions_of_any_number_of_images(most, monkeypatch):
    monkeypatch.setattr(product, "_MOST_SHARES", most)
    x, w = normal(3, 128, 5, 5, dtype=np.float16), normal(32, 128, 3, 3, seed=1, dtype=np.float16)
    op = Convolution(strides=(1, 1), dilations=(1, 1), pads_begin=(1, 1), pads_end=(1, 1), groups=1)
    shapes = {0: (sym("n"), 128, 5, 5)}
    check(
        TritonConvolution(), op, [x, w], H200,
        most=1, pick="split", shapes=shapes, env={"n": 3}, gap=8,
    )  # fmt: skip


def test_memory_for_shares_is_bounded():
    node = node_of(Matmul(), numbers(4), shapes={0: (ROWS, 512)})
    draft, launch = split_launch(node, TritonMatmul())
    assert evaluate(draft.workspace_bytes, {}) <= 320 * 128 * 128 * 4
    grids = [[evaluate(n, {"rows": rows}) for n in launch.grid] for rows in (0, 1, 1000, 1 << 20)]
    assert grids[0][0] == 0 and grids[1][1] > 1 and grids[3][1] == 1
    assert all(x * y <= 320 or y == 1 for x, y, _ in grids)


@pytest.mark.parametrize("arch", [75, 80, 90, 100])
def test_compiles(arch):
    node = node_of(Matmul(), numbers(4), shapes={0: (ROWS, 512)})
    _, launch = split_launch(node, TritonMatmul(), replace(TARGETS[arch], env=LIKELY))
    assert dict(launch.kernel.constants)["SPLIT"] == 0
    assert compile_request(launch.kernel, arch).cubin
