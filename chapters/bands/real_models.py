"""The numbers of chapters/real_models.md: what fits where, computed, and what was measured.

`memory` computes what a model needs from its shape. `python -m chapters.bands --real RUNS_DIR`
copies the numbers of the runs with --model that have finished there, and of the comparisons of
tests/bench/bench_real.py and tests/bench/bench_two_processes.py, into real_models.json; what is not
there stays as it was.

Used by docs.py and __main__.py. Left out: what torch itself needs (about 0.3 GB), and memory that
is lost between tensors.
"""

from pathlib import Path

from chapters.bands.number import digits
from chapters.bands.rounding import threads_text
from kittenllm.gpt import GPTConfig
from kittenllm.runs.checkpoints import layer_shapes
from kittenllm.runs.json_files import damaged, read_json
from kittenllm.runs.summaries import read_summary

FILE = Path(__file__).with_name("real_models.json")
LORA_RANK = 16
NOT_MEASURED = "Not measured yet: `python -m chapters.bands --real RUNS_DIR` writes it."


def shape(layers: int, channels: int, heads: int, kv_heads: int, wide: int, vocab: int, **more):
    """A GPT in one line."""
    return GPTConfig(
        vocab_size=vocab,
        layers=layers,
        channels=channels,
        heads=heads,
        kv_heads=kv_heads,
        ffn_channels=wide,
        **more,
    )


MODELS = {
    "SmolLM2-135M": shape(30, 576, 9, 3, 1536, 49152),
    "SmolLM2-360M": shape(32, 960, 15, 5, 2560, 49152),
    "Qwen2.5-0.5B": shape(24, 896, 14, 2, 4864, 151936, qkv_bias=True),
    "SmolLM2-1.7B": shape(24, 2048, 32, 32, 8192, 49152),
    "Qwen2.5-7B": shape(28, 3584, 28, 4, 18944, 152064, qkv_bias=True, tied=False),
}


def memory(config: GPTConfig, *, rank: int | None, number: int) -> dict[str, int]:
    """What a model needs, in bytes. rank: of LoRA; None trains all weights. number: bytes of one
    weight or activation, 2 for bfloat16 and 4 for float32.

    Keys: weights; gradients (float32, of what is trained); optimizer (Muon keeps one float32 for
    each number of a matrix, AdamW two for all others); activation_per_token (what the layers
    remember of one token until the gradient comes back, and its logits); cache_per_token (keys and
    values of one token, while a reply is written).
    """
    V, C = config.vocab_size, config.channels
    matrices = [s for s in layer_shapes(config).values() if len(s) == 2]
    vectors = [s for s in layer_shapes(config).values() if len(s) == 1]
    in_matrices = config.layers * sum(rows * columns for rows, columns in matrices)
    others = config.layers * sum(length for (length,) in vectors) + C
    others += V * C * (1 if config.tied else 2)
    detours = config.layers * sum((rank or 0) * (rows + columns) for rows, columns in matrices)
    trained, remembered = (in_matrices + others, in_matrices + 2 * others)
    if rank is not None:
        trained = remembered = detours
    q_channels = config.heads * config.head_channels
    kv_channels = config.kv_heads * config.head_channels
    attention = 2 * C + 3 * q_channels + 2 * kv_channels  # in, normed; q, k, v, out, out in order
    feed_forward = 2 * C + 4 * config.ffn_channels  # in, normed; gate, silu of it, up, product
    return {
        "weights": number * (in_matrices + others),
        "gradients": 4 * trained,
        "optimizer": 4 * remembered,
        "activation_per_token": number * (config.layers * (attention + feed_forward) + V),
        "cache_per_token": number * 2 * config.layers * kv_channels,
    }


def memory_table() -> str:
    """The block `memory of real models`: models as rows, gigabytes."""
    lines = [
        "| model | weights, bfloat16 | LoRA 16: weights, gradients, optimizer | all weights, "
        "float32: the same | activations, LoRA, per 1,000 tokens | KV cache per 1,000 tokens |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, config in MODELS.items():
        lora = memory(config, rank=LORA_RANK, number=2)
        whole = memory(config, rank=None, number=4)
        both = [sum(m[k] for k in ("weights", "gradients", "optimizer")) for m in (lora, whole)]
        per_token = [1000 * lora[key] for key in ("activation_per_token", "cache_per_token")]
        cells = [f"{size / 1e9:.2f} GB" for size in (lora["weights"], *both, *per_token)]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines)


# ------------------------------------------------------------------------------------ what was seen

# of each run: the label, the key in its summary (of both columns, or one), and the form
ROWS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "ch1_language_model": (
        ("programs written right", "program_accuracy_before program_accuracy_after", "%"),
        ("what a program prints, right", "output_accuracy_before output_accuracy_after", "%"),
        ("bugs mended", "repair_accuracy_before repair_accuracy_after", "%"),
        ("lines explained", "explain_accuracy_before explain_accuracy_after", "%"),
        ("general questions right", "general_right_before general_right_after", "%"),
        (
            "the same, asked as the assistant",
            "general_right_as_assistant_before general_right_as_assistant_after",
            "%",
        ),
        ("perplexity of a plain text", "perplexity_before perplexity_after", "2"),
        ("numbers trained, million", "trained_parameters", "M"),
        ("tokens trained on", "tokens", "0"),
        ("training, seconds", "train_seconds", "0"),
        ("training, seconds of processor time", "train_processor_seconds", "0"),
        ("tokens per second of processor time", "tokens_per_processor_second", "0"),
        ("memory at most, MB", "peak_rss_mb", "0"),
    ),
    "ch4_preferences_model": (
        ("held-out pairs ordered right", "unseen_accuracy", "%"),
        ("their margin, nats", "unseen_margin", "2"),
        ("margin of the pairs of a step, first and last", "margin_first margin_last", "2"),
        ("general questions right", "general_right_before general_right_after", "%"),
        ("perplexity of a plain text", "perplexity_before perplexity_after", "2"),
        ("pairs trained on", "pairs", "0"),
        ("pairs held out", "watched", "0"),
        ("the reference reads all pairs, seconds", "reference_seconds", "0"),
        ("training, seconds", "train_seconds", "0"),
        ("training, seconds of processor time", "train_processor_seconds", "0"),
        ("memory at most, MB", "peak_rss_mb", "0"),
    ),
    "real_comparisons": (
        ("largest difference of a logit", "logit_difference", "6"),
        ("greedy answers that are equal, of 20", "greedy_equal", "0"),
        ("a reply, tokens per second", "chat_speed chat_speed_transformers", "1"),
        ("its first word, seconds", "first_word_s", "2"),
        ("LoRA 16, tokens trained per second", "training_speed training_speed_transformers", "0"),
        ("memory while loading, in sizes of the model: float32", "load_memory", "2"),
        ("the same, bfloat16", "load_memory_bfloat16", "2"),
    ),
    "two_processes": (
        ("a round of GRPO, seconds", "round_s round_s_two_processes", "2"),
        ("times as fast", "gain", "2"),
    ),
}
COLUMNS = {  # where they are not before and after
    "real_comparisons": ("here", "transformers, peft"),
    "two_processes": ("one process, two threads", "two processes, one thread"),
}


def collect(runs: Path) -> dict:
    """What real_models.json shall hold: of each finished run the name of its model, and its numbers
    with their errors; of the others what it holds.  Raises: ValueError if none has finished."""
    content: dict = {}
    for name, rows in ROWS.items():
        summary = read_summary(runs / name / "summary.json")
        if summary is None:
            continue
        numbers = {}
        for _, keys, _ in rows:
            for key in keys.split():
                numbers[key] = [digits(summary.get(key)), digits(summary.get(error_key(key)))]
        model = Path(summary["config"]["model"]).name
        content[name] = {"model": model, "threads": summary["threads"], "numbers": numbers}
    if not content:
        raise ValueError(f"{runs}: no run with --model has finished there: {', '.join(ROWS)}")
    return {**(read_json(FILE) or {}), **content}


def error_key(key: str) -> str:
    """accuracy_after -> accuracy_stderr_after, as the runs write them."""
    for end in ("_before", "_after"):
        if key.endswith(end):
            return f"{key.removesuffix(end)}_stderr{end}"
    return f"{key}_stderr"


def cell(value: float | None, error: float | None, form: str) -> str:
    """One number, with its error where it has one."""
    if value is None:
        return "–"
    if form == "M":
        return f"{value / 1e6:.2f}"
    scale, places = (100, 0) if form == "%" else (1, int(form))
    shown = f"{scale * value:,.{places}f}"
    shown += f" ± {scale * error:.{places}f}" if error else ""
    return shown + (" %" if form == "%" else "")


def measured_table(run: str) -> str:
    """The block `measured RUN`."""
    content = (read_json(FILE) or {}).get(run)
    if content is None:
        return NOT_MEASURED
    try:
        first, second = COLUMNS.get(run, ("before", "after"))
        name = f"{content['model']}, {threads_text(content['threads'])}"
        lines = [f"| {name} | {first} | {second} |"]
        lines.append("|---|---:|---:|")
        for label, keys, form in ROWS[run]:
            cells = [cell(*content["numbers"][key], form) for key in keys.split()]
            lines.append("| " + " | ".join([label, *[""] * (2 - len(cells)), *cells]) + " |")
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(FILE, f"no numbers can be made of it, {error!r}") from error
    return "\n".join(lines)


def headline() -> str:
    """The block `assistant`: what became of the assistant, in one sentence for the README."""
    content = (read_json(FILE) or {}).get("ch1_language_model")
    if content is None:
        return NOT_MEASURED
    shown = []
    for label, keys, _ in ROWS["ch1_language_model"][:5]:
        before, after = (content["numbers"][key][0] for key in keys.split())
        shown.append(f"{label} {100 * before:.0f} → {100 * after:.0f} %")
    seconds = content["numbers"]["train_seconds"][0]
    return (
        f"{content['model']}, trained with LoRA for {seconds / 60:.0f} minutes on "
        f"{threads_text(content['threads'])}: {', '.join(shown)}."
    )
