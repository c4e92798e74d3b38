"""A real model here against transformers and peft, on the same machine, in turns.

    python tests/bench/bench_real.py --model DIR --runs runs           # the comparisons, minutes
    python tests/bench/bench_real.py --model DIR --runs runs --all     # all that the lesson says

Four parts, each a process of its own, all in float32 and with the same number of threads:

same      logits of a text and of twenty questions within 1e-3, and the greedy answers are equal
loading   the most memory while a folder is loaded, against the size of the model: at most 1.2
chat      tokens per second of a long reply: at least 0.8 of `generate`; first word under 2 s
training  tokens trained per second with LoRA 16, on the same exercises: at least those of peft

The two ways take turns; each gets the median of its rounds. What came out goes to
RUNS/real_comparisons/summary.json, for `python -m chapters.bands --real RUNS --docs`, which writes
chapters/real_models.md. --all does that at the end, after the training of chapter 1, language, DPO
on 200 polite pairs, and bench_two_processes.py. transformers and peft: pip install '.[test-peers]'.
"""

import argparse
import itertools
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import kittenllm  # noqa: E402, F401 (before torch: see there)

# isort: split
import torch  # noqa: E402

from chapters.ch1_language.real_model import SHARES, SYSTEM, with_system  # noqa: E402
from chapters.ch1_language.story import Settings, exercise  # noqa: E402
from chapters.common.kitten import GENERAL, add_detours  # noqa: E402
from chapters.common.kitten import Kitten as Model  # noqa: E402
from kittenllm.batches import pack  # noqa: E402
from kittenllm.chat import ChatTokens, chat_prompt, text_prompt  # noqa: E402
from kittenllm.huggingface import load_folder  # noqa: E402
from kittenllm.optim import make_optimizer  # noqa: E402
from kittenllm.runs.memory import peak_memory_mb, reset_peak_memory  # noqa: E402
from kittenllm.runs.summaries import write_summary  # noqa: E402
from kittenllm.sampling import generate, stream  # noqa: E402
from kittenllm.settings import Common  # noqa: E402
from kittenllm.sft import SFTConfig, train_sft  # noqa: E402

ANSWER_TOKENS, TEXT_TOKENS = 24, 400
REPLY_TOKENS, CHAT_ROUNDS = 64, 5
EXERCISES, PER_STEP, TRAINING_ROUNDS = 24, 6, 3
BARS = (  # what is asked for
    ("logit_difference", lambda r: r["logit_difference"] <= 1e-3),
    ("greedy_equal", lambda r: r["greedy_equal"] == r["greedy_asked"]),
    ("load_memory", lambda r: r["load_memory"] <= 1.2),
    ("load_memory_bfloat16", lambda r: r["load_memory_bfloat16"] <= 1.2),
    ("chat_speed", lambda r: r["chat_speed"] >= 0.8 * r["chat_speed_transformers"]),
    ("first_word_s", lambda r: r["first_word_s"] <= 2),
    ("training_speed", lambda r: r["training_speed"] >= r["training_speed_transformers"]),
)


def theirs(folder: str):
    """The same model in transformers."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def ours(folder: str) -> Model:
    gpt, tokenizer = load_folder(folder, device="cpu", dtype=torch.float32)
    return Model(gpt, tokenizer, Common(device=torch.device("cpu")))


def in_turns(ways: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """The median of each way's rounds; the first place changes, and one round is for warming up."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name in list(ways) if number % 2 == 0 else list(ways)[::-1]:
            found[name].append(ways[name]())
            print(f"  {name}: {found[name][-1]:.2f}", file=sys.stderr, flush=True)
    return {name: statistics.median(values[1:]) for name, values in found.items()}


# ------------------------------------------------------------------------------------- the parts


@torch.inference_mode()
def same(folder: str) -> dict:
    """Logits and greedy answers; the prompts are made by each one's own tokenizer."""
    from transformers import AutoTokenizer

    model, other, words = ours(folder), theirs(folder), AutoTokenizer.from_pretrained(folder)
    general = json.loads(GENERAL.read_text(encoding="utf-8"))
    questions = [question for question, _ in general["questions"]]
    chats = [[{"role": "user", "content": question}] for question in questions]
    prompts = [chat_prompt(model.tokenizer, chat) for chat in chats]
    settings = {"add_generation_prompt": True, "return_dict": False}
    assert prompts == [words.apply_chat_template(chat, **settings) for chat in chats]
    text = text_prompt(model.tokenizer, "\n\n".join(general["text"]))[:TEXT_TOKENS]
    difference, equal = 0.0, 0
    for tokens in (text, *prompts):
        row = torch.tensor([tokens])
        apart = (model.gpt(row) - other(row).logits).abs().max()
        difference = max(difference, float(apart))
    end = model.gpt.config.stop_ids
    for prompt in prompts:
        reply = generate(
            model.gpt, [prompt], max_new_tokens=ANSWER_TOKENS, temperature=0.0, generator=None
        )
        row = torch.tensor([prompt])
        found = other.generate(
            row,
            attention_mask=torch.ones_like(row),
            max_new_tokens=ANSWER_TOKENS,
            do_sample=False,
            eos_token_id=list(end),
        )
        equal += reply.replies()[0] == [t for t in found[0, len(prompt) :].tolist() if t not in end]
    return {
        "logit_difference": difference,
        "greedy_equal": equal,
        "greedy_asked": len(prompts),
    }


def memory_now_mb() -> float:
    """What this process holds; at its peak right after the peak was set back."""
    reset_peak_memory()
    return peak_memory_mb() or 0


def loading(folder: str, dtype: str) -> dict:
    """The most memory while loading, in units of the model's own size."""
    before = memory_now_mb()
    started = time.perf_counter()
    gpt, tokenizer = load_folder(folder, device="cpu", dtype=getattr(torch, dtype))
    took = time.perf_counter() - started
    size = sum(p.numel() * p.element_size() for p in gpt.parameters()) / 1e6
    end = "" if dtype == "float32" else f"_{dtype}"
    memory = (peak_memory_mb() - before) / size
    return {f"load_memory{end}": memory, f"load_s{end}": took, f"model_mb{end}": size}


def chat(folder: str) -> dict:
    """Tokens per second of a reply that never stops, and the time to the first word."""
    model, other = ours(folder), theirs(folder)
    question = [{"role": "user", "content": "Tell me a story about a lighthouse."}]
    prompt = chat_prompt(model.tokenizer, question)
    row, first = torch.tensor([prompt]), []

    def here() -> float:
        started = time.perf_counter()
        reply = stream(
            model.gpt,
            prompt,
            max_new_tokens=REPLY_TOKENS,
            temperature=0.0,
            generator=None,
            stop_ids=(),
        )
        model.tokenizer.decode([next(reply)])
        first.append(time.perf_counter() - started)
        assert len(list(reply)) == REPLY_TOKENS - 1
        return REPLY_TOKENS / (time.perf_counter() - started)

    def there() -> float:
        started = time.perf_counter()
        settings = {"min_new_tokens": REPLY_TOKENS, "max_new_tokens": REPLY_TOKENS}
        mask = torch.ones_like(row)
        reply = other.generate(row, attention_mask=mask, do_sample=False, **settings)
        assert reply.shape[1] == len(prompt) + REPLY_TOKENS
        return REPLY_TOKENS / (time.perf_counter() - started)

    speed = in_turns({"ours": here, "transformers": there}, CHAT_ROUNDS)
    return {
        "chat_speed": speed["ours"],
        "chat_speed_transformers": speed["transformers"],
        "first_word_s": statistics.median(first),
    }


def training(folder: str) -> dict:
    """Tokens per second of the same exercises: packed here, padded to the longest there."""
    settings = Settings().real
    model = ours(folder)
    model.tokenizer = with_system(model.tokenizer, SYSTEM)
    rng = random.Random(0)
    chats = [exercise(model.tokenizer, rng, SHARES) for _ in range(EXERCISES)]
    step = with_peft(folder, settings, chats, model.tokenizer.pad_id)
    rows = pack(chats, row_length=settings.max_tokens, pad_id=model.tokenizer.pad_id)
    add_detours(model, settings)
    optimizer = make_optimizer(model.gpt, matrix_lr=None, other_lr=settings.model_lr)
    config = SFTConfig(steps=10**6, rows_per_step=settings.model_batch, replay_fraction=0.0)
    steps = train_sft(
        model.gpt,
        rows,
        config=config,
        optimizer=optimizer,
        generator=torch.Generator().manual_seed(0),
        tokens_per_pass=settings.model_pass,
    )

    def here() -> float:
        numbers = list(itertools.islice(steps, max(1, len(rows) // settings.model_batch)))
        return sum(n["tokens"] for n in numbers) / sum(n["seconds"] for n in numbers)

    speed = in_turns({"ours": here, "peft": step}, TRAINING_ROUNDS)
    return {"training_speed": speed["ours"], "training_speed_transformers": speed["peft"]}


def with_peft(folder: str, settings, chats: list[ChatTokens], pad_id: int) -> Callable[[], float]:
    """All exercises once, PER_STEP of them in a step, as tutorials do it -> tokens per second."""
    from peft import LoraConfig, get_peft_model

    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = LoraConfig(r=settings.lora, lora_alpha=2 * settings.lora, target_modules=names)
    other = get_peft_model(theirs(folder), config).train()
    trained = [p for p in other.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.model_lr, betas=(0.9, 0.95))
    batches = []
    for first in range(0, len(chats), PER_STEP):
        part = chats[first : first + PER_STEP]
        longest = max(map(len, part))
        tokens = torch.full((len(part), longest), pad_id)
        labels = torch.full((len(part), longest), -100)
        mask = torch.zeros(len(part), longest, dtype=torch.int64)
        for row, one in enumerate(part):
            tokens[row, : len(one)], mask[row, : len(one)] = torch.tensor(one.tokens), 1
            counts = torch.tensor(one.loss_mask)
            labels[row, : len(one)] = torch.where(counts, torch.tensor(one.tokens), -100)
        batches.append({"input_ids": tokens, "attention_mask": mask, "labels": labels})

    def step() -> float:
        started = time.perf_counter()
        for batch in batches:
            other(**batch).loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
        return sum(map(len, chats)) / (time.perf_counter() - started)

    return step


PARTS: dict[str, Callable[[str], dict]] = {
    "same": same,
    "loading": lambda folder: loading(folder, "float32"),
    "loading_bfloat16": lambda folder: loading(folder, "bfloat16"),
    "chat": chat,
    "training": training,
}


# --------------------------------------------------------------------------------------- together


def compare(arguments: argparse.Namespace) -> None:
    """Each part in a process of its own; the results with yes or NO, and summary.json."""
    results: dict = {}
    environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
    for part in arguments.part or PARTS:
        print(f"{part} ...", file=sys.stderr, flush=True)
        command = [sys.executable, __file__, "--model", arguments.model, "--alone", part]
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
        results |= json.loads(done.stdout.splitlines()[-1])
        print(done.stdout.splitlines()[-1], flush=True)
    for name, reached in BARS:
        if name in results:
            print(f"{name}: {results[name]:.4g}", "yes" if reached(results) else "NO")
    if not arguments.part:
        config = {"model": arguments.model}
        summary = {**results, "config": config, "threads": arguments.threads}
        write_summary(arguments.runs / "real_comparisons" / "summary.json", summary)


def everything(arguments: argparse.Namespace) -> None:
    """All numbers of chapters/real_models.md, one program after the other, and then the lesson."""
    runs, model = str(arguments.runs), ["--model", arguments.model]
    data = arguments.runs / "real_data"
    shutil.rmtree(data, ignore_errors=True)
    environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
    pairs = ["--preferences", str(data / "polite.jsonl")]
    for program in (
        ["-m", "chapters.ch1_language", *model, "--runs", runs],
        ["-m", "chapters.export", "--data", str(data)],
        ["-m", "chapters.ch4_preferences", *model, *pairs, "--runs", runs],
        [__file__, *model, "--runs", runs, "--threads", str(arguments.threads)],
        [str(Path(__file__).with_name("bench_two_processes.py")), "--runs", runs],
        ["-m", "chapters.bands", "--real", runs, "--docs"],
    ):
        print("python", *program, flush=True)
        subprocess.run([sys.executable, *program], cwd=ROOT, env=environment, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, metavar="DIR", help="a Hugging Face folder")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--part", action="append", choices=list(PARTS), help="only this, no file")
    parser.add_argument("--all", action="store_true", help="the trainings too, and the lesson")
    parser.add_argument("--alone", choices=list(PARTS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.model = str(Path(arguments.model).resolve())
    arguments.runs = arguments.runs.resolve()
    if arguments.alone:
        print(json.dumps(PARTS[arguments.alone](arguments.model)))
    elif arguments.all:
        everything(arguments)
    else:
        compare(arguments)


if __name__ == "__main__":
    main()
