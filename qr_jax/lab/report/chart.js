// A chart of lines or a stack of areas: drawn for the width there is, read by pointer, by arrow keys and as a table.

const NARROW = 460; // below this the names stand above the chart, not beside it
const DRAG = 8; // pixels; a pointer that moves less has clicked

const DRAWN = { lines, stack: stacked, groups };
const chosen = {}; // a chart's axis and its places that are shown, which last when a run that goes on is drawn anew

function chart(host, spec) {
  const view = (chosen[spec.id] = chosen[spec.id] || { axis: 0, range: null });
  const title = make("h3", {}, spec.title);
  const note = spec.note ? make("p", { class: "note" }, spec.note) : null;
  const plot = make("div", { class: "plot" });
  const readout = make("p", { class: "readout" });
  const names = make("p", { class: "names", "aria-hidden": "true" });
  const cursor = slider(spec.title);
  const whole = make("button", { type: "button", class: "whole", onclick: () => look(null) }, "Whole run");
  const figure = make(
    "figure",
    { class: "chart", id: `chart-${spec.id}`, "aria-label": spec.title },
    make("figcaption", {}, title, note),
    spec.x.length > 1 ? axes(spec, view, redraw) : null,
    names,
    plot,
    readout,
    whole,
    spec.plain ? make("p", { class: "note plain" }, spec.plain) : null,
    table(spec),
  );
  host.append(figure);
  let drawn = null;

  function redraw() {
    const width = Math.floor(plot.clientWidth);
    if (!width) return;
    drawn = DRAWN[spec.kind](spec, view.axis, width, view.range);
    const named = spec.series.length > 1 && (spec.kind === "groups" || above(spec, width));
    names.replaceChildren(...(named ? spec.series.map((series) => swatch(series.tone, series.name)) : []));
    plot.replaceChildren(drawn.svg, cursor.element);
    cursor.element.style.left = `${drawn.left}px`;
    cursor.element.style.width = `${drawn.right - drawn.left}px`;
    cursor.reset(drawn.seen);
    whole.hidden = !view.range;
    show(null);
  }

  function show(at) {
    drawn.point(at);
    const known = at !== null;
    const parts = reading(spec, view.axis, known ? at : drawn.seen[drawn.seen.length - 1]);
    readout.replaceChildren(...parts);
    readout.classList.toggle("still", !known);
    cursor.element.setAttribute("aria-valuetext", parts.map((part) => part.textContent).join(", "));
  }

  // Look at the part of the x axis from range[0] to range[1], where two points or more are in it; null: at all of it.
  function look(range) {
    const inside = range && spec.x[view.axis].values.filter((x) => x >= range[0] && x <= range[1]);
    if (spec.kind === "groups" || (range && inside.length < 2)) return;
    view.range = range;
    redraw();
  }

  // Twice as close around a place, or half.
  function closer(at, times) {
    const [first, last] = ends(spec, view.axis, null);
    const [from, to] = ends(spec, view.axis, view.range);
    const middle = at === null ? (from + to) / 2 : spec.x[view.axis].values[at];
    const half = (to - from) / 2 / times;
    const range = [Math.max(first, middle - half), Math.min(last, middle + half)];
    look(range[0] <= first && range[1] >= last ? null : range);
  }

  cursor.listen({
    show,
    closer,
    whole: () => look(null),
    down: () => drawn.down,
    nearest: (x, y) => drawn.nearest(x, y),
    mark: (from, to) => drawn.mark && drawn.mark(from, to),
    select: (from, to) => drawn.fromX && look([from, to].sort((a, b) => a - b).map((x) => drawn.fromX(x + drawn.left))),
  });
  figure.redraw = redraw;
  watch(plot, redraw);
  return figure;
}

function swatch(tone, ...text) {
  return make("span", { class: `swatch ${tone}` }, make("i", { "aria-hidden": "true" }), ...text);
}

// The reader's choice of an x axis.
function axes(spec, view, redraw) {
  return choice(
    `x axis of ${spec.title}`,
    spec.x.map((one) => one.label),
    view.axis,
    (at) => {
      view.axis = at;
      view.range = null;
      redraw();
    },
  );
}

function choice(label, words, chosen, changed) {
  const name = `choice-${(choice.count = (choice.count || 0) + 1)}`;
  return make(
    "div",
    { class: "choice", role: "radiogroup", "aria-label": label },
    words.map((word, at) =>
      make(
        "label",
        {},
        make("input", { type: "radio", name, checked: at === chosen, onchange: () => changed(at) }),
        make("span", {}, word),
      ),
    ),
  );
}

// An invisible slider over the plot: pointer and arrow keys move the same cursor, and a screen reader says its value. A
// pointer that is drawn across it, a double click, + and - look closer.
function slider(label) {
  const element = make("div", {
    class: "cursor",
    role: "slider",
    tabindex: "0",
    "aria-label": `${label}: read a point`,
    "aria-valuemin": "1",
    "aria-orientation": "horizontal",
  });
  let seen = [],
    at = null, // counts in `seen`
    from = null,
    on = null;
  function go(to) {
    at = to === null ? null : Math.max(0, Math.min(seen.length - 1, to));
    element.setAttribute("aria-valuenow", String((at === null ? seen.length - 1 : at) + 1));
    on.show(at === null ? null : seen[at]);
  }
  const keys = {
    ArrowLeft: -1,
    ArrowDown: -1,
    ArrowRight: 1,
    ArrowUp: 1,
    PageDown: -5,
    PageUp: 5,
    Home: -1e9,
    End: 1e9,
  };
  const place = (event) => {
    const box = element.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  const inAxes = (x) => Math.max(0, Math.min(element.clientWidth, x));
  element.addEventListener("keydown", (event) => {
    const times = { "+": 2, "=": 2, "-": 0.5 }[event.key];
    if (times) on.closer(at === null ? null : seen[at], times);
    else if (event.key === "Escape") on.whole();
    else if (event.key in keys) {
      const upright = on.down() && /Up|Down/.test(event.key) ? -1 : 1;
      go((at === null ? seen.length - 1 : at) + upright * keys[event.key]);
    } else return;
    event.preventDefault();
  });
  element.addEventListener("pointerdown", (event) => {
    if (event.pointerType !== "mouse" || event.button) return;
    from = place(event)[0];
    element.setPointerCapture(event.pointerId);
  });
  element.addEventListener("pointermove", (event) => {
    go(seen.indexOf(on.nearest(...place(event))));
    if (from !== null) on.mark(from, inAxes(place(event)[0]));
  });
  element.addEventListener("pointerup", (event) => {
    const [start, to] = [from, inAxes(place(event)[0])];
    from = null;
    on.mark(null, 0);
    if (start !== null && Math.abs(to - start) > DRAG) on.select(start, to);
  });
  element.addEventListener("dblclick", (event) => on.closer(on.nearest(...place(event)), 2));
  element.addEventListener("pointerleave", () => {
    if (document.activeElement !== element) go(null);
  });
  element.addEventListener("blur", () => go(null));
  return {
    element,
    listen(handlers) {
      on = handlers;
    },
    reset(places) {
      seen = places;
      at = null;
      element.setAttribute("aria-valuemax", String(seen.length));
      element.setAttribute("aria-valuenow", String(seen.length));
    },
  };
}

// Draw now, and again whenever the width changes: in the next frame, since drawing changes sizes that are observed.
function watch(element, redraw) {
  let width = element.clientWidth;
  redraw();
  new ResizeObserver(() => {
    if (element.clientWidth === width) return;
    width = element.clientWidth;
    requestAnimationFrame(redraw);
  }).observe(element);
}

// The same numbers as a table, made when it is opened.
function table(spec) {
  const details = make(
    "details",
    { class: "numbers" },
    make("summary", {}, "Numbers", make("span", { class: "away" }, ` of ${spec.title}`)),
  );
  details.addEventListener("toggle", () => {
    if (!details.open || details.children.length > 1) return;
    const shared = spec.series.filter((series) => !series.x);
    const head = [
      "",
      ...(spec.x.length > 1 ? spec.x.map((one) => one.label) : []),
      ...shared.map((series) => series.name),
    ];
    const rows = spec.x[0].values.map((value, at) => [
      spec.x[0].words ? spec.x[0].words[at] : placed(spec.x[0], value),
      ...(spec.x.length > 1 ? spec.x.map((one) => written(one.values[at], "count")) : []),
      ...shared.map(
        (series) =>
          written(series.values[at], spec.unit) +
          (series.low ? ` (${written(series.low[at], spec.unit)}–${written(series.high[at], spec.unit)})` : ""),
      ),
    ]);
    if (shared.length) details.append(grid(spec.title, head, rows));
    for (const series of spec.series.filter((one) => one.x)) {
      const between = series.low ? [series.low, series.high] : [];
      const own = series.values.map((value, at) => [
        ...series.x.map((xs) => written(xs[at], "count")),
        ...[series.values, ...between].map((values) => written(values[at], spec.unit)),
      ]);
      const names = [...spec.x.map((one) => one.label), series.name, ...(between.length ? ["from", "to"] : [])];
      details.append(grid(`${spec.title}: ${series.name}`, names, own));
    }
  });
  return details;
}

function grid(caption, head, rows) {
  return make(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    make(
      "table",
      {},
      make("caption", { class: "away" }, caption),
      make(
        "thead",
        {},
        make(
          "tr",
          {},
          head.map((name) => make("th", { scope: "col" }, name)),
        ),
      ),
      make(
        "tbody",
        {},
        rows.map((row) =>
          make(
            "tr",
            {},
            row.map((cell, at) => make(at ? "td" : "th", at ? {} : { scope: "row" }, cell)),
          ),
        ),
      ),
    ),
  );
}
