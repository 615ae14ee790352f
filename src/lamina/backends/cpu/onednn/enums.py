"""Names for the numbers of oneDNN's C interface (stable within major version 3).

Every mapping goes from the word used in this package to the value of the C enumeration.  Element
types carry the names of the intermediate representation (``i8`` where oneDNN says ``s8``).
"""

from __future__ import annotations

from typing import Final

import ml_dtypes
import numpy as np

MAX_RANK: Final = 12

STATUS: Final = {
    0: "success",
    1: "out of memory",
    2: "invalid arguments",
    3: "unimplemented",
    4: "last implementation reached",
    5: "runtime error",
    6: "not required",
    7: "invalid graph",
    8: "invalid graph operation",
    9: "invalid shape",
    10: "invalid data type",
}

DTYPE: Final = {"f16": 1, "bf16": 2, "f32": 3, "i32": 4, "i8": 5, "u8": 6, "f64": 7}
DTYPE_NAME: Final = {value: name for name, value in DTYPE.items()}
NUMPY_DTYPE: Final[dict[str, np.dtype[np.generic]]] = {
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "f32": np.dtype(np.float32),
    "i32": np.dtype(np.int32),
    "i8": np.dtype(np.int8),
    "u8": np.dtype(np.uint8),
    "f64": np.dtype(np.float64),
}
DTYPE_OF_NUMPY: Final = {dtype: name for name, dtype in NUMPY_DTYPE.items()}

FORMAT_KIND: Final = {0: "undefined", 1: "any", 2: "blocked", 3: "opaque"}

FORWARD_INFERENCE: Final = 96

CONVOLUTION_ALGORITHM: Final = {"direct": 0x1, "winograd": 0x2, "auto": 0x3}
DECONVOLUTION_ALGORITHM: Final = {"direct": 0xA, "winograd": 0xB}

_ELTWISE_ORDER: Final = (
    "relu tanh elu square abs sqrt linear soft_relu hardsigmoid logistic exp gelu_tanh swish log "
    "clip clip_v2 pow gelu_erf round mish hardswish"
)
ELTWISE: Final = {name: 0x20 + i for i, name in enumerate(_ELTWISE_ORDER.split())}
POOLING: Final = {"max": 0x1FF, "average_include_padding": 0x2FF, "average_exclude_padding": 0x3FF}
LRN: Final = {"across_channels": 0xAFF, "within_channel": 0xBFF}
BINARY: Final = {
    name: 0x1FFF0 + i for i, name in enumerate("add mul max min div sub ge gt le lt eq ne".split())
}
RESAMPLING: Final = {"nearest": 0x2FFF0, "linear": 0x2FFF1}
REDUCTION: Final = {
    name: 0x2FFF2 + i for i, name in enumerate("max min sum mul mean norm_max norm_sum".split())
}
SOFTMAX: Final = {"softmax": 0x30000, "logsoftmax": 0x30001}

RNN_DIRECTION: Final = {"forward": 1, "reverse": 2, "bidirectional_concat": 3}

USE_GLOBAL_STATISTICS: Final = 0x1
USE_SCALE: Final = 0x2
USE_SHIFT: Final = 0x4
FUSE_RELU: Final = 0x8

FPMATH_MODE: Final = {"strict": 0, "bf16": 1, "f16": 2, "any": 3, "tf32": 4}
SCRATCHPAD_USER: Final = 1

ENGINE_CPU: Final = 1
STREAM_IN_ORDER: Final = 1

QUERY_IMPLEMENTATION: Final = 8
QUERY_EXEC_ARG_MD: Final = 255
QUERY_NDIMS: Final = 256
QUERY_DIMS: Final = 257
QUERY_DTYPE: Final = 258
QUERY_OFFSET: Final = 259
QUERY_PADDED_DIMS: Final = 260
QUERY_FORMAT_KIND: Final = 262
QUERY_STRIDES: Final = 14
QUERY_INNER_COUNT: Final = 263
QUERY_INNER_BLOCKS: Final = 264
QUERY_INNER_AXES: Final = 265

ARGUMENT: Final = {
    "src": 1,
    "src_1": 2,
    "src_iter": 2,
    "src_iter_c": 3,
    "dst": 17,
    "dst_iter": 18,
    "dst_iter_c": 19,
    "weights": 33,
    "weights_iter": 34,
    "weights_peephole": 35,
    "bias": 41,
    "mean": 49,
    "variance": 50,
    "scale": 51,
    "shift": 52,
    "workspace": 64,
    "scratchpad": 80,
    "scale_src": 4096 | 1,
    "scale_src_1": 4096 | 2,
    "scale_weights": 4096 | 33,
    "scale_dst": 4096 | 17,
    "zero_point_src": 8192 | 1,
    "zero_point_weights": 8192 | 33,
    "zero_point_dst": 8192 | 17,
    "depthwise_weights": 16384 | 33,
    "depthwise_bias": 16384 | 41,
}
_MULTIPLE_SRC: Final = 1024
_POST_OP: Final = 32768


def argument_code(name: str) -> int:
    """Return the number of an execution argument.

    Besides the fixed names: ``src[i]`` for the i-th of many sources, ``post_op[i]`` for the second
    operand of the i-th post-operation and ``post_op_weights[i]`` for its slopes.
    """
    code = ARGUMENT.get(name)
    if code is not None:
        return code
    base, _, index = name.rstrip("]").partition("[")
    if base == "src":
        return _MULTIPLE_SRC + int(index)
    if base == "post_op":
        return _POST_OP * (int(index) + 1) | 2
    if base == "post_op_weights":
        return _POST_OP * (int(index) + 1) | 33
    raise KeyError(name)
