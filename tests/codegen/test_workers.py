"""Worker processes answer, fail one request when they die, and end when closed."""

from __future__ import annotations

import os
from concurrent.futures import Future

import pytest

from lamina.codegen.workers import Message, Workers
from lamina.errors import BuildError

ITSELF = "tests.codegen.test_workers"


def answer(head: dict[str, object], payload: bytes) -> Message:
    """Return the request reversed, after doing what it says."""
    if head.get("die"):
        os._exit(7)
    if head.get("print"):
        print("what a compiler prints is no answer")
    return {"pid": os.getpid(), **head}, payload[::-1]


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest):
    environment = {**os.environ, "PYTHONPATH": str(request.config.rootpath)}
    with Workers(ITSELF, 2, environment) as pool:
        yield pool


def test_answers_belong_to_their_requests_and_no_more_processes_start_than_allowed(workers):
    payloads = [bytes([i]) * i * 1000 for i in range(20)]
    begun: list[Future[Message]] = [
        workers.submit({"n": i, "print": True}, p + b"!") for i, p in enumerate(payloads)
    ]
    answers = [b.result() for b in begun]
    assert [head["n"] for head, _ in answers] == list(range(20))
    assert [data for _, data in answers] == [b"!" + p for p in payloads]
    assert 1 <= len({head["pid"] for head, _ in answers}) <= 2


def test_a_process_that_dies_fails_its_request_alone(workers):
    lost = workers.submit({"die": True})
    kept = [workers.submit({"n": i}, b"ab") for i in range(6)]
    with pytest.raises(BuildError, match="ended with status 7"):
        lost.result()
    assert [k.result()[1] for k in kept] == [b"ba"] * 6


def test_closing_ends_processes_in_the_midst_of_work():
    workers = Workers(ITSELF, 1)
    workers.start(1)
    process = workers._processes[0]
    workers.close()
    assert process.poll() is not None


def test_there_may_be_more_processes_later(workers: Workers) -> None:
    workers.grow(4)
    assert workers.limit == 4
    assert len(workers._processes) == 4
    workers.grow(1)
    assert workers.limit == 4
    assert workers.submit({"n": 1}).result()[0]
