// The episodes: a list of groups to choose from, and the chosen group's samples, turn by turn and token by token.

function reader(host, data) {
  if (!data.groups.length) {
    host.replaceChildren(make("p", { class: "note wide" }, data.rule));
    return { open: () => false };
  }
  const state = { kind: "all", words: "", group: null, sample: 0, shade: 0 };
  const list = make("ul", { class: "groups" });
  const count = make("p", { class: "note", "aria-live": "polite" });
  const detail = make("article", { class: "group", tabindex: "-1", "aria-label": "The chosen group" });
  const kinds = ["all", ...Object.keys(data.kinds)];
  const words = kinds.map((kind) =>
    kind === "all"
      ? `all ${data.groups.length}`
      : `${data.kinds[kind]} ${data.shown[kind]} of ${data.counts[kind].toLocaleString("en")}`,
  );
  const filter = choice("Which groups", words, 0, (at) => {
    state.kind = kinds[at];
    refill();
  });
  const search = make("input", {
    type: "search",
    placeholder: "Find in questions, answers and turns",
    "aria-label": "Find in questions, answers and turns",
    oninput: () => {
      state.words = search.value.toLowerCase();
      refill();
    },
  });
  host.replaceChildren(
    make("p", { class: "note wide" }, data.rule),
    make("div", { class: "filters" }, filter, search),
    make("div", { class: "reader" }, make("div", { class: "side" }, count, list), detail),
  );

  function refill() {
    const found = data.groups.filter(
      (group) =>
        (state.kind === "all" || group.kinds.includes(state.kind)) &&
        (!state.words || said(group).includes(state.words)),
    );
    count.textContent = found.length
      ? plural(found.length, "group")
      : "No group is like that; choose another filter.";
    list.replaceChildren(...found.map((group) => make("li", {}, entry(group))));
    if (!found.includes(state.group)) pick(found[0] || null);
  }

  function entry(group) {
    const button = make(
      "button",
      {
        type: "button",
        "aria-current": group === state.group ? "true" : null,
        onclick: () => {
          pick(group);
          if (matchMedia("(max-width: 800px)").matches) detail.scrollIntoView();
          detail.focus({ preventScroll: true });
        },
      },
      make("span", { class: "meta" }, make("span", {}, `step ${group.step}`), verdict(group)),
      make("span", { class: "question" }, group.question || group.query),
      dots(group),
    );
    group.button = button;
    return button;
  }

  function pick(group) {
    if (state.group && state.group.button) state.group.button.removeAttribute("aria-current");
    state.group = group;
    state.sample = group
      ? Math.max(
          0,
          group.samples.findIndex(
            (sample) => sample.reward === Math.max(...group.samples.map((one) => one.reward || 0)),
          ),
        )
      : 0;
    if (group && group.button) group.button.setAttribute("aria-current", "true");
    show();
  }

  function show() {
    const group = state.group;
    if (!group) {
      detail.replaceChildren();
      return;
    }
    const tabs = make("div", { class: "tabs", role: "tablist", "aria-label": "Samples of this query" });
    const panel = make("div", { class: "episode", role: "tabpanel", id: "episode", tabindex: "0" });
    group.samples.forEach((sample, at) =>
      tabs.append(
        make(
          "button",
          {
            type: "button",
            role: "tab",
            id: `sample-${at}`,
            "aria-controls": "episode",
            onclick: () => turn(at),
            onkeydown: (event) => {
              const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: group.samples.length - 1 }[event.key];
              if (to === undefined || !group.samples[to]) return;
              event.preventDefault();
              turn(to);
              tabs.children[to].focus();
            },
          },
          make("span", { class: `mark ${worth(sample)}`, "aria-hidden": "true" }),
          `${at + 1}`,
          make("span", { class: "away" }, `, reward ${reward(sample)}`),
        ),
      ),
    );
    function turn(to) {
      state.sample = to;
      [...tabs.children].forEach((tab, at) => {
        tab.setAttribute("aria-selected", String(at === to));
        tab.tabIndex = at === to ? 0 : -1;
      });
      panel.setAttribute("aria-labelledby", `sample-${to}`);
      panel.replaceChildren(...episode(group, group.samples[to], state));
    }
    detail.replaceChildren(
      make(
        "p",
        { class: "meta" },
        `step ${group.step} · `,
        verdict(group),
        group.origin ? ` · ${ORIGINS[group.origin] || group.origin}` : "",
      ),
      make("h3", {}, group.question || group.query),
      make("p", { class: "golds" }, "Right answers: ", (group.golds || []).join(" · ") || "–"),
      past(group),
      tabs,
      panel,
    );
    turn(state.sample);
  }

  // Each draw of the group's query so far and later; those that are on this page are links to them.
  function past(group) {
    const steps = group.history.map((cell) => {
      const there = data.groups.find((other) => other.query === group.query && other.step === cell[0]);
      const here = cell[0] === group.step;
      const text = swatch(tone(cell[1]), cellText(cell));
      return make(
        "li",
        { "aria-current": here ? "step" : null },
        there && !here
          ? make(
              "button",
              {
                type: "button",
                onclick: () => {
                  pick(there);
                  detail.focus({ preventScroll: true });
                },
              },
              text,
            )
          : text,
      );
    });
    return make("ol", { class: "past", "aria-label": "Every draw of this query" }, steps);
  }

  pick(data.groups[data.opens]);
  refill();
  if (state.group) list.scrollTop = state.group.button.offsetTop - list.offsetTop;
  return {
    open(query) {
      const found = data.groups.filter((group) => group.query === query);
      if (!found.length) return false;
      pick(found[0]);
      one("#episodes").scrollIntoView();
      detail.focus({ preventScroll: true });
      return true;
    },
  };
}

function said(group) {
  if (!group.said)
    group.said = JSON.stringify([
      group.question,
      group.query,
      group.golds,
      group.samples.map((sample) => [
        sample.answer,
        sample.turns.map((turn) => (turn.text === undefined ? turn.pieces.join("") : turn.text)),
      ]),
    ]).toLowerCase();
  return group.said;
}

function verdict(group) {
  const more = [
    group.accepted ? "accepted" : null,
    group.kinds.includes("flipped") ? "flipped" : null,
    group.kinds.includes("fault") && group.verdict !== "fault" ? "with faults" : null,
  ].filter(Boolean);
  return swatch(tone(group.verdict), [VERDICTS[group.verdict] || group.verdict, ...more].join(", "));
}

function worth(sample) {
  return sample.fault ? "bad" : sample.reward >= 1 ? "full" : sample.reward > 0 ? "part" : "none";
}

function reward(sample) {
  return sample.fault
    ? "none, a fault"
    : written(sample.reward, "share")
        .replace(/^1\.00$/, "1")
        .replace(/^\.000$/, "0");
}

function dots(group) {
  return make(
    "span",
    { class: "dots", role: "img", "aria-label": `rewards ${group.samples.map(reward).join(", ")}` },
    group.samples.map((sample) => make("i", { class: `mark ${worth(sample)}` })),
  );
}
