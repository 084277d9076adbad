"""Evaluates the formulas that ledger lines carry, with nothing but arithmetic."""

import ast
import math
import operator
from collections.abc import Callable, Mapping

_BINARY: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}
_FUNCTIONS: dict[str, Callable[..., float]] = {"max": max, "min": min, "ceil": math.ceil}


def evaluate(formula: str, values: Mapping[str, int | float]) -> float:
    """Return what ``formula`` comes to; an unknown symbol or any other syntax is an error."""

    def value(node: ast.expr) -> float:
        match node:
            case ast.Constant(value=int() | float() as number):
                return number
            case ast.Name(id=name):
                return values[name]
            case ast.BinOp(left=left, op=op, right=right):
                return _BINARY[type(op)](value(left), value(right))
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
                return _FUNCTIONS[name](*(value(arg) for arg in args))
            case _:
                raise ValueError(f"{ast.dump(node)} in {formula!r}")

    return value(ast.parse(formula, mode="eval").body)
