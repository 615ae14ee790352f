"""Networks with plugins on the simulated device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lamina.backends.cuda import simulated
from lamina.backends.cuda.interpret import run_kernel
from lamina.backends.cuda.request import ASSEMBLY, KernelRequest, read_key
from lamina.ir.graph import Graph
from lamina.plan.plan import Plan
from lamina.plugins.triton_text import standalone_text
from lamina.runtime.context import ExecutionContext
from lamina.tensorrt.lower import lower
from tests.backends.cuda.sections import context
from tests.backends.cuda.simulation import plan_of
from tests.tensorrt.running import Net


def graph_of(net: Net) -> Graph:
    """Return the graph that a network is lowered to."""
    return lower(net.network._state).graph


def plan_for_gpu(net: Net, arch: int = 90) -> tuple[Plan, list[KernelRequest]]:
    """Return a plan for the simulated device, and the kernels that it asks for."""
    return plan_of(graph_of(net), arch=arch)


def loaded(plan: Plan, twins: Mapping[str, tuple[Any, Mapping[str, Any]]] = {}) -> ExecutionContext:
    """Return a context of a plan.

    Kernels that are PTX run as the Triton functions that they were compiled from: ``twins`` has
    these and their constants by name.
    """

    def compile(text: str) -> simulated.Kernel:
        request = read_key(text)
        if not request.source.startswith(ASSEMBLY):
            return simulated._interpreted(text)
        kernel, constants = twins[request.function]
        names = [n for n in kernel.arg_names if n not in constants]
        twin = KernelRequest(
            function=request.function,
            source=standalone_text(kernel),
            parameters=tuple((n, t) for n, (_, t) in zip(names, request.parameters, strict=True)),
            constants=tuple(sorted(constants.items())),
        )
        return lambda grid, values: run_kernel(twin, grid, values)

    section = plan.sections[0]
    return context(section, simulated.SimulatedDevice(compile), plan.ranges)
