"""Every case of the onnx package, imported and interpreted."""

from __future__ import annotations

import string

import pytest

from tests.conformance.cases import SHIPPED_KINDS, node_cases, node_group, shipped_cases
from tests.conformance.execution import interpreted, run_cases
from tests.conformance.known_failures import INTERPRETER_FAILURES

LETTERS = string.ascii_lowercase


@pytest.mark.parametrize("letter", LETTERS)
def test_node_cases(letter):
    outcome = run_cases(
        (c for c in node_cases() if node_group(c.name) == letter), interpreted, INTERPRETER_FAILURES
    )
    assert not outcome.wrong, str(outcome)


def test_every_node_case_is_in_a_group():
    assert {node_group(c.name) for c in node_cases()} <= set(LETTERS)
    assert len(node_cases()) >= 1800


@pytest.mark.parametrize("kind", SHIPPED_KINDS)
def test_shipped_cases(kind):
    outcome = run_cases(shipped_cases(kind), interpreted, INTERPRETER_FAILURES)
    assert not outcome.wrong, str(outcome)
    assert outcome.passed == len(shipped_cases(kind)) > 20


def test_known_failures_are_cases():
    names = {c.name for c in node_cases()} | {
        c.name for kind in SHIPPED_KINDS for c in shipped_cases(kind)
    }
    assert set(INTERPRETER_FAILURES) <= names
    assert sum(not known.random for known in INTERPRETER_FAILURES.values()) <= 14
