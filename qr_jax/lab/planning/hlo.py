"""The cost of one run of an optimised HLO module: FLOPs, bytes of HBM, bytes of each collective, and their causes.

XLA's own `cost_analysis()` counts a loop's body once, and a prefetch into fast memory beside the use of what it brings.
Here, from the text of the module (`compiled.as_text()`):

- A loop costs its trips. They are read from `known_trip_count` or from a bound `i < n` in its condition, so a loop that
  may end earlier (`i < n and ...`) costs the most it can; one without a bound costs one trip and is listed.
- A conditional costs its larger branch: the one with more FLOPs, then with more bytes.
- FLOPs are those of matrix products and convolutions, two a multiply-add. Elementwise work is not counted.
- Bytes are those of HBM, each read and write once: operands and results of every instruction that runs by itself, a
  fusion being one. What is sliced or gathered inside it counts as the slice; what is updated in place as the update.
  An array in another memory (`S(1)` in its layout: VMEM on TPU) costs nothing: a prefetch is one read, its use none.
  A copy that nothing uses is fetched at a run's end for the next one, which counts it where it starts.
- An array has the bytes that its layout takes: a tile `T(8,128)` pads its last two dimensions.
- A hand-written kernel (Pallas) costs all its operands and results once, and no FLOPs: its calls are counted instead.
"""

import functools
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from qr_jax.lab.planning import hlo_text
from qr_jax.lab.planning.hlo_text import VIEWS, Array, Computation, Instruction

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute")
COLLECTIVES += ("collective-broadcast",)
# Names, views, bookkeeping, and what is counted where it ends (`-done`) or in the computations it runs.
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id"}
FREE |= {"domain", "opt-barrier", "add-dependency", "async-update", "send", "send-done", "recv", "recv-done"}
RUNS = ("while", "conditional", "call")
FREE_CALLS = {"AllocateBuffer", "ConcatBitcast", "AssumeGatherIndicesInBound", "GatherScatterIndicesBitpacked"}
FREE_CALLS |= {"AsyncCollectiveStart", "AsyncCollectiveDone"}
STATE = ((("state", None, 0),),)  # what is known of a condition's or a body's one parameter
UPDATES = {"dynamic-update-slice": 1, "scatter": -1}  # in place; the operand that is the update


@dataclass(frozen=True)
class Cost:
    """`flops`; `bytes_accessed` of HBM; `collectives`, kind -> bytes a device (the larger of operands and results).

    `kernels`: name of a hand-written kernel -> calls; what they compute is not in `flops`.
    `bytes_by` says which instructions the bytes are from, the largest first: {what: bytes over all trips}.
    `unbounded` names the loops whose trips the text does not tell: they count once.
    """

    flops: int
    bytes_accessed: int
    collectives: dict[str, int]
    kernels: dict[str, int]
    bytes_by: dict[str, int]
    unbounded: tuple[str, ...]


def cost(text: str) -> Cost:
    """Return the cost of one run of the module on one device, from `compiled.as_text()`."""
    computations, entry = hlo_text.parse(text)
    tally = _Walk(computations).run(entry)
    return Cost(
        tally.flops, sum(tally.moved.values()), dict(tally.collectives), dict(tally.kernels),
        bytes_by=dict(tally.moved.most_common()), unbounded=tuple(sorted(tally.unbounded)),
    )  # fmt: skip


@dataclass
class _Tally:
    flops: int = 0
    moved: Counter = field(default_factory=Counter)
    collectives: Counter = field(default_factory=Counter)
    kernels: Counter = field(default_factory=Counter)
    unbounded: set = field(default_factory=set)

    def add(self, other: "_Tally", times: int = 1):
        self.flops += times * other.flops
        for name in ("moved", "collectives", "kernels"):
            for what, count in getattr(other, name).items():
                getattr(self, name)[what] += times * count
        self.unbounded |= other.unbounded


class _Walk:
    """The costs of a module's computations, each worked out once."""

    def __init__(self, computations: dict[str, Computation]):
        self.computations = computations
        self.run = functools.cache(self._run)

    def _run(self, name: str) -> _Tally:
        total, here = _Tally(), self.computations[name]
        for one in here.instructions.values():
            parts = [self.run(part) for part in hlo_text.called(one)] if one.opcode in RUNS else []
            if one.opcode == "while":
                times = trips(self.computations, here, one)
                if times is None:
                    total.unbounded.add(one.source)
                for part in parts:
                    total.add(part, 1 if times is None else times)
            elif one.opcode == "conditional":
                total.add(max(parts, key=lambda part: (part.flops, sum(part.moved.values()))))
            elif one.opcode == "call":
                total.add(parts[0])
            elif one.opcode not in FREE and not one.opcode.endswith("-start"):
                self._count(total, here, one)
        return total

    def _count(self, total: _Tally, here: Computation, done: Instruction):
        """Add an instruction that runs by itself; an asynchronous one is counted where it is done."""
        one = done
        while one.opcode.endswith(("-done", "-update")):
            one = here.instructions[one.operands[0]]
        one = replace(one, opcode=one.opcode.removesuffix("-start"), arrays=done.arrays)
        for_next_run = done.opcode == "copy-done" and done.name != here.root and not here.users[done.name]
        if _goes_on(one) or for_next_run:
            return
        if 'custom_call_target="tpu_custom_call"' in one.attributes:
            total.kernels[re.sub(r"[.\d]+$", "", one.name)] += 1
        moved = self._reads(here, one) + self._writes(here, one)
        if moved:
            total.moved[f"{done.name} {' '.join(map(str, done.arrays))} {one.source}"] += moved
        for where, inner in self._inner(here, one):
            total.flops += _flops(where, inner)
            if inner.opcode in COLLECTIVES and not _goes_on(inner):
                operands = [array for name in inner.operands for array in where.instructions[name].arrays]
                total.collectives[inner.opcode] += max(_size(operands), _size(inner.arrays))

    def _inner(self, here: Computation, one: Instruction) -> Iterator[tuple[Computation, Instruction]]:
        """Yield each instruction inside a fusion, with the computation that holds it; an unfused one yields itself."""
        if not (names := hlo_text.called(one)):
            yield here, one
        for name in names:
            for inner in self.computations[name].instructions.values():
                yield from self._inner(self.computations[name], inner)

    def _reads(self, here: Computation, one: Instruction) -> int:
        total = 0
        for at, name in enumerate(one.operands):
            arrays = [array for array in here.instructions[name].arrays if array.in_hbm]
            whole = _size(arrays)
            total += min(whole, self._use(one, at, whole)) if len(arrays) == 1 else whole
        return total

    def _use(self, one: Instruction, at: int, whole: int) -> int:
        """Return bytes that an instruction reads of its operand number `at`, which has `whole`."""
        if one.opcode in ("dynamic-slice", "slice", "gather") and at == 0:
            return _size(one.arrays)
        if one.opcode in UPDATES and at == 0:
            return 0
        if names := hlo_text.called(one):
            inner = self.computations[names[0]]
            return self._part(inner, inner.parameters[at], whole, updated=False)
        return whole

    def _part(self, here: Computation, name: str, whole: int, *, updated: bool) -> int:
        """Count the bytes that a value's users in a fusion read of it; 0 if it is updated in place and returned."""
        handed_on = updated or here.instructions[name].opcode == "parameter"
        total = whole if name in here.results and not handed_on else 0
        for one in here.users[name]:
            size = _size(one.arrays)
            if one.opcode == "tuple" or _goes_on(one):
                continue
            if one.opcode in UPDATES and one.operands[0] == name:
                total += self._part(here, one.name, whole, updated=True)
            elif one.opcode in VIEWS:
                kept = updated and one.opcode == "bitcast"
                total += math.ceil(self._part(here, one.name, size, updated=kept) * whole / max(size, 1))
            else:
                total += sum(self._use(one, at, whole) for at, operand in enumerate(one.operands) if operand == name)
        return min(whole, total)

    def _writes(self, here: Computation, one: Instruction) -> int:
        if names := hlo_text.called(one):
            inner = self.computations[names[0]]
            written = [self._written(inner, inner.instructions[name], fused=True) for name in inner.results]
        else:
            written = [self._written(here, one, fused=False)]
        if len(written) != len(one.arrays):
            return _size(array for array in one.arrays if array.in_hbm)
        pairs = zip(one.arrays, written, strict=True)
        return sum(min(array.nbytes, part) for array, part in pairs if array.in_hbm)

    def _written(self, here: Computation, one: Instruction, *, fused: bool) -> int:
        """Return bytes written of a result: those of the update where an array that was given is updated in place."""
        if fused and (one.opcode == "parameter" or _goes_on(one)):
            return 0
        if fused and one.opcode == "bitcast":
            return self._written(here, here.instructions[one.operands[0]], fused=True)
        if one.opcode == "fusion" and len(one.arrays) == 1:
            inner = self.computations[hlo_text.called(one)[0]]
            return self._written(inner, inner.instructions[inner.root], fused=True)
        if one.opcode in UPDATES and (not fused or _given(here, one.operands[0])):
            return _size(here.instructions[one.operands[UPDATES[one.opcode]]].arrays)
        return _size(one.arrays)


def _size(arrays: Iterable[Array]) -> int:
    return sum(array.nbytes for array in arrays)


def _goes_on(one: Instruction) -> bool:
    """Return True for a call that moves nothing, and for a collective that an earlier fusion has started."""
    started = one.attribute(r'"async_collective_fusion_config":\{"flag_start":"(-?\d+)"') not in (None, "-1")
    return started or one.attribute(r'custom_call_target="([^"]*)"') in FREE_CALLS


def _given(here: Computation, name: str) -> bool:
    """Return True if an array comes into a fusion from outside, perhaps updated in place on the way."""
    one = here.instructions[name]
    while one.opcode in ("bitcast", *UPDATES):
        one = here.instructions[one.operands[0]]
    return one.opcode == "parameter"


def _flops(here: Computation, one: Instruction) -> int:
    """Count the FLOPs of a product or convolution: two a multiply-add that meets an element, not padding or a hole."""
    if one.opcode not in ("dot", "convolution"):
        return 0
    left, right = (here.instructions[name].arrays[0].shape for name in one.operands)
    result = one.arrays[0].shape
    if one.opcode == "dot":
        over = one.attribute(r"lhs_contracting_dims=\{([\d,]*)\}") or ""
        return 2 * math.prod(result) * math.prod(left[int(at)] for at in over.split(",") if at)
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.attributes)
    assert labels, f"a convolution names its dimensions, found {one.attributes[:200]}"
    window = dict(re.findall(r"(\w+)=([\dx_\-]+)", one.attribute(r"window=\{([^}]*)\}") or ""))
    pairs = 1
    for at in range(len(labels[1]) - 2):
        sizes = [shape[names.index(str(at))] for shape, names in zip((left, right, result), labels.groups())]
        pairs *= _pairs(*sizes, **{name: value.split("x")[at] for name, value in window.items()})
    groups = int(one.attribute(r"batch_group_count=(\d+)") or 1)
    # the kernel's input features are already those of one feature group
    channels = right[labels[2].index("i")] * result[labels[3].index("f")] * left[labels[1].index("b")] // groups
    return 2 * pairs * channels


def _pairs(left: int, right: int, result: int, *, stride="1", pad="0_0", lhs_dilate="1", rhs_dilate="1", **_) -> int:
    """Count the (window position, kernel position) pairs of one dimension that meet an element of the left side."""
    low = int(pad.split("_")[0])
    at = np.arange(result)[:, None] * int(stride) + np.arange(right)[None] * int(rhs_dilate) - low
    return int(np.sum((at >= 0) & (at < (left - 1) * int(lhs_dilate) + 1) & (at % int(lhs_dilate) == 0)))


def trips(computations: dict[str, Computation], here: Computation, loop: Instruction) -> int | None:
    """Return a loop's trips, at most (`i < n and more(state)` is `i < n`); None if nothing in the text tells them."""
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
        inner = computations[hlo_text.called(one)[0]]
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
