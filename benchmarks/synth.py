"""Questions made from HotpotQA: by a scripted teacher over loopback that is killed three times.

    python -m benchmarks.synth      # 5 minutes on 2 cores, and benchmarks/results/synth.json

The teacher is tests/teacher_server.py: slow, limited, sometimes wrong, sometimes without JSON. 200 questions.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import interleave
from benchmarks.tables import markdown
from qr_jax.lab import suite

CORPUS = suite.corpus_file(suite.sets("qa7")["hotpotqa"])
QUESTIONS = 200
CALLED = {"teacher": "scripted teacher"}


def main() -> None:
    """Make them, write the results and print them."""
    interleave.no_options(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        count = "--questions", str(QUESTIONS)
        teacher = said("tests/teacher_server.py", CORPUS, f"{folder}/teacher", *count)
    file = interleave.results("synth", {"teacher": teacher}, ())
    print(table(json.loads(file.read_text())))


def said(*words: str) -> Any:
    """What a command of this checkout printed, as JSON; subprocess.CalledProcessError where it fails."""
    done = subprocess.run([sys.executable, *words], cwd=interleave.ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def table(found: Mapping[str, Any]) -> str:
    """Markdown: what each generator made, and what was refused for which reason."""
    head = "author", "generator", "candidates", "questions kept", "hops", "trajectories"
    rows: list[Sequence[str]] = [head]
    for author, called in CALLED.items():
        for name, one in found[author]["found"]["generators"].items():
            hops = ", ".join(f"{count} of {hops}" for hops, count in one["hops"].items())
            rows.append((called, name, f"{one['candidates']}", f"{one['questions']}", hops, f"{one['trajectories']}"))
    refused: list[Sequence[str]] = [("refused, and why", *CALLED.values())]
    by_author = {author: found[author]["found"] for author in CALLED}
    refused.append(("questions, of candidates", *(of(one, "questions", "candidates") for one in by_author.values())))
    refused += reasons(by_author, "question")
    refused.append(
        ("trajectories, of those tried", *(of(one, "trajectories", "trajectories_tried") for one in by_author.values()))
    )
    refused += reasons(by_author, "trajectory")
    return f"{markdown(rows)}\n{markdown(refused)}\n{asked(found['teacher'])}\n"


def of(one: Mapping[str, Any], kept: str, tried: str) -> str:
    return f"{one[tried] - one[kept]} of {one[tried]}"


def reasons(by_author: Mapping[str, Any], stage: str) -> list[Sequence[str]]:
    """A row a reason, the commonest first."""
    counts = {
        author: {reason: sum(by.values()) for reason, by in one["rejects"][stage].items()}
        for author, one in by_author.items()
    }
    names = {reason for one in counts.values() for reason in one}
    order = sorted(names, key=lambda reason: (-sum(one.get(reason, 0) for one in counts.values()), reason))
    return [(reason, *(str(one.get(reason, 0)) for one in counts.values())) for reason in order]


def asked(teacher: Mapping[str, Any]) -> str:
    """How the teacher was asked."""
    found = teacher["found"]
    lost = f"{found['lost']} calls lost in {teacher['kills']} kills, {found['failed']} failed and made again"
    answered = f"{teacher['answered']:,} requests answered, {teacher['answered_twice']} of them more than once"
    return f"The teacher: {answered}; {lost}; {teacher['seconds']:.0f} s."


if __name__ == "__main__":
    main()
