// What makes report.html nicer than without: values under the pointer, tokens that tell their
// numbers, folds that open for the printer. Everything it shows is on the page already; texts only
// ever go into textContent.
"use strict";

// Charts: show the values of the strip, or of the dot, under the pointer.
for (const chart of document.querySelectorAll(".chart")) {
  const readout = chart.querySelector(".readout");
  const rule = chart.querySelector(".rule");
  if (!readout) continue;
  const point = (event) => {
    const hit = event.target.closest(".hit");
    if (!hit) return;
    const title = hit.querySelector("title");
    const box = hit.querySelector("rect");
    if (title) hit.dataset.text = title.textContent;
    if (title) title.remove(); // or the browser would show it a second time
    readout.textContent = hit.dataset.text;
    chart.classList.add("pointed");
    if (rule && box) {
      rule.setAttribute("x1", box.dataset.x);
      rule.setAttribute("x2", box.dataset.x);
    }
  };
  const rest = () => {
    readout.textContent = readout.dataset.rest;
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
  const names = row.dataset.names.split("|");
  const tell = (event) => {
    const token = event.target.closest(".credit");
    if (!token) return;
    for (const other of tokens) other.classList.toggle("chosen", other === token);
    readout.textContent = `${token.textContent}   ${token.dataset.title.replaceAll("\n", ",  ")}`;
    readout.classList.add("active");
  };
  for (const token of tokens) {
    token.dataset.title = token.title;
    token.removeAttribute("title");
  }
  for (const kind of ["pointerover", "focusin", "click"]) row.addEventListener(kind, tell);
  const choices = document.createElement("p");
  choices.className = "choices";
  choices.append("colours show: ");
  const buttons = names.map((name, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    button.addEventListener("click", () => colour(place));
    choices.append(button);
    return button;
  });
  const colour = (place) => {
    buttons.forEach((button, other) => button.setAttribute("aria-pressed", String(other === place)));
    for (const token of tokens) {
      token.className = "token credit " + token.dataset.heat.split(" ")[place];
    }
  };
  row.before(choices);
  colour(Number(row.dataset.chosen));
}

// Navigation: mark the part that is being read.
const links = new Map();
for (const link of document.querySelectorAll("nav a")) links.set(link.hash.slice(1), link);
const watcher = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      const link = links.get(entry.target.id);
      if (link) link.classList.toggle("here", entry.isIntersecting);
    }
  },
  { rootMargin: "-20% 0px -70% 0px" },
);
for (const part of document.querySelectorAll("section[id]")) watcher.observe(part);

// Print: open what is folded, and close it again afterwards.
let opened = [];
window.addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  for (const fold of opened) fold.open = true;
});
window.addEventListener("afterprint", () => {
  for (const fold of opened) fold.open = false;
});
