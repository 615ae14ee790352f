"""Products whose results go through the copy engine: meaning, code of Hopper, what is declined."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from tests.backends.cuda.contractions import check, node_of
from tests.backends.cuda.test_contractions_compile import assembly
from tests.samples.sample import normal

from lamina.backends.cuda.tactics.boxed import TritonMatmulBoxed
from lamina.backends.cuda.target import TARGETS
from lamina.backends.cuda.triton_compile import compile_request
from lamina.codegen.layout import Layout
from lamina.errors import BuildError
from lamina.ops import ActivationKind, Epilogue, Matmul
from lamina.tactics.candidate import Placement

H200 = TARGETS[90]
GELU = Epilogue(ActivationKind.GELU)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("operands", [2, 3, 4])
def test_bias_residual_activation(dtype, operands):
    shapes = [(150, 80), (80, 264), (264,), (150, 264)]
    given = [normal(*s, seed=i, dtype=dtype) for i, s in enumerate(shapes)][:operands]
    for pick in ("128x128x64 w4", "128x256x64 w8 s3", "64x64"):
        check(TritonMatmulBoxed(), Matmul(activation=GELU), given, H200, pick=pick, most=1)


def test_a_part_of_wider_rows():
    given = [normal(70, 64, dtype=np.float16), normal(64, 72, seed=1, dtype=np.float16)]
    check(TritonMatmulBoxed(), Matmul(), given, H200, pick="64x64", most=1, gap=8)
    with pytest.raises(BuildError, match="16 bytes"):
        check(TritonMatmulBoxed(), Matmul(), given, H200, pick="64x64", most=1, gap=3)


def test_tf32():
    # Numbers of 11 bits, which TF32 keeps.
    given = [normal(s, t, seed=s).astype(np.float16).astype("f") for s, t in ((70, 64), (64, 72))]
    check(TritonMatmulBoxed(), Matmul(), given, replace(H200, tf32=True), pick="64x64", most=1)


@pytest.mark.parametrize("arch", [90, 100])
@pytest.mark.parametrize("operands", [2, 4])
def test_compiles_without_spilling(arch, operands, tmp_path):
    shapes = [(12608, 768), (768, 3072), (3072,), (12608, 3072)]
    given = [np.zeros(s, np.float16) for s in shapes][:operands]
    node = node_of(Matmul(activation=GELU), given)
    dense = Placement(
        tuple(Layout.dense(v.tensor.shape) for v in node.inputs),
        (Layout.dense(node.output.tensor.shape),),
        "",
    )
    found = TritonMatmulBoxed().candidates(node, TARGETS[arch])
    for c in [c for c in found if "128x" in c.tactic] if arch == 90 else found[:1]:
        (launch,) = c.draft(dense).launches
        code = compile_request(launch.kernel, arch)
        # All three operands come with their launch: nothing is written before the first copy.
        assert not code.scratch_bytes and len(code.boxes) == 3
        resident = int(c.tactic[-1])
        assert (code.shared_bytes + 1024) * resident <= TARGETS[arch].shared_bytes + 1024, c.tactic
        if arch == 90:
            registers, stack, text = assembly(code, tmp_path)
            assert stack == 0, f"{c.tactic} spills registers"
            assert registers * launch.kernel.warps * 32 * resident <= 65536, c.tactic
            assert "HGMMA" in text and "UTMASTG" in text


@pytest.mark.parametrize(
    "arch, shapes, why",
    [
        (80, [(64, 64), (64, 64)], "no copy engine"),
        (90, [(64, 64), (64, 63)], "result"),
        (90, [(2, 64, 64), (2, 64, 64)], "no constant matrix"),
    ],
)
def test_declined(arch, shapes, why):
    given = [np.zeros(s, np.float16) for s in shapes]
    constants = (1,) if len(shapes[1]) == 2 else ()
    found = TritonMatmulBoxed().candidates(node_of(Matmul(), given, constants), TARGETS[arch])
    assert why in found.reason
