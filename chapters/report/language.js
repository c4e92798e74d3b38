// English or Chinese: the reader chooses, and nothing is remembered. Every sentence of the page is
// there in both languages, and the style sheet shows that of <html lang>; only attributes, such as
// the hint in an empty box, have room for one and are exchanged here.
"use strict";

const IN_ATTRIBUTES = ["aria-label", "alt", "data-kitten", "placeholder", "title"];

function speak(language) {
  const root = document.documentElement;
  if (root.lang === language) return;
  root.lang = language;
  const title = document.querySelector("title");
  [document.title, title.dataset.other] = [title.dataset.other, document.title];
  for (const name of IN_ATTRIBUTES) {
    for (const element of document.querySelectorAll(`[data-other-${name}]`)) {
      const [now, other] = [element.getAttribute(name), element.getAttribute(`data-other-${name}`)];
      element.setAttribute(name, other);
      element.setAttribute(`data-other-${name}`, now);
    }
  }
}

{
  const other = () => (document.documentElement.lang === "en" ? "zh" : "en");
  const button = make("button", { type: "button", id: "language" });
  button.append(make("span", { lang: "en" }, "\u4e2d\u6587"), make("span", { lang: "zh" }, "English"));
  button.addEventListener("click", () => speak(other()));
  document.querySelector("nav").prepend(button);
  const look = () => location.hash === "#zh" && speak("zh");
  addEventListener("hashchange", look);
  look();
}
