// One episode: its facts, and its turns in colour by who wrote them, read token by token.

const SHADES = ["by author", "by surprise", "by advantage"];

function episode(group, sample, state) {
  const facts = [
    ["answer", sample.answer === null ? "none" : sample.answer],
    ["reward", reward(sample)],
    ["advantage", sample.trained ? advantageText(sample.advantage) : "0, not trained on"],
    ["ended", sample.fault ? `fault: ${sample.fault}` : sample.stop],
    ["sampled", plural(sample.tokens, "token")],
    ["context", plural(sample.context_tokens, "token")],
  ];
  const turns = make("div", { class: "turns" });
  const readout = make("p", { class: "readout token", "aria-live": "polite" });
  let number = -1;
  for (const turn of sample.turns) {
    if (turn.author === "model") number += 1;
    turns.append(
      turn.author === "model" ? written_by_model(turn, number, group, sample, readout) : shown_by_environment(turn),
    );
  }
  const known = sample.turns.some((turn) => turn.pieces);
  const shade = known
    ? choice("Shade the tokens", SHADES, state.shade, (at) => {
        state.shade = at;
        turns.dataset.shade = SHADES[at];
      })
    : null;
  turns.dataset.shade = SHADES[state.shade];
  readout.textContent = known
    ? "Point at a token, or move to a turn and use the arrow keys."
    : "This run kept no tokens.";
  return [
    make(
      "dl",
      { class: "facts" },
      facts.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))),
    ),
    shade,
    readout,
    turns,
    known ? tokenTable(group, sample) : null,
  ].filter(Boolean);
}

function advantageText(advantage) {
  const text = (value) => (value > 0 ? "+" : "") + value.toFixed(3).replace("-", "−");
  return advantage === null || advantage === undefined
    ? "–"
    : Array.isArray(advantage)
      ? advantage.map(text).join(", ")
      : text(advantage);
}

function advantageOf(sample, number) {
  return Array.isArray(sample.advantage) ? sample.advantage[number] : sample.advantage;
}

// What is said of one sampled token.
function tokenText(piece, logp, number, group, sample) {
  const chance = Math.exp(logp);
  const why = sample.fault ? "a fault" : group.accepted ? "cut off" : "group not accepted";
  return [
    `“${visible(piece)}”`,
    `log p ${logp > -0.0005 ? "0" : logp.toFixed(3).replace("-", "−")}`,
    `p ${chance >= 0.9995 ? "1.00" : chance < 0.001 ? power(chance) : written(chance, "share")}`,
    `advantage ${sample.trained ? advantageText(advantageOf(sample, number)) : "0"}`,
    sample.trained ? "in the loss" : `not in the loss: ${why}`,
  ];
}

function visible(piece) {
  return piece.replace(/\n/g, "↵").replace(/\t/g, "⇥");
}

function written_by_model(turn, number, group, sample, readout) {
  const label = make("p", { class: "who" }, "model");
  if (!turn.pieces || !turn.pieces.length)
    return make(
      "div",
      { class: "turn model", role: "group", "aria-label": `model, turn ${number + 1}` },
      label,
      make("p", { class: "text" }, turn.text),
    );
  const value = sample.trained ? advantageOf(sample, number) : 0;
  const pieces = turn.pieces.map((piece, at) => {
    const token = make("span", { class: "token" }, piece);
    token.style.setProperty("--surprise", Math.min(1, Math.sqrt(-turn.logp[at] / 4)).toFixed(3));
    token.style.setProperty("--gain", Math.min(1, Math.abs(value || 0) / 2).toFixed(3));
    if (value) token.dataset.sign = value > 0 ? "up" : "down";
    return token;
  });
  const text = make(
    "p",
    { class: "text tokens", tabindex: "0", "aria-description": "arrow keys read token by token" },
    pieces,
  );
  let at = -1;
  function go(to) {
    if (at >= 0) pieces[at].classList.remove("here");
    at = to;
    if (at < 0) return;
    pieces[at].classList.add("here");
    const [token, ...rest] = tokenText(turn.pieces[at], turn.logp[at], number, group, sample);
    readout.replaceChildren(make("b", {}, token), ...rest.map((part) => make("span", {}, part)));
  }
  text.addEventListener("pointerover", (event) => go(pieces.indexOf(event.target)));
  text.addEventListener("pointerleave", () => {
    if (document.activeElement !== text) go(-1);
  });
  text.addEventListener("blur", () => go(-1));
  text.addEventListener("keydown", (event) => {
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: pieces.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    go(Math.max(0, Math.min(pieces.length - 1, to)));
  });
  return make("div", { class: "turn model", role: "group", "aria-label": `model, turn ${number + 1}` }, label, text);
}

function shown_by_environment(turn) {
  const found = (turn.passages || []).map(
    (ids, at) => `${(turn.queries || [])[at] || "search"} → ${ids.length ? ids.join(", ") : "nothing found"}`,
  );
  return make(
    "div",
    { class: "turn env", role: "group", "aria-label": "environment, not in the loss" },
    make("p", { class: "who" }, "environment"),
    make(
      "div",
      {},
      make("p", { class: "text" }, turn.text.trim()),
      found.length ? make("p", { class: "found" }, found.join(" · ")) : null,
    ),
  );
}

function tokenTable(group, sample) {
  const details = make("details", { class: "numbers" }, make("summary", {}, "Tokens as a table"));
  details.addEventListener("toggle", () => {
    if (!details.open || details.children.length > 1) return;
    const rows = [];
    let number = -1;
    for (const turn of sample.turns) {
      if (turn.author !== "model") continue;
      number += 1;
      (turn.pieces || []).forEach((piece, at) =>
        rows.push([String(number + 1), ...tokenText(piece, turn.logp[at], number, group, sample)]),
      );
    }
    details.append(
      grid("Sampled tokens", ["turn", "token", "log-probability", "probability", "advantage", "mask"], rows),
    );
  });
  return details;
}
