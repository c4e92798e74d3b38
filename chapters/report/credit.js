// One score becomes a credit for every token, live: the rewards, the TD errors and the advantages of
// kittenllm/ppo.py, computed again for other settings; and what REINFORCE and GRPO would do instead.
"use strict";

// reward_t = -price * (log p - log ref), and the score on the last token       (kl_shaped_rewards)
function shapedRewards(score, kl, price) {
  return kl.map((nats, t) => -price * nats + (t === kl.length - 1 ? score : 0));
}

// delta_t = reward_t + gamma * value_{t+1} - value_t;  A_t = delta_t + gamma * lam * A_{t+1}   (gae)
function creditByGae(rewards, values, gamma, lam) {
  const deltas = rewards.map((reward, t) => reward + gamma * (values[t + 1] ?? 0) - values[t]);
  const advantages = [...deltas];
  for (let t = deltas.length - 2; t >= 0; t--) advantages[t] += gamma * lam * advantages[t + 1];
  return { deltas, advantages };
}

// One reply under one method -> {rewards, guesses, deltas, advantages}; null where there is none.
function creditOf(reply, method, settings) {
  const { gamma, lam, price, siblings } = settings;
  const rewards = shapedRewards(reply.score, reply.kl, method === "grpo" ? 0 : price);
  const none = reply.kl.map(() => null);
  if (method === "grpo") {
    const advantages = reply.kl.map(() => reply.score - siblings);
    return { rewards, guesses: none, deltas: none, advantages };
  }
  const zeros = reply.kl.map(() => 0);
  if (method === "reinforce") {
    const { advantages } = creditByGae(rewards, zeros, gamma, 1);
    return { rewards, guesses: none, deltas: none, advantages };
  }
  return { rewards, guesses: reply.values, ...creditByGae(rewards, reply.values, gamma, lam) };
}

function startCredit(box, content) {
  const { settings, replies } = content;
  const run = { gamma: settings.gamma, lam: settings.lam, price: settings.kl_coef };
  run.siblings = settings.mean_score;
  let reply = replies[0];
  let method = "ppo";
  const question = make("p", { class: "asked" });
  const explain = make("p", { class: "small" });
  const body = make("tbody");
  const head = make("tr", {}, ...SAY.columns.map((name) => make("th", { scope: "col" }, name)));
  const table = make("table", { class: "numbers" }, make("thead", {}, head), body);

  const sliders = {};
  const slider = (key, low, high, step) => {
    const input = make("input", { type: "range", min: low, max: high, step, value: run[key] });
    const output = make("output");
    input.addEventListener("input", draw);
    sliders[key] = { input, output };
    return make("label", {}, SAY[key], " ", input, " ", output);
  };
  const choices = (label, names, choose) => {
    const buttons = names.map((name, place) => {
      const press = () => {
        buttons.forEach((other, i) => other.setAttribute("aria-pressed", String(i === place)));
        choose(place);
        draw();
      };
      const pressed = String(place === 0);
      return make("button", { type: "button", "aria-pressed": pressed, onclick: press }, name);
    });
    return make("p", { class: "choices" }, make("span", {}, label), ...buttons);
  };
  const reset = () => {
    for (const [key, { input }] of Object.entries(sliders)) input.value = run[key];
    draw();
  };

  function draw() {
    const now = {};
    for (const [key, { input, output }] of Object.entries(sliders)) {
      now[key] = Number(input.value);
      output.textContent = now[key].toFixed(2);
    }
    const used = { ppo: ["gamma", "lam", "price"], reinforce: ["gamma", "price"], grpo: ["siblings"] };
    for (const [key, { input }] of Object.entries(sliders)) {
      input.parentNode.hidden = !used[method].includes(key);
    }
    const asked = make("span", { translate: "no" }, safe(reply.question));
    tell(question, asked, " ", filled(SAY.score_of, { score: reply.score.toFixed(2) }));
    tell(explain, SAY.explain[method]);
    const credit = creditOf(reply, method, now);
    const columns = [credit.rewards, credit.guesses, credit.deltas, credit.advantages];
    const looks = columns.map(heats);
    body.replaceChildren(
      ...reply.tokens.map((token, t) => {
        const cells = columns.map((column, i) =>
          make("td", { class: looks[i][t] }, column[t] === null ? "\u2013" : signed(column[t])),
        );
        return make("tr", {}, make("th", { scope: "row", translate: "no" }, seen(token)), ...cells);
      }),
    );
  }

  box.replaceChildren(
    choices(SAY.choose_reply, replies.map((_, place) => `${place + 1}`), (i) => (reply = replies[i])),
    choices(SAY.method, Object.values(SAY.methods), (i) => (method = Object.keys(SAY.methods)[i])),
    make(
      "p",
      { class: "dice" },
      slider("gamma", 0, 1, 0.01),
      slider("lam", 0, 1, 0.01),
      slider("price", 0, 1, 0.01),
      slider("siblings", -3, 3, 0.05),
      make("button", { type: "button", class: "plain", onclick: reset }, SAY.as_run),
    ),
    question,
    make("div", { class: "scroll", tabindex: "0" }, table),
    explain,
  );
  box.className = "creditlive";
  document.getElementById("credit-static").hidden = true;
  draw();
}

// A class of the style sheet for every value: n5 ... n1, nothing, p1 ... p5.
function heats(values) {
  const largest = Math.max(...values.map((value) => Math.abs(value ?? 0))) || 1;
  const levels = values.map((value) => Math.round((5 * (value ?? 0)) / largest));
  return levels.map((level) => (level === 0 ? "" : `${level > 0 ? "p" : "n"}${Math.abs(level)}`));
}

function signed(value) {
  const digits = Math.abs(value).toFixed(2);
  return (value < 0 && Number(digits) ? "\u2212" : "+") + digits;
}

// Is the file of the run what the sliders need? Older runs have no guesses in it.
function isCredit(content) {
  const numbers = (list, n) => Array.isArray(list) && list.length === n && list.every(Number.isFinite);
  const whole = ({ tokens, kl, values, score, question }) =>
    Array.isArray(tokens) &&
    tokens.every((token) => typeof token === "string") &&
    typeof question === "string" &&
    Number.isFinite(score) &&
    numbers(kl, tokens.length) &&
    numbers(values, tokens.length);
  const { settings, replies } = content ?? {};
  const keys = ["gamma", "lam", "kl_coef", "mean_score"];
  if (!settings || !keys.every((key) => Number.isFinite(settings[key]))) return false;
  return Array.isArray(replies) && replies.length > 0 && replies.every((reply) => reply && whole(reply));
}

{
  const box = document.getElementById("credit-box");
  if (box && isCredit(DATA.credit)) startCredit(box, DATA.credit);
}
