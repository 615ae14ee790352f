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
from lamina.errors import DeviceError, InputError, PlanError
from lamina.ir.types import TensorType
from lamina.plan.format import save_plan, write_plan
from lamina.plan.plan import PROFILE, Plan, Port, Section
from lamina.plan.strip import missing_weights, strip
from lamina.runtime.absent import AbsentSection
from lamina.runtime.context import ExecutionContext
from lamina.runtime.driver import Driver, Loaded
from lamina.runtime.layers import (
    Ceilings,
    LayerTime,
    Sizes,
    bound_sizes,
    layer_times,
    layer_work,
)
from lamina.runtime.report import EngineReport, describe_engine

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
        resident_bytes: int | None = None,
    ) -> None:
        """Load a plan; ``resident_bytes`` as in :meth:`stream_weights`."""
        self.driver = find_driver(device, threads, allocator)
        if self.driver.missing:
            raise DeviceError(f"device {device!r} cannot be used: {self.driver.missing}")
        self.plan, self._section = _usable(plan, self.driver, threads, native_code)
        self.resident_bytes = resident_bytes
        self._loaded = self._load(self.plan, self._section)
        self._threads = threads
        self._tuned: dict[int, Loaded] = {}
        self._profiles: weakref.WeakKeyDictionary[ExecutionContext, int]
        self._profiles = weakref.WeakKeyDictionary()
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

    def section_of(self, profile: int) -> Section:
        """Return the section that was built for a profile, else the one that serves all."""
        for section in self.plan.sections:
            if dict(section.target).get(PROFILE) == str(profile):
                if self.driver.refusal(section) is None:
                    return section
        return self._section

    def use_profile(self, context: ExecutionContext, profile: int) -> None:
        """Let a context of this engine go on with what was built for a profile.

        Shapes outside the profile must not be given to it then.
        """
        if self.section_of(profile) is not self.section_of(self._profiles.get(context, 0)):
            context.adopt(self._program(profile).runner())
        self._profiles[context] = profile

    def _program(self, profile: int) -> Loaded:
        section = self.section_of(profile)
        if section is self._section:
            return self._loaded
        if profile not in self._tuned:
            self._tuned[profile] = self._load(self.plan, section)
        return self._tuned[profile]

    def arena_bytes(self, sizes: Mapping[str, int] | None = None, profile: int = 0) -> int:
        """Return the bytes that a context needs for activations with these sizes of symbols.

        ``profile`` says which program is meant where profiles have programs of their own.  Without
        ``sizes``, the largest ones are meant.  Buffers whose size only data decides are not
        counted, and neither are those inside loops and branches.
        """
        largest = {name: high for name, _, _, high in self.plan.ranges}
        return self._program(profile).arena_bytes(largest if sizes is None else sizes)

    def stream_weights(self, resident_bytes: int | None) -> None:
        """Keep so many bytes of weights in a GPU's own memory; None for all of them.

        The others stay in page-locked host memory, which kernels read over the bus in every run.
        All contexts go on with the same weights.  On a CPU nothing changes.  Raises InputError for
        a number of bytes that cannot be.
        """
        if resident_bytes is not None and not (
            isinstance(resident_bytes, int) and resident_bytes >= 0
        ):
            raise InputError(
                f"{resident_bytes!r} bytes of weights cannot stay on the device",
                hint="give bytes, 0 to stream all weights, or None to stream none",
            )
        before, self.resident_bytes = self.resident_bytes, resident_bytes
        try:
            loaded = self._load(self.plan, self._section)
        except BaseException:
            self.resident_bytes = before
            raise
        self._use(self.plan, self._section, loaded)

    def _load(self, plan: Plan, section: Section) -> Loaded:
        if not section.absent:
            return self.driver.load(section, self.resident_bytes)
        missing = missing_weights(plan)
        return AbsentSection(
            PlanError(
                f"the plan was saved without its weights: {', '.join(missing[:4])}"
                f"{', ...' if len(missing) > 4 else ''} ({len(missing)})",
                hint="give them with engine.refit({name: array, ...})",
            )
        )

    def _use(self, plan: Plan, section: Section, loaded: Loaded) -> None:
        """Let every context go on with another section, or none if any of them cannot."""
        contexts = list(self._contexts)
        before = self.plan, self._section, self._loaded, self._tuned
        self.plan, self._section, self._loaded, self._tuned = plan, section, loaded, {}
        try:
            runners = [self._program(self._profiles.get(c, 0)).runner() for c in contexts]
        except BaseException:
            self.plan, self._section, self._loaded, self._tuned = before
            raise
        for context, runner in zip(contexts, runners, strict=True):
            context.adopt(runner)

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
            self.plan, weights, self._threads, self._loaded.weight_memory
        )
        same = [s for s in plan.sections if s.program is self._section.program]
        if same and not self._section.absent:  # constants alone are others
            self._use(plan, same[0], self._loaded.refitted(same[0]))
            return
        plan, section = _usable(plan, self.driver, self._threads, True)
        self._use(plan, section, self._load(plan, section))

    def weights(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return the weights by their names in the model, to read; PlanError without a graph."""
        named = importlib.import_module("lamina.refit").named_weights(self.plan)
        return {name: weight.array for name, weight in named.items()}

    def save(self, path: str | os.PathLike[str], *, weights: bool = True) -> None:
        """Write the plan to a file; raises PlanError and leaves nothing half-written.

        Without ``weights`` those that have names are left out: whoever loads the plan gives them
        with :meth:`refit` before the first run.
        """
        save_plan(self.plan if weights else strip(self.plan), path)

    def serialize(self, *, weights: bool = True) -> bytes:
        """Return the plan's bytes; ``weights`` as in :meth:`save`."""
        return write_plan(self.plan if weights else strip(self.plan))

    def missing_weights(self) -> list[str]:
        """Return the names of weights that the plan was saved without and has not got back."""
        return missing_weights(self.plan)

    def profile(
        self,
        inputs: Mapping[str, Any] | None = None,
        runs: int = 10,
        ceilings: Ceilings | None = None,
    ) -> list[LayerTime]:
        """Return the median microseconds of each layer over ``runs`` runs, with what it does.

        The times add up to that of a whole run.  Without ``inputs``, random ones of the likeliest
        shapes are used.  With ``ceilings`` (see :meth:`ceilings`) each layer has its floor.
        """
        feed = self.example_inputs() if inputs is None else inputs
        context = self.create_context()
        rounds = [context.profile(feed) for _ in range(max(1, runs))]
        times = [statistics.median(us) for us in zip(*rounds, strict=True)]
        sizes = bound_sizes(self._section.program, feed)
        work = layer_work(self._section, sizes, tf32=self._uses_tf32)
        return layer_times(self._section, times, work, ceilings)

    @property
    def _uses_tf32(self) -> bool:
        return dict(self.plan.config).get("precision") == '"tf32"'

    def ceilings(self) -> Ceilings:
        """Return what this engine's device can do, measured when it is first asked for.

        The figures are kept in the cache folder; measuring them takes some seconds and needs the
        compiler, as a build does.
        """
        work = layer_work(self._section, Sizes(), tf32=self._uses_tf32)
        measure = importlib.import_module("lamina.ceilings").measure_ceilings
        found: Ceilings = measure(self.driver, [w.dtype for w in work], self._threads)
        return found

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
    kind = device.partition(":")[0] if isinstance(device, str) else ""
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
