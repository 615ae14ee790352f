"""Engines with other weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lamina.errors import InputError
from lamina.ir.types import DType
from lamina.tensorrt.check import checked
from lamina.tensorrt.engine.cuda_engine import ICudaEngine
from lamina.tensorrt.engine.memory import DeviceSpace, Space, space_of
from lamina.tensorrt.enums import DataType, TensorLocation, WeightsRole
from lamina.tensorrt.error_reporting import IErrorRecorder, Reporter
from lamina.tensorrt.foundation.dtype import from_ir, to_ir, volume
from lamina.tensorrt.foundation.weights import Weights
from lamina.tensorrt.logger import ILogger
from lamina.tensorrt.metadata import WeightInfo
from lamina.tensorrt.option import Option

_CONSTANT = "CONSTANT"


@dataclass(frozen=True)
class _Given:
    """Weights that wait for the refit."""

    weights: Weights
    location: str


class Refitter:
    """Replaces weights of an engine that was built with a REFIT flag.

    Weights are collected first; ``refit_cuda_engine`` then replaces all of them or none.  No other
    weights have to be given with them: the engine knows those that it was built with, unless they
    were stripped from it.

    Weights have a name, and a layer with a role; those of parsed convolutions have two such places:
    the convolution (KERNEL, BIAS) and the constant that the model keeps them in (CONSTANT).
    """

    max_threads = Option(int, 1, "Most threads that a refit uses; kept.")
    weights_validation = Option(bool, True, "Whether non-finite weights are refused.")
    _weights_validation = weights_validation

    @checked
    def __init__(self, engine: ICudaEngine, logger: ILogger) -> None:
        """Take an engine; TypeError, after reporting why, for one that cannot be refitted."""
        self._reporter = Reporter(logger, engine._reporter.recorder)
        self._engine = engine
        if not engine._metadata.refittable:
            self._reporter.error(
                f"engine {engine._metadata.name!r} was not built with BuilderFlag.REFIT"
            )
            raise TypeError("Refitter(): the engine is not refittable")
        self._places = _weights(engine)
        self._known = {w.name: w for w in self._places}
        self._given: dict[str, _Given] = {}

    @checked
    def set_weights(self, layer_name: str, role: WeightsRole, weights: Weights) -> bool:
        """Give the weights of a layer; False, after reporting why, when they do not fit."""
        for info in self._places:
            if info.layer == layer_name and info.role == role.name:
                return self._take(info.name, weights, "HOST")
        self._reporter.error(f"layer {layer_name!r} has no refittable weights of role {role.name}")
        return False

    @checked
    def set_named_weights(
        self, name: str, weights: Weights, location: TensorLocation | None = None
    ) -> bool:
        """Give weights by name; False, after reporting why, when they do not fit."""
        return self._take(name, weights, "HOST" if location is None else location.name)

    def _take(self, name: str, weights: Weights, location: str) -> bool:
        info = self._info(name)
        if info is None:
            return False
        if weights.size != volume(info.shape) or weights.dtype.name != info.dtype:
            self._reporter.error(
                f"weights {name!r} are {volume(info.shape)} of type {info.dtype}, "
                f"{weights.size} of type {weights.dtype.name} were given"
            )
            return False
        self._given[name] = _Given(weights, location)
        return True

    def _info(self, name: str) -> WeightInfo | None:
        info = self._known.get(name)
        if info is None:
            known = ", ".join(list(self._known)[:8])
            self._reporter.error(f"the engine has no refittable weights {name!r}; it has {known}")
        return info

    @checked
    def get_named_weights(self, weights_name: str) -> Weights:
        """Return what was given for a name, no weights when nothing was."""
        given = self._given.get(weights_name)
        return Weights() if given is None else given.weights

    @checked
    def get_weights_location(self, weights_name: str) -> TensorLocation:
        """Return where the weights given for a name lie."""
        given = self._given.get(weights_name)
        return TensorLocation.named("HOST" if given is None else given.location)

    @checked
    def get_weights_prototype(self, weights_name: str) -> Weights:
        """Return weights of the type and number that a name needs; no weights when unknown."""
        info = self._info(weights_name)
        if info is None:
            return Weights()
        dtype = to_ir(DataType.named(info.dtype)).numpy
        return Weights(np.zeros(volume(info.shape), dtype))

    @checked
    def unset_named_weights(self, weights_name: str) -> bool:
        """Forget what was given for a name; False when nothing was."""
        return self._given.pop(weights_name, None) is not None

    def get_missing(self) -> tuple[list[str], list[WeightsRole]]:
        """Return the layers and roles that must be given too: those stripped from the engine."""
        return self._listed(self.get_missing_weights())

    def get_missing_weights(self) -> list[str]:
        """Return the names that must be given too: those stripped from the engine."""
        return [n for n in self._engine._engine.missing_weights() if n not in self._given]

    def get_all(self) -> tuple[list[str], list[WeightsRole]]:
        """Return the layers and roles of all refittable weights."""
        return self._listed(self._known)

    def _listed(self, names: Iterable[str]) -> tuple[list[str], list[WeightsRole]]:
        """Return the layers and roles of weights: as constants where no layer has another role."""
        found: list[WeightInfo] = []
        for name in names:
            places = [w for w in self._places if w.name == name and w.layer]
            found += [w for w in places if w.role != _CONSTANT] or places
        return [w.layer for w in found], [WeightsRole.named(w.role) for w in found]

    def get_all_weights(self) -> list[str]:
        """Return the names of all refittable weights."""
        return list(self._known)

    def refit_cuda_engine(self) -> bool:
        """Replace all weights that were given; False, after reporting why, when none change."""
        with self._reporter.reporting("refit failed") as outcome:
            if missing := self.get_missing_weights():
                raise InputError(
                    f"{len(missing)} weights that were stripped are not given, such as "
                    f"{missing[0]!r}",
                    hint="get_missing_weights() lists them",
                )
            runtime = self._engine._engine
            space = space_of(runtime)
            runtime.refit({name: self._array(name, g, space) for name, g in self._given.items()})
            self._given.clear()
        return not outcome.failed

    @checked
    def refit_cuda_engine_async(self, stream_handle: int) -> bool:
        """Replace all weights that were given, before the call returns."""
        return self.refit_cuda_engine()

    def _array(self, name: str, given: _Given, space: Space) -> npt.NDArray[Any]:
        """Return given weights in the shape of those they replace."""
        info = self._known[name]
        array = given.weights._array
        if given.location == "DEVICE" and isinstance(space, DeviceSpace):
            pointer = array.__array_interface__["data"][0]
            array = space.array(pointer, to_ir(given.weights.dtype), array.shape).numpy()
        if self._weights_validation and array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InputError(
                f"the weights given for {name!r} hold numbers that are not finite",
                hint="refitter.weights_validation = False lets them pass",
            )
        shaped: npt.NDArray[Any] = array.reshape(info.shape)
        return shaped

    def get_dynamic_range(self, tensor_name: str) -> tuple[float, float]:
        """Return the range of a tensor; ranges are weights of quantization here: (0, 0)."""
        self._refuse_range(tensor_name)
        return 0.0, 0.0

    def set_dynamic_range(self, tensor_name: str, range: tuple[float, float]) -> bool:
        """Refuse a range: refit the scales of the quantization by their names."""
        self._refuse_range(tensor_name)
        return False

    def get_tensors_with_dynamic_range(self) -> list[str]:
        """Return the tensors whose range can be changed: none."""
        return []

    def _refuse_range(self, tensor: str) -> None:
        self._reporter.error(
            f"tensor {tensor!r} has no dynamic range in the engine: it became a scale",
            "UNSUPPORTED_STATE",
        )

    @property
    def error_recorder(self) -> IErrorRecorder | None:
        """What collects errors."""
        return self._reporter.recorder

    @error_recorder.setter
    @checked
    def error_recorder(self, value: IErrorRecorder | None) -> None:
        self._reporter.recorder = value

    @property
    def logger(self) -> ILogger:
        """What messages go to."""
        return self._reporter.logger

    def __enter__(self) -> Refitter:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def __del__(self) -> None:
        """Nothing is left to do; programs call it all the same."""


def _weights(engine: ICudaEngine) -> list[WeightInfo]:
    """Return the refittable weights, those of the plan where nothing says which."""
    if engine._metadata.weights:
        return list(engine._metadata.weights)
    return [
        WeightInfo(
            name=name,
            layer="",
            role="ANY",
            dtype=from_ir(DType.of(array.dtype)).name,
            shape=array.shape,
        )
        for name, array in engine._engine.weights().items()
    ]


__all__ = ["Refitter"]
