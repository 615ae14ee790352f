"""Engines: plans that are loaded and can run."""

from __future__ import annotations

import importlib
import os
import statistics
import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np

from lamina.config import check_threads
from lamina.errors import DeviceError, PlanError
from lamina.ir.types import TensorType
from lamina.plan.format import save_plan, write_plan
from lamina.plan.plan import Plan, Port, Section
from lamina.runtime.context import ExecutionContext
from lamina.runtime.driver import Driver
from lamina.runtime.report import EngineReport, LayerTime, describe_engine

_MODULES = {
    "cpu": "lamina.backends.cpu.driver",
    "cuda": "lamina.backends.cuda.driver",
    "none": "lamina.runtime.absent",
    "reference": "lamina.backends.cpu.driver",
}


class Engine:
    """A compiled model, ready to run.

    ``engine(x)`` and ``run`` use a context of the engine's own and are for one thread at a time;
    ``create_context`` gives further ones that run in parallel.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        threads: int = 0,
        device: str = "cpu",
        native_code: bool = True,
        allocator: Any | None = None,
    ) -> None:
        self.driver = find_driver(device, threads, allocator)
        if self.driver.missing:
            raise DeviceError(f"device {device!r} cannot be used: {self.driver.missing}")
        self.plan, self._section = _usable(plan, self.driver, threads, native_code)
        self._loaded = self.driver.load(self._section)
        self._threads = threads
        self._contexts: weakref.WeakSet[ExecutionContext] = weakref.WeakSet()
        self._context = self.create_context()
        self.run = self._context.run
        self.__name__ = "engine"

    @property
    def inputs(self) -> tuple[Port, ...]:
        """Names and types of the inputs, in order."""
        return self._section.program.inputs

    @property
    def outputs(self) -> tuple[Port, ...]:
        """Names and types of the outputs, in order."""
        return self._section.program.outputs

    @property
    def section(self) -> Section:
        """The part of the plan that runs here."""
        return self._section

    def create_context(self) -> ExecutionContext:
        """Return a context with buffers of its own."""
        context = ExecutionContext(self.plan, self.inputs, self.outputs, self._loaded.runner())
        self._contexts.add(context)
        return context

    def __call__(self, *arrays: Any) -> Any:
        """Run on arrays in the order of the inputs; one output comes alone, several as a tuple."""
        return self._context(*arrays)

    def refit(self, weights: Mapping[str, Any]) -> None:
        """Give weights, by their names in the model, other contents of the same type and shape.

        All contexts use them from their next run on.  Either all weights change or, when anything
        raises, none.  Raises InputError for an unknown name or an array that does not fit,
        PlanError for a plan without its portable graph.
        """
        # The compiler is imported only here.
        plan: Plan = importlib.import_module("lamina.refit").refit(
            self.plan, weights, self._threads
        )
        plan, section = _usable(plan, self.driver, self._threads, True)
        loaded = self.driver.load(section)
        contexts = list(self._contexts)
        runners = [loaded.runner() for _ in contexts]
        self.plan, self._section, self._loaded = plan, section, loaded
        for context, runner in zip(contexts, runners, strict=True):
            context.adopt(runner)

    def weights(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return the weights by their names in the model, to read; PlanError without a graph."""
        named = importlib.import_module("lamina.refit").named_weights(self.plan)
        return {name: weight.array for name, weight in named.items()}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan to a file; raises PlanError and leaves nothing half-written."""
        save_plan(self.plan, path)

    def serialize(self) -> bytes:
        """Return the plan's bytes."""
        return write_plan(self.plan)

    def profile(self, inputs: Mapping[str, Any] | None = None, runs: int = 10) -> list[LayerTime]:
        """Return the median microseconds of each layer over ``runs`` runs.

        Without ``inputs``, random ones of the likeliest shapes are used.
        """
        feed = self.example_inputs() if inputs is None else inputs
        context = self.create_context()
        rounds = [context.profile(feed) for _ in range(max(1, runs))]
        steps = self._section.program.steps
        return [
            LayerTime(step.name, step.loc, step.tactic, statistics.median(r[i] for r in rounds))
            for i, step in enumerate(steps)
        ]

    def inspect(self) -> EngineReport:
        """Return layers, tactics, alternatives and memory."""
        context = self.create_context()
        memory: dict[str, int] = {}
        tensors = all(isinstance(p.type, TensorType) for p in self.inputs)
        if tensors and self.driver.name != "none":
            context.run(self.example_inputs())
            memory = context.memory()
        return describe_engine(self.plan, self._section, memory)

    def example_inputs(self, seed: int = 0) -> dict[str, Any]:
        """Return random inputs of the likeliest shapes (zeros for integer inputs)."""
        likely = {name: opt for name, _, opt, _ in self.plan.ranges}
        rng = np.random.default_rng(seed)
        feed: dict[str, Any] = {}
        for port in self.inputs:
            if not isinstance(port.type, TensorType):
                raise PlanError(f"input {port.name!r} is {port.type}: give the inputs yourself")
            type = port.type.substitute(dict(likely))
            dtype = type.dtype.numpy
            random = rng.standard_normal(type.static_shape)
            feed[port.name] = (
                random.astype(dtype) if type.dtype.is_float else (random * 0).astype(dtype)
            )
        return feed


def find_driver(device: str, threads: int, allocator: Any | None = None) -> Driver:
    """Return the driver of a device.

    Raises PlanError for an unknown one, ConfigError for what is no number of threads.
    ``allocator``, a :class:`lamina.runtime.driver.Allocator`, gives memory in place of the driver.
    """
    check_threads(threads)
    kind = device.partition(":")[0]
    if kind not in _MODULES or (device != kind and kind != "cuda"):
        raise PlanError(f"device {device!r} is not known", hint=f"there are {sorted(_MODULES)}")
    options = {} if allocator is None else {"allocator": allocator}
    module = importlib.import_module(_MODULES[kind])
    driver: Driver = module.driver(threads or None, device, **options)
    return driver


def _usable(plan: Plan, driver: Driver, threads: int, native_code: bool) -> tuple[Plan, Section]:
    """Return the plan and the section to run: one that fits, else the graph compiled again."""
    reasons = ["native code is not wanted"] if not native_code else []
    if native_code:
        for section in plan.sections:
            reason = driver.refusal(section)
            if reason is None:
                return plan, section
            reasons.append(reason)
    if not plan.graph:
        raise PlanError(
            f"the plan cannot run here: {'; '.join(reasons) or 'it has no section'}",
            hint="it was built without its graph (keep_graph=False); build it again here",
        )
    # The compiler is imported only here, when a plan does not fit the machine.
    here = dict(driver.target())
    target = f"cuda:{here['arch']}" if here["device"] == "cuda" else "cpu"
    again: Plan = importlib.import_module("lamina.respecialize").respecialize(plan, threads, target)
    return again, again.sections[0]
