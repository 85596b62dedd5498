// Verdicts over time: a row a query, a block a draw, and a tint from there on until the query is drawn again.

const ROW = 2.5,
  SECTION = 22;

const PLAIN =
  "In plain words: each row follows one question. Where its colour ends in a mixed draw, the model has begun to get " +
  "that question right on some tries and wrong on others, and can learn from it.";

function heat(host, spec, open) {
  const number = (value) => value.toLocaleString("en");
  const all = `${number(spec.again)} drawn more than once`;
  const which = spec.shown < spec.again ? `${spec.shown} chosen at random of the ${all}` : `the ${all}`;
  const pool = spec.pool ? `, the pool has ${number(spec.pool)}` : "";
  const about =
    `One row a query, ${which} (${number(spec.drawn)} were drawn${pool}). ` +
    "A block is a draw; its tint lasts until the next one.";
  const head = [make("h3", {}, "Verdicts over time"), make("p", { class: "note" }, about)];
  if (!spec.sections.length) {
    head[1].textContent = "No query has been drawn twice yet: there is nothing to show over time.";
    host.append(make("figure", { class: "chart", id: "chart-heat" }, make("figcaption", {}, head)));
    return;
  }
  const plot = make("div", { class: "plot heat" });
  const readout = make("p", { class: "readout" });
  const rows = spec.sections.flatMap((section) => section.rows);
  const cursor = make("div", {
    class: "cursor tall",
    role: "slider",
    tabindex: "0",
    "aria-label": "Verdicts over time: read a query",
    "aria-orientation": "vertical",
    "aria-valuemin": "1",
    "aria-valuemax": String(rows.length),
    "aria-valuenow": "1",
  });
  host.append(
    make(
      "figure",
      { class: "chart", id: "chart-heat", "aria-label": "Verdicts over time" },
      make("figcaption", {}, head),
      make(
        "p",
        { class: "names always" },
        swatch("ex_hard", "all wrong"),
        swatch("ex_easy", "all right"),
        swatch("ink", "mixed: signal"),
      ),
      plot,
      readout,
      make("p", { class: "note plain" }, PLAIN),
      rowsTable(spec),
    ),
  );
  let at = null,
    tops = [],
    mark = null;

  function redraw() {
    const width = Math.floor(plot.clientWidth);
    if (!width) return;
    const narrow = width < NARROW + 100,
      left = 4,
      right = width - (narrow ? 4 : 20 + Math.max(...spec.sections.map((section) => wide(caption(section)))));
    const toX = (step) => left + ((step - 1) / spec.steps) * (right - left);
    const block = Math.max((right - left) / spec.steps, 2.5);
    const svg = draw("svg", {
      role: "img",
      "aria-label": spec.sections.map((section) => `${section.count} ${section.text}`).join("; "),
    });
    let y = narrow ? SECTION : 6;
    tops = [];
    for (const section of spec.sections) {
      const start = y;
      for (const row of section.rows) {
        tops.push(y);
        row.cells.forEach(([step, verdict, , , accepted], which) => {
          const until = which + 1 < row.cells.length ? toX(row.cells[which + 1][0]) : right;
          svg.append(
            draw("rect", {
              class: `after ${verdict} ${accepted ? "taken" : ""}`,
              x: toX(step),
              y,
              width: Math.max(until - toX(step), 0),
              height: ROW,
            }),
          );
          svg.append(draw("rect", { class: `cell ${verdict}`, x: toX(step), y, width: block, height: ROW }));
        });
        y += ROW;
      }
      svg.append(
        narrow
          ? draw("text", { class: "tick", x: left, y: start - 6 }, caption(section))
          : draw("text", { class: "tick", x: right + 12, y: start + 9 }, caption(section)),
      );
      y = Math.max(y, start + (narrow ? 0 : 12)) + (narrow ? SECTION : 8);
    }
    const height = y + 34 - (narrow ? SECTION : 8);
    for (const step of ticks(1, spec.steps, narrow ? 3 : 6).filter(Number.isInteger)) {
      svg.append(draw("text", { class: "tick", x: toX(step), y: height - 18, "text-anchor": "middle" }, String(step)));
    }
    svg.append(draw("text", { class: "axis", x: right, y: height - 3, "text-anchor": "end" }, "step"));
    mark = draw("rect", { class: "row", x: left - 3, width: right - left + 6, height: ROW + 4, visibility: "hidden" });
    svg.append(mark);
    for (const [name, value] of Object.entries({ width, height, viewBox: `0 0 ${width} ${height}` }))
      svg.setAttribute(name, value);
    plot.replaceChildren(svg, cursor);
    go(null);
  }

  function go(to) {
    at = to === null ? null : Math.max(0, Math.min(rows.length - 1, to));
    mark.setAttribute("visibility", at === null ? "hidden" : "visible");
    if (at === null) {
      readout.replaceChildren(
        "Point at a row to read a query’s draws",
        open ? "; click to see an episode of it." : ".",
      );
      return;
    }
    mark.setAttribute("y", tops[at] - 2);
    const parts = [
      make("span", { class: "place" }, rows[at].query),
      ...rows[at].cells.map((cell) => swatch(tone(cell[1]), cellText(cell))),
    ];
    readout.replaceChildren(...parts);
    cursor.setAttribute("aria-valuenow", String(at + 1));
    cursor.setAttribute("aria-valuetext", parts.map((part) => part.textContent).join(", "));
  }

  const keys = {
    ArrowUp: -1,
    ArrowDown: 1,
    ArrowLeft: -1,
    ArrowRight: 1,
    PageUp: -20,
    PageDown: 20,
    Home: -1e9,
    End: 1e9,
  };
  cursor.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && at !== null) open(rows[at].query);
    if (!(event.key in keys)) return;
    event.preventDefault();
    go(at === null ? 0 : at + keys[event.key]);
  });
  cursor.addEventListener("pointermove", (event) =>
    go(
      closest(
        tops.map((top) => top + ROW / 2),
        event.clientY - cursor.getBoundingClientRect().top,
      ),
    ),
  );
  cursor.addEventListener("pointerleave", () => {
    if (document.activeElement !== cursor) go(null);
  });
  cursor.addEventListener("click", () => {
    if (at !== null) open(rows[at].query);
  });
  cursor.addEventListener("blur", () => go(null));
  watch(plot, redraw);
}

function caption(section) {
  return `${section.text}: ${section.count.toLocaleString("en")}`;
}

function tone(verdict) {
  return { hard: "ex_hard", easy: "ex_easy", signal: "ink" }[verdict] || "quiet";
}

function cellText([step, verdict, right, valid, accepted]) {
  const score = right === null || right === undefined ? "" : ` ${right}/${valid}`;
  return `step ${step} ${VERDICTS[verdict] || verdict}${score}${accepted ? ", accepted" : ""}`;
}

function rowsTable(spec) {
  const details = make(
    "details",
    { class: "numbers" },
    make("summary", {}, "Numbers", make("span", { class: "away" }, " of verdicts over time")),
  );
  details.addEventListener("toggle", () => {
    if (!details.open || details.children.length > 1) return;
    const rows = spec.sections.flatMap((section) =>
      section.rows.map((row) => [row.query, section.text, row.cells.map(cellText).join("; ")]),
    );
    details.append(grid("Verdicts over time", ["query", "what became of it", "draws"], rows));
  });
  return details;
}
