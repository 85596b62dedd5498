// Shares of groups of questions: a row a group, a point with its interval a series.

const GAP = 9; // pixels from a series to the next one within a row

function groups(spec, axis, width) {
  const words = spec.x[axis].words;
  const left = 8,
    right = width - 8,
    row = 24 + GAP * spec.series.length;
  const bottom = row * words.length + 4,
    height = bottom + 40;
  const toX = (value) => left + value * (right - left);
  const viewBox = `0 0 ${width} ${height}`;
  const svg = draw("svg", { width, height, viewBox, role: "img", "aria-label": spoken(spec) });
  const here = draw("rect", { class: "here", x: 0, width, height: row, visibility: "hidden" });
  svg.append(here);
  for (const value of ticks(0, 1, 4)) {
    svg.append(draw("line", { class: "grid", x1: toX(value), x2: toX(value), y1: 4, y2: bottom }));
    svg.append(
      draw("text", { class: "tick", x: toX(value), y: bottom + 17, "text-anchor": "middle" }, tick(value, spec.unit)),
    );
  }
  words.forEach((word, at) => {
    svg.append(draw("text", { class: "tick", x: left, y: row * at + 17 }, fitting(word, right - left)));
    spec.series.forEach((series, which) => {
      if (series.values[at] === null) return;
      const y = row * at + 27 + GAP * which;
      const ends = { x1: toX(series.low[at]), x2: toX(series.high[at]), y1: y, y2: y };
      svg.append(draw("line", { class: `whisker ${series.tone}`, ...ends }));
      svg.append(draw("circle", { class: `point ${series.tone}`, cx: toX(series.values[at]), cy: y, r: 4 }));
    });
  });
  svg.append(draw("line", { class: "base", x1: left, x2: right, y1: bottom, y2: bottom }));
  const seen = words.map((_, at) => at);
  return {
    svg,
    left: 0,
    right: width,
    seen,
    down: true,
    nearest: (_, y) => Math.max(0, Math.min(words.length - 1, Math.floor(y / row))),
    point(at) {
      here.setAttribute("visibility", at === null ? "hidden" : "visible");
      if (at !== null) here.setAttribute("y", row * at + 2);
    },
  };
}

function fitting(text, room) {
  let kept = text;
  while (kept && wide(kept) > room) kept = kept.slice(0, -1);
  return kept === text ? text : `${kept.slice(0, -1)}…`;
}
