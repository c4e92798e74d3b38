// report.html#selftest: the page answers the prompts that Python answered, and compares. The line it
// writes begins with "selftest: passed" or "selftest: failed".
"use strict";

const LOGIT_TOLERANCE = 0.02; // or else the same ten likeliest tokens in the same order
const EQUAL_REPLIES = 0.98; // a tie can be broken otherwise

// One prompt -> {first: are the first logits right, equal: is the greedy reply, worst, tokens}
async function examined(kitten, { ids, ten, reply }) {
  const said = [];
  let worst = 0;
  let ordered = true;
  while (said.length < reply.length) {
    const { token, likeliest: found } = await kitten.next([...ids, ...said], 0, 0);
    if (said.length === 0) {
      ten.forEach(([id, logit], place) => {
        const same = found.find((one) => one.id === id);
        worst = Math.max(worst, same ? Math.abs(same.logit - logit) : Infinity);
        ordered = ordered && found[place].id === id;
      });
    }
    said.push(token);
    if (token !== reply[said.length - 1]) break;
  }
  const equal = said.length === reply.length && said.at(-1) === reply.at(-1);
  const right = worst <= LOGIT_TOLERANCE || ordered;
  return { right, equal, worst: worst === Infinity ? NaN : worst, tokens: ids.length + said.length };
}

// All prompts of one kitten, and whether typed text becomes the same tokens as in Python.
async function exam(kitten, tell) {
  const sum = { prompts: 0, right: 0, equal: 0, worst: 0, tokens: 0, texts: 0 };
  const started = performance.now();
  for (const prompt of kitten.exam) {
    const found = await examined(kitten, prompt);
    const ids = kitten.prompt(prompt.text);
    sum.texts += JSON.stringify(ids) === JSON.stringify(prompt.ids);
    sum.prompts += 1;
    sum.right += found.right;
    sum.equal += found.equal;
    sum.worst = Math.max(sum.worst, found.worst || 0);
    sum.tokens += found.tokens;
    tell(kitten, sum.prompts);
  }
  sum.seconds = (performance.now() - started) / 1000;
  sum.passed = Math.min(sum.right, sum.texts);
  sum.ok = sum.prompts > 0 && sum.passed === sum.prompts && sum.equal >= EQUAL_REPLIES * sum.prompts;
  return sum;
}

async function selftest() {
  const line = make("p", { id: "selftest", class: "note", translate: "no" }, "selftest: running");
  document.querySelector("main").prepend(line);
  const parts = [];
  const all = { passed: 0, prompts: 0, tokens: 0, seconds: 0, ok: KITTENS.length > 0 };
  const tell = (kitten, n) => (line.textContent = `selftest: running, ${kitten.name.en} ${n}`);
  for (const kitten of KITTENS) {
    const sum = await exam(kitten, tell);
    for (const key of ["passed", "prompts", "tokens", "seconds"]) all[key] += sum[key];
    all.ok = all.ok && sum.ok;
    parts.push(
      `${kitten.name.en}: first logits right ${sum.right}, text to tokens ${sum.texts}, greedy replies ` +
        `equal ${sum.equal} of ${sum.prompts}, largest difference ${sum.worst.toFixed(4)}`,
    );
  }
  const speed = Math.round(all.tokens / all.seconds);
  const verdict = `${all.ok ? "passed" : "failed"} ${all.passed} of ${all.prompts}`;
  line.textContent = `selftest: ${verdict}; ${parts.join("; ")}; ${speed} tokens a second`;
}

if (location.hash === "#selftest") selftest();
