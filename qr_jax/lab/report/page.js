// Puts the page together from the two JSON values in it.

(function () {
  const themes = ["auto", "light", "dark"];
  const button = one("#theme");
  function remembered(value) {
    try {
      if (value) localStorage.setItem("theme", value);
      return localStorage.getItem("theme");
    } catch (_) {
      return value;
    } // a file may have no storage
  }
  function setTheme(theme) {
    document.documentElement.dataset.theme = theme;
    button.textContent = `Theme: ${theme}`;
  }
  setTheme(themes.includes(remembered()) ? remembered() : "auto");
  button.addEventListener("click", () => {
    const next = themes[(themes.indexOf(document.documentElement.dataset.theme) + 1) % themes.length];
    remembered(next);
    setTheme(next);
  });

  let shown = null;

  function overview(run) {
    one("#status").textContent = run.status;
    one("#facts").replaceChildren(
      ...run.facts.map((fact) =>
        make(
          "div",
          {},
          make("dt", {}, fact.label),
          make("dd", {}, fact.value),
          make("dd", { class: "beside" }, fact.beside),
        ),
      ),
    );
    for (const host of document.querySelectorAll("[data-charts]")) {
      for (const id of host.dataset.charts.split(" ")) if (run.charts[id]) chart(host, run.charts[id]);
    }
    one("#chance").replaceChildren(...beside(run));
    one("#beside").replaceChildren(...(run.beside || []).map((text) => make("p", { class: "note wide" }, text)));
    const place = one("#heat");
    if (run.heat) heat(place, run.heat, (query) => shown && shown.open(query));
    if (run.settings.length)
      one("#config").append(
        make(
          "details",
          {},
          make("summary", {}, plural(run.settings.length, "setting")),
          grid("Settings", ["setting", "value"], run.settings),
        ),
      );
    one("#tools").hidden = !document.querySelector(".plot");
    for (const section of document.querySelectorAll("main > section")) {
      const empty = !section.querySelector(".chart, #config > *, #beside > *") && section.id !== "episodes";
      section.hidden = one(`nav a[href="#${section.id}"]`).hidden = Boolean(empty);
    }
    one("#foot").textContent = run.unread
      ? `${plural(run.unread, "line")} of the run’s files could not be read and ${run.unread === 1 ? "is" : "are"} left out.`
      : "";
  }

  function tools() {
    const smooth = choice("Smoothing of the lines", ["not smoothed", "smoothed", "more"], smoothing.level, (at) => {
      smoothing.level = at;
      for (const figure of document.querySelectorAll("figure.chart")) if (figure.redraw) figure.redraw();
    });
    const how = "Draw the mouse across a chart, or double-click it, to look closer.";
    one("#tools").append(smooth, make("p", { class: "note" }, how));
  }

  function beside(run) {
    if (!run.null) return [];
    return [make("h3", {}, "Beside chance alone"), make("p", { class: "note wide" }, run.null)];
  }

  tools();
  overview(JSON.parse(one("#run-data").textContent));
  // The episodes are most of the page: they are parsed once the charts are painted.
  requestAnimationFrame(() =>
    setTimeout(() => {
      const episodes = JSON.parse(one("#episodes-data").textContent);
      if (episodes) shown = reader(one("#reader"), episodes);
    }, 0),
  );
})();
