"""Argument checks and the implicit conversions of TensorRT's Python bindings.

``@checked`` reads a method's annotations: a wrong type or count of arguments is a TypeError, lists
become ``Dims``, arrays become ``Weights``.
"""

from __future__ import annotations

import functools
import inspect
import operator
import sys
import types
import typing
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numpy as np

from lamina.tensorrt.foundation.dims import Dims
from lamina.tensorrt.foundation.permutation import Permutation
from lamina.tensorrt.foundation.weights import Weights

P = ParamSpec("P")
R = TypeVar("R")
Converter = Callable[[Any], Any]


class _Mismatch(Exception):
    """An argument cannot be what its annotation says."""


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Check and convert the arguments of a function by its annotations."""
    plan: list[Any] = []

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if not plan:
            plan.append(_prepare(function))
        signature, converters = plan[0]
        try:
            bound = signature.bind(*args, **kwargs)
            for name, value in bound.arguments.items():
                if name in converters:
                    bound.arguments[name] = converters[name](value)
        except (TypeError, _Mismatch) as e:
            raise TypeError(_complaint(function, signature, args, kwargs)) from e
        return function(*bound.args, **bound.kwargs)

    return call


def _prepare(function: Callable[..., Any]) -> tuple[inspect.Signature, dict[str, Converter]]:
    hints = typing.get_type_hints(function, vars(sys.modules[function.__module__]))
    hints.pop("return", None)
    return inspect.signature(function), {
        name: converter for name, hint in hints.items() if (converter := _converter(hint))
    }


def _complaint(
    function: Callable[..., Any],
    signature: inspect.Signature,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> str:
    given = [type(a).__name__ for a in args[1:]]
    given += [f"{k}={type(v).__name__}" for k, v in kwargs.items()]
    return (
        f"{function.__name__}(): incompatible function arguments. The following argument types are "
        f"supported:\n    1. {function.__name__}{signature}\n\nInvoked with: {', '.join(given)}"
    )


def _converter(hint: Any) -> Converter | None:
    """Return what turns an argument into its annotated type; None for unchecked ones."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _either([None if a is type(None) else _converter(a) for a in arguments], arguments)
    if origin is list:
        return _list_of(_converter(arguments[0]))
    if hint in _CONVERTERS:
        return _CONVERTERS[hint]
    if inspect.isclass(hint) and origin is None and hint not in (object, Any):
        return functools.partial(_instance, hint)
    return None


def _instance(cls: type, value: Any) -> Any:
    if isinstance(value, cls):
        return value
    raise _Mismatch


def _either(converters: list[Converter | None], hints: tuple[Any, ...]) -> Converter:
    optional = type(None) in hints

    def convert(value: Any) -> Any:
        if value is None and optional:
            return None
        for converter in converters:
            if converter is not None:
                try:
                    return converter(value)
                except (_Mismatch, TypeError):
                    continue
        raise _Mismatch

    return convert


def _list_of(converter: Converter | None) -> Converter:
    def convert(value: Any) -> Any:
        if isinstance(value, str | bytes) or not hasattr(value, "__iter__"):
            raise _Mismatch
        return [converter(v) if converter else v for v in value]

    return convert


def _int(value: Any) -> int:
    if isinstance(value, float | np.floating):
        raise _Mismatch
    return operator.index(value) if not isinstance(value, bool) else int(value)


def _float(value: Any) -> float:
    if isinstance(value, int | float | np.number):
        return float(value)
    raise _Mismatch


def _bool(value: Any) -> bool:
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise _Mismatch


def _str(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise _Mismatch


def as_dims(value: Any) -> Dims:
    """Return a Dims, list or tuple of integers as Dims; raises TypeError for anything else."""
    if isinstance(value, Dims):
        return value
    if isinstance(value, list | tuple):
        return Dims(value)
    raise _Mismatch


def as_weights(value: Any) -> Weights:
    """Return Weights or an array as Weights; ValueError for an array that is not contiguous."""
    if isinstance(value, Weights):
        return value
    if isinstance(value, np.ndarray):
        return Weights(value)
    raise _Mismatch


def _permutation(value: Any) -> Permutation:
    return value if isinstance(value, Permutation) else Permutation(value)


_CONVERTERS: dict[Any, Converter] = {
    int: _int,
    float: _float,
    bool: _bool,
    str: _str,
    Dims: as_dims,
    Weights: as_weights,
    Permutation: _permutation,
}


def as_handle(value: Any, function: str, what: str) -> int:
    """Return an address or a handle of CUDA as a number; TypeError for what stands for none.

    Besides numbers, objects of CUDA's Python bindings are taken, which ``int`` converts.
    """
    if not isinstance(value, str | bytes | bytearray | float):
        try:
            return int(value)
        except (TypeError, ValueError):
            pass
    raise TypeError(f"{function}(): {what} is a {type(value).__name__}, not a number")


def convert(hint: Any, value: Any) -> Any:
    """Return a value as its annotated type, with the implicit conversions; else TypeError."""
    converter = _converter(hint)
    try:
        return value if converter is None else converter(value)
    except _Mismatch as e:
        raise TypeError(f"{type(value).__name__} is no {hint}") from e
