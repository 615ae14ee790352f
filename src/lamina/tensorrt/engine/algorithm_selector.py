"""Choosing among tactics by hand (versions before 11)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lamina.tensorrt.check import checked
from lamina.tensorrt.enums import DataType, TensorFormat
from lamina.tensorrt.foundation.dims import Dims


@dataclass(frozen=True)
class IAlgorithmIOInfo:
    """How an algorithm reads an input or writes an output."""

    dtype: DataType
    strides: Dims
    vectorized_dim: int = -1
    components_per_element: int = 1
    _format: str = "LINEAR"

    @property
    def tensor_format(self) -> TensorFormat:
        """Layout of the tensor."""
        return TensorFormat.named(self._format)


@dataclass(frozen=True)
class IAlgorithmVariant:
    """Numbers that identify an implementation and its tactic."""

    implementation: int
    tactic: int


class IAlgorithmContext:
    """The layer that an algorithm is chosen for."""

    def __init__(self, name: str, shapes: Sequence[Sequence[Dims]], num_inputs: int) -> None:
        self._name, self._shapes, self._inputs = name, shapes, num_inputs

    @property
    def name(self) -> str:
        """Name of the layer."""
        return self._name

    @checked
    def get_shape(self, index: int) -> list[Dims]:
        """Return [min, opt, max] of an input, or of an output behind them."""
        return list(self._shapes[index])

    @property
    def num_inputs(self) -> int:
        """Number of inputs."""
        return self._inputs

    @property
    def num_outputs(self) -> int:
        """Number of outputs."""
        return len(self._shapes) - self._inputs


class IAlgorithm:
    """One way to run a layer."""

    def __init__(
        self,
        variant: IAlgorithmVariant,
        ports: Sequence[IAlgorithmIOInfo],
        timing_msec: float,
        workspace_size: int,
    ) -> None:
        self._variant, self._ports = variant, ports
        self._timing_msec, self._workspace_size = timing_msec, workspace_size

    @checked
    def get_algorithm_io_info(self, index: int) -> IAlgorithmIOInfo:
        """Return how an input, or an output behind them, is read or written."""
        return self._ports[index]

    @property
    def algorithm_variant(self) -> IAlgorithmVariant:
        """What identifies the algorithm."""
        return self._variant

    @property
    def timing_msec(self) -> float:
        """Milliseconds that it took."""
        return self._timing_msec

    @property
    def workspace_size(self) -> int:
        """Bytes of scratch memory."""
        return self._workspace_size


class IAlgorithmSelector:
    """Chooses algorithms; subclass it and define both methods.

    Set as ``IBuilderConfig.algorithm_selector`` it is asked for each node of the optimized network
    (fused layers are one), before anything is timed: ``timing_msec`` is then what the timing cache
    knows, or 0.  Copies between layouts, and nodes that may move nothing, are not asked about.
    """

    def select_algorithms(
        self, context: IAlgorithmContext, choices: Sequence[IAlgorithm]
    ) -> list[int]:
        """Return the numbers of those that may be used; the fastest of them is.

        None at all leaves the choice to the builder, unless the flag REJECT_EMPTY_ALGORITHMS makes
        it an error.
        """
        raise NotImplementedError("define select_algorithms")

    def report_algorithms(
        self, contexts: Sequence[IAlgorithmContext], choices: Sequence[IAlgorithm]
    ) -> None:
        """Learn what was chosen: ``choices[i]`` for ``contexts[i]``."""
        raise NotImplementedError("define report_algorithms")


__all__ = [
    "IAlgorithm",
    "IAlgorithmContext",
    "IAlgorithmIOInfo",
    "IAlgorithmSelector",
    "IAlgorithmVariant",
]
