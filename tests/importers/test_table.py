"""Which operators have importers, and in which versions."""

import pytest

from lamina.importers.onnx import TABLE
from lamina.importers.onnx.table import Table

NATIVE = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool
BatchNormalization BlackmanWindow Cast CastLike Ceil Celu Clip Concat Constant ConstantOfShape
Conv ConvTranspose Cos Cosh CumSum DeformConv DepthToSpace DequantizeLinear Div Dropout Einsum Elu
Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND Gelu Gemm
GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization
HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity If ImageScaler
InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log
LogSoftmax Loop LpNormalization LpPool MatMul Max MaxPool Mean MeanVarianceNormalization Min Mish
Mod Mul Neg NonMaxSuppression NonZero Not OneHot Or PRelu Pad ParametricSoftplus Pow
QuantizeLinear RMSNormalization RNN RandomNormal RandomNormalLike RandomUniform RandomUniformLike
Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin
ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence RoiAlign RotaryEmbedding
Round STFT ScaledTanh Scan Scatter ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin
Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Swish Tan Tanh
TensorScatter ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Upsample Where Xor
""".split()


def test_the_operators_that_engines_accept_are_lowered():
    assert len(NATIVE) == len(set(NATIVE)) == 159
    assert not set(NATIVE) - set(TABLE.names())


def test_the_newest_fitting_version_is_found():
    table = Table()

    @table.op("Op", since=1)
    def old(n, x):
        return x

    @table.op("Op", since=7)
    def new(n, x, y=None):
        return x

    assert table.find("Op", 6).importer is old
    assert table.find("Op", 7).importer is new
    assert table.find("Op", 30).most == 2
    assert table.find("Other", 7) is None


def test_a_version_is_declared_once():
    table = Table()
    table.op("Op", since=1)(lambda n, x: x)
    with pytest.raises(ValueError, match="Op since 1 is declared twice"):
        table.op("Op", since=1)(lambda n, x: x)
