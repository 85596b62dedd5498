"""Which lines of some files' functions have run: cheap, as a function whose lines were all seen is watched no more."""

import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any


class Lines:
    """In this context the lines that run in this thread, and in those that it starts, are noted.

    `reached` counts them, of `total`.
    """

    def __init__(self, modules: Iterable[ModuleType]):
        self._files = {module.__file__ for module in modules if module.__file__}
        self._left: dict[int, set[int]] = {}  # lines not yet seen, by the identity of a code object
        self._codes: list[CodeType] = []  # kept, so that no identity is given twice
        self.total = sum(len(_lines(code)) for file in self._files for code in _functions(file))
        self.reached = 0

    def __enter__(self) -> "Lines":
        threading.settrace(self._call)
        sys.settrace(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)
        threading.settrace(None)

    def _call(self, frame: FrameType, event: str, argument: Any) -> Any:
        code = frame.f_code
        left = self._left.get(id(code))
        if left is None:
            is_watched = code.co_filename in self._files and code.co_name != "<module>"
            left = self._left[id(code)] = _lines(code) if is_watched else set()
            self._codes.append(code)
        return self._line if left else None

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        left = self._left[id(frame.f_code)]
        if event == "line" and frame.f_lineno in left:
            left.remove(frame.f_lineno)
            self.reached += 1
        return self._line if left else None


def _lines(code: CodeType) -> set[int]:
    """The lines at which a function's own statements begin."""
    return {line for _, _, line in code.co_lines() if line is not None and line != code.co_firstlineno}


def _functions(file: str) -> Iterator[CodeType]:
    """The functions of a file, those inside others too; of a class its methods."""
    waiting = [compile(Path(file).read_text(encoding="utf-8"), file, "exec", dont_inherit=True)]
    while waiting:
        code = waiting.pop()
        waiting += [part for part in code.co_consts if isinstance(part, CodeType)]
        if code.co_flags & 0x02:  # a function has its own locals; a module and a class body have not
            yield code
