"""Loggers."""

from __future__ import annotations

import sys
import time
from typing import Any

from lamina.tensorrt import enums

_LETTERS = {"INTERNAL_ERROR": "F", "ERROR": "E", "WARNING": "W", "INFO": "I", "VERBOSE": "V"}


class ILogger:
    """Receives messages; subclass it and define ``log``."""

    Severity = enums.Severity

    def log(self, severity: enums.Severity, msg: str) -> None:
        """Handle one message; the base class has nothing to do it with."""
        raise NotImplementedError(f"{type(self).__name__} must define log(severity, msg)")


class _SeverityName:
    """A severity as an attribute of the logger class."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type) -> enums.Severity:
        return enums.Severity.named(self.name)


class Logger(ILogger):
    """Writes messages of at least ``min_severity`` to standard output."""

    INTERNAL_ERROR = _SeverityName("INTERNAL_ERROR")
    ERROR = _SeverityName("ERROR")
    WARNING = _SeverityName("WARNING")
    INFO = _SeverityName("INFO")
    VERBOSE = _SeverityName("VERBOSE")

    min_severity: enums.Severity = _SeverityName("WARNING")  # type: ignore[assignment]
    """Least severity that is written."""

    def __init__(self, min_severity: enums.Severity | None = None) -> None:
        """Take the least severity that is written, WARNING by default."""
        if min_severity is not None and not isinstance(min_severity, enums.Severity):
            raise TypeError(f"min_severity must be a Severity, got {type(min_severity).__name__}")
        self.min_severity = min_severity or enums.Severity.named("WARNING")

    def log(self, severity: enums.Severity, msg: str) -> None:
        """Write one message when it is severe enough (smaller numbers are more severe)."""
        if severity.value <= self.min_severity.value:
            stamp = time.strftime("%m/%d/%Y-%H:%M:%S")
            sys.stdout.write(f"[{stamp}] [TRT] [{_LETTERS[severity.name]}] {msg}\n")
            sys.stdout.flush()


__all__ = ["ILogger", "Logger"]
