"""Tool: arithmetic with + - * / // % ** and brackets, of bounded size. Exact where all numbers are whole."""

import ast
import decimal
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

from qr_jax.records import Call
from qr_jax.settings.settings import Count, Natural

DESCRIPTION = "Computes an arithmetic expression: numbers, + - * / // % ** and brackets."
PARAMETERS = {"expression": {"type": "string", "description": "for example (1987 - 1912) / 3"}}
THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])", re.ASCII)
ZEROS = re.compile(r"(?<![\d_.eE])0+(?=\d)", re.ASCII)  # before a number, as in a month
ALLOWED = re.compile(r"[\d\s.eE+*/%()_-]+", re.ASCII)
WANTED = "wanted numbers, + - * / // % ** and brackets"
SMALLEST = 300  # decimal places by which a number other than 0 must have begun
MOST_CHARS = 500  # of an expression; Python's parser is quick on so few, and its brackets are not deep
OPERATIONS: Mapping[type, Callable] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}


def calculator(
    calls: Sequence[Call],
    *,
    digits: Count = 30,  # of the largest whole number on the way, and those kept of a fraction with a long denominator
    decimals: Natural = 6,  # of a result that is not whole
) -> list[str]:
    """Return each value in figures, or what is wrong with the expression: that is for the model, and no fault."""
    return [computed(str(call["expression"]), digits, decimals) for call in calls]


def computed(expression: str, digits: int = 30, decimals: int = 6) -> str:
    """Return the value of an expression as text, or "error: ..." where it has none."""
    try:
        if len(expression) > MOST_CHARS:
            raise ValueError(f"the expression has {len(expression):,} characters; at most {MOST_CHARS} are read")
        told = ZEROS.sub("", THOUSANDS.sub(lambda found: found[0].replace(",", ""), expression))
        told = told.replace("×", "*").replace("÷", "/").replace("−", "-").replace("^", "**")
        if not ALLOWED.fullmatch(told):
            raise ValueError(f"{expression[:100]!r} is not allowed; {WANTED}")
        told = told.strip()
        value = _value(ast.parse(told, mode="eval").body, 10**digits, told)
    except ZeroDivisionError:
        return "error: division by zero"
    except OverflowError:
        return f"error: {_too_large(10**digits)}"
    except (SyntaxError, RecursionError, MemoryError):
        return f"error: {' '.join(expression.split())[:100]!r} is no arithmetic expression"
    except ValueError as error:
        return f"error: {error}"
    if value.denominator == 1:
        return str(value.numerator)
    if not round(abs(value) * 10**decimals):
        return f"{float(value):.{max(decimals, 1)}g}"  # not 0, and too small for so many decimals
    whole, rest = divmod(round(abs(value) * 10**decimals), 10**decimals)
    return "-" * (value < 0) + f"{whole}.{rest:0{decimals}d}".rstrip("0").rstrip(".")


def _value(node: ast.AST, most: int, told: str) -> Fraction:
    """Return a node's value; ValueError where it is no arithmetic, or a number on the way is `most` or more."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        if not node.value:  # 1e-999999999 too, whose fraction would have a denominator of a gigabyte
            return Fraction(0)
        written = ast.get_source_segment(told, node) if math.isfinite(node.value) else None
        return _bounded(node.value if written is None else Fraction(written), most)  # a float would lose figures
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd | ast.USub):
        value = _value(node.operand, most, told)
        return -value if isinstance(node.op, ast.USub) else value
    if not isinstance(node, ast.BinOp) or type(node.op) not in OPERATIONS:
        raise ValueError(f"{ast.unparse(node)[:60]!r} is not allowed; {WANTED}")
    left, right = _value(node.left, most, told), _value(node.right, most, told)
    if isinstance(node.op, ast.Pow):
        return _power(left, right, most)
    return _bounded(OPERATIONS[type(node.op)](left, right), most)


def _power(base: Fraction, exponent: Fraction, most: int) -> Fraction:
    """Raise to a power. Its size is known from logarithms before anything large is made."""
    if exponent.denominator != 1:
        if base < 0:
            raise ValueError("a root of a negative number")
        return _bounded(float(base) ** float(exponent), most)
    size = max(abs(base.numerator), base.denominator)
    if size == 1 or abs(exponent) * math.log(size) <= 100 * math.log(most):  # 1.05 ** 30 has long whole parts, too
        return _bounded(base ** int(exponent), most)
    near = float(abs(base) - 1)
    growth = float(exponent) * (math.log1p(near) if abs(near) < 0.5 else math.log(abs(base)))
    if abs(growth) > 100 * math.log(most):
        raise _too_large(most) if growth > 0 else _too_small()
    with decimal.localcontext(prec=4 * len(str(most))):  # its error grows with the exponent, of at most so many digits
        power = (decimal.Decimal(base.numerator) / decimal.Decimal(base.denominator)) ** int(exponent)
    return _bounded(Fraction(power), most)


def _bounded(value: float | Fraction, most: int) -> Fraction:
    """Return a number exactly, or, where its denominator is too long, to as many figures as `most` has zeros."""
    if isinstance(value, float) and not math.isfinite(value):
        raise _too_large(most)
    exact = Fraction(repr(value)) if isinstance(value, float) else Fraction(value)
    if abs(exact) >= most:
        raise _too_large(most)
    if exact.denominator <= most:
        return exact
    size = math.floor((exact.numerator.bit_length() - exact.denominator.bit_length()) * math.log10(2))
    if size < -SMALLEST:
        raise _too_small()
    scale = 10 ** (len(str(most)) - 1 - size)
    return Fraction(round(exact * scale), scale)


def _too_small() -> ValueError:
    return ValueError(f"a number that is closer to 0 than 1e-{SMALLEST}")


def _too_large(most: int) -> ValueError:
    return ValueError(f"a number of more than {len(str(most)) - 1} digits")
