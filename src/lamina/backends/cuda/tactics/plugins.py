"""Kernels that plugins bring with them; each way that a plugin gives is a candidate."""

from __future__ import annotations

from typing import Final

from lamina.backends.cuda.request import (
    ASSEMBLY,
    Argument,
    CudaDraft,
    KernelRequest,
    Launch,
    Scalar,
)
from lamina.backends.cuda.tactics.generated import all_tensors
from lamina.backends.cuda.tactics.reorder import reorder_draft
from lamina.backends.cuda.target import CudaTarget
from lamina.backends.cuda.triton_types import TRITON_TYPES
from lamina.codegen.triton.cost import LAUNCH_MICROSECONDS
from lamina.ir.attributes import attribute_symbols
from lamina.ir.dims import divides
from lamina.ir.graph import Node
from lamina.ir.pattern import Reject
from lamina.ops import PluginCall
from lamina.ops.plugin_kernels import (
    KERNELS,
    Assembly,
    Device,
    OperandPointer,
    PluginArgument,
    PluginLaunch,
    PluginVariant,
    ResultPointer,
    SizeArgument,
    TritonFunction,
)
from lamina.tactics.candidate import Candidate, Placement, Read, Scratch, Write
from lamina.tactics.form import Form, layout

_ALIGNMENT: Final = 16


class PluginKernels:
    """Launches that the plugin itself describes."""

    name = "plugin"

    def candidates(self, node: Node, target: CudaTarget) -> list[Candidate] | Reject | None:
        """Offer every way that the plugin gives, in its order."""
        op = node.op
        if not isinstance(op, PluginCall):
            return None
        if not all_tensors(node) or op.kind not in KERNELS:
            return Reject("it has no kernels")
        if any(v.tensor.dtype not in TRITON_TYPES for v in (*node.inputs, *node.outputs)):
            return Reject("it has operands of a type that kernels do not know")
        if own := _own_symbols(node):
            return Reject(f"only its run tells the size {own[0]}")
        variants = KERNELS[op.kind](op, [v.tensor for v in node.inputs], Device(target.arch))
        time = _microseconds(node, target)
        offered = [
            Candidate(
                tactic=f"{self.name} {v.name}",
                reads=(Form.PLAIN,) * len(node.inputs),
                writes=(Form.PLAIN,) * len(node.outputs),
                # Ways are taken in the plugin's order where nothing is measured.
                estimate_microseconds=time * (1 + 0.01 * number),
                draft=_Draft(node, v, target),  # type: ignore[arg-type]
                takes_strides=False,
            )
            for number, v in enumerate(variants)
        ]
        return offered or Reject("it has no kernels")


def _own_symbols(node: Node) -> list[str]:
    """Return the symbols of results that no operand has."""
    given = {s for v in node.inputs for s in attribute_symbols(v.type)}
    return sorted({s for v in node.outputs for s in attribute_symbols(v.type)} - given)


def _microseconds(node: Node, target: CudaTarget) -> float:
    """Return the time of reading all operands and writing all results once."""
    total = 0.0
    for v in (*node.inputs, *node.outputs):
        known = v.tensor.substitute(dict(target.env))
        total += known.size * known.dtype.itemsize if known.is_static else 0  # type: ignore[operator]
    return LAUNCH_MICROSECONDS + total / target.bytes_per_microsecond


class _Draft:
    """Returns the launches of one way; operands and results are row-major."""

    def __init__(self, node: Node, variant: PluginVariant, target: CudaTarget) -> None:
        self.node, self.variant, self.target = node, variant, target

    def __call__(self, placement: Placement) -> CudaDraft:
        launches = [x for copy in self.variant.overwrites for x in self._copied(*copy)]
        launches += [self._launch(launch) for launch in self.variant.launches]
        return CudaDraft(launches=tuple(launches), workspace_bytes=self.variant.workspace_bytes)

    def _copied(self, result: int, operand: int) -> tuple[Launch, ...]:
        """Return launches that give a result the contents of an operand."""
        type_ = self.node.inputs[operand].tensor
        plain = layout(type_, Form.PLAIN)
        draft = reorder_draft(type_, Placement((plain,), (plain,), ""), self.target)
        roles: dict[Argument, Argument] = {Read(0): Read(operand), Write(0): Write(result)}
        return tuple(
            Launch(
                kernel=x.kernel,
                grid=x.grid,
                arguments=tuple(roles.get(a, a) for a in x.arguments),
            )
            for x in draft.launches
        )

    def _launch(self, launch: PluginLaunch) -> Launch:
        x, y, z = (*launch.grid, 1, 1)[:3]
        arguments = tuple(self._argument(a) for a in launch.arguments)
        return Launch(
            kernel=self._request(launch),
            grid=(x, y, z),
            arguments=arguments,
            block=launch.block,
        )

    def _request(self, launch: PluginLaunch) -> KernelRequest:
        code = launch.code
        types = [self._type(a) for a in launch.arguments]
        if isinstance(code, Assembly):
            return KernelRequest(
                function=launch.function,
                source=f"{ASSEMBLY}{code.shared_bytes}\n{code.text}",
                parameters=tuple((f"p{i}", t) for i, t in enumerate(types)),
                warps=launch.warps,
            )
        return KernelRequest(
            function=launch.function,
            source=code.text,
            parameters=tuple(zip(code.parameters, types, strict=True)),
            constants=code.constants,
            divisible=_divisible(code, launch),
            warps=launch.warps,
            stages=code.stages,
        )

    def _type(self, argument: PluginArgument) -> str:
        if isinstance(argument, SizeArgument):
            return argument.type
        if isinstance(argument, OperandPointer):
            return f"*{TRITON_TYPES[self.node.inputs[argument.index].tensor.dtype]}"
        if isinstance(argument, ResultPointer):
            return f"*{TRITON_TYPES[self.node.outputs[argument.index].tensor.dtype]}"
        return "*u8"

    def _argument(self, argument: PluginArgument) -> Argument:
        if isinstance(argument, SizeArgument):
            return Scalar(argument.value)
        if isinstance(argument, OperandPointer):
            changed = {operand: result for result, operand in self.variant.overwrites}
            if argument.index in changed:
                return Write(changed[argument.index])
            return Read(argument.index)
        return Write(argument.index) if isinstance(argument, ResultPointer) else Scratch()


def _divisible(code: TritonFunction, launch: PluginLaunch) -> tuple[str, ...]:
    """Return the parameters that are multiples of 16: all addresses, and sizes that must be."""
    return tuple(
        name
        for name, a in zip(code.parameters, launch.arguments, strict=True)
        if not isinstance(a, SizeArgument) or divides(_ALIGNMENT, a.value)
    )
