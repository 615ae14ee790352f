"""Weights of an engine from an ONNX model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lamina.errors import ImportFailed, LaminaError
from lamina.importers.onnx.tensors import TensorReader
from lamina.tensorrt.check import checked
from lamina.tensorrt.error_reporting import Reporter
from lamina.tensorrt.foundation.weights import Weights
from lamina.tensorrt.logger import ILogger
from lamina.tensorrt.onnx.model_source import Model, from_bytes, from_file, put_initializer
from lamina.tensorrt.onnx.parser_error import ErrorList, ParserError, Places


class OnnxParserRefitter(ErrorList):
    """Gives a refitter the initializers of a model that its engine has weights for.

    The engine changes when the refitter's ``refit_cuda_engine`` is called.
    """

    @checked
    def __init__(self, refitter: Any, logger: ILogger) -> None:
        """Take the refitter and what messages go to."""
        super().__init__()
        self._refitter = refitter
        self._reporter = Reporter(logger)
        self._loaded: Model | None = None

    def refit_from_bytes(self, model: Any, path: str | None = None) -> bool:
        """Take the weights of a serialized model; False, with errors, when that fails."""
        return self._guarded(lambda: self._refit(from_bytes(model, path)))

    @checked
    def refit_from_file(self, model: str) -> bool:
        """Take the weights of the model in a file; False, with errors, when that fails."""
        return self._guarded(lambda: self._refit(from_file(model)))

    def load_model_proto(self, model: Any, path: str | None = None) -> bool:
        """Read a model for ``load_initializer`` and ``refit_model_proto``."""

        def keep() -> None:
            self._loaded = from_bytes(model, path)

        return self._guarded(keep)

    def load_initializer(self, name: str, data: Any, size: int) -> bool:
        """Give an initializer of the loaded model its ``size`` bytes, a buffer or an address."""
        return self._guarded(lambda: put_initializer(self._kept(), name, data, size))

    def refit_model_proto(self) -> bool:
        """Take the weights of the loaded model; False, with errors, when that fails."""
        return self._guarded(lambda: self._refit(self._kept()))

    def _kept(self) -> Model:
        if self._loaded is None:
            raise ImportFailed("no model is loaded", hint="call load_model_proto first")
        return self._loaded

    def _refit(self, model: Model) -> None:
        reader = TensorReader(model.folder)
        wanted = set(self._refitter.get_all_weights())
        found = 0
        for tensor in model.proto.graph.initializer:
            if tensor.name in wanted:
                array = np.ascontiguousarray(reader.read(tensor))
                if not self._refitter.set_named_weights(tensor.name, Weights(array)):
                    raise ImportFailed(f"the engine does not take the weights {tensor.name!r}")
                found += 1
        if wanted and not found:
            raise ImportFailed(
                f"the model has none of the engine's {len(wanted)} weights",
                hint="refit with the model that the engine was built from, with other numbers",
            )

    def _guarded(self, work: Callable[[], None]) -> bool:
        try:
            work()
        except LaminaError as e:
            self._fail([ParserError(Places(None).fault("", "REFIT_FAILED", str(e)))])
            return False
        return True


__all__ = ["OnnxParserRefitter"]
