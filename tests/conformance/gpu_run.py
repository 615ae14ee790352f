"""The conformance cases on a GPU: all kernels compiled at once, then every case built and run."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from lamina.backends.cuda.compile import Compiler
from lamina.backends.cuda.device import Device
from lamina.backends.cuda.request import read_key
from tests.conformance.gpu_worker import all_cases
from tests.conformance.known_failures import Reason

SECONDS_PER_CASE = 60
PACKAGES = ("lamina", "triton", "cuda-bindings", "onnx", "numpy")
ROOT = Path(__file__).parents[2]


class _Worker:
    """A process of :mod:`tests.conformance.gpu_worker`; it starts again when it has ended."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer, or what became of the process as the error."""
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.conformance.gpu_worker"],
                cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
        process = self.process
        assert process.stdin is not None and process.stdout is not None
        clock = threading.Timer(SECONDS_PER_CASE, process.kill)
        clock.start()
        try:
            process.stdin.write(json.dumps(question) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:
            line = ""
        finally:
            clock.cancel()
        answer = json.loads(line) if line else {"error": f"ended with status {process.wait()}"}
        if not line or answer.get("lost"):
            self.close()
        return answer

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def _ask_all(workers: Sequence[_Worker], questions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Share questions among the workers; answers are in the order of the questions."""
    idle: SimpleQueue[_Worker] = SimpleQueue()
    for w in workers:
        idle.put(w)

    def ask(question: dict[str, Any]) -> dict[str, Any]:
        worker = idle.get()
        try:
            return worker.ask(question)
        finally:
            idle.put(worker)

    with ThreadPoolExecutor(len(workers)) as threads:
        return list(threads.map(ask, questions))


def _version(package: str) -> str:
    """Return a package's version; one that runs from its sources has none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "from source"


def run_on_gpu(device: Device, known: Mapping[str, Reason]) -> dict[str, Any]:
    """Run every case; the summary's ``wrong`` are the failures that are not known ones."""
    start, cases = time.perf_counter(), all_cases()
    workers = [_Worker() for _ in range(os.cpu_count() or 1)]
    try:
        numbers = range(len(cases))
        asked = [{"do": "kernels", "case": i, "arch": device.arch} for i in numbers]
        found = _ask_all(workers, asked)
        keys = sorted({k for answer in found for k in answer.get("kernels", ())})
        with Compiler(device.arch, len(workers)) as compiler:
            outcomes = compiler.compile(read_key(k) for k in keys)
        uncompiled = {r.function: why for r, why in outcomes.items() if isinstance(why, str)}
        compiled = time.perf_counter()
        answers = _ask_all(workers, [{"do": "run", "case": i} for i in numbers])
    finally:
        for w in workers:
            w.close()
    failures = {c.name: a["error"] for c, a in zip(cases, answers, strict=True) if a["error"]}
    reasons = Counter(
        f.split(" runs on the host ")[-1] for a in answers for f in a.get("fallbacks", ())
    )
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": device.model,
        "driver": device.driver_version,
        "versions": {n: _version(n) for n in PACKAGES},
        "python": platform.python_version(),
        "seconds": {
            "kernels": round(compiled - start, 1),
            "cases": round(time.perf_counter() - compiled, 1),
        },
        "cases": len(cases),
        "passed": len(cases) - len(failures),
        "without_host_steps": sum(not a["error"] and not a["fallbacks"] for a in answers),
        "kernels": len(keys),
        "kernels_that_do_not_compile": uncompiled,
        "known_failures": {n: known[n].text for n in failures if n in known},
        "wrong": {n: why for n, why in failures.items() if n not in known},
        "host_steps": dict(reasons.most_common()),
    }
