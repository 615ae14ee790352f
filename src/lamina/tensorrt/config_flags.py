"""Flags of a build."""

from __future__ import annotations

from lamina.tensorrt.check import checked
from lamina.tensorrt.enums import BuilderFlag
from lamina.tensorrt.option import bits, names


class FlagChoices:
    """The flags of IBuilderConfig."""

    _flags: set[str]

    def _start_flags(self) -> None:
        self._flags = {"TF32"}

    @property
    def flags(self) -> int:
        """Bits of BuilderFlag."""
        return bits(BuilderFlag.named(name) for name in self._flags)

    @flags.setter
    @checked
    def flags(self, value: int) -> None:
        self._flags = set(names(BuilderFlag, value))

    @checked
    def set_flag(self, flag: BuilderFlag) -> None:
        """Set a flag."""
        self._flags.add(flag.name)

    @checked
    def clear_flag(self, flag: BuilderFlag) -> None:
        """Clear a flag."""
        self._flags.discard(flag.name)

    @checked
    def get_flag(self, flag: BuilderFlag) -> bool:
        """Whether a flag is set."""
        return flag.name in self._flags
