"""Weights of an engine from an ONNX model."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import onnx

from lamina.errors import LaminaError
from lamina.importers.onnx.model_file import read_model
from lamina.importers.onnx.tensors import TensorReader
from lamina.tensorrt.check import checked
from lamina.tensorrt.error_reporting import Reporter
from lamina.tensorrt.foundation.weights import Weights
from lamina.tensorrt.logger import ILogger
from lamina.tensorrt.onnx.errors import ParserError
from lamina.tensorrt.onnx.parser import give_initializer, model_source


class OnnxParserRefitter:
    """Gives a refitter the initializers of a model that its engine has weights for."""

    @checked
    def __init__(self, refitter: Any, logger: ILogger) -> None:
        """Take the refitter and what messages go to."""
        self._refitter = refitter
        self._reporter = Reporter(logger)
        self._errors: list[ParserError] = []
        self._loaded: onnx.ModelProto | None = None

    def refit_from_bytes(self, model: Any, path: str | None = None) -> bool:
        """Take the weights of a model given as bytes; False when that fails."""
        return self._refit(model_source(model, path, "refit_from_bytes"))

    def refit_from_file(self, model: str) -> bool:
        """Take the weights of a model in a file; False when that fails."""
        return self._refit(os.fspath(model))

    def _refit(self, source: Any) -> bool:
        try:
            proto, folder = read_model(source)
            reader = TensorReader(folder)
            wanted = set(self._refitter.get_all_weights())
            for tensor in proto.graph.initializer:
                if tensor.name in wanted:
                    array = np.ascontiguousarray(reader.read(tensor))
                    if not self._refitter.set_named_weights(tensor.name, Weights(array)):
                        self._fail(f"the engine does not take the weights {tensor.name!r}")
                        return False
        except LaminaError as e:
            self._fail(str(e))
            return False
        return True

    def _fail(self, text: str) -> None:
        self._errors.append(ParserError("REFIT_FAILED", text))
        self._reporter.error(text)

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

    def load_model_proto(self, model: Any, path: str | None = None) -> bool:
        """Keep a model for ``refit_model_proto``."""
        try:
            self._loaded, _ = read_model(model_source(model, path, "load_model_proto"))
        except LaminaError as e:
            self._fail(str(e))
            return False
        return True

    def load_initializer(self, name: str, data: int, size: int) -> bool:
        """Give an initializer of the kept model its bytes, by address and size."""
        return self._loaded is not None and give_initializer(self._loaded, name, data, size)

    def refit_model_proto(self) -> bool:
        """Take the weights of the kept model."""
        if self._loaded is None:
            self._fail("no model is loaded: call load_model_proto")
            return False
        return self._refit(self._loaded)


__all__ = ["OnnxParserRefitter"]
