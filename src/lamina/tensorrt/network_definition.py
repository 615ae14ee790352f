"""Networks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lamina.tensorrt.check import checked
from lamina.tensorrt.enums import DataType, NetworkDefinitionCreationFlag
from lamina.tensorrt.error_reporting import IErrorRecorder, Reporter
from lamina.tensorrt.foundation.dims import Dims
from lamina.tensorrt.foundation.weights import Weights
from lamina.tensorrt.network.attention import AttentionAdditions
from lamina.tensorrt.network.control import ControlAdditions
from lamina.tensorrt.network.detection import DetectionAdditions
from lamina.tensorrt.network.experts import ExpertAdditions
from lamina.tensorrt.network.fully_connected import LegacyAdditions
from lamina.tensorrt.network.generation import GenerationAdditions
from lamina.tensorrt.network.image import ImageAdditions
from lamina.tensorrt.network.indexing import IndexingAdditions
from lamina.tensorrt.network.layer import ILayer
from lamina.tensorrt.network.linear import LinearAdditions
from lamina.tensorrt.network.movement import MovementAdditions
from lamina.tensorrt.network.normalization import NormalizationAdditions
from lamina.tensorrt.network.pointwise import PointwiseAdditions
from lamina.tensorrt.network.quantization import QuantizationAdditions
from lamina.tensorrt.network.reduction import ReductionAdditions
from lamina.tensorrt.network.slicing import SlicingAdditions
from lamina.tensorrt.network.state import NetworkState
from lamina.tensorrt.network.tensor import ITensor
from lamina.tensorrt.plugin_api.additions import PluginAdditions


class Marks:
    """What a network's tensors and weights are marked as."""

    _state: NetworkState

    @checked
    def mark_output(self, tensor: ITensor) -> None:
        """Make a tensor an output."""
        if tensor in self._state.outputs:
            self._state.reporter.error(f"tensor {tensor._name!r} is already an output")
        else:
            self._state.outputs.append(tensor)

    @checked
    def unmark_output(self, tensor: ITensor) -> None:
        """Make a tensor no output any more."""
        if tensor in self._state.outputs:
            self._state.outputs.remove(tensor)
        else:
            self._state.reporter.error(f"tensor {tensor._name!r} is not an output")

    @checked
    def mark_output_for_shapes(self, tensor: ITensor) -> bool:
        """Make a shape tensor an output on the host; False when it already is one."""
        if tensor in self._state.shape_outputs:
            return False
        self._state.shape_outputs.append(tensor)
        return True

    @checked
    def unmark_output_for_shapes(self, tensor: ITensor) -> bool:
        """Undo ``mark_output_for_shapes``; False when it was not marked."""
        if tensor not in self._state.shape_outputs:
            return False
        self._state.shape_outputs.remove(tensor)
        return True

    @checked
    def mark_debug(self, tensor: ITensor) -> bool:
        """Let contexts show a tensor to their debug listener."""
        if tensor not in self._state.debug_tensors:
            self._state.debug_tensors.append(tensor)
        return True

    @checked
    def unmark_debug(self, tensor: ITensor) -> bool:
        """Undo ``mark_debug``."""
        if tensor in self._state.debug_tensors:
            self._state.debug_tensors.remove(tensor)
        return True

    @checked
    def is_debug_tensor(self, tensor: ITensor) -> bool:
        """Whether a tensor is marked for debugging."""
        return tensor in self._state.debug_tensors

    def mark_unfused_tensors_as_debug_tensors(self) -> bool:
        """Mark the result of every layer that stays a layer of its own."""
        self._state.debug_unfused = True
        return True

    def unmark_unfused_tensors_as_debug_tensors(self) -> bool:
        """Undo ``mark_unfused_tensors_as_debug_tensors``."""
        self._state.debug_unfused = False
        return True

    @checked
    def set_weights_name(self, weights: Weights, name: str) -> bool:
        """Name weights for refits; False when they have another name."""
        return self._state.name_weights(weights, name)

    @checked
    def mark_weights_refittable(self, name: str) -> bool:
        """Make the weights of this name refittable (BuilderFlag.REFIT_INDIVIDUAL)."""
        self._state.refittable.add(name)
        return True

    @checked
    def unmark_weights_refittable(self, name: str) -> bool:
        """Undo ``mark_weights_refittable``."""
        self._state.refittable.discard(name)
        return True

    @checked
    def are_weights_marked_refittable(self, name: str) -> bool:
        """Whether the weights of this name are marked refittable."""
        return name in self._state.refittable


class INetworkDefinition(
    Marks,
    AttentionAdditions,
    ControlAdditions,
    DetectionAdditions,
    ExpertAdditions,
    GenerationAdditions,
    ImageAdditions,
    IndexingAdditions,
    LegacyAdditions,
    LinearAdditions,
    MovementAdditions,
    NormalizationAdditions,
    PluginAdditions,
    PointwiseAdditions,
    QuantizationAdditions,
    ReductionAdditions,
    SlicingAdditions,
):
    """Layers and tensors from which the builder makes an engine; made by Builder.create_network."""

    def __init__(
        self, builder: Any, reporter: Reporter, flags: frozenset[str], *, implicit_batch: bool
    ) -> None:
        self._builder = builder
        self._reporter = reporter
        self._state = NetworkState(reporter, flags, implicit_batch=implicit_batch)

    @property
    def name(self) -> str:
        """Name of the network, which its engine keeps."""
        return self._state.name

    @name.setter
    @checked
    def name(self, value: str) -> None:
        self._state.name = value

    @property
    def num_layers(self) -> int:
        """Number of layers."""
        return len(self._state.layers)

    @property
    def num_inputs(self) -> int:
        """Number of inputs."""
        return len(self._state.inputs)

    @property
    def num_outputs(self) -> int:
        """Number of outputs."""
        return len(self._state.outputs)

    @property
    def has_implicit_batch_dimension(self) -> bool:
        """Whether shapes leave out a batch that is given with each run."""
        return self._state.implicit_batch

    @property
    def has_explicit_precision(self) -> bool:
        """Whether the network was created with EXPLICIT_PRECISION."""
        return "EXPLICIT_PRECISION" in self._state.flags

    @property
    def error_recorder(self) -> IErrorRecorder | None:
        """What collects the errors of this network."""
        return self._reporter.recorder

    @error_recorder.setter
    @checked
    def error_recorder(self, value: IErrorRecorder | None) -> None:
        self._reporter.recorder = value

    @property
    def builder(self) -> Any:
        """The builder that made this network."""
        return self._builder

    @property
    def flags(self) -> int:
        """Bits of NetworkDefinitionCreationFlag."""
        bits = 0
        for name in self._state.flags:
            bits |= 1 << int(NetworkDefinitionCreationFlag.named(name))
        return bits

    @checked
    def get_flag(self, flag: NetworkDefinitionCreationFlag) -> bool:
        """Whether the network was created with a flag."""
        return flag.name in self._state.flags

    @checked
    def add_input(self, name: str, dtype: DataType, shape: Dims) -> ITensor | None:
        """Add an input; None when the name is taken."""
        state = self._state
        if any(t._name == name for t in state.inputs):
            state.reporter.error(f"there already is an input {name!r}")
            return None
        if any(d < -1 for d in shape) or (state.implicit_batch and -1 in tuple(shape)):
            state.reporter.error(f"input {name!r} has the shape {shape}")
            return None
        tensor = ITensor(state, name)
        tensor._given_dtype, tensor._given_shape = dtype, tuple(shape)
        state.inputs.append(tensor)
        state.changed(None)
        return tensor

    @checked
    def remove_tensor(self, tensor: ITensor) -> None:
        """Remove a tensor from the inputs, outputs and debug tensors."""
        state = self._state
        for tensors in (state.inputs, state.outputs, state.shape_outputs, state.debug_tensors):
            if tensor in tensors:
                tensors.remove(tensor)
        state.changed(None)

    @checked
    def get_layer(self, index: int) -> ILayer | None:
        """Return a layer by its number as a plain ILayer, None when there are fewer."""
        layers = self._state.layers
        return layers[index]._generic() if 0 <= index < len(layers) else None

    @checked
    def get_input(self, index: int) -> ITensor | None:
        """Return an input by its number, None when there are fewer."""
        inputs = self._state.inputs
        return inputs[index] if 0 <= index < len(inputs) else None

    @checked
    def get_output(self, index: int) -> ITensor | None:
        """Return an output by its number, None when there are fewer."""
        outputs = self._state.outputs
        return outputs[index] if 0 <= index < len(outputs) else None

    def serialize(self) -> None:
        """Report that networks have no serialized form; serialize an engine, or keep the model."""
        self._reporter.error("a network cannot be serialized", "UNSUPPORTED_STATE")

    def __len__(self) -> int:
        return len(self._state.layers)

    def __getitem__(self, index: int) -> ILayer:
        return self._state.layers[index]._generic()

    def __iter__(self) -> Iterator[ILayer]:
        return iter([layer._generic() for layer in self._state.layers])

    def __bool__(self) -> bool:
        return True


__all__ = ["INetworkDefinition"]
