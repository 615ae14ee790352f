"""What a network consists of, shared by the network, its layers and its tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lamina.errors import LaminaError
from lamina.ir.dims import Expr
from lamina.ir.types import DType
from lamina.tensorrt.enums import DataType
from lamina.tensorrt.error_reporting import Reporter
from lamina.tensorrt.foundation.dtype import from_ir
from lamina.tensorrt.foundation.weights import Weights
from lamina.tensorrt.lowering.typing import Typing
from lamina.tensorrt.network.tensor import ITensor
from lamina.tensorrt.persona import current

if TYPE_CHECKING:
    from lamina.ir.graph import Value
    from lamina.tensorrt.network.layer import ILayer


class NetworkState:
    """Layers in the order in which they were added, inputs, outputs, and what is known of them."""

    def __init__(self, reporter: Reporter, flags: frozenset[str], *, implicit_batch: bool) -> None:
        self.reporter = reporter
        self.flags = flags
        self.implicit_batch = implicit_batch
        self.name = "Unnamed Network 0"
        self.layers: list[ILayer] = []
        self.inputs: list[ITensor] = []
        self.outputs: list[ITensor] = []
        self.shape_outputs: list[ITensor] = []
        self.debug_tensors: list[ITensor] = []
        self.debug_unfused = False
        self.boundaries: list[Any] = []
        self.refittable: set[str] = set()
        self.symbols: dict[str, tuple[ITensor, int]] = {}
        """Symbols of an imported graph: the input and axis that they are the size of."""
        self.reserved: set[str] = set()
        """Symbols that imported operators define."""
        self._weight_names: dict[tuple[int, int], str] = {}
        self._kept: list[Weights] = []
        self._typing: Typing | None = None

    @property
    def strongly_typed(self) -> bool:
        """Whether types are what the user wrote and nothing else."""
        return "STRONGLY_TYPED" in self.flags

    @property
    def shape_dtype(self) -> DType:
        """Element type of sizes: i32 in TensorRT 8, i64 since 10."""
        return DType.I32 if current().major == "8" else DType.I64

    def changed(self, layer: ILayer | None) -> None:
        """Forget types that a change of ``layer`` (None: of the inputs) may alter."""
        if self._typing is not None and (layer is None or self._typing.knows(layer)):
            self._typing = None

    def type_of(self, tensor: ITensor) -> Value:
        """Return a value of the type that ``tensor`` has; raises LaminaError when it has none."""
        if self._typing is None:
            self._typing = Typing(self)
        try:
            return self._typing.value(tensor)
        except LaminaError:
            self._typing = None
            raise

    def shape_of(self, tensor: ITensor) -> tuple[int, ...]:
        """Return sizes, -1 for dynamic ones; reports an error and returns none when there are none.

        Those of an implicit batch do not have the batch.
        """
        if tensor._producer is None:
            return tensor._given_shape
        with self.reporter.reporting():
            shape = self.type_of(tensor).tensor.shape
            sizes = tuple(-1 if isinstance(d, Expr) else d for d in shape)
            return sizes[1:] if self.implicit_batch else sizes
        return ()

    def dtype_of(self, tensor: ITensor) -> DataType:
        """Return the element type, FLOAT (after reporting why) when it cannot be told."""
        if tensor._given_dtype is not None:
            return tensor._given_dtype
        with self.reporter.reporting():
            return from_ir(self.type_of(tensor).tensor.dtype)
        return DataType.named("FLOAT")

    def is_shape_tensor(self, tensor: ITensor) -> bool:
        """Whether the elements of a tensor decide shapes, or are computed from shapes alone."""
        with self.reporter.reporting():
            value = self.type_of(tensor)
            if not value.tensor.dtype.is_integer or value.tensor.rank > 1:
                return False
            assert self._typing is not None
            return self._typing.is_shape_data(value) or self.feeds_shapes(tensor)
        return False

    def is_shape_io(self, tensor: ITensor) -> bool:
        """Whether an input or output holds sizes and so lies on the host."""
        return (tensor in self.inputs or tensor in self.outputs) and self.feeds_shapes(tensor)

    def feeds_shapes(self, tensor: ITensor) -> bool:
        """Whether some layer takes sizes from ``tensor``, directly or after integer arithmetic."""
        reached = {id(tensor)}
        for layer in self.layers:
            for i, operand in enumerate(layer._inputs):
                if operand is not None and id(operand) in reached:
                    if i in layer._shape_operands:
                        return True
                    if layer._kind in _SHAPE_ARITHMETIC:
                        reached.update(id(t) for t in layer._outputs)
        return tensor in self.shape_outputs

    def name_weights(self, weights: Weights, name: str) -> bool:
        """Give weights a name for refits; False when another name is taken by other weights."""
        key = _identity(weights)
        if self._weight_names.get(key, name) != name:
            return False
        self._weight_names[key] = name
        self._kept.append(weights)
        return True

    def weights_name(self, layer: ILayer, role: str, weights: Weights) -> str:
        """Return the name of weights: the user's, or the layer's with the role."""
        return self._weight_names.get(_identity(weights)) or f"{layer._name} {role}"


_SHAPE_ARITHMETIC = frozenset(
    "CONCATENATION ELEMENTWISE GATHER IDENTITY CAST REDUCE SELECT SHUFFLE SLICE UNARY SQUEEZE "
    "UNSQUEEZE CONSTANT".split()
)


def _identity(weights: Weights) -> tuple[int, int]:
    array = weights._array
    return int(array.__array_interface__["data"][0]), int(array.nbytes)
