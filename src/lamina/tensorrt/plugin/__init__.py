"""Plugins made of decorated functions: TensorRT's ``tensorrt.plugin``.

::

    import lamina.tensorrt.plugin as trtp

    @trtp.register("acme::scale")
    def scale_desc(x: trtp.TensorDesc, factor: float) -> trtp.TensorDesc:
        return x.like()

    @trtp.impl("acme::scale")
    def scale(x: trtp.Tensor, factor: float, outputs: tuple[trtp.Tensor], stream: int) -> None:
        numpy.multiply(numpy.asarray(x), factor, out=numpy.asarray(outputs[0]))

    layer = network.add_plugin(trtp.op.acme.scale(tensor, factor=2.0))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from lamina.tensorrt.plugin_api import quick
from lamina.tensorrt.plugin_api.combinations import AutoTuneCombination
from lamina.tensorrt.plugin_api.launch import (
    KernelLaunchParams,
    SymExprs,
    SymInt8,
    SymInt16,
    SymIntExprs,
)
from lamina.tensorrt.plugin_api.quick_creators import make_known
from lamina.tensorrt.plugin_api.quick_types import (
    Shape,
    ShapeExpr,
    ShapeExprs,
    SizeTensorDesc,
    SymInt32,
    Tensor,
    TensorDesc,
    cdiv,
    from_shape_expr,
    size_tensor,
)
from lamina.tensorrt.plugin_api.quick_types import maximum as max
from lamina.tensorrt.plugin_api.quick_types import minimum as min

F = TypeVar("F", bound=Callable[..., Any])


def register(plugin_id: str, lazy_register: bool = False) -> Callable[[F], F]:
    """Register a plugin by the function that describes its results.

    Parameters annotated with TensorDesc are operands, others are attributes.  The registry then
    has a creator of the plugin; with ``lazy_register`` only from the first call on.
    """

    def decorate(function: F) -> F:
        _split(plugin_id)
        quick.PLUGINS[plugin_id] = quick.described(plugin_id, function)
        if not lazy_register:
            make_known(plugin_id)
        quick.replaced()
        return function

    return decorate


def impl(plugin_id: str) -> Callable[[F], F]:
    """Set the function that computes a plugin.

    It gets a Tensor for each operand, the attributes that it names, ``outputs``, ``stream`` and,
    if it wants it, ``tactic``.  On a GPU it is called for each run with addresses there, and
    enqueues work on the stream.
    """
    return _attach(plugin_id, "implement")


def aot_impl(plugin_id: str) -> Callable[[F], F]:
    """Set the function that compiles a plugin's kernel ahead of time, for engines on a GPU.

    It gets a TensorDesc for each operand, the attributes that it names, ``outputs`` and
    ``tactic``, and returns the kernel's name, its PTX (or cubin), KernelLaunchParams, and extra
    arguments,
    which the kernel takes between operands and results.  ``triton.compile`` without a target
    compiles for the device that the engine is built for.  The plan then holds the kernel.
    """
    return _attach(plugin_id, "compile")


def autotune(plugin_id: str) -> Callable[[F], F]:
    """Set the function that lists types, formats and tactics to try, as AutoTuneCombinations.

    Tensors are linear and of the network's types; of several tactics the fastest is taken.
    """
    return _attach(plugin_id, "autotune")


def _attach(plugin_id: str, part: str) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        if plugin_id not in quick.PLUGINS:
            raise ValueError(
                f"plugin {plugin_id!r} is not registered: decorate with register first"
            )
        setattr(quick.PLUGINS[plugin_id], part, function)
        quick.replaced()
        return function

    return decorate


def _split(plugin_id: str) -> tuple[str, str]:
    namespace, _, name = plugin_id.partition("::")
    if not namespace or not name:
        raise ValueError(f"{plugin_id!r} is not the name of a plugin: write 'namespace::name'")
    return namespace, name


class _Namespace:
    """Plugins of a namespace as functions on tensors of a network."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace

    def __getattr__(self, name: str) -> Callable[..., quick.QuickCall]:
        plugin = quick.PLUGINS.get(f"{self._namespace}::{name}")
        if plugin is None:
            raise AttributeError(f"no plugin {self._namespace}::{name} is registered")
        make_known(plugin.name)
        return lambda *args, **kwargs: quick.bound(plugin, args, kwargs)


class _Operators:
    """Namespaces of plugins: ``op.namespace.name(tensor, ...)``."""

    def __getattr__(self, namespace: str) -> _Namespace:
        return _Namespace(namespace)


op = _Operators()

__all__ = [
    "AutoTuneCombination",
    "KernelLaunchParams",
    "Shape",
    "ShapeExpr",
    "ShapeExprs",
    "SizeTensorDesc",
    "SymExprs",
    "SymInt8",
    "SymInt16",
    "SymInt32",
    "SymIntExprs",
    "Tensor",
    "TensorDesc",
    "aot_impl",
    "autotune",
    "cdiv",
    "from_shape_expr",
    "impl",
    "max",
    "min",
    "op",
    "register",
    "size_tensor",
]
