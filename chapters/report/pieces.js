// The tokenizer playground: any text as coloured pieces, and as a conversation with its mask.
"use strict";

function startPieces(box) {
  const tokenizer = TOKENIZERS[0];
  const input = make("textarea", { rows: "2", maxlength: "1000", "aria-label": SAY.type_here });
  const reply = make("input", { type: "text", maxlength: "300", "aria-label": SAY.reply_label });
  input.value = SAY.sample_text.en; // the kittens know no other language
  reply.value = SAY.reply_text.en;
  const pieces = make("div", { class: "tokens", translate: "no" });
  const count = make("p", { class: "small" });
  const about = make("p", { class: "readout", role: "status" });
  const chat = make("div", { class: "tokens", translate: "no" });
  const mask = make("p", { class: "small" });

  // What a token is made of; `place` gives neighbours different colours.
  const chip = (id, look) => {
    const special = tokenizer.names.has(id);
    const show = () => {
      const bytes = special
        ? ""
        : tokenizer.bytes[id].map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
      tell(about, filled(special ? SAY.special_made_of : SAY.made_of, { id, bytes }));
    };
    const made = tokenChip(tokenizer, id, look);
    for (const kind of ["pointerover", "click"]) made.addEventListener(kind, show);
    return made;
  };
  const draw = () => {
    const ids = tokenizer.encode(input.value);
    pieces.replaceChildren(...ids.map((id, place) => chip(id, `k${place % 4}`)));
    tell(count, filled(SAY.counted, { tokens: ids.length, letters: [...input.value].length }));
    const messages = [
      { role: "user", content: input.value },
      { role: "assistant", content: reply.value },
    ];
    const row = conversation(tokenizer, messages);
    chat.replaceChildren(...row.ids.map((id, i) => chip(id, row.trained[i] ? "trained" : "read")));
    const trained = row.trained.filter(Boolean).length;
    tell(mask, filled(SAY.mask, { trained, all: row.ids.length }));
  };
  for (const field of [input, reply]) field.addEventListener("input", draw);
  const label = make("label", { class: "small" }, SAY.reply_label, " ", reply);
  box.replaceChildren(input, count, pieces, about, make("h4", {}, SAY.as_chat), label, chat, mask);
  draw();
}

{
  const box = document.getElementById("pieces-box");
  if (box && TOKENIZERS.length) startPieces(box);
}
