"""The ways to run a node on a GPU; each file is one source of kernels."""

from __future__ import annotations

from lamina.backends.cuda.tactics.attention import TritonAttention
from lamina.backends.cuda.tactics.attention_hopper import HopperAttention
from lamina.backends.cuda.tactics.attention_once import TritonAttentionOnce
from lamina.backends.cuda.tactics.boxed import TritonMatmulBoxed
from lamina.backends.cuda.tactics.chained import TritonChained, TritonPaired
from lamina.backends.cuda.tactics.convolution import TritonConvolution, TritonConvolutionBoxes
from lamina.backends.cuda.tactics.counted import Counting
from lamina.backends.cuda.tactics.cublaslt import CublasLtMatmul
from lamina.backends.cuda.tactics.cudnn import CudnnAttention, CudnnConvolution
from lamina.backends.cuda.tactics.depthwise import TritonDepthwise
from lamina.backends.cuda.tactics.direct import TritonDirect
from lamina.backends.cuda.tactics.few_channels import TritonFewChannels
from lamina.backends.cuda.tactics.few_taps import TritonFewTaps
from lamina.backends.cuda.tactics.generated import Generated, GeneratedLast
from lamina.backends.cuda.tactics.matmul import TritonMatmul, TritonMatmulBoxes, TritonMatvec
from lamina.backends.cuda.tactics.normed import TritonNormed
from lamina.backends.cuda.tactics.plugins import PluginKernels
from lamina.backends.cuda.tactics.pooled import TritonPooled
from lamina.backends.cuda.tactics.recurrent import Walk
from lamina.backends.cuda.tactics.regions import Regions
from lamina.backends.cuda.tactics.rolling import RollingConvolution
from lamina.backends.cuda.tactics.scatter import Scatter
from lamina.backends.cuda.tactics.selection import TopKByRank
from lamina.backends.cuda.tactics.separable import TritonSeparable
from lamina.backends.cuda.tactics.slices import ChannelView
from lamina.backends.cuda.tactics.specialized import TritonMatmulSpecialized
from lamina.backends.cuda.tactics.specialized_boxes import SpecializedConvolution
from lamina.backends.cuda.tactics.specialized_pair import SpecializedPair
from lamina.backends.cuda.tactics.spread import TritonSpread
from lamina.backends.cuda.tactics.stem import StemConvolution
from lamina.backends.cuda.tactics.streamed import StreamedChain
from lamina.backends.cuda.tactics.uneven import TritonUneven
from lamina.backends.cuda.tactics.winograd import TritonWinograd
from lamina.backends.cuda.target import CudaTarget
from lamina.tactics.candidate import Tactic
from lamina.tactics.relaid import Relaid

TACTICS: tuple[Tactic[CudaTarget], ...] = (
    TritonConvolution(),
    TritonConvolutionBoxes(),
    RollingConvolution(),
    SpecializedConvolution(),
    TritonDirect(),
    TritonSpread(),
    TritonDepthwise(),
    TritonFewChannels(),
    TritonFewTaps(),
    TritonWinograd(),
    TritonPaired(),
    SpecializedPair(),
    TritonChained(),
    StreamedChain(),
    TritonSeparable(),
    TritonPooled(),
    StemConvolution(),
    TritonMatmul(),
    TritonMatmulBoxes(),
    TritonMatmulBoxed(),
    TritonMatmulSpecialized(),
    TritonMatvec(),
    TritonUneven(),
    TritonNormed(),
    CublasLtMatmul(),
    CudnnConvolution(),
    CudnnAttention(),
    TritonAttention(),
    TritonAttentionOnce(),
    HopperAttention(),
    ChannelView(),
    Relaid(),
    Scatter(),
    TopKByRank(),
    Counting(),
    Regions(),
    Walk(),
    PluginKernels(),
    Generated(),
)

LAST_RESORTS: tuple[Tactic[CudaTarget], ...] = (GeneratedLast(),)
"""Asked for nodes that no other tactic has a kernel for."""
