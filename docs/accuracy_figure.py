"""Draws docs/_static/accuracy.svg: accuracy against rollouts in E4's second stage, and of recycling in a small pool.

    python docs/accuracy_figure.py

It reads the kept results of the race and of the study. A seed whose runs were made twice is their mean. Its colours can
be read on white and on black.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import race, study_results  # noqa: E402
from benchmarks.tables import half_width  # noqa: E402

FILE = ROOT / "docs/_static/accuracy.svg"
COLOURS = {  # a line's name
    "GRPO": "#7a8599", "foresee_learnable": "#2f81f7", "retire": "#d99a1c", "recycle, with safeguards": "#2da44e",
    "recycle as published": "#d1642e",
}  # fmt: skip
SMALL = {"GRPO": "grpo", "recycle, with safeguards": "recycle", "recycle as published": "paper"}  # recipes of s4
WIDTH, HEIGHT, LEFT, TOP, PANEL_W, PANEL_H, GAP = 860, 350, 40, 66, 360, 220, 68
LARGEST = 30_000, 0.9  # rollouts, accuracy, at the axes' ends
GREY = "#7a8599"
AT = np.linspace(0, LARGEST[0], 31)  # rollouts at which the curves are read


def main() -> None:
    FILE.write_text(drawn(), encoding="utf-8")


def drawn() -> str:
    """The figure as SVG."""
    base, *others = race.finalists()
    panels = {
        "Tuned, 2,000 questions": {"GRPO": raced(base)} | {arm: raced(arm) for arm in others},
        "500 questions": {name: studied(recipe) for name, recipe in SMALL.items()},
    }
    parts: list[str] = []
    for at, (title, lines) in enumerate(panels.items()):
        x0 = LEFT + at * (PANEL_W + GAP)
        parts += panel(x0, f"{title}, {len(lines['GRPO'])} seeds")
        for name, seeds in lines.items():
            parts += line(x0, seeds, COLOURS[name])
    x = LEFT
    for name, colour in COLOURS.items():
        parts.append(f'<line x1="{x}" y1="18" x2="{x + 22}" y2="18" stroke="{colour}" stroke-width="3"/>')
        parts.append(f'<text x="{x + 28}" y="22">{name}</text>')
        x += 56 + 7 * len(name)
    told = "Greedy exact match on held-out questions, against rollouts; mean of the seeds and its 95 % interval."
    parts.append(f'<text x="{LEFT}" y="{HEIGHT - 12}">{told}</text>')
    style = f"text{{font:13px system-ui,sans-serif;fill:{GREY}}}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
    about = "<title>Accuracy on held-out questions against rollouts, five recipes, two sizes of pool</title>"
    return "\n".join([head, about, f"<style>{style}</style>", *parts, "</svg>\n"])


def raced(arm: str) -> np.ndarray:
    """Accuracy at AT of each seed of an arm in the race's second stage, in both worlds."""
    return np.array(
        [read(run) for world in race.FINAL for run in race.read("final", arm, race.best(arm), world).values()]
    )


def studied(recipe: str) -> np.ndarray:
    """Accuracy at AT of each seed of a recipe of the study at 500 questions."""
    seeds = study_results.pairs("b", "s4", recipe, recipe, "pooled").values()
    return np.array([np.mean([read(run) for run, _ in both], axis=0) for both in seeds])


def read(run: Mapping[str, Any]) -> np.ndarray:
    """Accuracy at AT, from the evaluation before training on; between evaluations it lies on a line."""
    return np.interp(AT, *zip((0, run["before"]), *run["evaluations"], strict=True))


def panel(x0: float, title: str) -> Iterator[str]:
    yield f'<text x="{x0}" y="{TOP - 12}" font-weight="600">{title}</text>'
    for accuracy in (0.0, 0.2, 0.4, 0.6, 0.8):
        y = place(x0, 0, accuracy)[1]
        yield f'<line x1="{x0}" y1="{y}" x2="{x0 + PANEL_W}" y2="{y}" stroke="{GREY}" stroke-opacity=".3"/>'
        yield f'<text x="{x0 - 8}" y="{y + 4}" text-anchor="end">{accuracy:.1f}</text>'
    for rollouts in (0, 10_000, 20_000, 30_000):
        x = place(x0, rollouts, 0)[0]
        yield f'<text x="{x}" y="{TOP + PANEL_H + 18}" text-anchor="middle">{rollouts:,}</text>'


def line(x0: float, seeds: np.ndarray, colour: str) -> Iterator[str]:
    """The mean of the seeds, and its 95 % interval by Student's t as a band."""
    half = np.array([half_width(scores) for scores in seeds.T])
    low, mean, high = ([place(x0, *point) for point in zip(AT, seeds.mean(axis=0) + half * by, strict=True)]
                       for by in (-1, 0, 1))  # fmt: skip
    yield f'<polygon points="{joined([*low, *reversed(high)])}" fill="{colour}" fill-opacity=".15"/>'
    yield f'<polyline points="{joined(mean)}" fill="none" stroke="{colour}" stroke-width="2.5"/>'


def place(x0: float, rollouts: float, accuracy: float) -> tuple[float, float]:
    x, y = min(rollouts / LARGEST[0], 1.02), accuracy / LARGEST[1]
    return round(float(x0 + PANEL_W * x), 1), round(float(TOP + PANEL_H * (1 - y)), 1)


def joined(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in points)


if __name__ == "__main__":
    main()
