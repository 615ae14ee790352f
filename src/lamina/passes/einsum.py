"""Einstein sums as matrix products, reductions and transposes."""

from __future__ import annotations

from dataclasses import dataclass

from lamina import ops
from lamina.ir.dims import Dim, product
from lamina.ir.graph import Graph, Node, Op, Value, emit
from lamina.ir.loc import Loc
from lamina.ir.rewrite import GraphPass, Match, Reject, Rewrite, match
from lamina.ops.broadcast import broadcast_shapes
from lamina.ops.einsum import parse_equation
from lamina.ops.kinds import BinaryKind, ReduceKind


@dataclass(frozen=True)
class _Labels:
    """Labels of both operands and the result (batch), of one and the result, and summed ones."""

    batch: str
    rows: str
    columns: str
    summed: str


class EinsumToMatmul(Rewrite):
    """A product of two operands summed over the labels they share is a matmul.

    The transposes and reshapes around it meet others of their kind, or vanish.

    Before::

        graph(%q: f32[2,3,4,8], %k: f32[2,5,4,8]) {
          %s = einsum(%q, %k) equation="bihd,bjhd->bhij"
          return %s
        }

    After::

        graph(%q: f32[2,3,4,8], %k: f32[2,5,4,8]) {
          %a = transpose(%q) perm=(0,2,1,3)
          %b = transpose(%k) perm=(0,2,3,1)
          %s = matmul(%a, %b)
          return %s
        }
    """

    pattern = match(ops.Einsum)

    def check(self, m: Match) -> bool | Reject:
        """Require two operands, distinct labels, and sums over shared labels only."""
        if len(m.node(self.pattern).inputs) != 2:
            return Reject("not two operands")
        if _labels(m.op(self.pattern, ops.Einsum).equation) is None:
            return Reject("a label is repeated, summed in one operand, or an ellipsis")
        sizes: dict[str, Dim] = {}
        for term, v in self._operands(m):
            for label, d in zip(term, v.tensor.shape, strict=True):
                if sizes.setdefault(label, d) != d:
                    return Reject("a shared label broadcasts")
        return True

    def replace(self, m: Match) -> Value:
        """Bring the operands into the order of a matmul, and its result into the wanted order."""
        equation = m.op(self.pattern, ops.Einsum).equation
        labels = _labels(equation)
        assert labels is not None
        (left, a), (right, b) = self._operands(m)
        sizes = dict(zip(left + right, a.tensor.shape + b.tensor.shape, strict=True))
        x = _arrange(m, a, left, (labels.batch, labels.rows, labels.summed), sizes)
        y = _arrange(m, b, right, (labels.batch, labels.summed, labels.columns), sizes)
        z = m.emit(ops.Matmul(), x, y)
        made = labels.batch + labels.rows + labels.columns
        z = _reshape(m, z, tuple(sizes[c] for c in made))
        output = parse_equation(equation).output
        return _transpose(m, z, tuple(made.index(c) for c in output))

    def _operands(self, m: Match) -> list[tuple[str, Value]]:
        terms = parse_equation(m.op(self.pattern, ops.Einsum).equation).inputs
        return list(zip(terms, m.node(self.pattern).inputs, strict=True))


def _labels(equation: str) -> _Labels | None:
    terms = parse_equation(equation)
    left, right = terms.inputs
    everything = (left, right, terms.output)
    if any("." in t or len(set(t)) != len(t) for t in everything):
        return None
    if any((c in left) + (c in right) + (c in terms.output) < 2 for c in left + right):
        return None
    return _Labels(
        batch="".join(c for c in terms.output if c in left and c in right),
        rows="".join(c for c in terms.output if c not in right),
        columns="".join(c for c in terms.output if c not in left),
        summed="".join(c for c in left if c in right and c not in terms.output),
    )


def _arrange(
    m: Match, v: Value, term: str, parts: tuple[str, str, str], sizes: dict[str, Dim]
) -> Value:
    """Return ``v`` as [batch, product of the second part, product of the third]."""
    order = "".join(parts)
    moved = _transpose(m, v, tuple(term.index(c) for c in order))
    batch, first, second = (tuple(sizes[c] for c in part) for part in parts)
    return _reshape(m, moved, (*batch, product(first), product(second)))


def _transpose(m: Match, v: Value, perm: tuple[int, ...]) -> Value:
    return v if perm == tuple(range(len(perm))) else m.emit(ops.Transpose(perm=perm), v)


def _reshape(m: Match, v: Value, shape: tuple[Dim, ...]) -> Value:
    return v if v.tensor.shape == shape else m.emit(ops.Reshape(shape=shape), v)


class DecomposeEinsum(GraphPass):
    """Whatever einsum is left becomes products, sums and transposes, one operand at a time.

    Each operand is brought to the same order of axes, with axes of 1 for labels it lacks; operands
    are multiplied in pairs, as a matmul where labels are summed.  An ellipsis stands for labels of
    its own; repeated labels of one operand are left alone.

    Before::

        graph(%x: f32[3,4], %y: f32[4,5], %z: f32[5]) {
          %r = einsum(%x, %y, %z) equation="ij,jk,k->i"
          return %r
        }

    After::

        graph(%x: f32[3,4], %y: f32[4,5], %z: f32[5]) {
          %a = matmul(%x, %y)
          %b = reshape(%z) shape=(5,1)
          %c = matmul(%a, %b)
          %r = reshape(%c) shape=(3)
          return %r
        }
    """

    def run(self, graph: Graph) -> int:
        """Decompose every einsum whose operands name each label once."""
        count = 0
        for node in list(graph.nodes()):
            if isinstance(node.op, ops.Einsum) and (terms := _plain_terms(node)) is not None:
                result = _Chain(node, self.name).result(*terms)
                result.name = node.output.name
                graph.replace(node.output, result)
                count += 1
        return count


def _plain_terms(node: Node) -> tuple[list[str], str] | None:
    """Return the terms with capital letters in place of ellipses; None for diagonals."""
    op = node.op
    assert isinstance(op, ops.Einsum)
    parsed = parse_equation(op.equation)
    if not node.inputs or not node.output.tensor.dtype.is_float:
        return None
    used = set(op.equation)
    spare = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in used]
    spread = [
        v.tensor.rank - len(term.replace("...", "")) if "..." in term else 0
        for term, v in zip(parsed.inputs, node.inputs, strict=True)
    ]
    if max(spread) > len(spare):
        return None
    dots = "".join(spare[: max(spread)])
    terms = [
        term.replace("...", dots[len(dots) - n :])
        for term, n in zip(parsed.inputs, spread, strict=True)
    ]
    if any(len(set(term)) != len(term) for term in terms):
        return None
    return terms, parsed.output.replace("...", dots)


class _Chain:
    """Multiplies operands from left to right."""

    def __init__(self, node: Node, rule: str) -> None:
        self.node = node
        self.loc = Loc.fused(rule, node.loc)

    def emit(self, op: Op, *operands: Value) -> Value:
        return emit(op, operands, loc=self.loc)

    def result(self, terms: list[str], output: str) -> Value:
        """Return the value of the einsum."""
        (v, *others) = self.node.inputs
        term, later = terms[0], terms[1:]
        for i, other in enumerate(others):
            wanted = set(output).union(*later[i + 1 :])
            v, term = self._multiply((v, term), (other, later[i]), wanted)
        v, term = self._summed(v, term, set(output))
        v = self._transposed(v, term, "".join(c for c in output if c in term))
        return self._reshaped(v, self.node.output.tensor.shape)

    def _multiply(
        self, left: tuple[Value, str], right: tuple[Value, str], wanted: set[str]
    ) -> tuple[Value, str]:
        """Return the product of two operands summed over the labels that nothing else needs."""
        a, x = self._summed(*left, wanted | set(right[1]))
        b, y = self._summed(*right, wanted | set(x))
        labels = "".join(dict.fromkeys(x + y))
        shapes = [self._sizes(a, x), self._sizes(b, y)]
        summed = "".join(c for c in labels if c not in wanted)
        if not summed or any(shapes[0][c] != shapes[1][c] for c in summed):
            y_all = [self._expanded(v, t, labels) for v, t in ((a, x), (b, y))]
            z = self.emit(ops.Binary(kind=BinaryKind.MUL), *y_all)
            return self._summed(z, labels, wanted)
        batch = "".join(c for c in labels if c in x and c in y and c in wanted)
        rows = "".join(c for c in x if c not in y)
        columns = "".join(c for c in y if c not in x)
        p = self._matrix(a, x, (batch, rows, summed))
        q = self._matrix(b, y, (batch, summed, columns))
        z = self.emit(ops.Matmul(), p, q)
        both = [tuple(s.get(c, 1) for c in batch) for s in shapes]
        whole = {**shapes[1], **shapes[0]}
        sizes = (*broadcast_shapes(*both), *(whole[c] for c in rows + columns))
        return self._reshaped(z, sizes), batch + rows + columns

    def _sizes(self, v: Value, term: str) -> dict[str, Dim]:
        return dict(zip(term, v.tensor.shape, strict=True))

    def _summed(self, v: Value, term: str, wanted: set[str]) -> tuple[Value, str]:
        axes = tuple(i for i, c in enumerate(term) if c not in wanted)
        if not axes:
            return v, term
        total = self.emit(ops.Reduce(kind=ReduceKind.SUM, axes=axes, keepdims=False), v)
        return total, "".join(c for c in term if c in wanted)

    def _expanded(self, v: Value, term: str, labels: str) -> Value:
        """Return the operand with an axis, perhaps of 1, for every label."""
        v = self._transposed(v, term, "".join(c for c in labels if c in term))
        sizes = self._sizes(v, "".join(c for c in labels if c in term))
        return self._reshaped(v, tuple(sizes.get(c, 1) for c in labels))

    def _matrix(self, v: Value, term: str, parts: tuple[str, str, str]) -> Value:
        sizes = self._sizes(v, term)
        v = self._transposed(v, term, "".join(parts))
        batch, first, second = (tuple(sizes[c] for c in part) for part in parts)
        return self._reshaped(v, (*batch, product(first), product(second)))

    def _transposed(self, v: Value, term: str, order: str) -> Value:
        if term == order:
            return v
        return self.emit(ops.Transpose(perm=tuple(term.index(c) for c in order)), v)

    def _reshaped(self, v: Value, shape: tuple[Dim, ...]) -> Value:
        return v if v.tensor.shape == shape else self.emit(ops.Reshape(shape=shape), v)
