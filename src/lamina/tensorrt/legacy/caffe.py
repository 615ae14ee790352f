"""The Caffe parser of TensorRT 5 to 8."""

from __future__ import annotations

from typing import Any

from lamina.tensorrt.check import checked
from lamina.tensorrt.enums import DataType
from lamina.tensorrt.error_reporting import IErrorRecorder, Reporter
from lamina.tensorrt.network.tensor import ITensor
from lamina.tensorrt.network_definition import INetworkDefinition

_MISSING = "Caffe models cannot be imported yet: convert the model to ONNX and use OnnxParser"


class IBlobNameToTensor:
    """Tensors by the names of Caffe's blobs."""

    def __init__(self, tensors: dict[str, ITensor]) -> None:
        self._tensors = tensors

    @checked
    def find(self, name: str) -> ITensor | None:
        """Return the tensor of a blob, None for an unknown name."""
        return self._tensors.get(name)


class ICaffePluginFactoryV2:
    """Makes plugins for layers that Caffe does not have; subclass it."""

    def is_plugin_v2(self, layer_name: str) -> bool:
        """Whether a layer is a plugin."""
        raise NotImplementedError

    def create_plugin(self, layer_name: str, weights: Any) -> Any:
        """Return the plugin for a layer."""
        raise NotImplementedError


class CaffeParser:
    """Reads Caffe models; each method reports that this is not possible yet and gives None."""

    protobuf_buffer_size = 0
    plugin_factory_v2: ICaffePluginFactoryV2 | None = None
    plugin_namespace = ""
    error_recorder: IErrorRecorder | None = None

    @checked
    def parse(
        self, deploy: str, model: str, network: INetworkDefinition, dtype: DataType
    ) -> IBlobNameToTensor | None:
        """Read a model from files into a network."""
        self._refuse(network._reporter)
        return None

    @checked
    def parse_buffer(
        self,
        deploy_buffer: bytes,
        model_buffer: bytes,
        network: INetworkDefinition,
        dtype: DataType,
    ) -> IBlobNameToTensor | None:
        """Read a model from bytes into a network."""
        self._refuse(network._reporter)
        return None

    @checked
    def parse_binary_proto(self, filename: str) -> Any:
        """Read an array from a file."""
        raise RuntimeError(_MISSING)

    def _refuse(self, reporter: Reporter) -> None:
        Reporter(reporter.logger, self.error_recorder).error(_MISSING, "UNSUPPORTED_STATE")


__all__ = ["CaffeParser", "IBlobNameToTensor", "ICaffePluginFactoryV2"]
