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
from lamina.passes.leading import (
    MergeBeforeTranspose,
    MergeNeighboursBeforeTranspose,
    SinkTransposeThroughMatmul,
    SplitBeforeTranspose,
)
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
from lamina.passes.ranges import ActivationBeforeConcat, DropReluOfNonNegative
from lamina.passes.regions import FuseRegions
from lamina.passes.shuffle import FuseChannelShuffle
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
from lamina.passes.unread_rows import DropUnreadRows
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
        SplitBeforeTranspose(),  # heads that were merged with the batch
        MergeNeighboursBeforeTranspose(),  # pixels that became one axis
        MergeBeforeTranspose(),  # the sequence before the batch is undone later
        SinkTransposeThroughMatmul(),  # towards its inverse
        PadToShape(),  # a view instead of a copy
        MergeConcats(),  # one copy instead of two
        SliceOfConcat(),  # no copy at all
        ConcatOfSlices(),  # no copy at all
        SinkTransposeThroughPointwise(),  # towards their inverses
        SinkTransposeThroughBroadcast(),  # through bias and residual
        SinkTransposeThroughReduce(),  # the axes are renamed instead
        SinkTransposeThroughSoftmax(),  # the axis is renamed instead
        SinkTransposeThroughConcat(),  # one transpose instead of many
        SinkTransposeThroughSlice(),  # less is transposed
        AbsorbTransposeIntoMatmul(),  # the library reads either order
        SinkReshapeThroughMatmul(),  # flattened rows come apart again by themselves
        SinkReshapeThroughPointwise(),  # so that bias and activation meet their matmul
        SinkReshapeThroughBinary(),  # the same for bias and residual
        SinkReshapeThroughRows(),  # the same for norms between two layers
    )


def _canonical() -> Together:
    """Return the identities, and one spelling for what exporters write in several ways."""
    return Together(
        DropNeutralOperand(),  # fewer nodes for every rule below
        DropIdentityCast(),  # exporters cast to be safe
        MergeCasts(),  # one conversion instead of two
        DropDoubleInverse(),  # inverses cancel
        DropConstantSelect(),  # the branch not taken may be dead
        DropExpandOperand(),  # operators broadcast by themselves
        ExpandPower(),  # one spelling of squares and roots
        SubtractionToAddition(),  # one spelling of shifts
        DivisionToMultiplication(),  # one spelling of scales
        LimitsToClip(),  # one spelling of relu and relu6
        MergeClips(),  # relu6 as max and min
        ReciprocalOfNumberOne(),  # one spelling of reciprocals
        ReciprocalOfRoot(),  # one function instead of two
        DivisionByRoot(),  # one spelling of norms
        TanhToActivation(),  # one spelling of tanh
        PreluToLeakyRelu(),  # contractions absorb leaky relu
        EinsumToMatmul(),  # one spelling of products
        GlobalPoolToReduce(),  # one spelling of global pooling
        MergeReductions(),  # one sweep over the data instead of two
        NarrowConstantOperand(),  # rows as rows
        CombineConstantOperands(),  # scales of scales
    )


def _recognition() -> Together:
    """Return the rules that find functions and layers in the arithmetic written for them."""
    return Together(
        RecognizeGelu(),  # before scales are folded: its factor 1/2 could go into a weight
        RecognizeGeluTanh(),  # the same for the approximation
        RecognizeSigmoid(),  # SiLU contains it
        RecognizeSilu(),  # contractions absorb it
        RecognizeHardSigmoid(),  # HardSwish contains it
        RecognizeHardSwish(),  # before its factor 1/6 is folded into a weight
        RecognizeSoftplus(),  # Mish contains it
        RecognizeMish(),  # contractions absorb it
        RecognizeLeakyRelu(),  # contractions absorb it
        RecognizeSoftmax(),  # attention contains it
        RecognizeLogSoftmax(),  # does not underflow
        RecognizeLogSumExp(),  # does not underflow
        RecognizeLayerNorm(),  # one sweep over each row
        RecognizeRmsNorm(),  # one sweep over each row
        RecognizeInstanceNorm(),  # where LayerNorm over pixels has a scale per channel
        RecognizeGroupNorm(),  # no reshape to groups and back
        FoldScaleIntoNorm(),  # norms have scales
        FoldBiasIntoNorm(),  # and LayerNorm a bias, after its scale
        FoldAffineIntoChannelNorm(),  # norms per channel have both
        RecognizeAttention(),  # softmax and scale are in their final form
        ShareKeyHeads(),  # repeated heads are not stored
        RecognizeCausalMask(),  # half of the scores are not computed
        ScaleQueries(),  # attention scales the scores anyway
        DropExpandedMask(),  # attention broadcasts its mask
    )


def _folding() -> Fixpoint:
    """Return the rules that move scales, shifts and padding into contractions."""
    return Fixpoint(
        _views(),  # attention leaves a transpose of its keys
        Together(
            BatchNormToScale(),  # after recognition: only pointwise work is left of it
            FoldPaddingIntoConvolution(),  # before shifts: these need to know the padding
            FoldPaddingIntoPool(),  # one copy less
            FoldScaleIntoContraction(),  # free at run time
            FoldBiasIntoContraction(),  # after the scale before it
            FoldScaleIntoOperand(),  # free at run time, where nothing else reads the operand
            FoldShiftIntoOperand(),  # free at run time, without padding
            CombineConstantOperands(),  # a bias follows its scale
            DropNeutralOperand(),  # norms often have a scale of ones
        ),
        FoldConstants(),  # reshaped scales of norms
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
            _canonical(),
            _views(),  # transposes and reshapes hide patterns
        ),
        _recognition(),
        _folding(),
        Together(
            ActivationBeforeConcat(),  # so that the contractions before it take it
            DropReluOfNonNegative(),  # what ReLU, pooling and concatenation leave is not negative
            FuseActivation(),  # weights and biases are final
            FuseResidual(),  # the sum, then its activation
        ),
        DropUnreadRows(),  # before products merge that read different rows then
        FoldConstants(),  # of which rows are cut too
        MergeParallelConvolutions(),  # the epilogues are known: only equal ones merge
        MergeParallelMatmuls(),  # as above
        Together(SliceOfConcat(), ConcatOfSlices(), MergeConcats(), DropIdentityView()),
        MergeCommonSubexpressions(),  # slices and constants made by several rules
        ShareWeights(),  # last: folding makes new weights
        EliminateDeadNodes(),
        FuseChannelShuffle(),  # one copy, in any layout
        FuseRegions(),  # what is left between the contractions
    )


OPTIMIZE = default_pipeline()
"""Every pass; results change by rounding alone.

Leave passes out with ``OPTIMIZE.without("RecognizeAttention")``.  What decides precisions works on
operators and not on regions: it runs between ``OPTIMIZE.without("FuseRegions")`` and
:class:`FuseRegions`.
"""
