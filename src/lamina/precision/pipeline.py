"""Decides the element type of each value, in steps around the optimization of the graph.

==========  =====================================================================================
``fp32``    Nothing changes.  A model with Quantize and Dequantize runs as it says: contractions
            between them multiply 8-bit integers, with every rounding that the model spells out.
``int8``    The same, and roundings between operators that become one step are left out.  The model
            must hold Quantize and Dequantize.
``bf16``    Contractions read and write bf16 and accumulate in f32 (see :mod:`.halves`); on a GPU,
            attention too.  On the CPU recurrent layers multiply bf16 (see :mod:`.factors`).
``fp16``    On a GPU contractions and attention read and write f16 and accumulate in f32; on the CPU
            contractions' weights are stored as f16 (see :mod:`.storage`).
``tf32``    As ``fp32``; on a GPU, products of f32 numbers may round their factors to 11 bits.
==========  =====================================================================================
"""

from __future__ import annotations

from collections.abc import Collection

from lamina import ops
from lamina.errors import ConfigError
from lamina.ir.graph import Graph
from lamina.ir.rewrite import Fixpoint, GraphPass, Pipeline, Together
from lamina.ir.types import DType
from lamina.passes.cleanup import (
    EliminateDeadNodes,
    FoldConstants,
    MergeCommonSubexpressions,
    ShareWeights,
)
from lamina.passes.contractions import CONTRACTIONS
from lamina.precision.absorption import (
    FuseQuantize,
    FuseQuantizedActivation,
    FuseQuantizedBias,
    FuseQuantizedResidual,
    QuantizeConvolution,
    QuantizeMatmul,
)
from lamina.precision.affine import MergeScalings
from lamina.precision.double_rounding import FuseRequantize, FuseRoundedResidual
from lamina.precision.factors import RoundRecurrentFactors
from lamina.precision.halves import (
    CancelNarrowing,
    HoistNarrowing,
    NarrowContraction,
    SinkWidening,
)
from lamina.precision.joining import JoinBeforeDequantize
from lamina.precision.leftover import FoldDequantizedConstants, LowerDequantize, LowerQuantize
from lamina.precision.movement import (
    CancelQuantizeOfDequantize,
    DropActivationAtLimit,
    DropActivationOfDequantized,
    HoistQuantize,
    HoistQuantizeAboveConcat,
    SinkDequantize,
    SinkDequantizeThroughConcat,
)
from lamina.precision.reductions import FuseAverageOfIntegers, FuseWideningIntoReduction
from lamina.precision.requantization import (
    SkipRoundingBeforeOutput,
    SkipRoundingBeforeQuantize,
    SkipRoundingBeforeSum,
)
from lamina.precision.storage import RoundWeightsToHalves, StoreWeightsAsHalves

_HALVES = {"fp16": DType.F16, "bf16": DType.BF16}


def missing_feature(precision: str, features: Collection[str]) -> str | None:
    """Return the instruction set that a CPU with ``features`` lacks for a precision, or None.

    Only bf16 needs one: without AVX-512 BF16 it would be slower than f32.
    """
    if precision == "bf16" and "avx512bf16" not in features:
        return "avx512_bf16"
    return None


def multiplies_integers(features: Collection[str]) -> bool:
    """Whether a CPU sums products of 8-bit integers exactly.

    Without VNNI the library adds pairs of products in 16 bits, which saturates; contractions then
    multiply the dequantized numbers.
    """
    return not {"avx512vnni", "avxvnni"}.isdisjoint(features)


def movement_pipeline(skip_roundings: bool) -> Pipeline:
    """Return the passes after which 8-bit values flow between contractions."""
    skips: tuple[GraphPass, ...] = ()
    if skip_roundings:
        skips = (
            Together(
                SkipRoundingBeforeQuantize(), SkipRoundingBeforeSum(), SkipRoundingBeforeOutput()
            ),
        )
    return Pipeline(
        EliminateDeadNodes(),  # dead readers would hide that a value is used once
        MergeCommonSubexpressions(),  # one Dequantize per value
        Fixpoint(
            Together(
                CancelQuantizeOfDequantize(),  # first: what cancels need not move
                DropActivationAtLimit(),  # the saturation does it
                DropActivationOfDequantized(),
                SinkDequantize(),  # towards the contraction that reads it
                SinkDequantizeThroughConcat(),
                HoistQuantize(),  # towards the contraction that makes it
                HoistQuantizeAboveConcat(),
            ),
            *skips,
        ),
    )


def absorption_pipeline() -> Pipeline:
    """Return the passes that make contractions multiply integers."""
    return Pipeline(
        Together(
            QuantizeConvolution(),
            QuantizeMatmul(),
            FuseQuantizedBias(),
            FuseQuantizedResidual(),  # the sum, then its activation
            FuseQuantizedActivation(),
            FuseQuantize(),  # last: it closes the contraction
            FuseRoundedResidual(),  # and what is closed may open again for one more rounding
            FuseRequantize(),
        ),
    )


def constants_pipeline() -> Pipeline:
    """Return the passes after which whatever stays f32 has f32 weights and 8-bit operands."""
    return Pipeline(
        Together(FoldDequantizedConstants(), JoinBeforeDequantize()),
        ShareWeights(),
        EliminateDeadNodes(),
    )


def leftover_pipeline() -> Pipeline:
    """Return the passes that make arithmetic of what is left; before regions are fused."""
    return Pipeline(
        Together(MergeScalings()),  # while it is known what is quantized
        Together(LowerDequantize(), LowerQuantize()),
        MergeCommonSubexpressions(),
        EliminateDeadNodes(),
    )


def halves_pipeline(half: DType, attention: bool, kept: Collection[str] = ()) -> Pipeline:
    """Return the passes that make contractions multiply halves; before regions are fused.

    ``kept`` names source nodes whose contractions stay f32.
    """
    return Pipeline(
        Together(
            CancelNarrowing(half),  # first: what cancels need not move
            NarrowContraction(half, attention=attention, kept=kept),
            SinkWidening(half, attention=attention),  # towards the contraction that reads it
            HoistNarrowing(half, attention=attention),  # towards the contraction that makes it
        ),
        MergeCommonSubexpressions(),  # one cast per value
        ShareWeights(),
        EliminateDeadNodes(),
    )


def kept_contractions(graph: Graph, names: Collection[str]) -> frozenset[str]:
    """Return those of the named source nodes that are contractions or attention.

    Everything else computes in f32 anyway, and is fused into contractions that may be narrow.
    """
    kinds = (*CONTRACTIONS, ops.Attention, ops.Recurrent)
    nodes = [n for n in graph.nodes() if isinstance(n.op, kinds)] if names else []
    return frozenset(s for n in nodes if n.loc.comes_from(names) for s in n.loc.sources())


def narrow_storage(graph: Graph, precision: str, kept: Collection[str] = ()) -> None:
    """Rewrite ``graph`` in place before anything else, also as the plan stores it.

    ``kept`` names source nodes whose contractions stay f32.
    """
    if precision == "fp16":
        Pipeline(Together(StoreWeightsAsHalves(kept)), ShareWeights(by_name=True))(graph)


def decide_precision(graph: Graph, precision: str, integers: bool = True) -> None:
    """Rewrite ``graph`` in place before it is optimized.

    ``integers`` says whether contractions may multiply integers.  Raises ConfigError for int8 on a
    model without Quantize.
    """
    quantized = any(isinstance(n.op, ops.Quantize | ops.Dequantize) for n in graph.nodes())
    if precision == "int8" and not quantized:
        raise ConfigError(
            "precision int8 needs a model that holds QuantizeLinear and DequantizeLinear",
            hint="quantize it first, for example with onnxruntime.quantization.quantize_static and "
            "QuantFormat.QDQ",
        )
    if quantized:
        FoldConstants()(graph)  # weights that are quantized in the graph
        movement_pipeline(skip_roundings=precision == "int8")(graph)
        if integers:
            absorption_pipeline()(graph)
        constants_pipeline()(graph)


def finish_precision(
    graph: Graph, precision: str, device: str = "cpu", kept: Collection[str] = ()
) -> None:
    """Rewrite ``graph`` in place after it is optimized and before its regions are fused.

    ``kept`` names source nodes whose contractions stay f32.
    """
    leftover_pipeline()(graph)
    if device == "cuda" and precision in _HALVES:
        halves_pipeline(_HALVES[precision], True, kept)(graph)
    elif precision == "bf16":
        halves_pipeline(DType.BF16, False, kept)(graph)
        Pipeline(RoundRecurrentFactors(kept))(graph)
    Pipeline(FuseWideningIntoReduction())(graph)
    if device == "cpu":
        Pipeline(FuseAverageOfIntegers())(graph)
    if precision == "fp16" and device != "cuda":
        Pipeline(Together(RoundWeightsToHalves(kept)), ShareWeights())(graph)
