"""The order in which a graph is optimized, one reason per line."""

from __future__ import annotations

from lamina.ir.rewrite import Fixpoint, Pipeline, Together
from lamina.passes.activations import (
    RecognizeGelu,
    RecognizeGeluTanh,
    RecognizeHardSigmoid,
    RecognizeHardSwish,
    RecognizeLeakyRelu,
    RecognizeMish,
    RecognizeSigmoid,
    RecognizeSilu,
    RecognizeSoftplus,
)
from lamina.passes.affine import (
    BatchNormToScale,
    FoldBiasIntoContraction,
    FoldScaleIntoContraction,
    FoldScaleIntoOperand,
    FoldShiftIntoOperand,
)
from lamina.passes.algebra import (
    CombineConstantOperands,
    DropConstantSelect,
    DropDoubleInverse,
    DropExpandOperand,
    DropIdentityCast,
    DropNeutralOperand,
    MergeCasts,
    MergeClips,
)
from lamina.passes.attention import RecognizeAttention
from lamina.passes.canonical import (
    DivisionByRoot,
    DivisionToMultiplication,
    ExpandPower,
    GlobalPoolToReduce,
    LimitsToClip,
    MergeReductions,
    PreluToLeakyRelu,
    ReciprocalOfNumberOne,
    ReciprocalOfRoot,
    SubtractionToAddition,
    TanhToActivation,
)
from lamina.passes.cleanup import (
    EliminateDeadNodes,
    FoldConstants,
    InlineConstantIf,
    MergeCommonSubexpressions,
    ShareWeights,
)
from lamina.passes.control import CaptureConstants
from lamina.passes.einsum import EinsumToMatmul
from lamina.passes.epilogue import FuseActivation, FuseResidual
from lamina.passes.flatten import (
    NarrowConstantOperand,
    SinkReshapeThroughBinary,
    SinkReshapeThroughMatmul,
    SinkReshapeThroughPointwise,
    SinkReshapeThroughRows,
)
from lamina.passes.heads import (
    DropExpandedMask,
    RecognizeCausalMask,
    ScaleQueries,
    ShareKeyHeads,
)
from lamina.passes.joining import ConcatOfSlices, MergeConcats, SliceOfConcat
from lamina.passes.norms import (
    FoldAffineIntoChannelNorm,
    FoldBiasIntoNorm,
    FoldScaleIntoNorm,
    RecognizeGroupNorm,
    RecognizeInstanceNorm,
    RecognizeLayerNorm,
    RecognizeRmsNorm,
)
from lamina.passes.padding import FoldPaddingIntoConvolution, FoldPaddingIntoPool
from lamina.passes.parallel import MergeParallelConvolutions, MergeParallelMatmuls
from lamina.passes.regions import FuseRegions
from lamina.passes.sink import (
    AbsorbTransposeIntoMatmul,
    SinkTransposeThroughBroadcast,
    SinkTransposeThroughConcat,
    SinkTransposeThroughPointwise,
    SinkTransposeThroughReduce,
    SinkTransposeThroughSlice,
    SinkTransposeThroughSoftmax,
)
from lamina.passes.softmax import RecognizeLogSoftmax, RecognizeLogSumExp, RecognizeSoftmax
from lamina.passes.views import (
    DropIdentityView,
    FoldSmallViews,
    GatherToSlice,
    MergeExpands,
    MergeReshapes,
    MergeSlices,
    MergeTransposes,
    PadToShape,
    SliceBeforeReshape,
    SqueezeBeforeTranspose,
    TransposeToReshape,
)


def _views() -> Together:
    """Return the rules for movement of elements; they run whenever something new was found."""
    return Together(
        DropIdentityView(),  # what moves nothing goes first
        MergeReshapes(),  # the last shape counts
        MergeTransposes(),  # inverse permutations cancel
        MergeExpands(),  # the last shape counts
        MergeSlices(),  # one copy, or one view, instead of two
        TransposeToReshape(),  # a view instead of a copy
        FoldSmallViews(),  # constants arrive in the shape that patterns expect
        GatherToSlice(),  # a view instead of a gather
        SliceBeforeReshape(),  # packed queries, keys and values come apart as columns
        SqueezeBeforeTranspose(),  # one spelling of heads
        PadToShape(),  # a view instead of a copy
        MergeConcats(),  # one copy instead of two
        SliceOfConcat(),  # no copy at all
        ConcatOfSlices(),  # no copy at all
        SinkTransposeThroughPointwise(),  # towards their inverses
        SinkTransposeThroughBroadcast(),
        SinkTransposeThroughReduce(),
        SinkTransposeThroughSoftmax(),
        SinkTransposeThroughConcat(),
        SinkTransposeThroughSlice(),
        AbsorbTransposeIntoMatmul(),  # the library reads either order
        SinkReshapeThroughMatmul(),  # flattened rows come apart again by themselves
        SinkReshapeThroughPointwise(),  # so that bias and activation meet their matmul
        SinkReshapeThroughBinary(),
        SinkReshapeThroughRows(),
    )


def default_pipeline() -> Pipeline:
    """Return a new pipeline with every pass; its statistics start at zero."""
    return Pipeline(
        CaptureConstants(),  # so that bodies can be folded too
        InlineConstantIf(),  # what is never run need not be optimized
        EliminateDeadNodes(),  # dead readers would hide that a value is used once
        Fixpoint(
            FoldConstants(),  # patterns look for constants
            MergeCommonSubexpressions(),  # patterns compare values by identity
            Together(
                DropNeutralOperand(),  # fewer nodes for every rule below
                DropIdentityCast(),
                MergeCasts(),
                DropDoubleInverse(),
                DropConstantSelect(),
                DropExpandOperand(),  # operators broadcast by themselves
                ExpandPower(),  # one spelling of squares and roots
                SubtractionToAddition(),  # one spelling of shifts
                DivisionToMultiplication(),  # one spelling of scales
                LimitsToClip(),  # one spelling of relu and relu6
                MergeClips(),
                ReciprocalOfNumberOne(),  # one spelling of reciprocals
                ReciprocalOfRoot(),
                DivisionByRoot(),  # one spelling of norms
                TanhToActivation(),  # one spelling of tanh
                PreluToLeakyRelu(),
                EinsumToMatmul(),  # one spelling of products
                GlobalPoolToReduce(),  # one spelling of global pooling
                MergeReductions(),
                NarrowConstantOperand(),  # rows as rows
                CombineConstantOperands(),  # scales of scales
            ),
            _views(),  # transposes and reshapes hide patterns
        ),
        Together(
            RecognizeGelu(),  # before scales are folded: its factor 1/2 could go into a weight
            RecognizeGeluTanh(),
            RecognizeSigmoid(),
            RecognizeSilu(),
            RecognizeHardSigmoid(),
            RecognizeHardSwish(),
            RecognizeSoftplus(),
            RecognizeMish(),
            RecognizeLeakyRelu(),
            RecognizeSoftmax(),
            RecognizeLogSoftmax(),
            RecognizeLogSumExp(),
            RecognizeLayerNorm(),
            RecognizeRmsNorm(),
            RecognizeInstanceNorm(),  # where LayerNorm over pixels has a scale per channel
            RecognizeGroupNorm(),
            FoldScaleIntoNorm(),
            FoldBiasIntoNorm(),
            FoldAffineIntoChannelNorm(),
            RecognizeAttention(),  # softmax and scale are in their final form
            ShareKeyHeads(),
            RecognizeCausalMask(),
            ScaleQueries(),
            DropExpandedMask(),
        ),
        Fixpoint(
            _views(),  # attention leaves a transpose of its keys
            Together(
                BatchNormToScale(),  # after recognition: only pointwise work is left of it
                FoldPaddingIntoConvolution(),  # before shifts: these need to know the padding
                FoldPaddingIntoPool(),
                FoldScaleIntoContraction(),
                FoldBiasIntoContraction(),
                FoldScaleIntoOperand(),
                FoldShiftIntoOperand(),
                CombineConstantOperands(),  # a bias follows its scale
                DropNeutralOperand(),
            ),
            FoldConstants(),  # reshaped scales of norms
        ),
        Together(
            FuseActivation(),  # weights and biases are final
            FuseResidual(),  # the sum, then its activation
        ),
        MergeParallelConvolutions(),  # the epilogues are known: only equal ones merge
        MergeParallelMatmuls(),
        Together(SliceOfConcat(), ConcatOfSlices(), MergeConcats(), DropIdentityView()),
        MergeCommonSubexpressions(),  # slices and constants made by several rules
        ShareWeights(),  # last: folding makes new weights
        EliminateDeadNodes(),
        FuseRegions(),  # what is left between the contractions
    )


OPTIMIZE = default_pipeline()
"""Every pass that changes no result beyond rounding; ``OPTIMIZE.without("FuseRegions")``."""
