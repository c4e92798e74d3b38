// The worker of one kitten, so that the page stays free to type in. It is told the weights once, and
// then asked again and again: "these are the tokens so far; which one comes next?" The cache
// remembers what was read before, so only new tokens cost time. Runs behind gpt.js.
"use strict";

const MOST = 10; // likeliest tokens that are told
let gpt = null;
let read = []; // the tokens in the cache

function likeliest(logits) {
  const probabilities = softmax(logits);
  const order = [...logits.keys()].sort((a, b) => logits[b] - logits[a]);
  return order.slice(0, MOST).map((id) => ({ id, p: probabilities[id], logit: logits[id] }));
}

addEventListener("message", ({ data }) => {
  if (data.weights) {
    gpt = new GPT(JSON.parse(data.weights));
    return;
  }
  const { ids, temperature, seed, ticket } = data;
  let same = 0;
  while (same < ids.length - 1 && same < read.length && ids[same] === read[same]) same++;
  gpt.keep(same);
  let x = null;
  for (const id of ids.slice(same)) x = gpt.read(id);
  read = ids;
  const logits = gpt.logits(x);
  const token = draw(logits, temperature, dartOf(seed, ids.length));
  postMessage({ ticket, token, ten: likeliest(logits) });
});
