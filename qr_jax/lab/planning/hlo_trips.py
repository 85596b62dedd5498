"""The trips of an HLO module's loop: `known_trip_count`, or a counter that its condition holds below a number."""

import itertools
import math
import re

from qr_jax.lab.planning.hlo_text import VIEWS, Computation, Instruction, called

STATE = ((("state", None, 0),),)  # what is known of a condition's or a body's one parameter


def trips(computations: dict[str, Computation], here: Computation, loop: Instruction) -> int | None:
    """Trips of a loop, at most (`i < n and more(state)` is `i < n`); None where neither compiler nor condition says."""
    if known := loop.attribute(r'"known_trip_count":\{"n":"(\d+)"'):
        return int(known)
    condition, body = (computations[loop.attribute(rf"{part}=%([\w.\-]+)") or ""] for part in ("condition", "body"))
    start, found = here.instructions[loop.operands[0]], []
    for kind, index, bound in _known(computations, condition, condition.root, STATE):
        if kind == "below":
            first = _known(computations, here, start.operands[index], ()) if start.opcode == "tuple" else ()
            after = _known(computations, body, body.results[index], STATE)
            begin = next((n for kind, _, n in first if kind == "number"), 0)
            steps = [n for kind, at, n in after if kind == "state" and at == index and n > 0]
            found += [max(math.ceil((bound - begin) / step), 0) for step in steps]
    return min(found) if found else None


def _known(computations: dict[str, Computation], here: Computation, name: str, given: tuple) -> tuple:
    """Say what is known of a scalar: a number, a counter of the loop's state plus a number, or bounds on such counters.

    A tuple of ("number", None, n), ("state", index, n) and ("below", index, n), all of which are true of it.
    """
    one = here.instructions[name]

    def of(at: int) -> tuple:
        return _known(computations, here, one.operands[at], given)

    if one.opcode == "parameter":
        return given[int(one.inside)] if int(one.inside) < len(given) else ()
    if one.opcode == "constant" and re.fullmatch(r"-?\d+", one.inside):
        return (("number", None, int(one.inside)),)
    if one.opcode == "get-tuple-element" and ("state", None, 0) in of(0):
        return (("state", int(one.attribute(r"index=(\d+)") or 0), 0),)
    if one.opcode == "fusion":
        inner = computations[called(one)[0]]
        return _known(computations, inner, inner.root, tuple(map(of, range(len(one.operands)))))
    if one.opcode in VIEWS:
        return of(0)
    if one.opcode == "and":
        return of(0) + of(1)
    if one.opcode == "compare" and "direction=LT" in one.attributes:
        pairs = itertools.product(of(0), of(1))
        return tuple(("below", a[1], b[2] - a[2]) for a, b in pairs if (a[0], b[0]) == ("state", "number"))
    if one.opcode == "add":
        sums = [sorted(pair, key=lambda one: one[0]) for pair in itertools.product(of(0), of(1))]
        return tuple((*b[:2], a[2] + b[2]) for a, b in sums if a[0] == "number" and b[0] != "below")
    return ()
