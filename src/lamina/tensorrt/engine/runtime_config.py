"""How contexts are created and engines serialized."""

from __future__ import annotations

from lamina.tensorrt.check import checked
from lamina.tensorrt.enums import ExecutionContextAllocationStrategy, SerializationFlag
from lamina.tensorrt.option import bits, names


class IRuntimeConfig:
    """Options of a context; made by ICudaEngine.create_runtime_config."""

    def __init__(self) -> None:
        self._strategy = "STATIC"

    @checked
    def set_execution_context_allocation_strategy(
        self, strategy: ExecutionContextAllocationStrategy
    ) -> None:
        """Choose when a context gets its memory."""
        self._strategy = strategy.name

    def get_execution_context_allocation_strategy(self) -> ExecutionContextAllocationStrategy:
        """Return when a context gets its memory."""
        return ExecutionContextAllocationStrategy.named(self._strategy)


class ISerializationConfig:
    """What goes into a serialized engine; made by ICudaEngine.create_serialization_config."""

    def __init__(self) -> None:
        self._flags: set[str] = set()

    @property
    def flags(self) -> int:
        """Bits of SerializationFlag."""
        return bits(SerializationFlag.named(n) for n in self._flags)

    @flags.setter
    @checked
    def flags(self, value: int) -> None:
        self._flags = set(names(SerializationFlag, value))

    @checked
    def set_flag(self, flag: SerializationFlag) -> bool:
        """Set a flag."""
        self._flags.add(flag.name)
        return True

    @checked
    def clear_flag(self, flag: SerializationFlag) -> bool:
        """Clear a flag."""
        self._flags.discard(flag.name)
        return True

    @checked
    def get_flag(self, flag: SerializationFlag) -> bool:
        """Whether a flag is set."""
        return flag.name in self._flags


__all__ = ["IRuntimeConfig", "ISerializationConfig"]
