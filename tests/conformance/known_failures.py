"""The cases that do not pass, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reason:
    """Why a case fails; ``random`` cases may pass by chance."""

    text: str
    random: bool = False


_DRAWN = Reason(
    "the expected values are one draw of a random generator that ONNX does not specify", True
)
_HALF_SOFTMAX = Reason(
    "the expected values round every step of the softmax to f16; computing it in f32 and rounding "
    "once is closer to the exact result and differs in the last place of two elements"
)
_UNRANKED = Reason("an input or output is a sequence of tensors whose rank is not declared")

INTERPRETER_FAILURES: dict[str, Reason] = {
    "test_bernoulli": _DRAWN,
    "test_bernoulli_expanded": _DRAWN,
    "test_bernoulli_double": _DRAWN,
    "test_bernoulli_double_expanded": _DRAWN,
    "test_bernoulli_seed": _DRAWN,
    "test_bernoulli_seed_expanded": _DRAWN,
    "test_training_dropout": _DRAWN,
    "test_training_dropout_default": _DRAWN,
    "test_training_dropout_default_mask": _DRAWN,
    "test_training_dropout_mask": _DRAWN,
    "test_attention_4d_causal_fp16_expanded": _HALF_SOFTMAX,
    "test_identity_sequence": _UNRANKED,
    "test_loop16_seq_none": _UNRANKED,
    "test_sequence_insert_at_back": _UNRANKED,
    "test_sequence_insert_at_front": _UNRANKED,
}
"""Cases that fail when the imported graph is interpreted."""

CPU_FAILURES: dict[str, Reason] = {
    name: reason
    for name, reason in INTERPRETER_FAILURES.items()
    if name != "test_attention_4d_causal_fp16_expanded"  # recognized as attention
}
"""Cases that fail when the model is built for the CPU."""

_HALF_PROBABILITIES = Reason(
    "the matrix units take the probabilities of attention as f16, which moves single elements by "
    "up to two units in the last place",
    True,
)

CUDA_FAILURES: dict[str, Reason] = CPU_FAILURES | {
    "test_attention_4d_fp16": _HALF_PROBABILITIES,
    "test_attention_4d_causal_fp16": _HALF_PROBABILITIES,
    "test_attention_4d_causal_fp16_expanded": _HALF_PROBABILITIES,
}
"""Cases that fail when the model is built for a GPU."""
