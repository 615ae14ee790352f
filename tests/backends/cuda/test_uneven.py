"""Tiles whose number of columns is no power of two, in Triton's interpreter."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from tests.backends.cuda.contractions import check, compare, node_of, run_candidate
from tests.samples.sample import integers, normal

from lamina.backends.cuda.tactics import uneven
from lamina.backends.cuda.tactics.uneven import TritonUneven
from lamina.backends.cuda.target import TARGETS
from lamina.ir.dims import sym
from lamina.ir.pattern import Reject
from lamina.ops import ActivationKind, Epilogue, Matmul, QuantizedMatmul, Scaling

H200 = TARGETS[90]
GELU = Epilogue(ActivationKind.GELU)


@pytest.fixture
def everywhere(monkeypatch):
    """Offer the tiles even where ordinary ones are as good: small problems run faster in tests."""
    monkeypatch.setattr(uneven, "_WORTH_TRYING", 9.0)


def operands(rows, depth, columns, dtype=np.float16):
    shapes = [(rows, depth), (depth, columns), (columns,), (rows, columns)]
    return [normal(*shape, seed=i, dtype=dtype) for i, shape in enumerate(shapes)]


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
def test_bias_residual_activation(dtype):
    check(TritonUneven(), Matmul(activation=GELU), operands(70, 96, 200, dtype), H200, most=3)


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("columns", [40, 100, 150, 192, 257])
def test_columns_that_end_in_either_part(columns):
    given = operands(66, 32, columns)[:2]
    check(TritonUneven(), Matmul(), given, H200, most=2)


@pytest.mark.usefixtures("everywhere")
def test_depth_split_between_programs():
    given = operands(68, 512, 90)
    check(TritonUneven(), Matmul(activation=GELU), given, H200, most=2, pick="split")


@pytest.mark.usefixtures("everywhere")
def test_rows_that_are_apart():
    given = [normal(2, 35, 32, dtype=np.float16), *operands(1, 32, 100)[1:3]]
    check(TritonUneven(), Matmul(), given, H200, most=1, gap=12)


@pytest.mark.usefixtures("everywhere")
def test_any_number_of_rows():
    env = {"rows": 69}
    given = operands(69, 64, 100)[:3]
    target = replace(H200, env=env)
    shapes = {0: (sym("rows"), 64)}
    check(TritonUneven(), Matmul(), given, target, most=1, env=env, shapes=shapes)
    given = operands(69, 512, 100)[:3]
    shapes = {0: (sym("rows"), 512)}
    check(TritonUneven(), Matmul(), given, target, most=1, pick="split", env=env, shapes=shapes)


def test_offered_where_ordinary_tiles_leave_processors_idle():
    node = node_of(Matmul(activation=GELU), operands(384, 1024, 4096)[:3])
    found = TritonUneven().candidates(node, H200)
    assert isinstance(found, list) and found
    even = node_of(Matmul(), operands(2112, 64, 1024)[:3])
    assert isinstance(TritonUneven().candidates(even, H200), Reject)


def test_declined():
    integer = [
        integers(18, 64, low=-9, high=9, dtype=np.int8),
        integers(64, 96, low=-9, high=9, seed=1, dtype=np.int8),
        np.ones(96, np.float32),
        normal(96, seed=2),
    ]
    node = node_of(QuantizedMatmul(x_scaling=Scaling(0.1)), integer)
    assert "integers" in TritonUneven().candidates(node, H200).reason
    given = operands(64, 32, 96)[:2]
    node = node_of(Matmul(), given, constants=())
    assert "no constant" in TritonUneven().candidates(node, H200).reason


@pytest.mark.usefixtures("everywhere")
def test_a_wide_tile_stored_in_halves():
    given = operands(130, 64, 400)
    node = node_of(Matmul(), given)
    wide = [c for c in TritonUneven().candidates(node, H200) if " 128x1" in c.tactic]
    assert wide
    compare(run_candidate(node, wide[0], given), Matmul().reference(*given), wide[0].tactic)
