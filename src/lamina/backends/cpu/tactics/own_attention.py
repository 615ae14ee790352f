"""Attention through Lamina's own kernel, on heads where they are."""

from __future__ import annotations

from functools import lru_cache

from lamina.backends.cpu.kernels import attention
from lamina.backends.cpu.kernels.attention import (
    AttentionConfig,
    AttentionProblem,
    HeadsLayout,
    MaskLayout,
)
from lamina.backends.cpu.target import CpuTarget
from lamina.codegen.layout import Layout
from lamina.codegen.llvm.builder import Module
from lamina.codegen.llvm.target import Isa
from lamina.ir.dims import Dim, evaluate, floordiv, is_static, product
from lamina.ir.graph import Node, Value
from lamina.ir.pattern import Reject
from lamina.ir.strided import StridedView
from lamina.ops import Attention
from lamina.plan.plan import StepKind
from lamina.tactics.candidate import (
    Candidate,
    Draft,
    Placement,
    Read,
    Role,
    Scratch,
    Write,
    sizes_known,
)
from lamina.tactics.form import Form
from lamina.tactics.heads import attention_of, operand_of, operand_view, result_view

_FLOPS_PER_MICROSECOND = 1e5
_STEM = "stem_of_attention"
_UNKNOWN = AttentionConfig(rows=96, keys=256)
"""For sizes that data decides."""

_BATCH, _HEAD, _POSITION, _ELEMENT = range(4)


class OwnAttention:
    """The fused kernel of :mod:`lamina.backends.cpu.kernels.attention`."""

    name = "lamina"

    def candidates(self, node: Node, target: CpuTarget) -> list[Candidate] | Reject | None:
        """Offer one candidate for an attention alone or in a region with its views."""
        core = attention_of(node)
        if core is None:
            return None
        problem = _problem(node, core, _dense(node))
        if isinstance(problem, Reject):
            return problem
        if why := attention.why_not(problem):
            return Reject(why)
        known = sizes_known(node, target.env)
        config = _config(problem, target) if known else _UNKNOWN
        work = product((problem.batch, problem.key_heads, problem.rows, problem.keys))
        macs = (problem.head_size + problem.value_size) * (
            evaluate(work, target.env) if known else 1
        )

        def draft(p: Placement) -> Draft:
            return _draft(node, core, target, config, p)

        return [
            Candidate(
                "attention",
                (Form.PLAIN,) * len(node.inputs),
                (Form.PLAIN,),
                2 * macs / _FLOPS_PER_MICROSECOND,
                draft,
            )
        ]


def _config(problem: AttentionProblem, target: CpuTarget) -> AttentionConfig:
    env = target.env
    rows, keys = evaluate(problem.rows, env), evaluate(problem.keys, env)
    heads = evaluate(problem.batch * problem.key_heads, env)
    return attention.choose(rows, keys, heads, target.threads)


def _dense(node: Node) -> Placement:
    operands = tuple(Layout.dense(v.tensor.shape) for v in node.inputs)
    return Placement(operands, (Layout.dense(node.output.tensor.shape),), "")


def _problem(node: Node, core: Node, p: Placement) -> AttentionProblem | Reject:
    op = core.op
    assert isinstance(op, Attention)
    q, k, v = (operand.tensor for operand in core.inputs[:3])
    if not is_static(q.shape[3]) or not is_static(v.shape[3]):
        return Reject("the size of a head is not known")
    places = [_place(node, operand, p) for operand in core.inputs[:3]]
    result = _result_place(node, core, p)
    mask = _mask(node, core)
    if result is None or any(place is None for place in places) or isinstance(mask, Reject):
        return mask if isinstance(mask, Reject) else Reject("the elements of a head are apart")
    return AttentionProblem(
        batch=q.shape[0],
        key_heads=k.shape[1],
        queries=q.shape[2],
        keys=k.shape[2],
        head_size=int(q.shape[3]),  # type: ignore[arg-type]
        value_size=int(v.shape[3]),  # type: ignore[arg-type]
        q=places[0],  # type: ignore[arg-type]
        k=places[1],  # type: ignore[arg-type]
        v=places[2],  # type: ignore[arg-type]
        y=result,
        scale=op.scale,
        shared=floordiv(q.shape[1], k.shape[1]) if q.shape[1] != k.shape[1] else 1,
        mask=mask,
        causal=op.causal,
        causal_offset=op.causal_offset,
        softcap=op.softcap,
    )


def _place(node: Node, v: Value, p: Placement) -> HeadsLayout | None:
    source = node.inputs[operand_of(node, v)[0]].tensor
    return _heads(operand_view(node, v, p), source.dtype.value, source.dtype.itemsize)


def _result_place(node: Node, core: Node, p: Placement) -> HeadsLayout | None:
    result = node.output.tensor
    return _heads(result_view(node, core, p), result.dtype.value, result.dtype.itemsize)


def _heads(view: StridedView | None, dtype: str, itemsize: int) -> HeadsLayout | None:
    if view is None or (view.strides[_ELEMENT] != 1 and view.shape[_ELEMENT] != 1):
        return None
    batch, head, position = (view.strides[a] * itemsize for a in (_BATCH, _HEAD, _POSITION))
    return HeadsLayout(batch, head, position, view.offset * itemsize, dtype)


def _mask(node: Node, core: Node) -> MaskLayout | Reject | None:
    if len(core.inputs) < 4:
        return None
    mask = core.inputs[3].tensor
    shape: tuple[Dim, ...] = (1,) * (4 - mask.rank) + mask.shape
    scores = (*core.inputs[0].tensor.shape[:3], core.inputs[1].tensor.shape[2])
    for axis, (d, n) in enumerate(zip(shape, scores, strict=True)):
        if d not in (1, n):
            return Reject(f"the mask may or may not repeat along axis {axis} of the scores")
    size = mask.dtype.itemsize
    dense = StridedView.dense(shape).strides
    strides: list[Dim] = [0 if d == 1 else s * size for d, s in zip(shape, dense, strict=True)]
    batch, head, query = strides[:3]
    return MaskLayout(batch, head, query, 0 if shape[3] == 1 else size, mask.dtype.value)


def _draft(
    node: Node, core: Node, target: CpuTarget, config: AttentionConfig, p: Placement
) -> Draft:
    problem = _problem(node, core, p)
    assert isinstance(problem, AttentionProblem)
    text, symbols = _code(problem, config, target.isa)
    reads: list[Role] = [Read(operand_of(node, v)[0]) for v in core.inputs]
    bytes_per_thread = attention.workspace_bytes(problem, config, target.isa)
    return Draft(
        kind=StepKind.KERNEL,
        arguments=(*reads, Write(0), Scratch()),
        symbols=tuple(s.replace(_STEM, p.name) for s in symbols),
        parameters=problem.parameters,
        threads=target.threads,
        workspace_bytes=target.threads * bytes_per_thread,
        module=text.replace(_STEM, p.name),
    )


@lru_cache(maxsize=64)
def _code(
    problem: AttentionProblem, config: AttentionConfig, isa: Isa
) -> tuple[str, tuple[str, ...]]:
    module = Module(isa)
    symbols = attention.build(module, _STEM, problem, config)
    return str(module), tuple(symbols)
