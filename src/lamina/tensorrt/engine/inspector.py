"""What an engine is made of, as text or JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from lamina.errors import InputError
from lamina.ir.attributes import substitute_attribute
from lamina.ir.dims import Expr
from lamina.ir.types import TensorType
from lamina.plan.plan import Step
from lamina.tensorrt.check import checked
from lamina.tensorrt.engine.context import IExecutionContext
from lamina.tensorrt.engine.formats import TYPE_WORDS
from lamina.tensorrt.engine.layers import layer_type, sources
from lamina.tensorrt.enums import LayerInformationFormat
from lamina.tensorrt.error_reporting import IErrorRecorder

if TYPE_CHECKING:
    from lamina.tensorrt.engine.cuda_engine import ICudaEngine

_LAYOUTS = {
    "plain": "Row major linear",
    "channels_last": "Channel last",
    "blocked": "Sixteen wide channel vectorized row major",
    "packed": "Packed",
}


class EngineInspector:
    """Describes layers; made by ICudaEngine.create_engine_inspector.

    How much it tells depends on the profiling verbosity that the engine was built with.  With a
    context, dynamic sizes are those of its inputs.
    """

    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self._reporter = engine._reporter
        self._context: IExecutionContext | None = None

    @property
    def execution_context(self) -> IExecutionContext | None:
        """The context whose shapes are shown."""
        return self._context

    @execution_context.setter
    @checked
    def execution_context(self, value: IExecutionContext | None) -> None:
        self._context = value

    @checked
    def get_layer_information(self, layer_index: int, format: LayerInformationFormat) -> str:
        """Return one layer; "" after reporting it, for a wrong number."""
        with self._reporter.reporting():
            steps = self._engine._engine.section.program.steps
            if not 0 <= layer_index < len(steps):
                raise InputError(f"there is no layer {layer_index} of {len(steps)}")
            return _text(self._layer(layer_index, self._sizes()), format)
        return ""

    @checked
    def get_engine_information(self, format: LayerInformationFormat) -> str:
        """Return all layers and the inputs and outputs."""
        with self._reporter.reporting():
            sizes = self._sizes()
            count = len(self._engine._engine.section.program.steps)
            layers = [self._layer(i, sizes) for i in range(count)]
            if self._engine._metadata.verbosity == "NONE":
                layers = []
            if format.name == "ONELINE":
                return (
                    "Layers:\n"
                    + "".join(_text(layer, format) for layer in layers)
                    + ("\nBindings:\n" + "\n".join(self._engine._names) + "\n")
                )
            return json.dumps({"Layers": layers, "Bindings": self._engine._names}, indent=1)
        return ""

    def _sizes(self) -> dict[str, int]:
        return {} if self._context is None else self._context._slots.environment()

    def _layer(self, index: int, sizes: dict[str, int]) -> Any:
        """Return a layer as what its JSON holds: its name, or with verbosity DETAILED an object."""
        name = self._engine._layer_names()[index]
        if self._engine._metadata.verbosity not in ("DETAILED", "VERBOSE"):
            return name
        step: Step = self._engine._engine.section.program.steps[index]
        from_layers = set(sources(step.loc))
        marks = [x.metadata for x in self._engine._metadata.layers if x.name in from_layers]
        return {
            "Name": name,
            "LayerType": layer_type(step),
            "Inputs": [self._tensor(t, sizes) for t in step.reads],
            "Outputs": [self._tensor(t, sizes) for t in step.writes],
            "ParameterType": step.name,
            "TacticName": step.tactic,
            "TacticValue": f"0x{len(step.tried):016x}",
            "TimeMicroseconds": step.microseconds,
            "Candidates": {m.tactic: m.microseconds for m in step.tried},
            "StreamId": 0,
            "Metadata": "\x1e".join(m for m in marks if m),
        }

    def _tensor(self, number: int, sizes: dict[str, int]) -> dict[str, Any]:
        tensor = self._engine._engine.section.program.tensors[number]
        if not isinstance(tensor.type, TensorType):
            return {
                "Name": tensor.name,
                "Location": "Host",
                "Dimensions": [],
                "Format/Datatype": "",
            }
        type_: TensorType = substitute_attribute(tensor.type, sizes)
        layout = _LAYOUTS.get(tensor.layout, tensor.layout)
        word = TYPE_WORDS.get(type_.dtype, str(type_.dtype))
        return {
            "Name": tensor.name or f"(Unnamed Tensor* {number})",
            "Location": "Host" if tensor.place.value == "host" else "Device",
            "Dimensions": [-1 if isinstance(d, Expr) else d for d in type_.shape],
            "Format/Datatype": f"{layout} {word} format",
        }

    @property
    def error_recorder(self) -> IErrorRecorder | None:
        """What collects errors."""
        return self._reporter.recorder

    @error_recorder.setter
    @checked
    def error_recorder(self, value: IErrorRecorder | None) -> None:
        self._reporter.recorder = value


def _text(layer: Any, format: LayerInformationFormat) -> str:
    if format.name == "JSON":
        return json.dumps(layer, indent=1)
    if isinstance(layer, str):
        return f"{layer}\n"
    return ", ".join(f"{k}: {json.dumps(v)}" for k, v in layer.items()) + "\n"


__all__ = ["EngineInspector"]
