"""The ONNX parser."""

from __future__ import annotations

import ctypes
import os
from typing import Any

import onnx

from lamina.errors import ImportFailed, LaminaError, Unsupported
from lamina.importers.onnx import TABLE, check, load
from lamina.importers.onnx.functions import find_schema
from lamina.importers.onnx.loading import NEWEST_OPSET
from lamina.importers.onnx.model_file import read_model
from lamina.tensorrt.builder_config import IBuilderConfig
from lamina.tensorrt.check import checked
from lamina.tensorrt.enums import OnnxParserFlag
from lamina.tensorrt.error_reporting import Reporter
from lamina.tensorrt.logger import ILogger
from lamina.tensorrt.network.imported import adopt
from lamina.tensorrt.network.tensor import ITensor
from lamina.tensorrt.network_definition import INetworkDefinition
from lamina.tensorrt.onnx.analysis import Subgraph, node_errors, refused_nodes, subgraphs
from lamina.tensorrt.onnx.errors import ParserError
from lamina.tensorrt.option import bits, names
from lamina.tensorrt.persona import current

_CODES = ("MODEL_DESERIALIZE_FAILED", "INVALID_GRAPH")


class OnnxParser:
    """Adds ONNX models to a network, one layer for each operator of Lamina's."""

    @checked
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        """Take the network to fill and what messages go to."""
        self._network = network
        self._reporter = Reporter(logger)
        self._errors: list[ParserError] = []
        self._subgraphs: list[Subgraph] = []
        self._flags = {"NATIVE_INSTANCENORM"} if current().major != "8" else set[str]()
        self._tensors: dict[str, ITensor] = {}
        self._outputs: dict[str, list[str]] = {}
        self._loaded: tuple[onnx.ModelProto, str | None] | None = None

    def parse(self, model: Any, path: str | None = None) -> bool:
        """Add a model given as bytes; ``path`` says where its external data is.

        Returns False, with errors and messages in the logger, for a model that cannot be used.
        """
        return self._parse(model_source(model, path, "parse"))

    def parse_with_weight_descriptors(self, model: Any) -> bool:
        """Add a model given as bytes whose weights are given by address."""
        return self._parse(model_source(model, None, "parse_with_weight_descriptors"))

    def parse_from_file(self, model: str) -> bool:
        """Add a model from a file."""
        if not isinstance(model, str | os.PathLike):
            raise TypeError(
                "parse_from_file(): incompatible function arguments: expected a path, got "
                f"{type(model).__name__}"
            )
        return self._parse(os.fspath(model))

    def _parse(self, source: Any) -> bool:
        try:
            graph = load(source)
            self._tensors = adopt(self._network, graph)
            proto, _ = read_model(source)
            self._outputs = {n.name: list(n.output) for n in proto.graph.node if n.name}
        except LaminaError as e:
            self._fail(source, e)
            return False
        return True

    def _fail(self, source: Any, error: LaminaError) -> None:
        """Remember and report why a model cannot be used."""
        found: list[ParserError] = []
        if isinstance(error, Unsupported):
            try:
                proto, _ = read_model(source)
                found = node_errors(proto, refused_nodes(proto, check(source)))
            except LaminaError:
                found = []
        if not found:
            unreadable = isinstance(error, ImportFailed) and not error.where
            found = [ParserError(_CODES[0 if unreadable else 1], str(error))]
        for entry in found:
            self._errors.append(entry)
            self._reporter.error(str(entry), "INVALID_ARGUMENT")

    @checked
    def supports_operator(self, op_name: str) -> bool:
        """Whether there is an importer for an operator, or ONNX defines it."""
        native = TABLE.find(op_name, NEWEST_OPSET) is not None
        return native or find_schema("", op_name, NEWEST_OPSET) is not None

    def supports_model(
        self, model: Any, path: str | None = None
    ) -> tuple[bool, list[tuple[list[int], bool]]]:
        """Return whether a model can be used, and its subgraphs with whether each one can."""
        whole = self._analyse(model_source(model, path, "supports_model"))
        return whole, [(list(s.nodes), s.supported) for s in self._subgraphs]

    def supports_model_v2(self, model: Any, path: str | None = None) -> bool:
        """Whether a model can be used; see ``num_subgraphs`` for its parts."""
        return self._analyse(model_source(model, path, "supports_model_v2"))

    def _analyse(self, source: Any) -> bool:
        self._subgraphs = []
        try:
            proto, _ = read_model(source)
            refused = refused_nodes(proto, check(source))
        except LaminaError as e:
            self._fail(source, e)
            return False
        self._errors += node_errors(proto, refused)
        self._subgraphs = subgraphs(len(proto.graph.node), list(refused))
        return not refused

    @property
    def num_subgraphs(self) -> int:
        """Number of parts that ``supports_model_v2`` found."""
        return len(self._subgraphs)

    @checked
    def is_subgraph_supported(self, index: int) -> bool:
        """Whether a part can be used."""
        return self._subgraphs[index].supported

    @checked
    def get_subgraph_nodes(self, index: int) -> list[int]:
        """Return the numbers of a part's nodes in the model."""
        return list(self._subgraphs[index].nodes)

    @property
    def num_errors(self) -> int:
        """Number of errors."""
        return len(self._errors)

    @checked
    def get_error(self, index: int) -> ParserError:
        """Return an error; IndexError when there are fewer."""
        return self._errors[index]

    def clear_errors(self) -> None:
        """Forget all errors."""
        self._errors.clear()

    @property
    def flags(self) -> int:
        """Bits of OnnxParserFlag; kept."""
        return bits(OnnxParserFlag.named(n) for n in self._flags)

    @flags.setter
    @checked
    def flags(self, value: int) -> None:
        self._flags = set(names(OnnxParserFlag, value))

    @checked
    def set_flag(self, flag: OnnxParserFlag) -> None:
        """Set a flag."""
        self._flags.add(flag.name)

    @checked
    def clear_flag(self, flag: OnnxParserFlag) -> None:
        """Clear a flag."""
        self._flags.discard(flag.name)

    @checked
    def get_flag(self, flag: OnnxParserFlag) -> bool:
        """Whether a flag is set."""
        return flag.name in self._flags

    @checked
    def get_layer_output_tensor(self, name: str, i: int) -> ITensor | None:
        """Return output ``i`` of the node called ``name``, None where there is none."""
        outputs = self._outputs.get(name, [])
        return self._tensors.get(outputs[i]) if 0 <= i < len(outputs) else None

    def get_used_vc_plugin_libraries(self) -> list[str]:
        """Return the plugin libraries that a version-compatible engine needs: none."""
        return []

    @checked
    def set_builder_config(self, builder_config: IBuilderConfig) -> bool:
        """Take a configuration into account; none changes how models are parsed."""
        return True

    def load_model_proto(self, model: Any, path: str | None = None) -> bool:
        """Keep a model for ``parse_model_proto``."""
        try:
            proto, _ = read_model(model_source(model, path, "load_model_proto"))
        except LaminaError as e:
            self._fail(model, e)
            return False
        self._loaded = (proto, path)
        return True

    def load_initializer(self, name: str, data: int, size: int) -> bool:
        """Give an initializer of the kept model its bytes, by address and size."""
        return self._loaded is not None and give_initializer(self._loaded[0], name, data, size)

    def parse_model_proto(self) -> bool:
        """Add the kept model to the network."""
        if self._loaded is None:
            self._reporter.error("no model is loaded: call load_model_proto", "INVALID_STATE")
            return False
        return self._parse(self._loaded[0])

    def __enter__(self) -> OnnxParser:
        return self

    def __exit__(self, *exc: object) -> None:
        return None


def model_source(model: Any, path: str | None, method: str) -> Any:
    """Return what to import: the file where one is named, else the bytes."""
    if path is not None and os.path.isfile(path):
        return path
    try:
        return bytes(memoryview(model))
    except TypeError as e:
        raise TypeError(
            f"{method}(): incompatible function arguments: expected bytes, got "
            f"{type(model).__name__}"
        ) from e


def give_initializer(model: onnx.ModelProto, name: str, data: int, size: int) -> bool:
    """Replace the bytes of an initializer; False when there is none of that name."""
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.ClearField("external_data")
            tensor.data_location = onnx.TensorProto.DEFAULT
            tensor.raw_data = ctypes.string_at(data, size)
            return True
    return False


def get_nv_onnx_parser_version() -> tuple[int, int, int]:
    """Return the version that the parser speaks for."""
    major, minor, patch = (int(part) for part in current().version.split(".")[:3])
    return major, minor, patch


__all__ = ["OnnxParser", "get_nv_onnx_parser_version"]
