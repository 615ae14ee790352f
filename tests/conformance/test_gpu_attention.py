"""Attention as ONNX has it, on the simulated device: lengths, shared heads, masks, windows."""

from __future__ import annotations

import pytest

from tests.backends.cuda.simulation import simulated
from tests.conformance.cases import node_cases
from tests.conformance.execution import profiles, run_cases

NAMES = (
    "4d_diff_heads_mask4d_padded_kv", "4d_padded_kv_bf16", "4d_gqa_causal_nonpad_decode",
    "4d_causal_nonpad_continued_prefill", "4d_causal_nonpad_batch_prefill",
    "4d_causal_nonpad_negative_offset_structural_empty", "4d_gqa_with_past_and_present",
    "4d_causal_with_past_and_present", "causal_boolmask_nan_robustness", "local_window_with_past",
    "3d_gqa_attn_mask", "3d_gqa_softcap",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_attention(name):
    (case,) = [c for c in node_cases() if c.name == f"test_attention_{name}"]
    tactics = []

    def execute(model):
        engine = simulated(model, shapes=profiles(model))
        tactics.extend(step.tactic for step in engine.section.program.steps)
        several = len(engine.outputs) > 1
        return lambda inputs: list(engine(*inputs)) if several else [engine(*inputs)]

    outcome = run_cases([case], execute, {})
    assert not outcome.wrong, str(outcome)
    assert any("attention" in t for t in tactics), tactics
