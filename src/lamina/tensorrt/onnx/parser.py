"""Fills networks from ONNX models."""

from __future__ import annotations

from typing import Any

from lamina.errors import ImportFailed, LaminaError, Unsupported
from lamina.importers import onnx as importer
from lamina.importers.onnx.functions import find_schema
from lamina.importers.onnx.loading import NEWEST_OPSET
from lamina.tensorrt.builder_config import IBuilderConfig
from lamina.tensorrt.check import checked
from lamina.tensorrt.enums import OnnxParserFlag
from lamina.tensorrt.error_reporting import Reporter
from lamina.tensorrt.logger import ILogger
from lamina.tensorrt.network.imported import adopt
from lamina.tensorrt.network.tensor import ITensor
from lamina.tensorrt.network_definition import INetworkDefinition
from lamina.tensorrt.onnx.layer_names import name_layers
from lamina.tensorrt.onnx.model_source import Model, from_bytes, from_file, put_initializer
from lamina.tensorrt.onnx.network_types import narrow_doubles
from lamina.tensorrt.onnx.parser_error import ErrorList, ParserError, Places
from lamina.tensorrt.onnx.plugin_nodes import PluginNodes
from lamina.tensorrt.onnx.support import Subgraph, subgraphs
from lamina.tensorrt.option import bits, names
from lamina.tensorrt.persona import current
from lamina.tensorrt.plugin_api.registry import find_creators


class OnnxParser(ErrorList):
    """Adds the layers of ONNX models to a network."""

    @checked
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        """Take the network to fill and what messages go to."""
        super().__init__()
        self._network = network
        self._reporter = Reporter(logger)
        self._flags = {"NATIVE_INSTANCENORM"}
        self._subgraphs: list[Subgraph] = []
        self._loaded: Model | None = None
        self._config: IBuilderConfig | None = None

    def parse(self, model: Any, path: str | None = None) -> bool:
        """Add a serialized model; False, with errors, when that fails.

        ``path`` is the file that the model came from, whose folder has its external data.
        """
        return self._guarded(lambda: from_bytes(model, path), self._add)

    parse_with_weight_descriptors = parse

    @checked
    def parse_from_file(self, model: str) -> bool:
        """Add the model in a file; False, with errors, when that fails."""
        return self._guarded(lambda: from_file(model), self._add)

    def load_model_proto(self, model: Any, path: str | None = None) -> bool:
        """Read a model without adding it; see ``load_initializer`` and ``parse_model_proto``."""
        return self._guarded(lambda: from_bytes(model, path), self._keep)

    def load_initializer(self, name: str, data: Any, size: int) -> bool:
        """Give an initializer of the loaded model its ``size`` bytes, a buffer or an address."""
        return self._guarded(self._kept, lambda m: put_initializer(m, name, data, size))

    def parse_model_proto(self) -> bool:
        """Add the loaded model; False, with errors, when that fails."""
        return self._guarded(self._kept, self._add)

    @checked
    def supports_operator(self, op_name: str) -> bool:
        """Whether an operator can be parsed: by Lamina, by ONNX's definition, or by a plugin."""
        if importer.TABLE.find(op_name, NEWEST_OPSET) or any(find_creators(op_name)):
            return True
        schema = find_schema("", op_name, NEWEST_OPSET)
        return schema is not None and (schema.has_function or schema.has_context_dependent_function)

    def supports_model(
        self, model: Any, path: str | None = None
    ) -> tuple[bool, list[tuple[list[int], bool]]]:
        """Return whether all of a model can be parsed, and its parts with whether they can."""
        supported = self._supports(model, path)
        return supported, [(list(s.nodes), s.supported) for s in self._subgraphs]

    def supports_model_v2(self, model: Any, path: str | None = None) -> bool:
        """Whether all of a model can be parsed; ``num_subgraphs`` and so on tell its parts."""
        return self._supports(model, path)

    @property
    def num_subgraphs(self) -> int:
        """Number of parts of the model that ``supports_model_v2`` looked at."""
        return len(self._subgraphs)

    @checked
    def is_subgraph_supported(self, index: int) -> bool:
        """Whether all nodes of a part can be parsed; raises IndexError for no such part."""
        return self._subgraphs[index].supported

    @checked
    def get_subgraph_nodes(self, index: int) -> list[int]:
        """Return the numbers of the nodes of a part; raises IndexError for no such part."""
        return list(self._subgraphs[index].nodes)

    @checked
    def get_layer_output_tensor(self, name: str, i: int) -> ITensor | None:
        """Return result ``i`` of the layer called ``name``; None, reported, for no such one."""
        for layer in self._network._state.layers:
            if layer._name == name and 0 <= i < len(layer._outputs):
                return layer._outputs[i]
        self._reporter.error(f"there is no layer {name!r} with a result {i}")
        return None

    def get_used_vc_plugin_libraries(self) -> list[str]:
        """Return libraries that the model needs plugins from; none, as all are in Python."""
        return []

    @checked
    def set_builder_config(self, builder_config: IBuilderConfig) -> bool:
        """Take the configuration that the network will be built with; kept."""
        self._config = builder_config
        return True

    @property
    def flags(self) -> int:
        """Bits of OnnxParserFlag."""
        return bits(OnnxParserFlag.named(name) for name in self._flags)

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

    def __del__(self) -> None:
        """Nothing is left to do; programs call it all the same."""

    def __enter__(self) -> OnnxParser:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def _guarded(self, read: Any, use: Any) -> bool:
        """Read a model and use it; False, with errors, when either fails."""
        model: Model | None = None
        try:
            model = read()
            return use(model) is not False
        except Unsupported as e:
            assert model is not None
            report = self._report(model)
            places = Places(model.proto)
            self._fail(places.of_reports(report.unsupported) or [places.of_exception(e)])
        except LaminaError as e:
            if model is None and isinstance(e, ImportFailed):
                self._fail(
                    [ParserError(Places(None).fault("", "MODEL_DESERIALIZE_FAILED", str(e)))]
                )
            else:
                self._fail([Places(None if model is None else model.proto).of_exception(e)])
        return False

    def _keep(self, model: Model) -> None:
        self._loaded = model

    def _kept(self) -> Model:
        if self._loaded is None:
            raise ImportFailed("no model is loaded", hint="call load_model_proto first")
        return self._loaded

    def _extensions(self) -> tuple[PluginNodes]:
        return (PluginNodes(override="ENABLE_PLUGIN_OVERRIDE" in self._flags),)

    def _report(self, model: Model) -> importer.Report:
        return importer.check(model.proto, folder=model.folder, extensions=self._extensions())

    def _add(self, model: Model) -> None:
        if self._network._state.implicit_batch:
            raise ImportFailed(
                "ONNX models have their batch in every shape, and this network leaves it out",
                hint="create the network with the flag EXPLICIT_BATCH",
            )
        graph = importer.load(model.proto, folder=model.folder, extensions=self._extensions())
        if narrow_doubles(graph):
            self._reporter.warning("inputs and outputs of DOUBLE become FLOAT")
        before = len(self._network._state.layers)
        adopt(self._network, graph)
        name_layers(self._network._state.layers[before:])
        self._network._state.changed(None)

    def _supports(self, model: Any, path: str | None) -> bool:
        self._subgraphs = []
        return self._guarded(lambda: from_bytes(model, path), self._survey)

    def _survey(self, model: Model) -> bool:
        places = Places(model.proto)
        try:
            report = self._report(model)
        except LaminaError:
            self._subgraphs = [Subgraph(tuple(range(len(model.proto.graph.node))), False)]
            raise
        self._subgraphs = subgraphs(places, report)
        self._fail(places.of_reports(report.unsupported))
        return not report.unsupported


def get_nv_onnx_parser_version() -> int:
    """Return the version of the parser, ``10000 * major + 100 * minor + patch``."""
    major, minor, patch = map(int, current().version.split(".")[:3])
    return 10000 * major + 100 * minor + patch


__all__ = ["OnnxParser", "get_nv_onnx_parser_version"]
