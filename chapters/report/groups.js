// The GRPO inspector: a few groups of some rounds; who earned what, and which tokens the update moved.
"use strict";

const FULL_COLOUR = 60; // hundredths of a nat

function startGroups(box, { pieces, rounds }) {
  const output = make("output");
  const groups = make("div");
  const slider = make("input", { type: "range", min: 0, max: rounds.length - 1, step: 1, value: 0 });

  const reply = ({ reward, advantage, right, ended, ids, logprobs, change }) => {
    const verdict = right ? SAY.right : ended ? SAY.wrong : SAY.cut_off;
    const words = ids.map((id, t) => {
      const level = Math.max(-5, Math.min(5, Math.round((5 * change[t]) / FULL_COLOUR)));
      const look = level === 0 ? "" : `${level > 0 ? "p" : "n"}${Math.abs(level)}`;
      const before = logprobs ? `${signed(logprobs[t] / 100)} ` : ""; // older runs did not log it
      const title = `log p ${before}${signed(change[t] / 100)}`;
      return make("span", { class: `moved ${look}`, title }, safe(pieces[id] ?? `${id}`));
    });
    const numbers = { reward: reward.toFixed(1), advantage: signed(advantage), n: ids.length };
    return make(
      "details",
      { class: "sibling" },
      make(
        "summary",
        {},
        make("span", { class: right ? "good verdict" : "bad verdict" }, verdict),
        " ",
        filled(SAY.reply_line, numbers),
      ),
      make("p", { class: "thoughts", translate: "no" }, ...words),
    );
  };
  const group = ({ prompt, replies }) => {
    const rewards = replies.map((one) => one.reward);
    const mean = rewards.reduce((a, b) => a + b, 0) / rewards.length;
    const silent = rewards.every((reward) => reward === rewards[0]);
    const line = silent ? SAY.no_signal : filled(SAY.group_mean, { mean: mean.toFixed(2) });
    const shown = replies.map(reply);
    const best = rewards.indexOf(Math.max(...rewards));
    if (!silent) shown[best].open = true;
    const asked = make("span", { translate: "no" }, safe(prompt));
    const title = make("p", { class: "asked" }, asked, make("span", { class: "small" }, "  ", line));
    return make("div", { class: silent ? "group silent" : "group" }, title, ...shown);
  };
  const draw = () => {
    const { step, groups: found } = rounds[Number(slider.value)];
    tell(output, filled(SAY.step_of, { step }));
    groups.replaceChildren(...found.map(group));
  };
  slider.addEventListener("input", draw);
  box.replaceChildren(make("p", { class: "dice" }, make("label", {}, slider, " ", output)), groups);
  draw();
}

// Is the file of the run what this view needs?
function areGroups(content) {
  const good = ({ reward, advantage, ids, logprobs, change }) =>
    Number.isFinite(reward) &&
    Number.isFinite(advantage) &&
    Array.isArray(ids) &&
    Array.isArray(change) &&
    ids.length === change.length &&
    change.every(Number.isFinite) &&
    (!logprobs || (logprobs.length === ids.length && logprobs.every?.(Number.isFinite)));
  const round = ({ step, groups }) =>
    Number.isFinite(step) &&
    Array.isArray(groups) &&
    groups.every(
      (group) =>
        group &&
        typeof group.prompt === "string" &&
        Array.isArray(group.replies) &&
        group.replies.length > 0 &&
        group.replies.every((one) => one && good(one)),
    );
  const { pieces, rounds } = content ?? {};
  if (!pieces || !Array.isArray(rounds) || rounds.length === 0) return false;
  return Object.values(pieces).every((p) => typeof p === "string") && rounds.every((r) => r && round(r));
}

{
  const box = document.getElementById("groups-box");
  if (box && areGroups(DATA.groups)) startGroups(box, DATA.groups);
}
