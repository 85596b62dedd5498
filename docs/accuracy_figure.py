"""Draws docs/_static/accuracy.svg: accuracy against rollouts, from the kept results of the study.

    python docs/accuracy_figure.py

A seed whose runs were made twice is their mean. Its colours can be read on white and on black.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import study_results  # noqa: E402

FILE = ROOT / "docs/_static/accuracy.svg"
RECIPES = {  # of configs/study/recipes.py: what it is, and its colour
    "grpo": ("GRPO", "#7a8599"),
    "grpo_pairs": ("GRPO in twos", "#a371f7"),
    "pairs": ("foresee in twos", "#2f81f7"),
    "recycle": ("recycle, with safeguards", "#2da44e"),
    "paper": ("recycle as published", "#d1642e"),
}
SETTINGS = {"s3": "2,000 training questions", "s4": "500 training questions"}
WIDTH, HEIGHT, LEFT, TOP, PANEL_W, PANEL_H, GAP = 860, 350, 40, 66, 360, 220, 68
LARGEST = 30_000, 0.9  # rollouts, accuracy, at the axes' ends
GREY = "#7a8599"
AT = np.linspace(0, LARGEST[0], 31)  # rollouts at which the curves are read


def main() -> None:
    FILE.write_text(drawn(), encoding="utf-8")


def drawn() -> str:
    """The figure as SVG."""
    parts: list[str] = []
    seeds: set[int] = set()
    for place, (setting, title) in enumerate(SETTINGS.items()):
        x0 = LEFT + place * (PANEL_W + GAP)
        parts += panel(x0, title)
        for recipe, (_, colour) in RECIPES.items():
            seeds_of = curves(setting, recipe)
            seeds.add(len(seeds_of))
            parts += line(x0, seeds_of, colour)
    counts = " to ".join(str(count) for count in sorted({min(seeds), max(seeds)}))
    said = "1 seed" if counts == "1" else f"mean of {counts} seeds, and their range"
    x = LEFT
    for name, colour in RECIPES.values():
        parts.append(f'<line x1="{x}" y1="18" x2="{x + 22}" y2="18" stroke="{colour}" stroke-width="3"/>')
        parts.append(f'<text x="{x + 28}" y="22">{name}</text>')
        x += 60 + 7 * len(name)
    told = f"Greedy exact match on held-out questions, against rollouts; {said}."
    parts.append(f'<text x="{LEFT}" y="{HEIGHT - 12}">{told}</text>')
    style = f"text{{font:13px system-ui,sans-serif;fill:{GREY}}}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
    about = "<title>Accuracy on held-out questions against rollouts, five recipes, two sizes of pool</title>"
    return "\n".join([head, about, f"<style>{style}</style>", *parts, "</svg>\n"])


def curves(setting: str, recipe: str) -> np.ndarray:
    """Accuracy of each seed at AT, from the evaluation before training on; between evaluations it lies on a line."""
    seeds = study_results.pairs("b", setting, recipe, recipe, "pooled").values()
    every = [[[(0, run["before"]), *run["evaluations"]] for run, _ in both] for both in seeds]
    return np.array([np.mean([np.interp(AT, *zip(*one, strict=True)) for one in both], axis=0) for both in every])


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
    """The mean of the seeds, and from the lowest to the highest a band."""
    low, mean, high = (
        [place(x0, *point) for point in zip(AT, values, strict=True)]
        for values in (seeds.min(axis=0), seeds.mean(axis=0), seeds.max(axis=0))
    )
    yield f'<polygon points="{joined([*low, *reversed(high)])}" fill="{colour}" fill-opacity=".15"/>'
    yield f'<polyline points="{joined(mean)}" fill="none" stroke="{colour}" stroke-width="2.5"/>'


def place(x0: float, rollouts: float, accuracy: float) -> tuple[float, float]:
    x, y = min(rollouts / LARGEST[0], 1.02), accuracy / LARGEST[1]
    return round(float(x0 + PANEL_W * x), 1), round(float(TOP + PANEL_H * (1 - y)), 1)


def joined(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in points)


if __name__ == "__main__":
    main()
