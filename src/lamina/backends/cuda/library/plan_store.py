"""What cuDNN answered before, on disk: engines for a problem, and their plans.

Asking it takes some ten milliseconds a layer, planning up to a second.  An answer is stored under a
digest of the question, of the versions of library and driver and of the device's model.  An answer
is ``{"engines": [...]}`` or ``{"workspace_bytes": n, "plan": base64}``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from lamina.config import cache_folder


class PlanStore:
    """Answers by question; ``about`` tells whose answers they are.

    A missing or damaged file is no answer, and a place that cannot be written is no error.
    """

    def __init__(self, about: tuple[str, ...]) -> None:
        self.about = about

    def engines(self, question: str) -> list[str] | None:
        """Return the engines that were proposed for a problem."""
        found = self._read(question).get("engines")
        return found if isinstance(found, list) and all(isinstance(e, str) for e in found) else None

    def keep_engines(self, question: str, engines: list[str]) -> None:
        """Store the engines for a problem."""
        self._write(question, {"engines": engines})

    def plan(self, question: str) -> tuple[bytes, int] | None:
        """Return a plan with the bytes of its workspace."""
        found = self._read(question)
        with suppress(KeyError, TypeError, ValueError):
            plan = base64.b64decode(found["plan"], validate=True)
            if hashlib.blake2b(plan, digest_size=16).hexdigest() == found["digest"]:
                return plan, int(found["workspace_bytes"])
        return None

    def keep_plan(self, question: str, plan: bytes, workspace_bytes: int) -> None:
        """Store the plan of an engine."""
        digest = hashlib.blake2b(plan, digest_size=16).hexdigest()
        text = base64.b64encode(plan).decode()
        self._write(question, {"plan": text, "digest": digest, "workspace_bytes": workspace_bytes})

    def _path(self, question: str) -> Path:
        text = json.dumps([*self.about, question])
        name = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        return cache_folder() / "cudnn" / f"{name}.json"

    def _read(self, question: str) -> dict[str, Any]:
        with suppress(OSError, ValueError, RecursionError):
            found = json.loads(self._path(question).read_text())
            return found if isinstance(found, dict) else {}
        return {}

    def _write(self, question: str, answer: dict[str, Any]) -> None:
        path = self._path(question)
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".answer")
            try:
                with os.fdopen(handle, "w") as f:
                    json.dump(answer, f)
                os.replace(temporary, path)
            except BaseException:
                os.unlink(temporary)
                raise
