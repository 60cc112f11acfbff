"""Mutants of a module: its source with one decision changed, each with a name that outlives other edits."""

import ast
import copy
from collections import Counter
from collections.abc import Iterator
from enum import StrEnum

from leadctl.channelkit.spec import Retransmit
from leadctl.delivery.breaker import BreakerState
from leadctl.domain.outcomes import ErrorCode, Outcome, TargetState

_COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_CALCULATED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult,
}  # fmt: skip
_ENUMS: dict[str, type[StrEnum]] = {
    kind.__name__: kind for kind in (ErrorCode, Outcome, TargetState, Retransmit, BreakerState)
}


def mutants(source: str) -> Iterator[tuple[str, str]]:
    """(name, source) of every mutant. A name: what stood there → what stands there now, #2 for the second like it."""
    seen: Counter[str] = Counter()
    size = sum(1 for _ in ast.walk(ast.parse(source)))
    for index in range(size):
        for number in range(20):
            tree = ast.parse(source)
            node = next(n for i, n in enumerate(ast.walk(tree)) if i == index)
            before = ast.unparse(node)
            changed = _change(node, number)
            if changed is None:
                break
            place = _Place(node, changed)
            mutant = ast.unparse(ast.fix_missing_locations(place.visit(tree)))
            name = f"{before.splitlines()[0]} → {ast.unparse(changed).splitlines()[0]}"
            name = name if place.where == "" else f"{place.where}: {name}"
            seen[name] += 1
            yield (f"{name} #{seen[name]}" if seen[name] > 1 else name), mutant


class _Place(ast.NodeTransformer):
    """Puts the changed node in, and notes in which function or class."""

    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self._old, self._new = old, new
        self._names: list[str] = []
        self.where = ""

    def visit(self, node: ast.AST) -> ast.AST:
        if node is self._old:
            self.where = ".".join(self._names)
            return self._new
        named = isinstance(node, (ast.FunctionDef, ast.ClassDef))
        if named:
            self._names.append(node.name)  # type: ignore[attr-defined]
        node = self.generic_visit(node)
        if named:
            self._names.pop()
        return node


def _change(node: ast.AST, number: int) -> ast.AST | None:
    """The ``number``-th change of this node; None: there are no more."""
    changes = [*_changes(node)]
    return changes[number] if number < len(changes) else None


def _changes(node: ast.AST) -> Iterator[ast.AST]:  # noqa: C901 one flat list of what can be changed
    match node:
        case ast.Compare(ops=[op]) if type(op) in _COMPARED:
            yield _with(node, ops=[_COMPARED[type(op)]()])
        case ast.BinOp(op=op) if type(op) in _CALCULATED:
            yield _with(node, op=_CALCULATED[type(op)]())
        case ast.BoolOp(op=op, values=values):
            yield _with(node, op=ast.Or() if isinstance(op, ast.And) else ast.And())
            yield from values
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield operand
        case ast.IfExp(body=body, orelse=orelse):
            yield body
            yield orelse
        case ast.If(test=test) | ast.While(test=test):
            yield _with(node, test=ast.UnaryOp(ast.Not(), test))
        case ast.match_case(guard=guard) if guard is not None:
            yield _with(node, guard=ast.UnaryOp(ast.Not(), guard))
            yield _with(node, guard=None)
        case ast.Constant(value=bool() as value):
            yield _with(node, value=not value)
        case ast.Constant(value=int() | float() as number):
            yield _with(node, value=number + 1)
        case ast.Return(value=value) if value is not None and not isinstance(value, ast.Constant):
            yield _with(node, value=ast.Constant(None))
        case ast.Expr(value=ast.Call()) | ast.AugAssign() | ast.Raise():
            yield ast.Pass()
        case ast.Assign(value=ast.Constant(value=str() as text)):
            yield _with(node, value=ast.Constant(f"{text}!"))
        case ast.Assign(targets=[ast.Attribute()]):
            yield ast.Pass()
        case ast.Attribute(value=ast.Name(id=name), attr=attr) if name in _ENUMS:
            members = list(_ENUMS[name].__members__)
            yield _with(node, attr=members[(members.index(attr) + 1) % len(members)])
        case ast.Set(elts=elements) if len(elements) > 1:
            for index in range(len(elements)):
                yield _with(node, elts=elements[:index] + elements[index + 1 :])
        case ast.Call(func=ast.Name(id="max" | "min" as name)):
            yield _with(node, func=ast.Name("min" if name == "max" else "max", ast.Load()))


def _with(node: ast.AST, **changes: object) -> ast.AST:
    changed = copy.copy(node)
    for name, value in changes.items():
        setattr(changed, name, value)
    return changed
