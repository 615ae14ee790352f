"""Products whose warps have different tasks: meaning, code of Hopper, what is declined.

The interpreter shows barriers and coordinates; layouts and the order of memory show on a GPU only.
"""

from __future__ import annotations

import re
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from tests.backends.cuda.contractions import check, node_of
from tests.backends.cuda.sections import on_device
from tests.backends.cuda.test_contractions_compile import assembly
from tests.samples.sample import normal

import lamina
from lamina import ops
from lamina.backends.cuda import bindings
from lamina.backends.cuda import compiler as compiler_of_cuda
from lamina.backends.cuda.tactics import specialized
from lamina.backends.cuda.tactics.generated import Generated
from lamina.backends.cuda.tactics.specialized import TritonMatmulSpecialized
from lamina.backends.cuda.target import TARGETS
from lamina.backends.cuda.triton_compile import compile_request
from lamina.codegen.layout import Layout
from lamina.errors import BuildError, DeviceError
from lamina.ir.interpret import interpret
from lamina.ir.text import parse_graph
from lamina.ops import ActivationKind, Epilogue, Matmul
from lamina.tactics.candidate import Placement

GELU = Epilogue(ActivationKind.GELU)
SHAPES = ((3001, 520), (520, 1032), (1032,), (3001, 1032))
TOLERANCE = {"f16": 1e-3, "bf16": 8e-3}
"""Relative to the norm of the result: sums are rounded before they are finished, and after."""
REGISTERS = 65536


def candidates(dtype, operands, activation=GELU):
    given = [np.zeros(s, dtype) for s in SHAPES][:operands]
    node = node_of(Matmul(activation=activation), given)
    dense = Placement(
        tuple(Layout.dense(v.tensor.shape) for v in node.inputs),
        (Layout.dense(node.output.tensor.shape),),
        "",
    )
    return TritonMatmulSpecialized().candidates(node, TARGETS[90]), dense


@pytest.mark.parametrize("sms", [2, 4])
@pytest.mark.parametrize(
    "dtype, operands, activation",
    [(np.float16, 2, GELU), (np.float16, 4, None), (ml_dtypes.bfloat16, 4, GELU)],
)
def test_bias_residual_activation(monkeypatch, sms, dtype, operands, activation):
    """Tails of rows, columns and depth; fewer steps than stages; one tile a program, and more."""
    monkeypatch.setattr(specialized, "_FEWEST_TILES", 1)
    offered = specialized.offered_shapes
    single = lambda *a, **k: [s for s in offered(*a, **k) if not s.paired]  # noqa: E731
    monkeypatch.setattr(specialized, "offered_shapes", single)
    rows, depth = (130, 136) if sms == 4 else (300, 200)
    shapes = [(rows, depth), (depth, 520), (520,), (rows, 520)]
    given = [normal(*s, seed=i, dtype=dtype) for i, s in enumerate(shapes)][:operands]
    device = replace(TARGETS[90], sms=sms)
    check(TritonMatmulSpecialized(), Matmul(activation=activation), given, device, most=9)


@pytest.mark.parametrize(
    "dtype, pick, activation",
    [(np.float16, "x256", GELU), (np.float16, "x256", None), (ml_dtypes.bfloat16, "x192", GELU)],
)
def test_every_task_is_in_the_code(dtype, pick, activation, tmp_path):
    found, dense = candidates(dtype, 4, activation)
    for c in [c for c in found if pick in c.tactic and "pairs" not in c.tactic]:
        (launch,) = c.draft(dense).launches
        code = compile_request(launch.kernel, 90)
        threads = code.warps * 32
        assert code.shared_bytes <= TARGETS[90].shared_bytes
        registers, stack, text = assembly(code, tmp_path)
        assert stack == 0, f"{c.tactic} spills registers"
        assert registers * threads <= REGISTERS
        constants = dict(launch.kernel.constants)
        columns, more = constants["BLOCK_N"], constants["MORE"]
        instructions = (1 if constants["FINISHERS"] == 2 else columns // 128) + (more > 0)
        products = re.findall(r"HGMMA\.(64x\d+x16)", text)
        assert len(products) == 2 * instructions * constants["BLOCK_K"] // 16
        assert len(re.findall(r"UTMALDG\.2D", text)) == (2 * 64 + columns + more) // 64
        # Two for each stage of the ring, two for each half of the sums.
        assert len(re.findall(r"SYNCS\.EXCH\.64", text)) == 2 * constants["STAGES"] + 4
        assert "USETMAXREG" in text
        assert "STG.E.128" in text


def test_a_result_without_aligned_rows():
    (first, *_), dense = candidates(np.float16, 2)
    (y,) = dense.results
    apart = Placement(dense.operands, (Layout((1035, 1), 0),), "")
    assert first.draft(dense)
    with pytest.raises(BuildError, match="16 bytes"):
        first.draft(apart)
    assert y.strides == (1032, 1)


@pytest.mark.parametrize(
    "arch, shapes, why",
    [
        (80, [(4096, 768), (768, 3072)], "9.0"),
        (100, [(4096, 768), (768, 3072)], "9.0"),
        (90, [(4096, 768), (768, 3068)], "16 bytes"),
        (90, [(512, 768), (768, 1024)], "too few tiles"),
        (90, [(2, 64, 64), (2, 64, 64)], "no constant matrix"),
    ],
)
def test_declined(arch, shapes, why):
    given = [np.zeros(s, np.float16) for s in shapes]
    constants = (1,) if len(shapes[1]) == 2 else ()
    node = node_of(Matmul(), given, constants)
    assert why in TritonMatmulSpecialized().candidates(node, TARGETS[arch]).reason


def test_results_of_f32_are_declined():
    node = node_of(Matmul(), [np.zeros((4096, 768), np.float32), np.zeros((768, 3072), np.float32)])
    found = TritonMatmulSpecialized().candidates(node, TARGETS[90])
    assert "do not take f32" in found.reason


@pytest.mark.gpu
@pytest.mark.parametrize(
    "shape",
    [
        specialized.ACTIVATED,
        *specialized.SHAPES,
        *(replace(specialized.SHAPES[0], paired=shared) for shared in ("a", "b")),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "dtype, rest, activation",
    [
        ("f16", "%c, %r", "gelu"),
        ("bf16", "%c", "gelu"),
        ("f16", "", "relu"),
    ],
)
def test_on_a_gpu(monkeypatch, shape, dtype, rest, activation):
    try:
        device = bindings.open_device(0)
    except DeviceError as e:
        pytest.skip(str(e))
    if device.arch != 90:
        pytest.skip("needs compute capability 9.0")
    monkeypatch.setattr(specialized, "offered_shapes", lambda *_, **__: [shape])
    monkeypatch.setattr(compiler_of_cuda, "TACTICS", (TritonMatmulSpecialized(), Generated()))
    operands = ", ".join(filter(None, ("%x, %w", rest)))
    text = f"""graph(%x: {dtype}[3001,520], %r: {dtype}[3001,1032]) {{
      %w = const() type={dtype}[520,1032] seed=1
      %c = const() type={dtype}[1032] seed=2
      %y = matmul({operands}) activation={{{activation},0.0,0.0}}
      return %y
    }}"""
    graph = parse_graph(text, ops.BY_NAME)
    types = {v.name: v.tensor for v in graph.inputs}
    arrays = {n: normal(*t.static_shape, dtype=t.dtype.numpy) for n, t in types.items()}
    engine = lamina.build(parse_graph(text, ops.BY_NAME), target="cuda", optimization_level=1)
    steps = engine.plan.sections[0].program.steps
    assert any(TritonMatmulSpecialized.name in s.tactic for s in steps)
    (wanted,) = interpret(graph, list(arrays.values()))
    given = {name: on_device(device, x) for name, x in arrays.items()}
    for _ in range(3):  # barriers are as they were before
        (y,) = engine.run(given).values()
        error = y.numpy().astype(np.float64) - wanted.astype(np.float64)
        assert np.linalg.norm(error) < TOLERANCE[dtype] * np.linalg.norm(wanted.astype(np.float64))
