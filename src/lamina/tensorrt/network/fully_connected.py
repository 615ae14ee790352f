"""Layers that only TensorRT 7 and 8 have."""

from __future__ import annotations

from collections.abc import Sequence

from lamina import ops
from lamina.ir.dims import product
from lamina.ir.graph import Value
from lamina.tensorrt.check import checked
from lamina.tensorrt.enums import RNNOperation
from lamina.tensorrt.foundation.weights import Weights
from lamina.tensorrt.lowering.emitter import LayerEmitter
from lamina.tensorrt.network.additions import Additions
from lamina.tensorrt.network.layer import ILayer
from lamina.tensorrt.network.linear import WeightsSetting
from lamina.tensorrt.network.recurrent import IRNNv2Layer
from lamina.tensorrt.network.setting import Setting, set_quietly
from lamina.tensorrt.network.tensor import ITensor


class IFullyConnectedLayer(ILayer):
    """The last three axes times a matrix [outputs, C * H * W]; gives [..., outputs, 1, 1]."""

    _kind = "FULLY_CONNECTED"
    num_output_channels = Setting(int, 0, "Number of outputs.")
    kernel = WeightsSetting(Weights, None, "Weights of the matrix.")
    bias = WeightsSetting(Weights, None, "One bias per output, or none.")

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        x = inputs[0]
        assert x is not None
        if x.tensor.rank < 4:
            raise self._fail(f"a fully connected layer takes [N, C, H, W], got {x.tensor}")
        front, volume = x.tensor.shape[:-3], product(x.tensor.shape[-3:])
        if not isinstance(volume, int):
            raise self._fail(f"the sizes of {x.tensor} are not known")
        count = self.num_output_channels
        w = e.weights(self.__dict__["kernel"], "KERNEL", (count, volume))
        rows = e.reshape(x, (product(front), volume))
        given: Weights | None = self.__dict__.get("bias")
        bias = [e.weights(given, "BIAS", (count,))] if given is not None and given.size else []
        y = e.emit(ops.Matmul(transpose_b=True), rows, w, *bias)
        return (e.reshape(y, (*front, count, 1, 1)),)


class LegacyAdditions(Additions):
    """``add_*`` of layers that version 10 does not have."""

    @checked
    def add_fully_connected(
        self, input: ITensor, num_outputs: int, kernel: Weights, bias: Weights | None = None
    ) -> IFullyConnectedLayer:
        """Add a fully connected layer."""
        layer = self._add(IFullyConnectedLayer(self._state, [input]))
        set_quietly(layer, num_output_channels=num_outputs, kernel=kernel, bias=bias)
        return layer

    @checked
    def add_rnn_v2(
        self,
        input: ITensor,
        layer_count: int,
        hidden_size: int,
        max_seq_length: int,
        op: RNNOperation,
    ) -> IRNNv2Layer:
        """Add stacked recurrent layers; set their weights gate by gate."""
        layer = IRNNv2Layer(self._state, [input])
        layer._size = (layer_count, hidden_size, max_seq_length)
        set_quietly(layer, op=op)
        return self._add(layer, 3 if op.name == "LSTM" else 2)


__all__ = ["IFullyConnectedLayer"]
