"""The UFF parser of TensorRT 5 to 8."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lamina.tensorrt.check import checked
from lamina.tensorrt.enums import DataType, FieldType, UffInputOrder
from lamina.tensorrt.error_reporting import IErrorRecorder, Reporter
from lamina.tensorrt.foundation.dims import Dims
from lamina.tensorrt.network_definition import INetworkDefinition

_MISSING = "UFF models cannot be imported yet: convert the model to ONNX and use OnnxParser"


@dataclass
class FieldMap:
    """One named field of a plugin."""

    name: str = ""
    data: Any = None
    type: FieldType | None = None
    length: int = 1


@dataclass
class FieldCollection:
    """The fields of a plugin."""

    fields: Sequence[FieldMap] = ()

    @property
    def num_fields(self) -> int:
        """Number of fields."""
        return len(self.fields)


class UffParser:
    """Reads UFF models; parsing reports that this is not possible yet and gives False."""

    uff_required_version_major = 0
    uff_required_version_minor = 6
    uff_required_version_patch = 9

    plugin_namespace = ""
    error_recorder: IErrorRecorder | None = None

    def __init__(self) -> None:
        self._inputs: dict[str, tuple[Dims, str]] = {}
        self._outputs: list[str] = []

    @checked
    def register_input(self, name: str, shape: Dims, order: UffInputOrder | None = None) -> bool:
        """Declare an input; NCHW by default."""
        self._inputs[name] = (shape, "NCHW" if order is None else order.name)
        return True

    @checked
    def register_output(self, name: str) -> bool:
        """Declare an output."""
        self._outputs.append(name)
        return True

    @checked
    def parse(
        self, file: str, network: INetworkDefinition, weights_type: DataType | None = None
    ) -> bool:
        """Read a model from a file into a network."""
        return self._refuse(network._reporter)

    @checked
    def parse_buffer(
        self, buffer: bytes, network: INetworkDefinition, weights_type: DataType | None = None
    ) -> bool:
        """Read a model from bytes into a network."""
        return self._refuse(network._reporter)

    def _refuse(self, reporter: Reporter) -> bool:
        Reporter(reporter.logger, self.error_recorder).error(_MISSING, "UNSUPPORTED_STATE")
        return False


def shutdown_protobuf_library() -> None:
    """Release the parsers' library; there is nothing to release."""


__all__ = ["FieldCollection", "FieldMap", "UffParser", "shutdown_protobuf_library"]
