"""The text of an optimised HLO module (`compiled.as_text()`) as computations, instructions and arrays."""

import functools
import math
import re
from dataclasses import dataclass, field

from qr_jax.errors import UserError

VIEWS = ("bitcast", "reshape", "transpose", "copy", "convert")  # the same values, seen otherwise


@dataclass(frozen=True)
class Array:
    """One array of an instruction's result: its bytes as laid out, and whether they lie in HBM."""

    kind: str
    shape: tuple[int, ...]
    nbytes: int
    in_hbm: bool

    def __str__(self):
        return f"{self.kind}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Instruction:
    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    inside: str  # what stands in the parentheses of `opcode(...)`
    attributes: str

    def attribute(self, pattern: str) -> str | None:
        found = re.search(pattern, self.attributes)
        return found[1] if found else None

    @property
    def source(self) -> str:
        return self.attribute(r'op_name="([^"]*)"') or self.name


@dataclass
class Computation:
    """Instructions by name, in their order. `root` gives the result."""

    instructions: dict[str, Instruction] = field(default_factory=dict)
    root: str = ""

    @functools.cached_property
    def parameters(self) -> list[str]:
        found = [(int(one.inside), name) for name, one in self.instructions.items() if one.opcode == "parameter"]
        return [name for _, name in sorted(found)]

    @functools.cached_property
    def results(self) -> tuple[str, ...]:
        """Return names of what it gives back: the parts of the root where that is a tuple."""
        root = self.instructions[self.root]
        return root.operands if root.opcode == "tuple" else (root.name,)

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        users: dict[str, list[Instruction]] = {name: [] for name in self.instructions}
        for one in self.instructions.values():
            for name in dict.fromkeys(one.operands):
                users[name].append(one)
        return users


def parse(text: str) -> tuple[dict[str, Computation], str]:
    """Return computations by name, and the name of the one that is the program."""
    computations: dict[str, Computation] = {}
    entry, current = "", Computation()
    for line in re.sub(r'\n(?=["}].)', " ", text).splitlines():  # a kernel's metadata goes over several lines
        if header := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$", line):
            current = computations[header[2]] = Computation()
            entry = header[2] if header[1] else entry
        elif body := re.match(r"\s+(ROOT )?%([\w.\-]+) = ", line):
            current.instructions[body[2]] = _instruction(body[2], line[body.end() :])
            current.root = body[2] if body[1] else current.root
    if not entry:
        raise UserError("found no ENTRY computation; wanted the text of an HLO module, as compiled.as_text() gives it")
    return computations, entry


def _instruction(name: str, rest: str) -> Instruction:
    end = _closing(rest) if rest.startswith("(") else rest.index(" ")
    kind, rest = rest[:end], rest[end:].lstrip()
    start = rest.index("(")
    end = start + _closing(rest[start:])
    inside, opcode = rest[start + 1 : end - 1], rest[:start]
    operands = () if opcode in ("constant", "parameter") else tuple(re.findall(r"%([\w.\-]+)", inside))
    return Instruction(name, opcode, _arrays(kind), operands, inside, rest[end:])


def _closing(text: str) -> int:
    """Return the length of the parenthesis that `text` starts with."""
    depth = 0
    for at, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return at + 1
    raise UserError(f"a parenthesis of the HLO text is not closed: {text[:80]}")


@functools.cache
def _arrays(kind: str) -> tuple[Array, ...]:
    return tuple(_array(*found) for found in re.findall(r"(\w+)\[([\d,<=]*)\](?:\{([\d,]*):?([^}]*)\})?", kind))


def _array(kind: str, sizes: str, order: str, layout: str) -> Array:
    shape = tuple(int(size) for size in sizes.replace("<=", "").split(",") if size)
    stored = [shape[int(at)] for at in order.split(",") if at] or list(reversed(shape))  # the fastest dimension first
    tile = re.search(r"T\(([\d,]+)\)", layout)
    if tile and stored:
        for at, size in enumerate(reversed([int(size) for size in tile[1].split(",")])):
            if at < len(stored):
                stored[at] = -(-stored[at] // size) * size
    bits = 8 if kind == "pred" else int(re.sub(r"^\D*(\d*).*", r"0\1", kind))
    space = re.search(r"S\((\d+)\)", layout)
    return Array(kind, shape, math.prod(stored) * bits // 8, not space or space[1] == "0")


def called(one: Instruction) -> list[str]:
    """Return names of the computations that run as part of an instruction, but for those applied to single elements."""
    pattern = r"(?:calls|body|condition|true_computation|false_computation)=%([\w.\-]+)|branch_computations=\{([^}]*)\}"
    if one.opcode == "call":
        pattern += r"|to_apply=%([\w.\-]+)"
    groups = re.findall(pattern, one.attributes)
    return [name for group in groups for part in group if part for name in re.findall(r"[\w.\-]+", part)]
