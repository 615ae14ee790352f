"""Kernels of decorated plugins that are compiled ahead of time: ``aot_impl``."""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from lamina.errors import GraphError
from lamina.ir.types import TensorType
from lamina.ops import PluginCall
from lamina.ops.plugin_kernels import (
    KERNELS,
    MACHINE_CODE,
    Assembly,
    Device,
    OperandPointer,
    PluginArgument,
    PluginLaunch,
    PluginVariant,
    ResultPointer,
    SizeArgument,
)
from lamina.tensorrt.enums import TensorRTPhase
from lamina.tensorrt.plugin_api.calls import V3, asking, capability, made
from lamina.tensorrt.plugin_api.descriptions import described, dynamic
from lamina.tensorrt.plugin_api.expressions import DimsExprs, IDimensionExpr, IExprBuilder
from lamina.tensorrt.plugin_api.fields import decode
from lamina.tensorrt.plugin_api.launch import ISymExprs, KernelLaunchParams, argument, size
from lamina.tensorrt.plugin_api.quick import JIT, KIND, PLUGINS, QuickPlugin, call
from lamina.tensorrt.plugin_api.quick_types import ShapeExpr
from lamina.tensorrt.plugin_api.running import creator_of
from lamina.tensorrt.plugin_api.v3_quick import IPluginV3QuickAOTBuild, create, kernel_part

_WARP: Final = 32
_MOST_THREADS: Final = 1024
_ELF: Final = b"\x7fELF"


class _CompileTarget:
    """Stands for Triton's driver while a plugin compiles: says which device to compile for."""

    def __init__(self, target: Any, driver: Callable[[], Any]) -> None:
        self._target, self._driver = target, driver

    def get_current_target(self) -> Any:
        """Return the device that the engine is built for."""
        return self._target

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver(), name)


@contextmanager
def compiling_for(arch: int) -> Iterator[None]:
    """Let ``triton.compile`` compile for ``arch`` where it is given no target, GPU or not."""
    try:
        config = importlib.import_module("triton.runtime").driver
        target = importlib.import_module("triton.backends.compiler").GPUTarget
    except ImportError:  # the plugin may use another compiler
        yield
        return
    before = config._active
    active = _CompileTarget(target("cuda", arch, _WARP), lambda: before or config.default)
    config.set_active(active)
    try:
        yield
    finally:
        config.set_active(before)


def _kernels(
    op: PluginCall, inputs: Sequence[TensorType], device: Device
) -> Sequence[PluginVariant]:
    plugin = PLUGINS.get(op.key)
    settings = json.loads(op.settings)
    if plugin is None or plugin.compile is None or settings["way"] == JIT:
        return []
    attributes = plugin.decoded(settings["attributes"])
    types = [t for t in op.output_types if isinstance(t, TensorType)]
    tactics = plugin.tactics(inputs, attributes, types) or [0]
    overwrites = tuple((i, a) for i, a in enumerate(settings["aliases"]) if a >= 0)
    return [_variant(plugin, inputs, attributes, tactic, overwrites, device) for tactic in tactics]


def _variant(
    plugin: QuickPlugin,
    inputs: Sequence[TensorType],
    attributes: dict[str, Any],
    tactic: int,
    overwrites: tuple[tuple[int, int], ...],
    device: Device,
) -> PluginVariant:
    assert plugin.compile is not None
    operands, results = plugin.descriptions(inputs, attributes, None)
    with asking(plugin.compile, f"aot_impl of {plugin.name!r}"), compiling_for(device.arch):
        found = call(plugin.compile, operands, attributes, [results, tactic])
        launch = described_launch(*_parts(plugin, found), len(operands), len(results))
    digest = hashlib.blake2b(repr(launch).encode(), digest_size=4).hexdigest()
    name = f"{plugin.name} tactic {tactic} #{digest}"
    return PluginVariant(name=name, launches=(launch,), overwrites=overwrites)


def _parts(plugin: QuickPlugin, found: Any) -> tuple[Any, Any, Any, Any]:
    if not isinstance(found, tuple) or len(found) != 4:
        raise TypeError(
            f"aot_impl of {plugin.name!r} must return the name of a kernel, its PTX, "
            "KernelLaunchParams and extra arguments"
        )
    name, code, params, extra = found
    if not isinstance(name, str | bytes) or not isinstance(code, str | bytes):
        raise TypeError(f"aot_impl of {plugin.name!r} must return name and PTX as text or bytes")
    if not isinstance(params, KernelLaunchParams):
        raise TypeError(f"aot_impl of {plugin.name!r} must return KernelLaunchParams")
    return name, code, params, extra


def described_launch(
    name: str | bytes,
    code: str | bytes,
    params: KernelLaunchParams,
    extra: Any,
    operands: int,
    results: int,
) -> PluginLaunch:
    """Return a launch: operands, extra arguments and results are its arguments, in this order.

    Raises GraphError for blocks of threads that cannot be launched.
    """
    block = _block(params)
    sizes = [SizeArgument(*argument(item)) for item in (extra or ())]
    arguments: list[PluginArgument] = [OperandPointer(i) for i in range(operands)]
    arguments += [*sizes, *(ResultPointer(i) for i in range(results))]
    return PluginLaunch(
        function=_text(name),
        code=Assembly(text=_assembly(code), shared_bytes=_number(params.shared_mem)),
        grid=(size(params.grid_x), size(params.grid_y), size(params.grid_z)),
        arguments=tuple(arguments),
        warps=-(-math.prod(block) // _WARP),
        block=block,
    )


def _block(params: KernelLaunchParams) -> tuple[int, int, int]:
    """Return the threads of a block; raises GraphError for a block that cannot be."""
    x, y, z = (_number(n) for n in (params.block_x, params.block_y, params.block_z))
    if min(x, y, z) < 1 or x * y * z > _MOST_THREADS:
        raise GraphError(
            f"blocks of {x} x {y} x {z} threads cannot be launched",
            hint=f"a block has 1 to {_MOST_THREADS} threads",
        )
    return x, y, z


def _assembly(code: str | bytes) -> str:
    """Return PTX, or machine code as text."""
    if isinstance(code, bytes) and code.startswith(_ELF):
        return MACHINE_CODE + base64.b64encode(code).decode()
    return _text(code).rstrip("\0")


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _number(value: Any) -> int:
    return ShapeExpr(size(value)).constant_value()


def _subclass_kernels(
    op: PluginCall, inputs: Sequence[TensorType], device: Device
) -> Sequence[PluginVariant]:
    """Return the kernels of a plugin that subclasses IPluginV3QuickAOTBuild."""
    settings = json.loads(op.settings)
    plugin = made(op)
    if plugin is None:
        fields = decode(settings["fields"].encode())
        creator = creator_of(op.key)
        with asking(creator, "create_plugin"):
            plugin = create(creator, creator.name, fields, TensorRTPhase.named("BUILD"))
    part = kernel_part(capability(plugin, "BUILD"))
    if part is None:
        return []
    given = inputs[: settings["inputs"]]
    types = [t for t in op.output_types if isinstance(t, TensorType)]
    with asking(plugin, "get_valid_tactics"):
        tactics = list(part.get_valid_tactics()) or [0]
    overwrites = tuple((int(i), a) for i, a in settings["aliases"].items())
    found = []
    for tactic in tactics:
        with asking(plugin, "get_kernel"), compiling_for(device.arch):
            launch = _subclass_launch(part, tactic, given, types)
        digest = hashlib.blake2b(repr(launch).encode(), digest_size=4).hexdigest()
        name = f"{op.key} tactic {tactic} #{digest}"
        found.append(PluginVariant(name=name, launches=(launch,), overwrites=overwrites))
    return found


def _subclass_launch(
    part: IPluginV3QuickAOTBuild,
    tactic: int,
    inputs: Sequence[TensorType],
    outputs: Sequence[TensorType],
) -> PluginLaunch:
    part.set_tactic(tactic)
    params, extra = KernelLaunchParams(), ISymExprs()
    exprs = [DimsExprs(map(IDimensionExpr, t.shape)) for t in inputs]
    described_all = [dynamic(t) for t in (*inputs, *outputs)]
    part.get_launch_params(exprs, described_all, len(inputs), params, extra, IExprBuilder())
    before, after = [described(t) for t in inputs], [described(t) for t in outputs]
    name, code = part.get_kernel(before, after)
    items = [extra[i] for i in range(len(extra))]
    return described_launch(name, code, params, items, len(inputs), len(outputs))


KERNELS[KIND] = _kernels
KERNELS[V3] = _subclass_kernels

__all__: list[str] = []
