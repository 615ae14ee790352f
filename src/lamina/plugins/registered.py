"""The functions that are registered as operators; what they mean is in the package."""

from __future__ import annotations

import inspect
import json
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from lamina.errors import ConfigError, ExecutionError, GraphError, LaminaError, TypeMismatch
from lamina.ir.graph import Array
from lamina.ir.types import TensorType
from lamina.ops.plugin import PROVIDERS, Computation, PluginCall, forget_plugins
from lamina.ops.plugin_kernels import KERNELS, Device, PluginVariant
from lamina.plugins.launch import Launch, launched, tensors

F = TypeVar("F", bound=Callable[..., Any])
TypeRule = Callable[..., TensorType | tuple[TensorType, ...]]
Launches = Callable[..., Launch | Iterable[Launch | Sequence[Launch]]]

KIND = "lamina"


@dataclass(frozen=True)
class Plugin:
    """A registered function with the rule for the types of its results.

    ``attributes`` maps the names of its keyword-only parameters to their defaults, which are
    ``inspect.Parameter.empty`` for required ones.
    """

    name: str
    function: Callable[..., Any]
    types: TypeRule
    operands: int
    variadic: bool
    attributes: Mapping[str, Any]
    triton: Launches | None = None
    """Says which kernels to launch for operands, results and attributes; None for the host."""

    def call(self, operands: Sequence[TensorType], given: Mapping[str, Any]) -> PluginCall:
        """Return the operator for operands of these types; raises TypeMismatch or ConfigError."""
        if len(operands) < self.operands or (len(operands) > self.operands and not self.variadic):
            raise TypeMismatch(
                f"plugin {self.name!r} takes {self.operands} operands, got {len(operands)}"
            )
        attributes = self._attributes(given)
        try:
            found = self.types(*operands, **attributes)
        except LaminaError:
            raise
        except Exception as e:
            raise TypeMismatch(
                f"the type rule of plugin {self.name!r} raised {type(e).__name__}: {e}"
            ) from e
        types = found if isinstance(found, tuple) else (found,)
        if not types or not all(isinstance(t, TensorType) for t in types):
            raise TypeMismatch(
                f"the type rule of plugin {self.name!r} returned {found!r}, expected tensor types"
            )
        settings = json.dumps(attributes, sort_keys=True).encode()
        return PluginCall(kind=KIND, key=self.name, settings=settings, output_types=types)

    def _attributes(self, given: Mapping[str, Any]) -> dict[str, Any]:
        if unknown := sorted(given.keys() - self.attributes.keys()):
            raise ConfigError(
                f"plugin {self.name!r} has no attribute {unknown[0]!r}",
                hint=f"it has {', '.join(self.attributes) or 'none'}",
            )
        attributes = {**self.attributes, **given}
        missing = [k for k, v in attributes.items() if v is inspect.Parameter.empty]
        if missing:
            raise ConfigError(f"plugin {self.name!r} needs the attribute {missing[0]!r}")
        return attributes


_PLUGINS: dict[str, Plugin] = {}


def plugin(name: str, *, types: TypeRule, triton: Launches | None = None) -> Callable[[F], F]:
    """Register the decorated function as the operator ``domain::name``.

    ``triton`` is asked when an engine is built for a GPU: it gets a
    :class:`~lamina.plugins.PluginTensor` for each operand and each result and the attributes, and
    returns a :class:`~lamina.plugins.Launch`, or yields several of which the build takes the
    fastest; a list of launches runs one after the other.  A function that was registered under the
    name before is replaced.  Raises ConfigError for a name without a domain and for parameters
    that are neither operands nor attributes.
    """
    domain, _, operator = name.partition("::")
    if not domain or not operator:
        raise ConfigError(
            f"{name!r} is not the name of a plugin", hint='write a domain: "acme::scaled_add"'
        )

    def register(function: F) -> F:
        _PLUGINS[name] = _described(name, function, types, triton)
        forget_plugins()
        return function

    return register


def find(name: str) -> Plugin | None:
    """Return the plugin that is registered as ``domain::name``, None for none."""
    return _PLUGINS.get(name)


def _described(
    name: str, function: Callable[..., Any], types: TypeRule, triton: Launches | None
) -> Plugin:
    parameters = list(inspect.signature(function).parameters.values())
    kinds = [p.kind for p in parameters]
    if inspect.Parameter.VAR_KEYWORD in kinds:
        raise ConfigError(
            f"plugin {name!r} takes any attributes",
            hint="list them after the operands: def f(x, *, alpha=1.0)",
        )
    attributes = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    operands = sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
    variadic = inspect.Parameter.VAR_POSITIONAL in kinds
    return Plugin(name, function, types, operands, variadic, attributes, triton)


def _registered(key: str) -> Plugin:
    found = find(key)
    if found is None:
        raise ExecutionError(
            f"the engine needs plugin {key!r}, which is not registered",
            hint="import the module that decorates it with lamina.plugin",
        )
    return found


def _provide(key: str, settings: bytes) -> Computation:
    found = _registered(key)
    attributes = json.loads(settings)
    function = found.function

    def compute(operands: Sequence[Array], types: Sequence[TensorType]) -> Sequence[Array]:
        results = function(*operands, **attributes)
        several = results if isinstance(results, tuple | list) else (results,)
        return [np.asarray(r) for r in several]

    return compute


def _kernels(
    op: PluginCall, inputs: Sequence[TensorType], device: Device
) -> Sequence[PluginVariant]:
    found = _registered(op.key)
    if found.triton is None:
        return []
    outputs = [t for t in op.output_types if isinstance(t, TensorType)]
    try:
        return launched(found.triton, *tensors(inputs, outputs), json.loads(op.settings))
    except LaminaError:
        raise
    except Exception as e:
        lines = "".join(traceback.format_exception(e)).rstrip()
        raise GraphError(f"the triton function of plugin {op.key!r} raised\n{lines}") from e


PROVIDERS[KIND] = _provide
KERNELS[KIND] = _kernels
