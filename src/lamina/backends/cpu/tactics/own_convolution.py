"""Convolutions through Lamina's own kernels: Winograd, direct, depthwise."""

from __future__ import annotations

from dataclasses import asdict
from functools import lru_cache
from math import prod
from types import ModuleType
from typing import Any

import numpy as np

from lamina.backends.cpu.kernels import KERNELS, WITHOUT_LIBRARY, epilogue
from lamina.backends.cpu.kernels.convolution import (
    ITEM_BYTES,
    ActivationLayout,
    ConvolutionProblem,
    Epilogue,
)
from lamina.backends.cpu.target import CpuTarget
from lamina.codegen.layout import Layout
from lamina.codegen.llvm.builder import Module
from lamina.codegen.llvm.target import Isa
from lamina.ir.graph import Node, Value
from lamina.ir.pattern import Reject
from lamina.ir.traced import asarray
from lamina.ir.types import DType
from lamina.ir.weight import Weight
from lamina.ops import Convolution
from lamina.plan.plan import StepKind
from lamina.tactics.candidate import (
    Blob,
    Candidate,
    Draft,
    Packed,
    Placement,
    Read,
    Role,
    Scratch,
    Write,
    constant,
)
from lamina.tactics.form import BLOCK, Form

_FLOPS_PER_MICROSECOND = 1e5
_STEM = "stem_of_convolution"
_FORMS = (Form.BLOCKED, Form.CHANNELS_LAST)


class OwnConvolution:
    """Kernels of :mod:`lamina.backends.cpu.kernels`, each with its configurations."""

    name = "lamina"

    def candidates(self, node: Node, target: CpuTarget) -> list[Candidate] | Reject | None:
        """Offer every kernel and configuration that takes the problem, in two forms."""
        if not isinstance(node.op, Convolution):
            return None
        if reason := _refusal(node):
            return Reject(reason)
        found, reasons = [], []
        kernels = KERNELS if target.library is not None else (*KERNELS, *WITHOUT_LIBRARY)
        for kernel in kernels:
            for form in _FORMS:
                problem = _problem(node, form)
                offered = _configs(kernel, problem, target.isa, target.threads)
                if isinstance(offered, str):
                    reasons.append(f"{_kernel_name(kernel)}: {offered}")
                    continue
                found += [
                    _candidate(node, target, kernel, config, problem, form) for config in offered
                ]
        return found or Reject("; ".join(dict.fromkeys(reasons)))


@lru_cache(maxsize=512)
def _configs(
    kernel: ModuleType, problem: ConvolutionProblem, isa: Isa, threads: int
) -> tuple[Any, ...] | str:
    """Return the configurations worth timing, or why there are none; equal layers share them."""
    why: str | None = kernel.why_not(problem)
    return why or tuple(kernel.configs(problem, isa, threads=threads))


def _kernel_name(kernel: ModuleType) -> str:
    return kernel.__name__.rpartition(".")[2]


def _refusal(node: Node) -> str | None:
    op = node.op
    assert isinstance(op, Convolution)
    types = [v.tensor for v in (*node.inputs, node.output)]
    if not all(t.is_static for t in types):
        return "needs static shapes"
    images = [t for t in types if t.rank == 4 and t is not types[1]]
    if types[0].rank != 4 or any(t.dtype not in (DType.F32, DType.BF16) for t in images):
        return f"needs 4-D f32 or bf16 operands, got {', '.join(map(str, images))}"
    if any(constant(v) is None for v in node.inputs[1:3]):
        return "weights or bias are not constant"
    if op.activation is not None and op.activation.kind.value not in epilogue.SUPPORTED:
        return f"no activation {op.activation.kind}"
    return None


def _problem(node: Node, form: Form, placement: Placement | None = None) -> ConvolutionProblem:
    op = node.op
    assert isinstance(op, Convolution)
    x, w, y = (v.tensor.static_shape for v in (*node.inputs[:2], node.output))

    def where(v: Value, given: Layout | None) -> ActivationLayout:
        _, channels, height, width = v.tensor.static_shape
        dtype = v.tensor.dtype.value
        dense = ActivationLayout.channels_last
        if form is Form.BLOCKED:
            dense = ActivationLayout.blocked
        if given is None:
            return dense(channels, height, width, dtype)
        return _activation_layout(given, dtype)

    result = node.output
    residual = node.inputs[3] if len(node.inputs) > 3 else None
    activation = op.activation
    return ConvolutionProblem(
        batch=x[0],
        in_channels=x[1],
        out_channels=y[1],
        height=x[2],
        width=x[3],
        kernel=(w[2], w[3]),
        src=where(node.inputs[0], placement.operands[0] if placement else None),
        dst=where(result, placement.results[0] if placement else None),
        strides=(op.strides[0], op.strides[1]),
        dilations=(op.dilations[0], op.dilations[1]),
        pads=(*op.pads_begin, *op.pads_end),  # type: ignore[arg-type]
        groups=op.groups,
        bias=len(node.inputs) > 2,
        residual=where(residual, placement.operands[3] if placement else None)
        if residual is not None
        else None,
        activation=Epilogue(activation.kind.value, activation.alpha, activation.beta)
        if activation
        else None,
    )


def _activation_layout(given: Layout, dtype: str) -> ActivationLayout:
    item = ITEM_BYTES[dtype]
    batch, block, row, pixel = (int(s) * item for s in given.strides)  # type: ignore[arg-type]
    if not given.is_blocked:
        block = BLOCK * item
    return ActivationLayout(batch, block, row, pixel, given.is_blocked, item, dtype)


def _candidate(
    node: Node,
    target: CpuTarget,
    kernel: ModuleType,
    config: Any,
    problem: ConvolutionProblem,
    form: Form,
) -> Candidate:
    text = ",".join(f"{k}={v}" for k, v in asdict(config).items())

    def draft(p: Placement) -> Draft:
        return _draft(node, target, kernel, config, form, p)

    reads: list[Form | None] = [form, None, None, form]
    return Candidate(
        f"{_kernel_name(kernel)}({text})",
        tuple(reads[: len(node.inputs)]),
        (form,),
        2 * problem.multiply_adds / _FLOPS_PER_MICROSECOND,
        draft,
    )


def _draft(
    node: Node, target: CpuTarget, kernel: ModuleType, config: Any, form: Form, p: Placement
) -> Draft:
    if len(p.operands) < 4:
        p = Placement((*p.operands, *p.results, *p.results)[:4], p.results, p.name)
    problem = _problem(node, form, p)
    text, stems = _code(kernel, problem, config, target.isa)
    weights = constant(node.inputs[1])
    assert weights is not None
    array = weights.array

    def pack() -> Weight:
        filters = asarray(array, np.float32)
        return Weight(kernel.pack_weights(filters, problem, config, target.isa))

    size = 4 * prod(kernel.packed_shape(problem, config, target.isa))
    roles: dict[str, Role] = {
        "src": Read(0),
        "weights": Packed(DType.F32, size, pack),
        "dst": Write(0),
        "workspace": Scratch(),
    }
    if len(node.inputs) > 2:
        bias = constant(node.inputs[2])
        assert bias is not None
        roles["bias"] = Blob(Weight(_padded(bias.array)))
    if len(node.inputs) > 3:
        roles["residual"] = Read(3)
    return Draft(
        kind=StepKind.KERNEL,
        arguments=tuple(roles[name] for name in problem.operands),
        symbols=tuple(s.replace(_STEM, p.name) for s in stems),
        threads=target.threads,
        workspace_bytes=kernel.workspace_bytes(problem, config, target.isa, target.threads),
        module=text.replace(_STEM, p.name),
    )


@lru_cache(maxsize=256)
def _code(
    kernel: ModuleType, problem: ConvolutionProblem, config: Any, isa: Isa
) -> tuple[str, tuple[str, ...]]:
    """Return the module and the names of its kernels; layers of equal shape share the work."""
    module = Module(isa)
    symbols = kernel.build(module, _STEM, problem, config)
    return str(module), tuple(symbols)


def _padded(bias: np.ndarray) -> np.ndarray:
    """Fill the last block of channels with zeros, since kernels load whole blocks."""
    whole = -(-bias.size // BLOCK) * BLOCK
    return np.pad(bias.astype(np.float32), (0, whole - bias.size))
