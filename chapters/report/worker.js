// The worker of one kitten, so that the page stays free to type in. It is told the weights once, and
// then asked again and again: "these are the tokens so far; which one comes next?" The cache
// remembers what was read before, so only new tokens cost time. Runs behind gpt.js.
"use strict";

// Weights on the page: two letters are a whole number, from -3872 to 3871, times the scale of its
// row. The letters are the 88 signs of ASCII that mean nothing in HTML or JSON.
const LETTERS = [...Array(94).keys()]
  .map((i) => String.fromCharCode(33 + i))
  .filter((letter) => !"\"&'<>\\".includes(letter));
const BASE = LETTERS.length;

function unpacked(packed) {
  const value = new Int16Array(128);
  LETTERS.forEach((letter, i) => (value[letter.charCodeAt(0)] = i));
  const weights = {};
  let place = 0;
  let row = 0;
  for (const [name, rows, columns] of packed.shapes) {
    const matrix = (weights[name] = new Float32Array(rows * columns));
    for (let i = 0; i < matrix.length; i++, place += 2) {
      const high = value[packed.letters.charCodeAt(place)];
      const low = value[packed.letters.charCodeAt(place + 1)];
      matrix[i] = (BASE * high + low - (BASE * BASE) / 2) * packed.scales[row + Math.floor(i / columns)];
    }
    row += rows;
  }
  return weights;
}

const MOST = 20; // likeliest tokens that are told; the page shows ten, the selftest compares
let gpt = null;
let read = []; // the tokens in the cache

function likeliest(logits) {
  const probabilities = softmax(logits);
  const order = [...logits.keys()].sort((a, b) => logits[b] - logits[a]);
  return order.slice(0, MOST).map((id) => ({ id, p: probabilities[id], logit: logits[id] }));
}

addEventListener("message", ({ data }) => {
  if (data.weights) {
    const packed = JSON.parse(data.weights);
    gpt = new GPT(packed.config, unpacked(packed));
    read = [];
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
  postMessage({ ticket, token, likeliest: likeliest(logits) });
});
