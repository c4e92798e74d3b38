// A GPT in 150 lines of JavaScript: text becomes tokens, tokens become probabilities, a dart is
// thrown, and the token that it hits is put behind the others. The same model as in kittenllm/gpt.py
// with the same tokenizer and the same sampling; a test holds their numbers together.
//
// Read before: kittenllm/gpt.py. Left out: batches, training, top-k. How the weights lie in the page
// is in worker.js, how a conversation becomes tokens in dom.js.
// Letters: C channels, D channels of one head, V vocabulary, S tokens read so far.
"use strict";

// ------------------------------------------------------------------------------- text and tokens

// Where text may be cut: word with the space before it | one or two digits | one mark | line breaks
// | other white space. No token ever crosses a cut.
const CUTS =
  / ?\p{L}+|\p{N}{1,2}| ?[^\p{White_Space}\p{L}\p{N}]|\n+|[^\P{White_Space}\n]+/gu;

class Tokenizer {
  // state: {tokens: [bytes in hex, ...] in the order of their ranks, special: [name, ...]}
  constructor(state) {
    this.bytes = state.tokens.map((hex) => hex.match(/../g).map((pair) => parseInt(pair, 16)));
    this.ranks = new Map(this.bytes.map((bytes, rank) => [String.fromCharCode(...bytes), rank]));
    this.special = new Map(state.special.map((name, i) => [name, this.bytes.length + i]));
    this.names = new Map([...this.special].map(([name, id]) => [id, name]));
  }

  // Text -> ids. "<think>" in a text is seven letters and signs, never the special token.
  encode(text) {
    const ids = [];
    for (const [piece] of text.matchAll(CUTS)) {
      const letters = [...new TextEncoder().encode(piece)].map((b) => String.fromCharCode(b));
      ids.push(...this.merge(letters.join("")));
    }
    return ids;
  }

  // Byte-pair encoding: join the two neighbours whose token was learnt first, again and again.
  merge(word) {
    if (this.ranks.has(word)) return [this.ranks.get(word)];
    const parts = [...word];
    for (;;) {
      let best = -1;
      let lowest = Infinity;
      for (let i = 0; i + 1 < parts.length; i++) {
        const rank = this.ranks.get(parts[i] + parts[i + 1]) ?? Infinity;
        if (rank < lowest) [best, lowest] = [i, rank];
      }
      if (best < 0) return parts.map((part) => this.ranks.get(part));
      parts.splice(best, 2, parts[best] + parts[best + 1]);
    }
  }

  // Ids -> text; a special token by its name. Bytes that are no UTF-8 become U+FFFD.
  decode(ids) {
    let text = "";
    let run = [];
    const read = () => new TextDecoder().decode(new Uint8Array(run.splice(0)));
    for (const id of ids) {
      if (this.names.has(id)) text += read() + this.names.get(id);
      else run.push(...this.bytes[id]);
    }
    return text + read();
  }
}

// ------------------------------------------------------------------------------------- the model

// matrix (rows, columns) times x (columns) -> (rows)
function times(matrix, x) {
  const out = new Float32Array(matrix.length / x.length);
  for (let row = 0, place = 0; row < out.length; row++) {
    let sum = 0;
    for (let column = 0; column < x.length; column++) sum += matrix[place++] * x[column];
    out[row] = sum;
  }
  return out;
}

// Scale x to a root mean square of 1, then each channel by its weight.
function rmsNorm(x, weight, eps) {
  const meanSquare = x.reduce((sum, value) => sum + value * value, 0) / x.length;
  return x.map((value, i) => (value / Math.sqrt(meanSquare + eps)) * weight[i]);
}

// RoPE: channels i and i + D/2 of each head turn by base^(-2i/D) radians per position.
function rotate(x, position, D, base) {
  for (let head = 0; head < x.length; head += D) {
    for (let i = 0; i < D / 2; i++) {
      const angle = position * base ** ((-2 * i) / D);
      const [a, b] = [x[head + i], x[head + i + D / 2]];
      x[head + i] = a * Math.cos(angle) - b * Math.sin(angle);
      x[head + i + D / 2] = b * Math.cos(angle) + a * Math.sin(angle);
    }
  }
}

function softmax(scores) {
  const largest = scores.reduce((a, b) => Math.max(a, b));
  const powers = scores.map((score) => Math.exp(score - largest));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / sum);
}

class GPT {
  // weights: {name: all numbers of a matrix, row by row}
  constructor(config, weights) {
    this.config = config;
    this.w = weights;
    this.keys = []; // the cache: of each layer, the keys of all tokens read, each (kv heads * D)
    this.values = [];
    for (let l = 0; l < this.config.layers; l++) [this.keys[l], this.values[l]] = [[], []];
  }

  // Forget all but the first `length` tokens.
  keep(length) {
    for (const list of [...this.keys, ...this.values]) list.length = length;
  }

  // Read one more token -> its vector (C) after the last layer; the cache remembers it.
  read(token) {
    const { channels: C, layers, norm_eps: eps } = this.config;
    let x = this.w["embed_tokens.weight"].slice(token * C, (token + 1) * C);
    for (let layer = 0; layer < layers; layer++) {
      const w = (name) => this.w[`layers.${layer}.${name}.weight`];
      const seen = this.attention(layer, w, rmsNorm(x, w("input_layernorm"), eps));
      x = x.map((value, i) => value + seen[i]); // first look at earlier tokens ...
      const y = rmsNorm(x, w("post_attention_layernorm"), eps);
      const up = times(w("mlp.up_proj"), y);
      const gate = times(w("mlp.gate_proj"), y).map((g, i) => (g / (1 + Math.exp(-g))) * up[i]);
      const thought = times(w("mlp.down_proj"), gate);
      x = x.map((value, i) => value + thought[i]); // ... then think about what was seen
    }
    return x;
  }

  // Every head asks with its query; earlier tokens answer as far as their keys fit.
  attention(layer, w, x) {
    const { heads, kv_heads, rope_base } = this.config;
    const [keys, values] = [this.keys[layer], this.values[layer]];
    const q = times(w("self_attn.q_proj"), x); // (heads * D)
    const k = times(w("self_attn.k_proj"), x); // (kv heads * D)
    const D = q.length / heads;
    rotate(q, keys.length, D, rope_base);
    rotate(k, keys.length, D, rope_base);
    keys.push(k);
    values.push(times(w("self_attn.v_proj"), x));
    const out = new Float32Array(q.length);
    for (let head = 0; head < heads; head++) {
      const shared = Math.floor((head * kv_heads) / heads) * D; // where its keys and values are
      const scores = keys.map((key) => {
        let dot = 0;
        for (let i = 0; i < D; i++) dot += q[head * D + i] * key[shared + i];
        return dot / Math.sqrt(D);
      });
      softmax(scores).forEach((weight, s) => {
        for (let i = 0; i < D; i++) out[head * D + i] += weight * values[s][shared + i];
      });
    }
    return times(w("self_attn.o_proj"), out);
  }

  // A vector (C) -> how well each token fits behind it (V): the embeddings serve twice.
  logits(x) {
    return times(
      this.w[this.config.tied ? "embed_tokens.weight" : "lm_head.weight"],
      rmsNorm(x, this.w["norm.weight"], this.config.norm_eps),
    );
  }
}

// -------------------------------------------------------------------------------------- sampling

// Lay the probabilities end to end on a line of length 1 and throw a dart (0 .. 1) at it.
function draw(logits, temperature, dart) {
  if (temperature < 1e-6) return logits.indexOf(Math.max(...logits)); // the likeliest
  const probabilities = softmax(logits.map((logit) => logit / temperature));
  let edge = 0;
  const hit = probabilities.findIndex((probability) => (edge += probability) > dart);
  return hit < 0 ? logits.length - 1 : hit; // rounding can put the dart behind the last edge
}

// The dart of a place in the text: the same seed throws the same darts (mulberry32).
function dartOf(seed, place) {
  let t = (Math.imul(seed, 0x9e3779b1) + Math.imul(place + 1, 0x6d2b79f5)) | 0;
  t = Math.imul(t ^ (t >>> 15), t | 1);
  t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
  return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
}
