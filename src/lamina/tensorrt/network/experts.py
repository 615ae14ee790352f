"""Mixtures of experts and collectives."""

from __future__ import annotations

from collections.abc import Sequence

from lamina import ops
from lamina.errors import Unsupported
from lamina.ir.dims import product
from lamina.ir.graph import Value
from lamina.ir.types import DType
from lamina.ops.kinds import ActivationKind, BinaryKind, ReduceKind
from lamina.tensorrt.check import checked
from lamina.tensorrt.enums import CollectiveOperation, DataType, MoEActType, ReduceOperation
from lamina.tensorrt.foundation.dims import Dims
from lamina.tensorrt.foundation.dtype import to_ir
from lamina.tensorrt.lowering.emitter import LayerEmitter
from lamina.tensorrt.network.additions import Additions
from lamina.tensorrt.network.layer import ILayer
from lamina.tensorrt.network.quantization import quantize_blocks
from lamina.tensorrt.network.setting import OptionalSetting, Setting
from lamina.tensorrt.network.tensor import ITensor

_WEIGHTS, _BIASES, _SCALE = 3, 6, 9


class IMoELayer(ILayer):
    """``sum over chosen experts of score * (act(x @ gate) * (x @ up)) @ down``.

    States are [..., H], chosen experts and their scores [..., K].  Weights are [experts, H, I] for
    gate and up and [experts, I, H] for down, biases [experts, I] and [experts, H].  With SwiGLU
    parameters, gate and up are clamped to ``limit``, the activation is ``g * sigmoid(alpha * g)``
    and ``beta`` is added to up.
    """

    _kind = "MOE"
    activation_type = Setting(MoEActType, "NONE", "Activation of the gate.")
    quantization_to_type = OptionalSetting(DataType, None, "Type that the inner states round to.")
    quantization_block_shape = OptionalSetting(Dims, None, "Blocks that share a computed scale.")
    dyn_q_output_scale_type = OptionalSetting(DataType, None, "Type of computed scales.")
    swiglu_param_limit = OptionalSetting(float, None, "Bound of gate and up.")
    swiglu_param_alpha = OptionalSetting(float, None, "Factor inside the sigmoid.")
    swiglu_param_beta = OptionalSetting(float, None, "What is added to up.")

    @checked
    def set_gated_weights(
        self,
        fc_gate_weights: ITensor,
        fc_up_weights: ITensor,
        fc_down_weights: ITensor,
        activation_type: MoEActType,
    ) -> None:
        """Set the weights of the experts."""
        for i, tensor in enumerate((fc_gate_weights, fc_up_weights, fc_down_weights)):
            self.set_input(_WEIGHTS + i, tensor)
        self.activation_type = activation_type

    @checked
    def set_gated_biases(
        self, fc_gate_biases: ITensor, fc_up_biases: ITensor, fc_down_biases: ITensor
    ) -> None:
        """Set the biases of the experts."""
        for i, tensor in enumerate((fc_gate_biases, fc_up_biases, fc_down_biases)):
            self.set_input(_BIASES + i, tensor)

    @checked
    def set_quantization_static(
        self, fc_down_activation_scale: ITensor, data_type: DataType
    ) -> None:
        """Round the inner states to a narrow type with a given scale."""
        self.set_input(_SCALE, fc_down_activation_scale)
        self.quantization_to_type = data_type

    @checked
    def set_quantization_dynamic_dbl_q(
        self,
        fc_down_activation_dbl_q_scale: ITensor,
        data_type: DataType,
        block_shape: Dims,
        dyn_q_output_scale_type: DataType,
    ) -> None:
        """Round the inner states to a narrow type with computed scales."""
        self.set_input(_SCALE, fc_down_activation_dbl_q_scale)
        self.quantization_to_type = data_type
        self.quantization_block_shape = block_shape
        self.dyn_q_output_scale_type = dyn_q_output_scale_type

    @checked
    def set_swiglu_params(self, limit: float, alpha: float, beta: float) -> None:
        """Set the parameters of SwiGLU."""
        self.swiglu_param_limit = limit
        self.swiglu_param_alpha = alpha
        self.swiglu_param_beta = beta

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        given = [*inputs, *[None] * 10][:10]
        x, chosen, scores, gate, up, down = given[:6]
        assert x is not None and chosen is not None and scores is not None
        if gate is None or up is None or down is None:
            raise self._fail("the weights are missing", "call set_gated_weights")
        shape = x.tensor.shape
        count, tokens = gate.tensor.shape[0], product(shape[:-1])
        rows = e.reshape(x, (1, tokens, shape[-1]))
        a = _affine(e, rows, gate, given[_BIASES])
        b = _affine(e, rows, up, given[_BIASES + 1])
        inner = self._gated(e, a, b)
        scale = given[_SCALE]
        if self.quantization_block_shape is not None:
            inner = self._by_blocks(e, inner, scale)
        elif scale is not None:
            dtype = to_ir(self.quantization_to_type)
            factor = e.reshape(scale, ())
            q = e.emit(ops.Quantize(dtype=dtype), inner, factor)
            inner = e.emit(ops.Dequantize(dtype=inner.tensor.dtype), q, factor)
        y = _affine(e, inner, down, given[_BIASES + 2])
        pick = e.reshape(e.cast(chosen, DType.I64), (tokens, chosen.tensor.shape[-1]))
        zero_one = e.constant([0.0, 1.0], y.tensor.dtype)
        mask = e.emit(ops.OneHot(axis=2, depth=count), pick, zero_one)
        weight = e.reshape(e.cast(scores, y.tensor.dtype), (*pick.tensor.shape, 1))
        share = e.reduce(ReduceKind.SUM, e.multiply(mask, weight), (1,), keepdims=False)
        share = e.unsqueeze(e.transpose(share, (1, 0)), (2,))
        total = e.reduce(ReduceKind.SUM, e.multiply(y, share), (0,), keepdims=False)
        return (e.reshape(total, shape),)

    def _by_blocks(self, e: LayerEmitter, inner: Value, second: Value | None) -> Value:
        """Round the inner states with a scale for each block, which is rounded itself."""
        block = tuple(self.quantization_block_shape or ())
        longer = [(i - len(block), n) for i, n in enumerate(block) if n != 1]
        if len(longer) != 1 or longer[0][0] < -inner.tensor.rank:
            raise self._fail(f"blocks of shape {block}: one axis may exceed 1")
        axis, size = longer[0][0] % inner.tensor.rank, longer[0][1]
        length = inner.tensor.shape[axis]
        if not isinstance(length, int) or size < 1 or length % size:
            raise self._fail(f"blocks of {size} do not divide axis {axis} of {inner.tensor}")
        types = to_ir(self.quantization_to_type), to_ir(self.dyn_q_output_scale_type)
        q, _, divisor = quantize_blocks(e, inner, (axis, size), types, second)
        op = ops.Dequantize(dtype=DType.F32, axis=axis, block_size=size)
        return e.cast(e.emit(op, q, divisor), inner.tensor.dtype)

    def _gated(self, e: LayerEmitter, a: Value, b: Value) -> Value:
        limit, alpha = self.swiglu_param_limit, self.swiglu_param_alpha
        if limit is not None and limit < 3.0e38:
            a = e.binary(BinaryKind.MIN, a, e.like(limit, a))
            b = e.binary(BinaryKind.MIN, b, e.like(limit, b))
            b = e.binary(BinaryKind.MAX, b, e.like(-limit, b))
        if self.swiglu_param_beta:
            b = e.binary(BinaryKind.ADD, b, e.like(self.swiglu_param_beta, b))
        if self.activation_type.name == "SILU":
            slope = 1.0 if alpha is None else alpha
            a = e.emit(ops.Activation(kind=ActivationKind.SILU, alpha=slope), a)
        return e.multiply(a, b)


def _affine(e: LayerEmitter, x: Value, w: Value, bias: Value | None) -> Value:
    y = e.emit(ops.Matmul(), x, w)
    return y if bias is None else e.binary(BinaryKind.ADD, y, e.unsqueeze(bias, (1,)))


class IDistCollectiveLayer(ILayer):
    """Communication among devices; alone, a device keeps what it has."""

    _kind = "DIST_COLLECTIVE"

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        (x,) = inputs
        assert x is not None
        if self._num_ranks > 1:
            raise Unsupported(f"a collective over {self._num_ranks} devices")
        return (x,)


class ExpertAdditions(Additions):
    """``add_*`` of the layers of this module."""

    @checked
    def add_moe(
        self,
        hidden_states: ITensor,
        selected_experts_for_tokens: ITensor,
        scores_for_selected_experts: ITensor,
    ) -> IMoELayer:
        """Add a mixture of experts; set its weights with ``set_gated_weights``."""
        inputs = [hidden_states, selected_experts_for_tokens, scores_for_selected_experts]
        return self._add(IMoELayer(self._state, inputs))

    @checked
    def add_dist_collective(
        self,
        input: ITensor,
        dist_collective_op: CollectiveOperation,
        reduce_op: ReduceOperation,
        root: int,
        groups: list[int],
    ) -> IDistCollectiveLayer:
        """Add communication among devices."""
        return self._add(IDistCollectiveLayer(self._state, [input]))


__all__ = ["IDistCollectiveLayer", "IMoELayer"]
