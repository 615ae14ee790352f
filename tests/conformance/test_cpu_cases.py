"""The cases of the onnx package, built for the CPU: a sample always, all of them as slow tests."""

from __future__ import annotations

import pytest

from tests.conformance.cases import SHIPPED_KINDS, node_cases, shipped_cases
from tests.conformance.execution import built, run_cases
from tests.conformance.known_failures import CPU_FAILURES

SHARDS = 8
"""One shard of the cases is the sample."""


def cases():
    return [*node_cases(), *(c for kind in SHIPPED_KINDS for c in shipped_cases(kind))]


def check(shard):
    outcome = run_cases(cases()[shard::SHARDS], built("cpu"), CPU_FAILURES)
    assert not outcome.wrong, str(outcome)
    assert outcome.passed > 0.9 * len(cases()) / SHARDS


def test_sample():
    check(0)


@pytest.mark.parametrize("shard", range(1, SHARDS))
def test_all(shard):
    check(shard)
