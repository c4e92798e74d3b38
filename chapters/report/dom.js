// What all scripts of the page share: its data, its words, elements made of text, and the kittens.
// Texts of people, models and files only ever become text nodes, never markup.
// A sentence of the page is {en, zh}: both go into the page, and the style sheet shows one of them.
"use strict";

const DATA = JSON.parse(document.getElementById("data").textContent);
const SAY = DATA.words; // all sentences that scripts show
const TOKENIZERS = DATA.tokenizers.map((state) => new Tokenizer(state));

// make("button", {class: "small", onclick: go}, SAY.ask) -> an element; strings become text
function make(name, settings = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(settings)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value?.zh) setBoth(element, key, value);
    else if (value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  tell(element, ...children);
  return element;
}

// What an element says from now on: texts, elements, and sentences in both languages.
function tell(element, ...children) {
  const spoken = ({ en, zh }) =>
    en === zh ? [en] : [make("span", { lang: "en" }, en), make("span", { lang: "zh" }, zh)];
  element.replaceChildren(...children.flatMap((child) => (child.zh ? spoken(child) : [child])));
}

// An attribute in the language of the page; the other language waits beside it (see language.js).
function setBoth(element, attribute, { en, zh }) {
  const [now, later] = document.documentElement.lang === "zh" ? [zh, en] : [en, zh];
  element.setAttribute(attribute, now);
  element.setAttribute(`data-other-${attribute}`, later);
}

// {en: "{n} tokens", ...}, {n: 3} -> {en: "3 tokens", ...}
function filled({ en, zh }, values) {
  const fill = (text) => text.replace(/\{(\w+)\}/g, (_, key) => String(values[key]));
  return { en: fill(en), zh: fill(zh) };
}

// Control, invisible and direction-changing characters as escapes.
function safe(text) {
  return text.replace(/[^\P{C}\n]|\p{Zl}|\p{Zp}/gu, (sign) => {
    return "\\u" + sign.codePointAt(0).toString(16).padStart(4, "0");
  });
}

// One token as text: its space and its line breaks can be seen, half a character as its bytes.
function pieceOf(tokenizer, id) {
  if (tokenizer.names.has(id)) return tokenizer.names.get(id);
  const bytes = new Uint8Array(tokenizer.bytes[id]);
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return [...bytes].map((byte) => "\\x" + byte.toString(16).padStart(2, "0")).join("");
  }
}

function seen(piece) {
  return safe(piece).replace(/^ /, "\u00b7").replaceAll("\n", "\u21b5");
}

// A conversation -> ids, and which of them an assistant would be trained to say.
function conversation(tokenizer, messages) {
  const ids = [];
  const trained = [];
  const add = (more, learnt) => more.forEach((id) => (ids.push(id), trained.push(learnt)));
  for (const { role, content } of messages) {
    const learnt = role === "assistant";
    add([tokenizer.special.get("<|im_start|>"), ...tokenizer.encode(role + "\n")], false);
    if (content === null) continue; // an opened turn, which the kitten fills
    add([...tokenizer.encode(content), tokenizer.special.get("<|im_end|>")], learnt);
  }
  return { ids, trained };
}

// A kitten that can be asked; its worker starts when it is asked for the first time.
class Kitten {
  constructor(facts) {
    Object.assign(this, facts); // stage, name, bare, answers, most, stops, context, tokenizer
    this.tokenizer = TOKENIZERS[facts.tokenizer];
    this.waiting = new Map();
    this.ticket = 0;
  }

  // The tokens that it reads when it is asked: the chat template, or the bare text.
  prompt(text) {
    if (this.bare) return [this.tokenizer.special.get("<|endoftext|>"), ...this.tokenizer.encode(text)];
    const messages = [
      { role: "user", content: text },
      { role: "assistant", content: null },
    ];
    return conversation(this.tokenizer, messages).ids;
  }

  // Tokens so far -> a promise of {token, likeliest}.
  next(ids, temperature, seed) {
    if (!this.worker) this.start();
    const ticket = this.ticket++;
    this.worker.postMessage({ ids, temperature, seed, ticket });
    return new Promise((resolve) => this.waiting.set(ticket, resolve));
  }

  start() {
    const parts = ["gpt.js", "worker.js"].map((id) => document.getElementById(id).textContent);
    const address = URL.createObjectURL(new Blob(parts, { type: "text/javascript" }));
    this.worker = new Worker(address);
    this.worker.addEventListener("message", ({ data }) => {
      this.waiting.get(data.ticket)(data);
      this.waiting.delete(data.ticket);
    });
    this.worker.postMessage({ weights: document.getElementById(`weights-${this.stage}`).textContent });
  }
}

const KITTENS = DATA.kittens.map((facts) => new Kitten(facts));
