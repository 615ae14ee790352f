"""Einstein sums of two operands, as matrix products."""

from __future__ import annotations

from dataclasses import dataclass

from lamina import ops
from lamina.ir.dims import Dim, product
from lamina.ir.graph import Value
from lamina.ir.rewrite import Match, Reject, Rewrite, match
from lamina.ops.einsum import parse_equation


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
