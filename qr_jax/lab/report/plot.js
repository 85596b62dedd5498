// The drawing of a chart: room, scales, grid and axes, then its lines or its stack of areas, and the cursor on them.

const EDGE = 6; // pixels around the axes in which a point is still drawn whole
const ALONE = 40; // pixels on both sides of a chart's only step

// Whether the names of the lines stand above the chart: beside it they would leave it too little room.
function above(spec, width) {
  return width < NARROW || Math.max(...spec.series.map((series) => wide(series.name))) > width / 2.5;
}

// The room of a chart, its scales, grid and axes; what lines and stacks share. What is drawn `inside` is cut off at the
// axes.
function frame(spec, axis, width, low, high, range) {
  const narrow = above(spec, width);
  const left = 44,
    right = width - (narrow ? 14 : 14 + Math.max(...spec.series.map((series) => wide(series.name))));
  const height = spec.id === "accuracy" ? (width < NARROW ? 260 : 330) : spec.small ? 170 : 230,
    top = 12,
    bottom = height - 40;
  const xs = spec.x[axis].values;
  const [first, last] = ends(spec, axis, range);
  const toX = (value) =>
    last === first ? (left + right) / 2 : left + ((value - first) / (last - first)) * (right - left);
  const fromX = (place) => first + ((place - left) / (right - left)) * (last - first);
  const scale = spec.log ? Math.log10 : (value) => value;
  const toY = (value) => bottom - ((scale(value) - scale(low)) / (scale(high) - scale(low) || 1)) * (bottom - top);
  const svg = draw("svg", {
    width,
    height,
    viewBox: `0 0 ${width} ${height}`,
    role: "img",
    "aria-label": spoken(spec),
  });
  const decades = () => ticks(Math.log10(low), Math.log10(high), 4).map((one) => 10 ** one);
  for (const value of spec.log ? decades() : ticks(low, high, height < 200 ? 3 : 4)) {
    svg.append(draw("line", { class: "grid", x1: left, x2: right, y1: toY(value), y2: toY(value) }));
    svg.append(
      draw("text", { class: "tick", x: left - 7, y: toY(value) + 4, "text-anchor": "end" }, tick(value, spec.unit)),
    );
  }
  const places = ticks(first, last, width < NARROW || right - left < 320 ? 3 : 6).filter(
    (one) => spec.x[axis].label !== "step" || Number.isInteger(one),
  );
  for (const value of places) {
    svg.append(
      draw("text", { class: "tick", x: toX(value), y: bottom + 17, "text-anchor": "middle" }, tick(value, "count")),
    );
  }
  svg.append(draw("text", { class: "axis", x: right, y: bottom + 33, "text-anchor": "end" }, spec.x[axis].label));
  const edge = range || spec.kind === "stack" ? 0 : EDGE;
  const inside = draw("svg", {
    class: "inside",
    x: left - edge,
    width: right - left + 2 * edge,
    height: bottom + edge,
    viewBox: `${left - edge} 0 ${right - left + 2 * edge} ${bottom + edge}`,
  });
  svg.append(inside, draw("line", { class: "base", x1: left, x2: right, y1: bottom, y2: bottom }));
  const seen = xs.map((_, at) => at).filter((at) => xs[at] >= first && xs[at] <= last);
  const nearest = (x) => seen[closest(seen.map((at) => toX(xs[at])), x + left)];
  return { svg, inside, left, right, top, bottom, toX, fromX, toY, narrow, xs, seen, nearest };
}

function closest(places, x) {
  let best = 0;
  places.forEach((place, at) => {
    if (Math.abs(place - x) < Math.abs(places[best] - x)) best = at;
  });
  return best;
}

// The chart in a sentence, for those who do not see it.
function spoken(spec) {
  const ends = spec.series.map((series) => {
    const known = series.values.filter((value) => value !== null);
    return known.length
      ? `${series.name} from ${written(known[0], spec.unit)} to ${written(known[known.length - 1], spec.unit)}`
      : null;
  });
  return `${spec.title}: ${ends.filter(Boolean).join("; ")}`;
}

function lines(spec, axis, width, range) {
  const all = spec.series
    .flatMap((series) => shownOf(spec, series, axis, range))
    .filter((value) => !spec.log || value > 0);
  const top = Math.max(...all, 0);
  let low = Math.min(...all, 0),
    high = top === low ? 1 : top;
  if (spec.log) {
    low = 10 ** Math.floor(Math.log10(Math.min(...all, 1)));
    high = 10 ** Math.ceil(Math.log10(Math.max(...all, low * 10)));
  } else if (spec.unit === "share" && !spec.fit) {
    high = 1;
  } else high = ticks(low, high, 4).reduce((a, b) => Math.max(a, b), high);
  const room = frame(spec, axis, width, low, all.length ? high : 1, range);
  const { inside, toX, toY } = room;
  const labels = [],
    dots = [];
  for (const series of spec.series) {
    const xs = (series.x ? series.x[axis] : room.xs).map(toX);
    const place = (value) => (value === null || (spec.log && value <= 0) ? null : toY(value));
    if (series.style === "band")
      inside.append(
        draw("path", {
          class: `band ${series.tone}`,
          d: between(xs, series.low.map(place), series.high.map(place)),
        }),
      );
    const means = spec.smooth && !series.style ? smoothed(spec, series.values) : null;
    const ys = (means || series.values).map(place);
    if (means)
      inside.append(draw("path", { class: `line raw ${series.tone}`, d: path(xs, series.values.map(place)) }));
    inside.append(draw("path", { class: `line ${series.tone} ${series.style || ""}`, d: path(xs, ys) }));
    if (series.style === "points") {
      ys.forEach((y, at) => {
        if (y === null) return;
        inside.append(
          draw("line", {
            class: `whisker ${series.tone}`,
            x1: xs[at],
            x2: xs[at],
            y1: toY(series.low[at]),
            y2: toY(series.high[at]),
          }),
        );
        const hollow = series.hollow && series.hollow[at] ? " hollow" : "";
        inside.append(draw("circle", { class: `point ${series.tone}${hollow}`, cx: xs[at], cy: y, r: 4 }));
      });
    } else {
      const dot = draw("circle", { class: `dot ${series.tone}`, r: 3.5, visibility: "hidden" });
      dots.push({ dot, xs, ys, index: (at) => indexAt(spec, series, axis, at) });
    }
    const end = ys.reduce((last, y, at) => (y === null || xs[at] > room.right + 1 ? last : at), -1);
    if (end >= 0) labels.push({ y: ys[end], text: series.name, tone: series.tone });
  }
  named(room, labels);
  return pointed(room, dots);
}

function stacked(spec, axis, width, range) {
  const xsOf = spec.x[axis].values;
  const seen = (at) => !range || (xsOf[at] >= range[0] && xsOf[at] <= range[1]);
  const sums = xsOf.map((_, at) => spec.series.reduce((sum, series) => sum + (series.values[at] || 0), 0));
  const marks = spec.marks || [];
  const bound = spec.band ? spec.band.high.filter((value) => value !== null) : [];
  const top = Math.max(...sums.filter((_, at) => seen(at)), ...bound, ...marks.map((mark) => mark.y), 1e-9);
  const room = frame(spec, axis, width, 0, spec.unit === "share" ? 1 : top * 1.04, range);
  const { svg, inside, toX, toY } = room;
  const xs = room.xs.map(toX),
    labels = [];
  const last = room.seen[room.seen.length - 1];
  let below = sums.map(() => 0);
  for (const series of spec.series) {
    const above = below.map((value, at) => value + (series.values[at] || 0));
    inside.append(draw("path", { class: `area ${series.tone}`, d: between(xs, below.map(toY), above.map(toY)) }));
    labels.push({
      y: toY((below[last] + above[last]) / 2),
      text: series.name,
      tone: series.tone,
      thin: toY(below[last]) - toY(above[last]) < 1.5,
    });
    below = above;
  }
  for (const mark of marks) {
    svg.append(draw("line", { class: "mark", x1: room.left, x2: room.right, y1: toY(mark.y), y2: toY(mark.y) }));
    svg.append(draw("text", { class: "tick", x: room.left + 4, y: toY(mark.y) + 14 }, mark.text));
  }
  if (spec.band) {
    const at = spec.band.x.map(toX);
    for (const edge of [spec.band.low, spec.band.high])
      inside.append(
        draw("path", {
          class: "edge",
          d: path(
            at,
            edge.map((value) => (value === null ? null : toY(value))),
          ),
        }),
      );
  }
  named(
    room,
    labels.filter((label) => !label.thin),
  );
  return pointed(room, []);
}

// The line through the points, in pieces where there are none; a point alone is a dash.
function path(xs, ys) {
  let text = "",
    pen = false;
  ys.forEach((y, at) => {
    const alone = y !== null && !pen && (at + 1 === ys.length || ys[at + 1] === null);
    if (y !== null) text += `${pen ? "L" : "M"}${xs[at].toFixed(1)} ${y.toFixed(1)}${alone ? "m-2 0h4" : ""}`;
    pen = y !== null;
  });
  return text;
}

// The outline between two lines, in pieces where either has nothing; a place alone is half a step wide on both sides.
function between(xs, lows, highs) {
  const half = xs.length > 1 ? (xs[xs.length - 1] - xs[0]) / (xs.length - 1) / 2 : ALONE;
  let text = "",
    run = [];
  const close = () => {
    if (run.length) {
      const at = run.length > 1 ? run.map((place) => xs[place]) : [xs[run[0]] - half, xs[run[0]] + half];
      const of = (values) => (run.length > 1 ? run : [run[0], run[0]]).map((place) => values[place]);
      text += path(at, of(highs)) + path(at.reverse(), of(lows).reverse()).replace("M", "L") + "Z";
    }
    run = [];
  };
  xs.forEach((_, at) => {
    if (lows[at] === null || highs[at] === null) close();
    else run.push(at);
  });
  close();
  return text;
}

// Names at the ends of their lines, moved apart where they would touch.
function named(room, labels) {
  if (room.narrow) return;
  const gap = 15;
  labels.sort((a, b) => a.y - b.y);
  for (const label of labels) label.at = label.y;
  for (let turn = 0; turn < 60; turn++) {
    for (let at = 1; at < labels.length; at++) {
      const near = labels[at - 1].at + gap - labels[at].at;
      if (near > 0) {
        labels[at - 1].at -= near / 2;
        labels[at].at += near / 2;
      }
    }
    for (const label of labels) label.at = Math.max(room.top + 4, Math.min(room.bottom - 2, label.at));
  }
  for (const label of labels) {
    room.svg.append(draw("text", { class: `name ${label.tone}`, x: room.right + 10, y: label.at + 4 }, label.text));
  }
}

// The hairline and the dots of the cursor, and what is being marked to look closer at.
function pointed(room, dots) {
  const hair = draw("line", { class: "hair", y1: room.top, y2: room.bottom, visibility: "hidden" });
  const marked = draw("rect", { class: "marked", y: room.top, height: room.bottom - room.top, visibility: "hidden" });
  room.svg.append(marked, hair);
  room.inside.append(...dots.map(({ dot }) => dot));
  return {
    ...room,
    point(at) {
      hair.setAttribute("visibility", at === null ? "hidden" : "visible");
      if (at !== null) for (const name of ["x1", "x2"]) hair.setAttribute(name, room.toX(room.xs[at]));
      for (const { dot, xs, ys, index } of dots) {
        const own = at === null ? -1 : index(at);
        const here = own >= 0 && ys[own] !== null;
        dot.setAttribute("visibility", here ? "visible" : "hidden");
        if (here) {
          dot.setAttribute("cx", xs[own]);
          dot.setAttribute("cy", ys[own]);
        }
      }
    },
    mark(from, to) {
      marked.setAttribute("visibility", from === null ? "hidden" : "visible");
      marked.setAttribute("x", room.left + Math.min(from, to));
      marked.setAttribute("width", Math.abs(to - from));
    },
  };
}
