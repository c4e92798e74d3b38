// Talk to them: one box, and the kitten of every stage answers while it thinks, side by side. Each
// token tells what else could have been said there, and the kitten goes on from another choice.
"use strict";

const TALK_TICK = "\u2713";

class Card {
  constructor(kitten) {
    this.kitten = kitten;
    this.run = 0; // a new question makes the answers of an old one unwelcome
    this.reads = make("div", { class: "tokens", translate: "no" });
    this.said = make("div", { class: "reply", tabindex: "0", onkeydown: (e) => this.step(e) });
    this.said.addEventListener("click", (event) => this.choose(event.target.closest(".word")));
    this.ten = make("div", { class: "ten", hidden: true });
    this.status = make("p", { class: "small status" }, SAY.silent);
    const about = make("details", { class: "more" }, make("summary", {}, SAY.reads), this.reads);
    const stage = make("small", {}, " ", SAY.stages[kitten.stage] ?? "");
    const name = make("h4", {}, kitten.name, stage);
    this.element = make("article", { class: "card" }, name, this.said, this.status, this.ten, about);
  }

  ask(text, dice) {
    this.dice = dice;
    this.element.classList.add("spoke");
    this.prompt = this.kitten.prompt(text);
    const pieces = this.prompt.map((id) => tokenChip(this.kitten.tokenizer, id, "read"));
    this.reads.replaceChildren(...pieces);
    this.tokens = []; // of the reply: {token, likeliest}
    return this.goOn();
  }

  // Draw one token after another, until the kitten stops or there is no room left.
  async goOn() {
    const run = ++this.run;
    const { stops, context, most } = this.kitten;
    this.show();
    this.ten.hidden = true;
    tell(this.status, filled(SAY.speaking, { n: this.tokens.length }));
    let end = this.prompt.length + 16 > context ? SAY.too_long : null;
    const started = performance.now();
    const before = this.tokens.length;
    if (stops.includes(this.tokens.at(-1)?.token)) end = SAY.stopped;
    while (!end) {
      const ids = [...this.prompt, ...this.tokens.map(({ token }) => token)];
      const answer = await this.kitten.next(ids, this.dice.temperature, this.dice.seed);
      if (run !== this.run) return;
      this.tokens.push(answer);
      this.append(this.tokens.length - 1);
      if (stops.includes(answer.token)) end = SAY.stopped;
      else if (this.tokens.length >= most || ids.length + 1 >= context) end = SAY.runs_on;
      tell(this.status, filled(SAY.speaking, { n: this.tokens.length }));
    }
    const seconds = (performance.now() - started) / 1000;
    const speed = Math.round((this.tokens.length - before) / Math.max(seconds, 0.001));
    tell(this.status, filled(end, { n: this.tokens.length, speed }));
  }

  stop() {
    this.run++;
  }

  // ---------------------------------------------------------------------------- what was said

  show() {
    this.said.replaceChildren();
    this.thought = null;
    this.tokens.forEach((_, place) => this.append(place));
  }

  // Put one token on the page; what is thought goes into a fold.
  append(place) {
    const { tokenizer } = this.kitten;
    const { token, other } = this.tokens[place];
    const name = tokenizer.names.get(token);
    if (name === "<think>") {
      this.thought = make("details", { class: "thought" }, make("summary", {}, SAY.thinks));
      this.waits = 0;
      this.said.append(this.thought);
    }
    const piece = pieceOf(tokenizer, token);
    const look = [name && "special", piece === " wait" && "wait", other && "other"];
    const word = make("span", { class: ["word", ...look.filter(Boolean)].join(" "), translate: "no" });
    word.dataset.place = place;
    word.textContent = name ?? safe(piece);
    (this.thought ?? this.said).append(word);
    if (this.thought && piece === " wait") this.waits++;
    if (this.thought) {
      const text = this.waits ? filled(SAY.waited, { n: this.waits }) : SAY.thinks;
      tell(this.thought.firstChild, text);
    }
    if (name === "</think>") this.thought = null;
  }

  // ------------------------------------------------------------------- what else could be said

  step(event) {
    const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!move || event.target !== this.said) return;
    event.preventDefault();
    const words = [...this.said.querySelectorAll(".word")];
    const now = words.findIndex((word) => word.classList.contains("chosen"));
    this.choose(words[Math.min(Math.max(now + move, 0), words.length - 1)]);
  }

  choose(word) {
    if (!word) return;
    for (const other of this.said.querySelectorAll(".chosen")) other.classList.remove("chosen");
    word.classList.add("chosen");
    const place = Number(word.dataset.place);
    const { token, likeliest } = this.tokens[place];
    const ten = likeliest.slice(0, 10);
    const rows = ten.map(({ id, p }) => this.option(place, id, p, id === token));
    const known = ten.some(({ id }) => id === token);
    const title = make("p", { class: "small" }, SAY.ten, known ? "" : " ", known ? "" : SAY.rare);
    const close = make("button", { type: "button", class: "plain", onclick: () => (this.ten.hidden = true) }, SAY.close);
    this.ten.replaceChildren(title, ...rows, make("p", { class: "small" }, SAY.branch, " ", close));
    this.ten.hidden = false;
  }

  option(place, id, p, taken) {
    const bar = make("span", { class: "share" });
    bar.style.width = `${(100 * p).toFixed(1)}%`;
    const piece = make("span", { class: "piece", translate: "no" }, seen(pieceOf(this.kitten.tokenizer, id)));
    const percent = p < 0.0005 ? "< 0.1" : (100 * p).toFixed(p < 0.1 ? 1 : 0);
    const share = make("span", { class: "percent" }, `${percent} %`);
    const row = make("button", { type: "button", class: taken ? "option taken" : "option" });
    row.append(bar, piece, share, taken ? TALK_TICK : "");
    row.addEventListener("click", () => {
      const { likeliest } = this.tokens[place];
      this.tokens = [...this.tokens.slice(0, place), { token: id, likeliest, other: !taken }];
      this.goOn();
    });
    return row;
  }
}

// A coloured token with its id as a title.
function tokenChip(tokenizer, id, look) {
  const special = tokenizer.names.has(id) ? " special" : "";
  return make("span", { class: `token ${look}${special}`, title: `${id}` }, seen(pieceOf(tokenizer, id)));
}

function startTalk(box) {
  const cards = KITTENS.map((kitten) => new Card(kitten));
  const names = { "aria-label": SAY.box, placeholder: SAY.box };
  const input = make("textarea", { rows: "2", maxlength: "600", ...names });
  input.value = DATA.questions[0];
  const temperature = make("input", { type: "range", min: "0", max: "1.5", step: "0.1", value: "0.5" });
  const degrees = make("output", {}, "0.5");
  const seed = make("input", { type: "number", min: "0", max: "99999", value: "1" });
  const everyone = make("input", { type: "checkbox" });
  temperature.addEventListener("input", () => (degrees.textContent = temperature.value));

  const isPuzzle = (text) => /^\s*use\s+\d/i.test(text);
  const ask = () => {
    const text = input.value.trim();
    if (!text) return;
    const kind = isPuzzle(text) ? "puzzles" : "questions";
    const dice = { temperature: Number(temperature.value), seed: Number(seed.value) || 0 };
    for (const card of cards) {
      const fits = everyone.checked || ["both", kind].includes(card.kitten.answers);
      card.element.hidden = !fits;
      if (fits) card.ask(text, dice);
      else card.stop();
    }
  };
  const again = () => {
    seed.value = String((Number(seed.value) || 0) + 1);
    ask();
  };
  input.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    ask();
  });
  const suggest = (text) => 
    make("button", { type: "button", translate: "no", onclick: () => ((input.value = text), ask()) }, text);
  const row = (label, texts) =>
    make("p", { class: "choices" }, make("span", {}, label), ...texts.map(suggest));
  box.replaceChildren(
    make("div", { class: "ask" }, input, make("button", { type: "button", class: "go", onclick: ask }, SAY.ask)),
    make(
      "p",
      { class: "dice" },
      make("label", { title: SAY.temperature_help }, SAY.temperature, " ", temperature, " ", degrees),
      make("label", { title: SAY.seed_help }, SAY.seed, " ", seed),
      make("button", { type: "button", class: "plain", onclick: again, title: SAY.again_help }, SAY.again),
      make("button", { type: "button", class: "plain", onclick: () => cards.forEach((card) => card.stop()) }, SAY.stop),
      make("label", {}, everyone, " ", SAY.everyone),
    ),
    row(SAY.questions, DATA.questions),
    row(SAY.puzzles, DATA.puzzles),
    make("div", { class: "cards" }, ...cards.map((card) => card.element)),
  );
}

{
  const box = document.getElementById("talk-box");
  if (box && KITTENS.length) startTalk(box);
}
