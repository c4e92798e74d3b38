// What makes report.html nicer than without: values under the pointer, tokens that tell their
// numbers, a navigation that follows. Everything it shows is on the page already; texts only ever go
// into textContent.
"use strict";

// Charts: show the values of the strip, or of the dot, under the pointer.
for (const chart of document.querySelectorAll(".chart")) {
  const readout = chart.querySelector(".readout");
  const rule = chart.querySelector(".rule");
  if (!readout) continue;
  const texts = new Map();
  const values = [...readout.childNodes]; // what it says while nothing is pointed at
  const point = (event) => {
    const hit = event.target.closest(".hit");
    if (!hit) return;
    const title = hit.querySelector("title");
    const box = hit.querySelector("rect");
    if (title) texts.set(hit, { en: title.textContent, zh: title.dataset.other ?? title.textContent });
    if (title) title.remove(); // or the browser would show it a second time
    tell(readout, texts.get(hit));
    chart.classList.add("pointed");
    if (rule && box) {
      rule.setAttribute("x1", box.dataset.x);
      rule.setAttribute("x2", box.dataset.x);
    }
  };
  const rest = () => {
    readout.replaceChildren(...values);
    chart.classList.remove("pointed");
  };
  chart.addEventListener("pointermove", point);
  chart.addEventListener("pointerdown", point);
  chart.addEventListener("pointerleave", (event) => {
    if (event.pointerType === "mouse") rest();
  });
}

// Token credit: a token tells its numbers; buttons choose which of them gives the colour.
for (const box of document.querySelectorAll(".creditbox")) {
  const row = box.querySelector(".tokens");
  const readout = box.querySelector(".readout");
  const tokens = [...row.querySelectorAll(".credit")];
  const { names: english, otherDataNames: chinese = english } = row.dataset;
  const names = { en: english.split("|"), zh: chinese.split("|") };
  const numbers = new Map();
  const point = (event) => {
    const token = event.target.closest(".credit");
    if (!token) return;
    for (const other of tokens) other.classList.toggle("chosen", other === token);
    const word = make("span", { translate: "no" }, token.textContent);
    tell(readout, word, "   ", numbers.get(token));
    readout.classList.add("active");
  };
  for (const token of tokens) {
    const line = (text) => text.replaceAll("\n", ",  ");
    numbers.set(token, { en: line(token.title), zh: line(token.dataset.otherTitle ?? token.title) });
    token.removeAttribute("title");
    delete token.dataset.otherTitle;
  }
  for (const kind of ["pointerover", "focusin", "click"]) row.addEventListener(kind, point);
  const buttons = names.en.map((en, place) => {
    const look = () => colour(place);
    return make("button", { type: "button", onclick: look }, { en, zh: names.zh[place] });
  });
  const choices = make("p", { class: "choices" }, make("span", {}, SAY.colours), ...buttons);
  const colour = (place) => {
    buttons.forEach((button, other) => button.setAttribute("aria-pressed", String(other === place)));
    for (const token of tokens) {
      token.className = "token credit " + token.dataset.heat.split(" ")[place];
    }
  };
  row.before(choices);
  colour(Number(row.dataset.chosen));
}

// Navigation: mark the part that is being read, and keep its link in view on a narrow screen.
const links = new Map();
for (const link of document.querySelectorAll("nav a")) links.set(link.hash.slice(1), link);
const watcher = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      const link = links.get(entry.target.id);
      if (!link) continue;
      link.classList.toggle("here", entry.isIntersecting);
      if (!entry.isIntersecting) continue;
      const bar = link.parentNode;
      bar.scrollTo({ left: link.offsetLeft - (bar.clientWidth - link.clientWidth) / 2 });
    }
  },
  { rootMargin: "-20% 0px -70% 0px" },
);
for (const part of document.querySelectorAll("section[id]")) watcher.observe(part);

// A table that is wider than its box says so in words; the shadow at its edge needs no script.
const sizes = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const before = target.previousElementSibling;
    const hint = before?.classList.contains("hint") ? before : null;
    const wide = target.scrollWidth > target.clientWidth + 1;
    if (wide && !hint) target.before(make("p", { class: "hint" }, SAY.scroll));
    if (!wide && hint) hint.remove();
  }
});
for (const box of document.querySelectorAll(".scroll")) sizes.observe(box);
