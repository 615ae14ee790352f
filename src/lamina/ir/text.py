r"""The text form of a graph: print and parse.

::

    graph(%x: f32[2,b]) {
      %0 = const() type=f32[b] seed=1
      %1: f32[b,2] = transpose(%x) perm=(1,0)
      %2: f32[b,2], %3: i64[b,2] = topk(%1) k=2 axis=1
      return %2, %3 as "other name"
    }

Names that are not words are quoted.  Types of results are printed, and ignored when parsing, since
every node is typed as it is read.  Attributes equal to their default are left out.  A constant
shows its contents when they are few, else the digest that finds them in a weight table; in
examples ``seed=n`` stands for seeded normal numbers.  With locations the weight's name follows.
Nested graphs come first, as ``graph @1(...)`` blocks, and are named ``@1`` where an attribute
refers to them.  ``define d0 = %4`` says which value decides the symbol ``d0``.  What follows
``  #`` is the node's location.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final

from lamina.errors import GraphError, where
from lamina.ir.attributes import format_attribute
from lamina.ir.graph import Graph, Node, Op, Value, emit_node
from lamina.ir.loc import Loc
from lamina.ir.parse import AttributeParser, parse_type, split_top
from lamina.ir.weight import Weight, weight_text

__all__ = ["parse_graph", "parse_type", "print_graph"]

_MISFITS: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)
"""What a typing rule runs into when attributes have values that no importer makes."""
_NAME = r'%(\w+|"(?:[^"\\]|\\.)*")'
_HEAD = re.compile(r"graph\s*(@\w+)?\((.*)\)\s*\{")
_DEFINE = re.compile(rf"define (\w+) = {_NAME}")
_RETURNED = re.compile(rf'{_NAME}(?: as ("(?:[^"\\]|\\.)*"))?')
_OPERAND = re.compile(_NAME)
_NODE = re.compile(r"(.*?) = (\w+)\((.*?)\)(?: (\S.*?))?\s*(?:  # (.*))?")


def print_graph(graph: Graph, *, contents: bool = True, locs: bool = False) -> str:
    """Return the text form; values are numbered in the order of evaluation.

    ``contents=False`` prints constants by type alone and results without their outer names, which
    is how examples are compared.
    """
    printer = _Printer(contents, locs)
    body = printer.graph(graph)
    return "\n".join([*printer.nested, f"graph{body}"])


class _Printer:
    def __init__(self, contents: bool, locs: bool) -> None:
        self.contents, self.locs = contents, locs
        self.nested: list[str] = []

    def graph(self, graph: Graph) -> str:
        names = {v: quote(v.name) for v in graph.inputs}
        head = ", ".join(f"%{names[v]}: {v.type}" for v in graph.inputs)
        lines = [f"({head}) {{"]
        taken = set(names.values())
        number = 0
        for node in graph.nodes():
            for v in node.outputs:
                while str(number) in taken:
                    number += 1
                names[v] = str(number)
                number += 1
            lines.append("  " + self.node(node, names))
        lines += [f"  define {s} = %{names[v]}" for s, v in sorted(graph.definers.items())]
        returned = []
        for v, name in zip(graph.outputs, graph.output_names, strict=True):
            alias = f" as {json.dumps(name)}" if self.contents and name != names[v] else ""
            returned.append(f"%{names[v]}{alias}")
        return "\n".join([*lines, "  return " + ", ".join(returned), "}"])

    def node(self, node: Node, names: Mapping[Value, str]) -> str:
        results = ", ".join(f"%{names[v]}: {v.type}" for v in node.outputs)
        args = ", ".join("%" + names[v] for v in node.inputs)
        text = f"{results} = {node.op.name}({args})"
        for f in fields(node.op):
            value = getattr(node.op, f.name)
            if value != f.default or type(value) is not type(f.default):
                text += self.attribute(f.name, value)
        return f"{text}  # {json.dumps(str(node.loc))}" if self.locs else text

    def attribute(self, name: str, value: Any) -> str:
        if isinstance(value, Weight):
            text = f" {weight_text(value)}" if self.contents else ""
            named = self.locs and value.name
            return f"{text} name={json.dumps(value.name)}" if named else text
        if isinstance(value, Graph):
            text = self.graph(value)  # graphs inside it take their numbers first
            self.nested.append(f"graph @{len(self.nested) + 1}{text}")
            return f" {name}=@{len(self.nested)}"
        return f" {name}={format_attribute(value)}"


def quote(name: str) -> str:
    """Return ``name`` as it stands after ``%`` in the text form."""
    return name if re.fullmatch(r"\w+", name) else json.dumps(name)


def parse_graph(
    text: str,
    ops: Mapping[str, type[Op]],
    weights: Mapping[str, Weight] | None = None,
    named: Mapping[str, Weight] | None = None,
) -> Graph:
    """Parse the text form, typing every node as it is read.

    ``ops`` maps text names to operators, ``weights`` digests to contents; weights whose
    name is in ``named`` are those and not what the text says.  Raises GraphError with the line for
    anything that cannot be read.
    """
    reader = _Reader(ops, weights or {}, named or {})
    for number, line in enumerate(text.splitlines(), 1):
        with where(f"line {number}: {line.strip()[:120]}"):
            reader.line(number, line.strip())
    if reader.main is None:
        raise GraphError("the text holds no graph")
    if reader.graph is not None:
        raise GraphError("the text ends inside a graph")
    return reader.main


class _Reader:
    def __init__(
        self,
        ops: Mapping[str, type[Op]],
        weights: Mapping[str, Weight],
        named: Mapping[str, Weight],
    ) -> None:
        self.ops = ops
        self.graphs: dict[str, Graph] = {}
        self.parser = AttributeParser(self.graphs, weights, named)
        self.main: Graph | None = None
        self.graph: Graph | None = None
        self.env: dict[str, Value] = {}
        self.returned = False

    def line(self, number: int, line: str) -> None:
        if not line:
            return
        if m := _HEAD.fullmatch(line):
            if self.graph is not None:
                raise GraphError("the graph before this one does not return")
            self.begin(m[1], m[2])
        elif line == "}":
            self.close()
        elif self.graph is None or self.returned:
            raise GraphError("expected 'graph(...) {'" if self.graph is None else "expected '}'")
        elif line == "return" or line.startswith("return "):
            self.finish(self.graph, line[6:])
        elif m := _DEFINE.fullmatch(line):
            self.graph.definers[m[1]] = self.value(m[2])
        elif m := _NODE.fullmatch(line):
            self.node(number, m)
        else:
            raise GraphError("cannot read this line")

    def close(self) -> None:
        if self.graph is None or not self.returned:
            raise GraphError("a graph ends here that does not return")
        self.graph = None

    def begin(self, label: str | None, inputs: str) -> None:
        self.graph, self.env, self.returned = Graph(), {}, False
        if label is None:
            self.main = self.graph
        else:
            self.graphs[label] = self.graph
        for item in split_top(inputs):
            m = re.fullmatch(rf"{_NAME}: (.+)", item.strip())
            if m is None:
                raise GraphError(f"not an input: {item!r}")
            name = unquote(m[1])
            self.env[name] = self.graph.input(name, parse_type(m[2]))

    def finish(self, graph: Graph, returned: str) -> None:
        for item in split_top(returned):
            m = _RETURNED.fullmatch(item.strip())
            if m is None:
                raise GraphError(f"not a result: {item.strip()!r}")
            value = self.value(m[1])
            graph.output(value, _text(m[2]) if m[2] else unquote(m[1]))
        self.returned = True

    def value(self, name: str) -> Value:
        try:
            return self.env[unquote(name)]
        except KeyError:
            raise GraphError(f"%{name} is used before it is defined") from None

    def node(self, number: int, m: re.Match[str]) -> None:
        results, name, args, attributes, loc = m.groups()
        op_class = self.ops.get(name)
        if op_class is None:
            raise GraphError(f"there is no operator {name!r}")
        op = self.parser.op(op_class, attributes or "")
        inputs = [self.value(a) for a in _OPERAND.findall(args)]
        source = Loc(_text(loc) if loc else f"line {number}")
        try:
            node = emit_node(op, inputs, loc=source)
        except _MISFITS as e:
            raise GraphError(f"{name} does not take these: {type(e).__name__}: {e}") from e
        names = [unquote(n) for n in _OPERAND.findall(results)]
        if len(names) != len(node.outputs):
            raise GraphError(f"{name} has {len(node.outputs)} results, {len(names)} are named")
        for v, n in zip(node.outputs, names, strict=True):
            v.name = n
            self.env[n] = v


def unquote(name: str) -> str:
    """Undo :func:`quote`; raises GraphError."""
    return _text(name) if name.startswith('"') else name


def _text(quoted: str) -> str:
    try:
        return str(json.loads(quoted))
    except ValueError as e:
        raise GraphError(f"{quoted} is not text in quotes: {e}") from e
