"""Types of the C functions that this package calls, one line a function.

A signature is a string of one letter an argument: ``p`` a pointer or handle, ``i`` an int, ``u``
an unsigned int, ``z`` a size, ``l`` a 64-bit integer, ``f`` a float, ``c`` a C string (results
only).  The letter before ``:`` is the result; ``i`` there is a status unless the name says
otherwise.
"""

from __future__ import annotations

import ctypes
from typing import Any, Final

C_TYPES: Final[dict[str, Any]] = {
    "p": ctypes.c_void_p,
    "i": ctypes.c_int,
    "u": ctypes.c_uint,
    "z": ctypes.c_size_t,
    "l": ctypes.c_int64,
    "f": ctypes.c_float,
    "c": ctypes.c_char_p,
}

SIGNATURES: Final = {
    "version": "p:",
    "get_effective_cpu_isa": "i:",
    "fmt_tag2str": "c:i",
    "get_primitive_cache_capacity": "i:p",
    "set_primitive_cache_capacity": "i:i",
    "set_max_cpu_isa": "i:i",
    "engine_create": "i:piz",
    "stream_create": "i:ppu",
    "stream_wait": "i:p",
    "stream_destroy": "i:p",
    "memory_desc_create_with_strides": "i:pipip",
    "memory_desc_create_with_tag": "i:pipii",
    "memory_desc_create_submemory": "i:pppp",
    "memory_desc_clone": "i:pp",
    "memory_desc_query": "i:pip",
    "memory_desc_equal": "i:pp",
    "memory_desc_get_size": "z:p",
    "memory_desc_destroy": "i:p",
    "memory_create": "i:pppp",
    "memory_set_data_handle": "i:pp",
    "memory_get_data_handle": "i:pp",
    "memory_destroy": "i:p",
    "primitive_attr_create": "i:p",
    "primitive_attr_destroy": "i:p",
    "primitive_attr_set_fpmath_mode": "i:pi",
    "primitive_attr_set_scratchpad_mode": "i:pi",
    "primitive_attr_set_scales_mask": "i:pii",
    "primitive_attr_set_zero_points_mask": "i:pii",
    "primitive_attr_set_post_ops": "i:pp",
    "primitive_attr_set_rnn_data_qparams": "i:pff",
    "primitive_attr_set_rnn_weights_qparams": "i:plip",
    "post_ops_create": "i:p",
    "post_ops_destroy": "i:p",
    "post_ops_append_sum": "i:pfii",
    "post_ops_append_eltwise": "i:piff",
    "post_ops_append_binary": "i:pip",
    "post_ops_append_prelu": "i:pi",
    "post_ops_append_dw": "i:piiilll",
    "primitive_desc_destroy": "i:p",
    "primitive_desc_next_impl": "i:p",
    "primitive_desc_query": "i:piip",
    "primitive_desc_query_md": "p:pii",
    "primitive_create": "i:pp",
    "primitive_destroy": "i:p",
    "primitive_get_primitive_desc": "i:pp",
    "primitive_execute": "i:ppip",
    "convolution_forward_primitive_desc_create": "i:ppiippppppppp",
    "deconvolution_forward_primitive_desc_create": "i:ppiippppppppp",
    "matmul_primitive_desc_create": "i:ppppppp",
    "inner_product_forward_primitive_desc_create": "i:ppippppp",
    "pooling_forward_primitive_desc_create": "i:ppiipppppppp",
    "reorder_primitive_desc_create": "i:pppppp",
    "concat_primitive_desc_create": "i:pppiipp",
    "sum_primitive_desc_create": "i:pppippp",
    "binary_primitive_desc_create": "i:ppipppp",
    "eltwise_forward_primitive_desc_create": "i:ppiippffp",
    "softmax_forward_primitive_desc_create": "i:ppiippip",
    "reduction_primitive_desc_create": "i:ppippffp",
    "prelu_forward_primitive_desc_create": "i:ppipppp",
    "resampling_forward_primitive_desc_create": "i:ppiipppp",
    "lrn_forward_primitive_desc_create": "i:ppiipplfffp",
    "shuffle_forward_primitive_desc_create": "i:ppippilp",
    "batch_normalization_forward_primitive_desc_create": "i:ppippfup",
    "layer_normalization_forward_primitive_desc_create": "i:ppipppfup",
    "vanilla_rnn_forward_primitive_desc_create": "i:ppiii" + "p" * 7 + "uffp",
    "lstm_forward_primitive_desc_create": "i:ppii" + "p" * 11 + "up",
    "gru_forward_primitive_desc_create": "i:ppii" + "p" * 7 + "up",
    "lbr_gru_forward_primitive_desc_create": "i:ppii" + "p" * 7 + "up",
}


def declare(library: ctypes.CDLL, name: str) -> Any:
    """Return the function ``dnnl_<name>`` with its types set.

    Raises AttributeError where the library does not export it.
    """
    function = getattr(library, f"dnnl_{name}")
    result, arguments = SIGNATURES[name].split(":")
    function.restype = C_TYPES[result]
    function.argtypes = [C_TYPES[letter] for letter in arguments]
    return function
