// Puts the page of a comparison together from the JSON value in it.

(function () {
  const data = JSON.parse(one("#data").textContent);
  const host = make("div", { class: "grid" });
  one("#main").append(make("section", {}, make("h2", {}, "Learning"), host));
  chart(host, data.chart);
  for (const [title, head, rows] of data.tables)
    one("#main").append(make("section", {}, make("h2", {}, title), grid(title, head, rows)));
  one("#foot").textContent = data.notes.join(" ");
})();
