"""Triton functions as text that stands alone.

Kernels are compiled in other processes and named by their contents, so what a function needs of
its module is collected: the functions that it calls, the numbers that it reads, and imports.
Nothing here imports Triton; its functions are known by the attributes that they have.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import textwrap
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from lamina.errors import ConfigError

_LANGUAGE = "triton"
_PLAIN = (bool, int, float, str)


@dataclass(frozen=True)
class KernelNames:
    """The name of a kernel and its parameters."""

    function: str
    parameters: tuple[inspect.Parameter, ...]


def parameters_of(kernel: Any) -> KernelNames:
    """Return the parameters of a Triton function; raises ConfigError for anything else."""
    function = _python(kernel)
    if function is None:
        raise ConfigError(
            f"{kernel!r} is no Triton kernel",
            hint="decorate the function with triton.jit alone: configurations are given as several "
            "launches",
        )
    return KernelNames(function.__name__, tuple(inspect.signature(function).parameters.values()))


def is_constexpr(parameter: inspect.Parameter) -> bool:
    """Whether a parameter is annotated as a constant of the kernel."""
    annotation = parameter.annotation
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    return text.rpartition(".")[2] == "constexpr"


def standalone_text(kernel: Any) -> str:
    """Return a module's text that defines a kernel and all that it needs.

    Raises ConfigError, naming it, for something of another kind that a kernel refers to.
    """
    collected = _Collected()
    collected.add(kernel)
    lines = ["import triton", "import triton.language as tl", *sorted(collected.imports)]
    lines += [f"{name} = {text}" for name, text in sorted(collected.numbers.items())]
    return "\n".join([*lines, *collected.functions.values()]) + "\n"


class _Collected:
    """What a module has to define, in the order in which it is needed."""

    def __init__(self) -> None:
        self.imports: set[str] = set()
        self.numbers: dict[str, str] = {}
        self.functions: dict[str, str] = {}
        self._known: dict[str, Any] = {}

    def add(self, kernel: Any) -> None:
        """Add a Triton function behind those that it calls."""
        function = _python(kernel)
        assert function is not None
        if self._seen(function.__name__, function):
            return
        try:
            text = textwrap.dedent(inspect.getsource(function))
        except OSError as e:
            raise ConfigError(
                f"kernel {function.__name__} has no source text", hint="define it in a file"
            ) from e
        tree = ast.parse(text)
        definition = tree.body[0]
        assert isinstance(definition, ast.FunctionDef)
        for name in _free_names(definition):
            self._add_name(function, name)
        # Decorators are written anew: what stands in their arguments is the user's module's.
        first = definition.lineno - 1
        body = "\n".join(text.splitlines()[first:])
        self.functions[function.__name__] = f"\n\n@triton.jit\n{body}"

    def _add_name(self, function: Any, name: str) -> None:
        space = {**function.__globals__, **_closure(function)}
        if name not in space:
            if hasattr(builtins, name):
                return
            raise ConfigError(f"kernel {function.__name__} refers to {name}, which is not defined")
        value = space[name]
        module = getattr(value, "__module__", "") or ""
        if isinstance(value, ModuleType):
            if not _is_language(value.__name__):
                raise self._refusal(function, name, value)
            self.imports.add(f"import {value.__name__} as {name}")
        elif _python(value) is not None and not _is_language(module):
            if _python(value).__name__ != name:
                raise self._refusal(function, name, value)
            self.add(value)
        elif _is_language(module) and hasattr(value, "__name__"):
            self.imports.add(f"from {module} import {value.__name__} as {name}")
        else:
            self._add_number(function, name, value)

    def _add_number(self, function: Any, name: str, value: Any) -> None:
        wrapped = type(value).__name__ == "constexpr"
        plain = value.value if wrapped else value
        if not isinstance(plain, _PLAIN):
            raise self._refusal(function, name, value)
        if not self._seen(name, (wrapped, plain)):
            self.numbers[name] = f"tl.constexpr({plain!r})" if wrapped else repr(plain)

    def _seen(self, name: str, value: Any) -> bool:
        """Whether a name is there; raises ConfigError when it stands for something else."""
        if name in self._known and self._known[name] != value:
            raise ConfigError(
                f"two things that a kernel needs are called {name}", hint="rename one of them"
            )
        found = name in self._known
        self._known[name] = value
        return found

    @staticmethod
    def _refusal(function: Any, name: str, value: Any) -> ConfigError:
        return ConfigError(
            f"kernel {function.__name__} refers to {name}, a {type(value).__name__}: it cannot be "
            "compiled ahead of time",
            hint="pass it as a tl.constexpr parameter; functions of Triton, numbers and text come "
            "along under their own names",
        )


def _python(kernel: Any) -> Any:
    """Return the Python function inside a Triton function, None for anything else."""
    is_triton = _is_language(type(kernel).__module__) and hasattr(kernel, "arg_names")
    function = getattr(kernel, "fn", None)
    return function if is_triton and inspect.isfunction(function) else None


def _is_language(module: str) -> bool:
    return module == _LANGUAGE or module.startswith(f"{_LANGUAGE}.")


def _closure(function: Any) -> dict[str, Any]:
    cells = function.__closure__ or ()
    names = function.__code__.co_freevars
    return {n: c.cell_contents for n, c in zip(names, cells, strict=True)}


def _free_names(definition: ast.FunctionDef) -> list[str]:
    """Return the names that a function reads and does not define, annotations included."""
    arguments = definition.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    own = {a.arg for a in every}
    nodes = [n for part in (*definition.body, arguments) for n in ast.walk(part)]
    own |= {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    read = [n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)]
    return [name for name in dict.fromkeys(read) if name not in own]
