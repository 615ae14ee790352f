"""Where messages go: the user's logger and, for errors, the error recorder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from lamina.errors import (
    BuildError,
    ConfigError,
    DeviceError,
    ExecutionError,
    InputError,
    LaminaError,
    PlanError,
)
from lamina.tensorrt.enums import ErrorCodeTRT, Severity
from lamina.tensorrt.logger import ILogger

_CODES: tuple[tuple[type[LaminaError], str], ...] = (
    (ConfigError, "INVALID_CONFIG"),
    (InputError, "INVALID_ARGUMENT"),
    (DeviceError, "FAILED_INITIALIZATION"),
    (ExecutionError, "FAILED_EXECUTION"),
    (PlanError, "INVALID_ARGUMENT"),
    (BuildError, "INTERNAL_ERROR"),
    (LaminaError, "INVALID_ARGUMENT"),
)


class IErrorRecorder:
    """Collects errors; subclass it and define all of these methods."""

    MAX_DESC_LENGTH: ClassVar[int] = 127

    def num_errors(self) -> int:
        """Return how many errors are held."""
        raise NotImplementedError

    def get_error_code(self, index: int) -> ErrorCodeTRT:
        """Return the code of an error."""
        raise NotImplementedError

    def get_error_desc(self, index: int) -> str:
        """Return the text of an error."""
        raise NotImplementedError

    def has_overflowed(self) -> bool:
        """Whether errors were lost."""
        raise NotImplementedError

    def clear(self) -> None:
        """Forget all errors."""
        raise NotImplementedError

    def report_error(self, code: ErrorCodeTRT, desc: str) -> bool:
        """Take one error."""
        raise NotImplementedError


class Outcome:
    """Whether what was tried failed."""

    failed = False


class Reporter:
    """Sends messages to a logger and errors also to the recorder of the object they concern."""

    def __init__(self, logger: ILogger, recorder: IErrorRecorder | None = None) -> None:
        self.logger = logger
        self.recorder = recorder

    def error(self, message: str, code: str = "INVALID_ARGUMENT") -> None:
        """Report a fault of the user's."""
        number = ErrorCodeTRT.named(code)
        self._log("ERROR", f"Error Code {number.value}: {_title(code)} ({message})")
        if self.recorder is not None:
            text = message[: IErrorRecorder.MAX_DESC_LENGTH]
            self.recorder.report_error(number, text)

    def warning(self, message: str) -> None:
        """Report something that may surprise."""
        self._log("WARNING", message)

    def info(self, message: str) -> None:
        """Report what happens."""
        self._log("INFO", message)

    def verbose(self, message: str) -> None:
        """Report details."""
        self._log("VERBOSE", message)

    @contextmanager
    def reporting(self, what: str = "") -> Iterator[Outcome]:
        """Turn a LaminaError of the block into an error message; see :class:`Outcome`."""
        outcome = Outcome()
        try:
            yield outcome
        except LaminaError as e:
            outcome.failed = True
            self.error(f"{what}: {e}" if what else str(e), _code(e))

    def _log(self, severity: str, message: str) -> None:
        self.logger.log(Severity.named(severity), message)


def _code(error: LaminaError) -> str:
    return next(code for kind, code in _CODES if isinstance(error, kind))


def _title(code: str) -> str:
    return code.replace("_", " ").capitalize()


__all__ = ["IErrorRecorder"]
