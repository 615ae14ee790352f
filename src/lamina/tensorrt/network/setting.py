"""Properties of layers that may be set until the network is built."""

from __future__ import annotations

from typing import Any, Generic, TypeVar, overload

from lamina.tensorrt.check import convert
from lamina.tensorrt.enum_type import TrtEnum
from lamina.tensorrt.network.layer import ILayer

T = TypeVar("T")


class Setting(Generic[T]):
    """A checked property: setting it to a value of the wrong type is a TypeError.

    A default that is text names a member when the type is an enumeration.  Versions that lack a
    property lose it from its class, so a layer reads such a one by a private name of its own for
    the same setting: ``axes = Setting(...)`` and then ``_axes = axes``.
    """

    def __init__(self, hint: type[T], default: Any, doc: str) -> None:
        self._hint = hint
        self._default = default
        self.__doc__ = doc

    def __set_name__(self, owner: type, name: str) -> None:
        if not name.startswith("_"):
            self._name = name

    @overload
    def __get__(self, layer: None, owner: type) -> Setting[T]: ...
    @overload
    def __get__(self, layer: ILayer, owner: type) -> T: ...
    def __get__(self, layer: ILayer | None, owner: type) -> Setting[T] | T:
        if layer is None:
            return self
        if self._name in layer.__dict__:
            value: T = layer.__dict__[self._name]
            return value
        if isinstance(self._default, str) and issubclass(self._hint, TrtEnum):
            return self._hint.named(self._default)
        default: T = self._default
        return default

    def __set__(self, layer: ILayer, value: Any) -> None:
        try:
            layer.__dict__[self._name] = convert(self._hint, value)
        except TypeError as e:
            raise TypeError(
                f"{type(layer).__name__}.{self._name} must be {self._hint.__name__}, got "
                f"{type(value).__name__}"
            ) from e
        layer._touch()


class OptionalSetting(Setting[T]):
    """A setting that may also be None, meaning that it was not given."""

    def __get__(self, layer: Any, owner: type) -> Any:
        if layer is None:
            return self
        return layer.__dict__.get(self._name, self._default)

    def __set__(self, layer: ILayer, value: Any) -> None:
        if value is None:
            layer.__dict__[self._name] = None
            layer._touch()
        else:
            super().__set__(layer, value)


def set_quietly(layer: ILayer, **settings: Any) -> None:
    """Give settings of a new layer their values, which have been checked."""
    layer.__dict__.update(settings)
