// The worker of one kitten, so that the page stays free to type in. It is told the weights once, and
// then asked again and again: "these are the tokens so far; which one comes next?" The cache
// remembers what was read before, so only new tokens cost time. Runs behind gpt.js.
"use strict";

// Weights on the page: seven letters are three whole numbers, from -17222 to 17222, each times the
// scale of its row. The letters are the 88 signs of ASCII that mean nothing in HTML or JSON.
const LETTERS = [...Array(94).keys()]
  .map((i) => String.fromCharCode(33 + i))
  .filter((letter) => !"\"&'<>\\".includes(letter));
const LEVELS = 34445; // LEVELS ** 3 < 88 ** 7

function unpacked({ shapes, scales, letters }) {
  const values = new Uint8Array(128);
  LETTERS.forEach((letter, i) => (values[letter.charCodeAt(0)] = i));
  const weights = {};
  let place = 0;
  let row = 0;
  for (const [name, rows, columns] of shapes) {
    const matrix = (weights[name] = new Float32Array(rows * columns));
    for (let i = 0; i < matrix.length; i += 3) {
      let word = 0; // the seven letters as one number
      for (const end = place + 7; place < end; place++) {
        word = word * LETTERS.length + values[letters.charCodeAt(place)];
      }
      for (let j = i + 2; j >= i; j--) {
        const rest = Math.floor(word / LEVELS);
        const number = word - rest * LEVELS - (LEVELS - 1) / 2;
        word = rest;
        if (j < matrix.length) matrix[j] = number * scales[row + Math.floor(j / columns)];
      }
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
