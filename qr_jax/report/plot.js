// The drawing of a chart: room, scales, grid and axes, then its lines or its stack of areas, and the cursor on them.

// The room of a chart, its scales, grid and axes; what lines and stacks share.
function frame(spec, axis, width, low, high) {
  const narrow = width < NARROW;
  const left = 44,
    right = width - (narrow ? 14 : 14 + Math.max(...spec.series.map((series) => wide(series.name))));
  const height = spec.id === "accuracy" ? (narrow ? 260 : 330) : spec.id.startsWith("null-") ? 170 : 230,
    top = 12,
    bottom = height - 40;
  const xs = spec.x[axis].values;
  const own = spec.series.flatMap((series) => (series.x ? series.x[axis] : []));
  const first = own.length ? 0 : Math.min(...xs),
    last = Math.max(...xs, ...own);
  const toX = (value) =>
    last === first ? (left + right) / 2 : left + ((value - first) / (last - first)) * (right - left);
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
  let places = ticks(first, last, narrow || right - left < 320 ? 3 : 6).filter(
    (one) => spec.x[axis].label !== "step" || Number.isInteger(one),
  );
  for (const value of places) {
    svg.append(
      draw("text", { class: "tick", x: toX(value), y: bottom + 17, "text-anchor": "middle" }, tick(value, "count")),
    );
  }
  svg.append(draw("text", { class: "axis", x: right, y: bottom + 33, "text-anchor": "end" }, spec.x[axis].label));
  svg.append(draw("line", { class: "base", x1: left, x2: right, y1: bottom, y2: bottom }));
  return { svg, left, right, top, bottom, toX, toY, narrow, xs, nearest: (x) => closest(xs.map(toX), x + left) };
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

function lines(spec, axis, width) {
  const all = spec.series
    .flatMap((series) => [...series.values, ...(series.low || []), ...(series.high || [])])
    .filter((value) => value !== null && (!spec.log || value > 0));
  const low = spec.log ? 10 ** Math.floor(Math.log10(Math.min(...all, 1))) : 0;
  const top = Math.max(...all, 0);
  const high =
    spec.unit === "share"
      ? 1
      : spec.log
        ? 10 ** Math.ceil(Math.log10(Math.max(...all, low * 10)))
        : ticks(0, top || 1, 4).reduce((a, b) => Math.max(a, b), top) || 1;
  const room = frame(spec, axis, width, low, all.length ? high : 1);
  const { svg, toX, toY } = room;
  const labels = [],
    dots = [];
  for (const series of spec.series) {
    const xs = (series.x ? series.x[axis] : room.xs).map(toX);
    if (series.style === "band")
      svg.append(
        draw("path", {
          class: `band ${series.tone}`,
          d: between(
            xs,
            series.low.map((v) => (v === null ? null : toY(v))),
            series.high.map((v) => (v === null ? null : toY(v))),
          ),
        }),
      );
    const ys = series.values.map((value) => (value === null || (spec.log && value <= 0) ? null : toY(value)));
    svg.append(draw("path", { class: `line ${series.tone} ${series.style || ""}`, d: path(xs, ys) }));
    if (series.style === "points") {
      ys.forEach((y, at) => {
        svg.append(
          draw("line", {
            class: `whisker ${series.tone}`,
            x1: xs[at],
            x2: xs[at],
            y1: toY(series.low[at]),
            y2: toY(series.high[at]),
          }),
        );
        svg.append(draw("circle", { class: `point ${series.tone}`, cx: xs[at], cy: y, r: 4 }));
      });
    } else {
      const dot = draw("circle", { class: `dot ${series.tone}`, r: 3.5, visibility: "hidden" });
      dots.push({ dot, xs, ys });
    }
    const end = ys.reduce((last, y, at) => (y === null ? last : at), -1);
    if (end >= 0) labels.push({ y: ys[end], text: series.name, tone: series.tone });
  }
  named(room, labels);
  return pointed(room, dots);
}

function stacked(spec, axis, width) {
  const sums = spec.x[axis].values.map((_, at) =>
    spec.series.reduce((sum, series) => sum + (series.values[at] || 0), 0),
  );
  const marks = spec.marks || [];
  const top = Math.max(...sums, ...(spec.band ? spec.band.high : []), ...marks.map((mark) => mark.y), 1e-9);
  const room = frame(spec, axis, width, 0, top * 1.04);
  const { svg, toX, toY } = room;
  const xs = room.xs.map(toX),
    labels = [];
  let below = sums.map(() => 0);
  for (const series of spec.series) {
    const above = below.map((value, at) => value + (series.values[at] || 0));
    svg.append(draw("path", { class: `area ${series.tone}`, d: between(xs, below.map(toY), above.map(toY)) }));
    const last = above.length - 1;
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
      svg.append(
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

function path(xs, ys) {
  let text = "",
    pen = false;
  ys.forEach((y, at) => {
    if (y !== null) text += `${pen ? "L" : "M"}${xs[at].toFixed(1)} ${y.toFixed(1)}`;
    pen = y !== null;
  });
  return text;
}

// The outline between two lines, in pieces where either has nothing.
function between(xs, lows, highs) {
  let text = "",
    run = [];
  const close = () => {
    if (run.length)
      text +=
        path(
          run.map((at) => xs[at]),
          run.map((at) => highs[at]),
        ) +
        path(
          [...run].reverse().map((at) => xs[at]),
          [...run].reverse().map((at) => lows[at]),
        ).replace("M", "L") +
        "Z";
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

// The hairline and the dots of the cursor.
function pointed(room, dots) {
  const hair = draw("line", { class: "hair", y1: room.top, y2: room.bottom, visibility: "hidden" });
  room.svg.append(hair, ...dots.map(({ dot }) => dot));
  return {
    svg: room.svg,
    left: room.left,
    right: room.right,
    nearest: room.nearest,
    point(at) {
      hair.setAttribute("visibility", at === null ? "hidden" : "visible");
      if (at !== null) for (const name of ["x1", "x2"]) hair.setAttribute(name, room.toX(room.xs[at]));
      for (const { dot, xs, ys } of dots) {
        const here = at !== null && ys[at] !== null;
        dot.setAttribute("visibility", here ? "visible" : "hidden");
        if (here) {
          dot.setAttribute("cx", xs[at]);
          dot.setAttribute("cy", ys[at]);
        }
      }
    },
  };
}
