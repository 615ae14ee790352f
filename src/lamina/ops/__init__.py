"""What every operator means."""

from __future__ import annotations

from lamina.ir.graph import Op
from lamina.ops.assertion import Assertion as Assertion
from lamina.ops.attention import Attention as Attention
from lamina.ops.attention import Softmax as Softmax
from lamina.ops.cast import Bitcast as Bitcast
from lamina.ops.cast import Cast as Cast
from lamina.ops.const import Const as Const
from lamina.ops.contraction import Convolution as Convolution
from lamina.ops.contraction import Deconvolution as Deconvolution
from lamina.ops.contraction import Matmul as Matmul
from lamina.ops.control import If as If
from lamina.ops.control import Loop as Loop
from lamina.ops.control import Region as Region
from lamina.ops.deform import DeformConvolution as DeformConvolution
from lamina.ops.detection import Nms as Nms
from lamina.ops.einsum import Einsum as Einsum
from lamina.ops.elementwise import Activation as Activation
from lamina.ops.elementwise import Binary as Binary
from lamina.ops.elementwise import Select as Select
from lamina.ops.elementwise import Unary as Unary
from lamina.ops.generate import Range as Range
from lamina.ops.generate import Trilu as Trilu
from lamina.ops.host import HostCall as HostCall
from lamina.ops.indexing import Gather as Gather
from lamina.ops.indexing import GatherElements as GatherElements
from lamina.ops.indexing import GatherNd as GatherNd
from lamina.ops.indexing import NonZero as NonZero
from lamina.ops.indexing import OneHot as OneHot
from lamina.ops.indexing import ReverseSequence as ReverseSequence
from lamina.ops.kinds import ActivationKind as ActivationKind
from lamina.ops.kinds import ArgReduceKind as ArgReduceKind
from lamina.ops.kinds import BinaryKind as BinaryKind
from lamina.ops.kinds import CoordinateMode as CoordinateMode
from lamina.ops.kinds import CumulativeKind as CumulativeKind
from lamina.ops.kinds import Direction as Direction
from lamina.ops.kinds import Epilogue as Epilogue
from lamina.ops.kinds import GridPadding as GridPadding
from lamina.ops.kinds import InterpolationMode as InterpolationMode
from lamina.ops.kinds import NearestMode as NearestMode
from lamina.ops.kinds import PadMode as PadMode
from lamina.ops.kinds import PoolKind as PoolKind
from lamina.ops.kinds import RandomKind as RandomKind
from lamina.ops.kinds import RecurrentKind as RecurrentKind
from lamina.ops.kinds import ReduceKind as ReduceKind
from lamina.ops.kinds import RoiCoordinateMode as RoiCoordinateMode
from lamina.ops.kinds import RoiMode as RoiMode
from lamina.ops.kinds import Scaling as Scaling
from lamina.ops.kinds import ScatterReduction as ScatterReduction
from lamina.ops.kinds import UnaryKind as UnaryKind
from lamina.ops.movement import Concat as Concat
from lamina.ops.movement import Expand as Expand
from lamina.ops.movement import Pad as Pad
from lamina.ops.movement import Reshape as Reshape
from lamina.ops.movement import Slice as Slice
from lamina.ops.movement import Tile as Tile
from lamina.ops.movement import Transpose as Transpose
from lamina.ops.norm import BatchNorm as BatchNorm
from lamina.ops.norm import GroupNorm as GroupNorm
from lamina.ops.norm import InstanceNorm as InstanceNorm
from lamina.ops.norm import LayerNorm as LayerNorm
from lamina.ops.norm import Lrn as Lrn
from lamina.ops.norm import RmsNorm as RmsNorm
from lamina.ops.plugin import PluginCall as PluginCall
from lamina.ops.pool import MaxPoolIndices as MaxPoolIndices
from lamina.ops.pool import Pool as Pool
from lamina.ops.quantize import Dequantize as Dequantize
from lamina.ops.quantize import Quantize as Quantize
from lamina.ops.quantized import QuantizedConvolution as QuantizedConvolution
from lamina.ops.quantized import QuantizedMatmul as QuantizedMatmul
from lamina.ops.random import Random as Random
from lamina.ops.random import RandomKey as RandomKey
from lamina.ops.recurrent import Recurrent as Recurrent
from lamina.ops.reduce import ArgReduce as ArgReduce
from lamina.ops.reduce import Cumulative as Cumulative
from lamina.ops.reduce import Reduce as Reduce
from lamina.ops.reduce import TopK as TopK
from lamina.ops.resize import Resize as Resize
from lamina.ops.sampling import GridSample as GridSample
from lamina.ops.sampling import RoiAlign as RoiAlign
from lamina.ops.scatter import ScatterElements as ScatterElements
from lamina.ops.scatter import ScatterNd as ScatterNd
from lamina.ops.shape import BindDims as BindDims
from lamina.ops.shape import Shape as Shape

ALL: tuple[type[Op], ...] = (
    Activation,
    ArgReduce,
    Assertion,
    Attention,
    BatchNorm,
    Binary,
    BindDims,
    Bitcast,
    Cast,
    Concat,
    Const,
    Convolution,
    Cumulative,
    Deconvolution,
    DeformConvolution,
    Dequantize,
    Einsum,
    Expand,
    Gather,
    GatherElements,
    GatherNd,
    GridSample,
    GroupNorm,
    HostCall,
    If,
    InstanceNorm,
    LayerNorm,
    Loop,
    Lrn,
    Matmul,
    MaxPoolIndices,
    Nms,
    NonZero,
    OneHot,
    Pad,
    PluginCall,
    Pool,
    Quantize,
    QuantizedConvolution,
    QuantizedMatmul,
    Random,
    RandomKey,
    Range,
    Recurrent,
    Reduce,
    Region,
    Reshape,
    Resize,
    ReverseSequence,
    RmsNorm,
    RoiAlign,
    ScatterElements,
    ScatterNd,
    Select,
    Shape,
    Slice,
    Softmax,
    Tile,
    TopK,
    Transpose,
    Trilu,
    Unary,
)
BY_NAME = {op.name: op for op in ALL}
