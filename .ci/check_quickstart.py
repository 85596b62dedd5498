"""End with 1 unless the quickstart learned: `.ci/check_quickstart.py runs/quickstart/summary.json`."""

import json
import sys

with open(sys.argv[1], encoding="utf-8") as file:
    summary = json.load(file)
before, after, questions = (summary[name] for name in ("greedy_before", "greedy_after", "questions"))
print(f"quickstart: exact match {before} -> {after} over {questions} questions")
if before is None or after is None:
    sys.exit("wanted an evaluation before training and one after")
if after - before < 0.2:
    sys.exit(f"wanted exact match to rise by 0.2 or more; it rose by {after - before:.3f}")
if not 0.3 <= before <= 0.5:
    sys.exit(f"wanted exact match from 0.3 to 0.5 before training; it was {before:.3f}")
if questions < 800:
    sys.exit(f"wanted 800 questions or more; there were {questions}")
