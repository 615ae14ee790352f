"""Kernels of decorated plugins that are compiled ahead of time: ``aot_impl``."""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from lamina.errors import GraphError
from lamina.ir.dims import Dim
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
from lamina.tensorrt.plugin_api.calls import asking
from lamina.tensorrt.plugin_api.launch import KernelLaunchParams, argument
from lamina.tensorrt.plugin_api.quick import JIT, KIND, PLUGINS, QuickPlugin, call
from lamina.tensorrt.plugin_api.quick_types import ShapeExpr

_WARP: Final = 32
_ELF: Final = b"\x7fELF"


class _CompileTarget:
    """Stands for Triton's driver while a plugin compiles: says which device to compile for."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def get_current_target(self) -> Any:
        """Return the device that the engine is built for."""
        return self._target


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
    config.set_active(_CompileTarget(target("cuda", arch, _WARP)))
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
        made = call(plugin.compile, operands, attributes, [results, tactic])
        launch = described_launch(*_parts(plugin, made), len(operands), len(results))
    digest = hashlib.blake2b(repr(launch).encode(), digest_size=4).hexdigest()
    name = f"{plugin.name} tactic {tactic} #{digest}"
    return PluginVariant(name=name, launches=(launch,), overwrites=overwrites)


def _parts(plugin: QuickPlugin, made: Any) -> tuple[Any, Any, Any, Any]:
    if not isinstance(made, tuple) or len(made) != 4:
        raise TypeError(
            f"aot_impl of {plugin.name!r} must return the name of a kernel, its PTX, "
            "KernelLaunchParams and extra arguments"
        )
    name, code, params, extra = made
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
    sizes = [SizeArgument(*argument(item)) for item in (extra or ())]
    arguments: list[PluginArgument] = [OperandPointer(i) for i in range(operands)]
    arguments += [*sizes, *(ResultPointer(i) for i in range(results))]
    return PluginLaunch(
        function=_text(name),
        code=Assembly(text=_assembly(code), shared_bytes=_number(params.shared_mem)),
        grid=(_size(params.grid_x), _size(params.grid_y), _size(params.grid_z)),
        arguments=tuple(arguments),
        warps=_warps(params),
    )


def _warps(params: KernelLaunchParams) -> int:
    x, y, z = (_number(n) for n in (params.block_x, params.block_y, params.block_z))
    if y != 1 or z != 1 or x % _WARP or not x:
        raise GraphError(
            f"blocks of {x} x {y} x {z} threads cannot be launched",
            hint="use blocks with one axis, of a multiple of 32 threads",
        )
    return x // _WARP


def _assembly(code: str | bytes) -> str:
    """Return PTX, or machine code as text."""
    if isinstance(code, bytes) and code.startswith(_ELF):
        return MACHINE_CODE + base64.b64encode(code).decode()
    return _text(code).rstrip("\0")


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _size(value: Any) -> Dim:
    return ShapeExpr(value)._dim


def _number(value: Any) -> int:
    return ShapeExpr(value).constant_value()


KERNELS[KIND] = _kernels

__all__: list[str] = []
