"""Builds without a compiler of kernels, to be run on the simulated device, in an interpreter."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lamina import Engine
from lamina.backends.cuda.compile import Batch, MachineCode, Outcome
from lamina.backends.cuda.compiler import cuda_compiler
from lamina.backends.cuda.request import KernelRequest
from lamina.backends.cuda.triton_types import BOXES
from lamina.builder import import_graph, make_plan, optimize
from lamina.config import BuildConfig, shape_ranges
from lamina.passes.origins import record_weights
from lamina.passes.specialize import copy
from lamina.plan.plan import Plan
from lamina.plan.recipes import with_recipes
from lamina.tactics.cache import TimingCache
from lamina.tactics.policy import Policy
from lamina.tactics.spent import Spent

SIMULATED_ARCH = 90


class Requests:
    """Stands for the compiler of kernels: the machine code is the text of the request."""

    def __init__(self, arch: int, workers: int) -> None:
        self.arch = arch
        self.known: dict[KernelRequest, Outcome] = {}
        self.spent = Spent()

    @property
    def asked(self) -> list[KernelRequest]:
        """Every request so far."""
        return list(self.known)

    def compile(
        self, requests: Iterable[KernelRequest], progress: Callable[[int, int], None] | None = None
    ) -> Mapping[KernelRequest, Outcome]:
        """Return every request as what the simulated device loads."""
        list(self.begin(requests).finished())
        return self.known

    def begin(self, requests: Iterable[KernelRequest] = ()) -> Batch:
        """Return what tells of every request."""
        batch = Batch(self)  # type: ignore[arg-type]
        batch.add(requests)
        return batch

    def future(self, request: KernelRequest) -> None:
        """Know a request at once."""
        self.known[request] = self.outcome(request)

    def settle(self, request: KernelRequest) -> bool:
        """Return whether a request is known."""
        return request in self.known

    def give_up(self, requests: Iterable[KernelRequest]) -> None:
        """Do nothing: all is done."""

    def outcome(self, request: KernelRequest) -> Outcome:
        """Return what becomes of a request."""
        boxes = [plain_box(t) for _, t in request.parameters if t.startswith(BOXES)]
        text = request.key().encode()
        return MachineCode(text, request.function, request.warps, 0, 0, 1, boxes=tuple(boxes))

    def __enter__(self) -> Requests:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def plain_box(type):
    """Return the box of a parameter's type, which is not swizzled."""
    sizes = type[type.index("[") + 1 : type.index("]")]
    return tuple(map(int, sizes.split(","))), 0


def plan_of(
    model: Any,
    *,
    precision: str = "fp32",
    shapes: Mapping[str, Any] | None = None,
    arch: int = SIMULATED_ARCH,
    level: int = 0,
    **others: Any,
) -> tuple[Plan, list[KernelRequest]]:
    """Return a plan as a machine without a GPU builds it for one, and the kernels it asks for.

    The plan's machine code is for the simulated device; ``others`` are options of BuildConfig.
    """
    config = BuildConfig(
        target=f"cuda:sm_{arch}",
        precision=precision,  # type: ignore[arg-type]
        shapes=shape_ranges(shapes or {}),
        optimization_level=level,  # type: ignore[arg-type]
        timing_cache="",
        **others,
    )
    graph, ranges = import_graph(model, config)
    portable = copy(graph)
    recording, sources = record_weights(graph)
    optimize(graph, config, "cuda")
    policy = Policy.of(config, {s: (low, opt, high) for s, low, opt, high in ranges})
    likely = {name: n for name, _, n, _ in ranges}
    compiler = cuda_compiler(config, arch, likely, lambda *_: None, policy)
    requests = Requests(arch, 1)
    compiler.kernels = lambda *_: requests  # type: ignore[assignment, return-value]
    compiled = compiler.compile(graph, TimingCache(None, compiler.machine))
    section = with_recipes(compiled.section, recording, sources)
    compiled = dataclasses.replace(compiled, section=section)
    return make_plan([compiled], ranges, config, portable), list(requests.asked)


def simulated(model: Any, **options: Any) -> Engine:
    """Build for the simulated device and load there; see :func:`plan_of`."""
    return Engine(plan_of(model, **options)[0], device="cuda:simulated")
