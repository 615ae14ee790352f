"""What objects that the user may implement say about their interface."""

from __future__ import annotations

from dataclasses import dataclass

from lamina.tensorrt.enums import APILanguage


@dataclass
class InterfaceInfo:
    """Name and version of an interface."""

    kind: str = ""
    major: int = 1
    minor: int = 0


class IVersionedInterface:
    """Base of interfaces that the user implements in Python."""

    @property
    def api_language(self) -> APILanguage:
        """Language of the implementation."""
        return APILanguage.named("PYTHON")

    @property
    def interface_info(self) -> InterfaceInfo:
        """Name and version of the interface."""
        return InterfaceInfo(type(self).__name__)


__all__ = ["IVersionedInterface", "InterfaceInfo"]
