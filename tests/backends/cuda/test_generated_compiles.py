"""Generated kernels compile for every architecture, and move 16 bytes at a time where they can."""

from __future__ import annotations

import re

import pytest
import triton
from tests.codegen.running import node_graph
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from lamina import ops
from lamina.backends.cuda.tactics.generated import Generated
from lamina.backends.cuda.target import TARGETS
from lamina.backends.cuda.triton_compile import load_function
from lamina.ir.dims import sym
from lamina.ir.types import DType, TensorType
from lamina.ops.kinds import (
    ActivationKind,
    ArgReduceKind,
    BinaryKind,
    CumulativeKind,
    PoolKind,
    ReduceKind,
)
from lamina.tactics.candidate import Placement
from lamina.tactics.form import Form, layout

F16, BF16, F32, F64 = DType.F16, DType.BF16, DType.F32, DType.F64
POOL = ops.Pool(
    kind=PoolKind.MAX, kernel=(3, 3), strides=(2, 2), dilations=(1, 1), pads_begin=(1, 1),
    pads_end=(1, 1),
)  # fmt: skip
ARCHES = (75, 80, 90, 100)

# An operator, its operands, the form of all of them, and whether all accesses to whole tensors
# are as wide as the hardware allows.
CASES = {
    "relu f16": (
        ops.Activation(kind=ActivationKind.RELU), [(F16, 8, 64, 56, 56)], Form.CHANNELS_LAST, True
    ),
    "gelu bf16": (
        ops.Activation(kind=ActivationKind.GELU), [(BF16, sym("b"), 64, 768)], Form.PLAIN, True
    ),
    "bias f32": (
        ops.Binary(kind=BinaryKind.ADD), [(F32, 64, 197, 768), (F32, 768)], Form.PLAIN, True
    ),
    "power f64": (ops.Binary(kind=BinaryKind.POW), [(F64, 999), (F64, 999)], Form.PLAIN, False),
    "modulo i64": (
        ops.Binary(kind=BinaryKind.MOD), [(DType.I64, 999), (DType.I64, 999)], Form.PLAIN, False
    ),
    "softmax f16": (ops.Softmax(axis=3), [(F16, 8, 12, 128, 128)], Form.PLAIN, True),
    "layer norm f16": (
        ops.LayerNorm(axis=2, epsilon=1e-5), [(F16, 8, 197, 768), (F16, 768), (F16, 768)],
        Form.PLAIN, True,
    ),
    "softmax of symbols": (
        ops.Softmax(axis=2), [(F32, sym("b"), sym("s"), sym("s"))], Form.PLAIN, False
    ),
    "transpose f16": (ops.Transpose(perm=(0, 2, 1)), [(F16, 32, 1024, 768)], Form.PLAIN, True),
    "transpose f32": (ops.Transpose(perm=(0, 2, 1)), [(F32, 32, 1024, 768)], Form.PLAIN, True),
    "max pool f16": (POOL, [(F16, 8, 64, 112, 112)], Form.CHANNELS_LAST, True),
    "mean of pixels": (
        ops.Reduce(kind=ReduceKind.MEAN, axes=(2, 3)), [(F16, 1, 2048, 7, 7)], Form.CHANNELS_LAST,
        False,
    ),
    "sum of few": (
        ops.Reduce(kind=ReduceKind.SUM, axes=(1,)), [(F32, 2, 1 << 20)], Form.PLAIN, False
    ),
    "argmax bf16": (
        ops.ArgReduce(kind=ArgReduceKind.ARGMAX, axis=1), [(BF16, 8, 32000)], Form.PLAIN, False
    ),
    "cumulative sum": (
        ops.Cumulative(kind=CumulativeKind.SUM, axis=1, exclusive=True), [(F32, 8, 1000)],
        Form.PLAIN, False,
    ),
    "gather": (ops.Gather(axis=0), [(F16, 3000, 768), (DType.I64, 128)], Form.PLAIN, False),
    "concat": (
        ops.Concat(axis=1), [(F16, 8, 64, 56, 56), (F16, 8, 128, 56, 56)], Form.CHANNELS_LAST, True
    ),
}  # fmt: skip


def compiled(request, arch):
    """Return what Triton makes of a request."""
    function = load_function(request)
    types, names = dict(request.parameters), list(function.arg_names)
    source = ASTSource(
        fn=function,
        signature={n: types.get(n, "constexpr") for n in names},
        constexprs={"DEPENDENT": arch >= 90},
        attrs={(names.index(n),): [["tt.divisibility", 16]] for n in request.divisible},
    )
    options = {"num_warps": request.warps}
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path))


@pytest.mark.parametrize("name", CASES)
def test_compiles_for_every_architecture(name):
    op, operands, form, is_wide = CASES[name]
    node = node_graph(op, [TensorType(d, tuple(s)) for d, *s in operands]).outputs[0].node
    values = (*node.inputs, *node.outputs)
    forms = [form if v.tensor.rank == 4 else Form.PLAIN for v in values]
    ends = tuple(layout(v.tensor, f) for v, f in zip(values, forms, strict=True))
    count = len(node.inputs)
    wanted = (tuple(forms[:count]), tuple(forms[count:]))
    offered = Generated().candidates(node, TARGETS[90])
    candidate = min(
        (c for c in offered if (c.reads, c.writes) == wanted),
        key=lambda c: c.estimate_microseconds,
    )
    draft = candidate.draft(Placement(ends[:count], ends[count:], ""))
    for arch in ARCHES:
        for launch in draft.launches:
            kernel = compiled(launch.kernel, arch)
            assert kernel.asm["cubin"]
            assert kernel.metadata.shared <= TARGETS[75].shared_bytes
            if is_wide and arch == 90:
                text = kernel.asm["ptx"]
                for access in ("ld", "st"):
                    used = re.findall(rf"{access}\.global[.\w:]*", text)
                    assert used and all("v4.b32" in a for a in used), (access, used)
