// A chart of lines or a stack of areas: drawn for the width there is, read by pointer, by arrow keys and as a table.

const NARROW = 460; // below this the names stand above the chart, not beside it

function chart(host, spec) {
  const axis = { at: 0 };
  const title = make("h3", {}, spec.title);
  const note = spec.note ? make("p", { class: "note" }, spec.note) : null;
  const plot = make("div", { class: "plot" });
  const readout = make("p", { class: "readout" });
  const names = make("p", { class: "names", "aria-hidden": "true" });
  const cursor = slider(spec.title);
  const figure = make(
    "figure",
    { class: "chart", id: `chart-${spec.id}`, "aria-label": spec.title },
    make("figcaption", {}, title, note),
    spec.x.length > 1 ? axes(spec, axis, redraw) : null,
    names,
    plot,
    readout,
    table(spec),
  );
  host.append(figure);
  let drawn = null;

  function redraw() {
    const width = Math.floor(plot.clientWidth);
    if (!width) return;
    drawn = spec.kind === "stack" ? stacked(spec, axis.at, width) : lines(spec, axis.at, width);
    names.replaceChildren(...(width < NARROW ? spec.series.map((series) => swatch(series.tone, series.name)) : []));
    plot.replaceChildren(drawn.svg, cursor.element);
    cursor.element.style.left = `${drawn.left}px`;
    cursor.element.style.width = `${drawn.right - drawn.left}px`;
    cursor.reset(spec.x[axis.at].values.length);
    show(null);
  }

  function show(at) {
    drawn.point(at);
    const known = at !== null;
    const last = spec.x[axis.at].values.length - 1;
    readout.replaceChildren(...reading(spec, axis.at, known ? at : last));
    readout.classList.toggle("still", !known);
    cursor.element.setAttribute(
      "aria-valuetext",
      reading(spec, axis.at, known ? at : last)
        .map((part) => part.textContent)
        .join(", "),
    );
  }

  cursor.listen({ show, nearest: (x) => drawn.nearest(x) });
  watch(plot, redraw);
  return figure;
}

// What the chart says at one place on its x axis: the place, then a value a series.
function reading(spec, axis, at) {
  const x = spec.x[axis];
  const place = x.words ? x.words[at] : `${written(x.values[at], "count")} ${x.label}`;
  const here = x.words && spec.x.length > 1 ? `${place}, ${written(x.values[at], "count")} ${x.label}` : place;
  const parts = spec.series.map((series) => {
    let value = series.values[at],
      more = "";
    if (series.x) {
      const before = series.x[axis].filter((one) => one <= x.values[at] + 1e-9).length - 1;
      if (before < 0) return null;
      value = series.values[before];
      more = ` (${written(series.low[before], spec.unit)}–${written(series.high[before], spec.unit)})`;
    } else if (series.style === "band" && series.low[at] !== null) {
      more = ` (${written(series.low[at], spec.unit)}–${written(series.high[at], spec.unit)})`;
    }
    return swatch(series.tone, `${series.name} `, make("b", {}, written(value, spec.unit)), more);
  });
  return [make("span", { class: "place" }, here), ...parts.filter(Boolean)];
}

function swatch(tone, ...text) {
  return make("span", { class: `swatch ${tone}` }, make("i", { "aria-hidden": "true" }), ...text);
}

// The reader's choice of an x axis.
function axes(spec, axis, redraw) {
  return choice(
    `x axis of ${spec.title}`,
    spec.x.map((one) => one.label),
    0,
    (at) => {
      axis.at = at;
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

// An invisible slider over the plot: pointer and arrow keys move the same cursor, and a screen reader says its value.
function slider(label) {
  const element = make("div", {
    class: "cursor",
    role: "slider",
    tabindex: "0",
    "aria-label": `${label}: read a point`,
    "aria-valuemin": "1",
    "aria-orientation": "horizontal",
  });
  let count = 0,
    at = null,
    on = null;
  function go(to) {
    at = to === null ? null : Math.max(0, Math.min(count - 1, to));
    element.setAttribute("aria-valuenow", String((at === null ? count - 1 : at) + 1));
    on.show(at);
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
  element.addEventListener("keydown", (event) => {
    if (!(event.key in keys)) return;
    event.preventDefault();
    go((at === null ? count - 1 : at) + keys[event.key]);
  });
  element.addEventListener("pointermove", (event) =>
    go(on.nearest(event.clientX - element.getBoundingClientRect().left)),
  );
  element.addEventListener("pointerleave", () => {
    if (document.activeElement !== element) go(null);
  });
  element.addEventListener("blur", () => go(null));
  return {
    element,
    listen(handlers) {
      on = handlers;
    },
    reset(points) {
      count = points;
      at = null;
      element.setAttribute("aria-valuemax", String(points));
      element.setAttribute("aria-valuenow", String(points));
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
      spec.x[0].words ? spec.x[0].words[at] : `${written(value, "count")} ${spec.x[0].label}`,
      ...(spec.x.length > 1 ? spec.x.map((one) => written(one.values[at], "count")) : []),
      ...shared.map(
        (series) =>
          written(series.values[at], spec.unit) +
          (series.low ? ` (${written(series.low[at], spec.unit)}–${written(series.high[at], spec.unit)})` : ""),
      ),
    ]);
    details.append(grid(spec.title, head, rows));
    for (const series of spec.series.filter((one) => one.x)) {
      const own = series.values.map((value, at) => [
        ...series.x.map((xs) => written(xs[at], "count")),
        written(value, spec.unit),
        written(series.low[at], spec.unit),
        written(series.high[at], spec.unit),
      ]);
      details.append(
        grid(`${spec.title}: ${series.name}`, [...spec.x.map((one) => one.label), series.name, "from", "to"], own),
      );
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
