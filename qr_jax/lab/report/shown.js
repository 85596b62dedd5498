// What of a chart is shown: the places of its x axis, its values there, smoothed or not, and what is said of them.

// The places of the x axis that are shown: all, or those from range[0] to range[1].
function ends(spec, axis, range) {
  if (range) return range;
  const own = spec.series.flatMap((series) => (series.x ? series.x[axis] : []));
  return [own.length ? 0 : Math.min(...spec.x[axis].values), Math.max(...spec.x[axis].values, ...own)];
}

// A series' values with their x, of the places that are shown.
function shownOf(spec, series, axis, range) {
  const xs = series.x ? series.x[axis] : spec.x[axis].values;
  const inside = (at) => !range || (xs[at] >= range[0] && xs[at] <= range[1]);
  return [series.values, series.low || [], series.high || []].flatMap((values) =>
    values.filter((value, at) => value !== null && inside(at)),
  );
}

// Where a series stands when the cursor is on a place of the x axis: its last own place up to there; -1: nowhere.
function indexAt(spec, series, axis, at) {
  if (!series.x) return at;
  const xs = series.x[axis],
    x = spec.x[axis].values[at];
  const found = xs.filter((own) => own <= x + 1e-9).length - 1;
  return series.style !== "points" && found === xs.length - 1 && x > xs[found] + 1e-9 ? -1 : found;
}

// How far lines are smoothed, for all charts of the page: each point is the mean of so many around it.
const smoothing = { level: 1, shares: [0, 1 / 40, 1 / 10] };

function smoothed(spec, values) {
  const most = Math.max(...spec.series.map((series) => series.values.length));
  const half = Math.floor((most * smoothing.shares[smoothing.level]) / 2 + 0.5);
  if (!half) return null;
  return values.map((value, at) => {
    const near = values.slice(Math.max(0, at - half), at + half + 1).filter((one) => one !== null);
    return value === null ? null : near.reduce((sum, one) => sum + one, 0) / near.length;
  });
}

// What the chart says at one place on its x axis: the place, then a value a series.
function reading(spec, axis, at) {
  const x = spec.x[axis];
  const place = x.words ? x.words[at] : placed(x, x.values[at]);
  const here = x.words && spec.x.length > 1 ? `${place}, ${written(x.values[at], "count")} ${x.label}` : place;
  const parts = spec.series.map((series) => {
    const own = indexAt(spec, series, axis, at);
    if (own < 0) return null;
    const value = series.values[own];
    const means = spec.smooth && !series.style ? smoothed(spec, series.values) : null;
    let more = means && value !== null ? ` (smoothed ${written(means[own], spec.unit)})` : "";
    if (series.low && series.low[own] !== null)
      more = ` (${written(series.low[own], spec.unit)}–${written(series.high[own], spec.unit)})`;
    return swatch(series.tone, `${series.name} `, make("b", {}, written(value, spec.unit)), more);
  });
  return [make("span", { class: "place" }, here), ...parts.filter(Boolean)];
}

function placed(x, value) {
  return x.label === "step" ? `step ${Math.round(value)}` : `${written(value, "count")} ${x.label}`;
}
