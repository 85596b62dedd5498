"""Tables in Markdown, and a figure of several seeds with its interval."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import t


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table, its head first."""
    head, *others = rows
    return "".join("| " + " | ".join(row) + " |\n" for row in (head, ["---"] * len(head), *others))


def over_seeds(values: Sequence[float], sign: str = "") -> str:
    """As in ".412 +- .020": the mean and its 95 % interval by Student's t; of one seed the value, of none ""."""
    if len(values) < 2:
        return "".join(thousandths(value, sign) for value in values)
    return f"{thousandths(float(np.mean(values)), sign)} +- {half_width(values):.3f}"


def half_width(values: Sequence[float]) -> float:
    """Return half of the 95 % interval of the mean, by Student's t."""
    return float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)


def p_text(value: float) -> str:
    """Three digits after the point; "<0.001" below half of the last one."""
    return "<0.001" if value < 0.0005 else thousandths(value)


def thousandths(value: float, sign: str = "") -> str:
    """Three digits after the point; what is then 0 has no sign, whether it came from above or from below."""
    text = f"{value:{sign}.3f}"
    return text if float(text) else f"{0:.3f}"


def ranged(values: Sequence[float], form: str = ",.0f") -> str:
    """As in ".74 (.73-.76)": the mean, and the least and the largest."""
    told = [f"{value:{form}}" for value in (np.mean(values), min(values), max(values))]
    middle, low, high = (text.removeprefix("0") or "0" for text in told)
    return middle if low == high else f"{middle} ({low}-{high})"
