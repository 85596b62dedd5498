"""By what questions are grouped in the tables of an evaluation, in names short enough for them."""

import json
from collections import Counter
from collections.abc import Sequence

OTHERS = "others"
MOST_GROUPS, MOST_NAME_BYTES = (
    64,
    120,
)  # a summary, with 12 tables, is then smaller than what is read of it (run_files.py)


def group_names(values: Sequence[str | int | None]) -> list[str]:
    """Name each question's group: its value, or OTHERS for a long one and beyond the MOST_GROUPS largest."""
    names = list(map(str, values))
    short = Counter(name for name in names if len(json.dumps(name)) <= MOST_NAME_BYTES)
    kept = {name for name, _ in short.most_common(MOST_GROUPS)}
    return [name if name in kept else OTHERS for name in names]
