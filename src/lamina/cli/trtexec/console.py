"""Lines in the form that trtexec writes them."""

from __future__ import annotations

import sys
import time

from lamina.tensorrt.enums import Severity
from lamina.tensorrt.logger import ILogger

_LETTERS = {"INTERNAL_ERROR": "F", "ERROR": "E", "WARNING": "W", "INFO": "I", "VERBOSE": "V"}


class Console(ILogger):
    """Writes lines with the time and the severity; errors go to standard error."""

    def __init__(self, *, least: str = "INFO") -> None:
        """Leave out what is less severe than ``least``."""
        self._shown = list(_LETTERS)[: list(_LETTERS).index(least) + 1]

    def log(self, severity: Severity, msg: str) -> None:
        """Write a message of the library."""
        self._write(severity.name, f"[TRT] {msg}")

    def verbose(self, text: str) -> None:
        """Write a detail."""
        self._write("VERBOSE", text)

    def info(self, text: str = "") -> None:
        """Write a line of the program itself."""
        self._write("INFO", text)

    def warning(self, text: str) -> None:
        """Write a warning."""
        self._write("WARNING", text)

    def error(self, text: str) -> None:
        """Write an error."""
        self._write("ERROR", text)

    def _write(self, severity: str, text: str) -> None:
        if severity not in self._shown:
            return
        stamp = time.strftime("%m/%d/%Y-%H:%M:%S")
        stream = sys.stderr if severity in ("ERROR", "INTERNAL_ERROR") else sys.stdout
        for line in text.split("\n"):
            stream.write(f"[{stamp}] [{_LETTERS[severity]}] {line}\n")
        stream.flush()
