"""A training with GRPO for UniPO, the visualiser of policy optimisation (poloclub/unipo on GitHub).

UniPO reads one JSON file, whose form its docs/canonical_schema.json describes: a header about the
run, and an entry for every update with its metrics; some entries hold three prompts with the whole
group of replies, token by token. Here:

    header          task, rewards, algorithm, models, hyper-parameters
    entries         one for each round of GRPO; its updates are counted together
    old_log_probs   when the reply was written
    log_probs       after the round's update: what UniPO calls ratio is what the update did
    token_objective min(ratio A, clip(ratio) A), where no KL term belongs to it

The numbers are those of summary.json, metrics.jsonl and groups.json of chapter 5; log-probs are
exact to a hundredth of a nat. Put the file into the folder data/ of UniPO and run its
the script build_data on it.

Used by __main__.py. Left out: values and returns (GRPO has none), and the KL to a reference.
"""

import json
import math
from pathlib import Path

from kittenllm.runs.checkpoints import plain_numbers, write_text_atomic
from kittenllm.runs.json_files import is_number, read_json, read_metrics
from kittenllm.runs.summaries import read_summary

METRICS = {  # name of UniPO, or ours where it has none -> key of metrics.jsonl
    "reward": "reward",
    "policy_loss": "loss",
    "entropy": "entropy",
    "kl": "kl",
    "clip_fraction": "clip_fraction",
    "grad_norm": "grad_norm",
    "response_length": "reply_tokens",
    "accuracy": "accuracy",
    "waits": "waits",
    "truncated": "truncated",
    "no_signal": "no_signal",
}
SETTINGS = (  # of summary.json, under their own names
    "group_size",
    "prompts_per_step",
    "max_new_tokens",
    "epochs",
    "minibatches",
    "kl_coef",
    "normalize",
    "normalize_std",
    "format_weight",
)


def export_unipo(path: Path, folder: Path) -> dict:
    """Write the file for UniPO from a finished run folder of chapter 5; returns its content.

    Raises: ValueError if the run has not finished, or did not log what is needed.
    """
    if path.exists():
        raise ValueError(f"{path} is there already: give the name of a new file")
    summary = read_summary(folder / "summary.json")
    if summary is None:
        raise ValueError(f"{folder}: it has not finished. Run python -m chapters.ch5_reasoning")
    groups = read_json(folder / "groups.json")
    if groups is None:
        raise ValueError(f"{folder}: there is no groups.json, which holds the replies of GRPO")
    history, _ = read_metrics(folder / "metrics.jsonl")
    content = unipo(summary, [e for e in history if e.get("stage") == "grpo"], groups)
    write_text_atomic(path, json.dumps(plain_numbers(content), allow_nan=False) + "\n")
    return content


def unipo(summary: dict, history: list[dict], groups: dict) -> dict:
    """The content of the file.

    Raises: ValueError for groups that are not what chapter 5 writes today.
    """
    settings = summary.get("config", {})
    try:
        rounds = {
            entry["step"]: prompts_of(entry, groups["pieces"], settings)
            for entry in groups["rounds"]
        }
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        reason = "groups.json lacks the log-probs of the replies: an earlier version wrote it"
        raise ValueError(f"{reason}. Run chapter 5 again in a new folder") from error
    entries = []
    for entry in history:
        found = {"step": entry["step"], "is_first_step_after_rollout_phase": True}
        found["metrics"] = metrics_of(entry, settings)
        if entry["step"] in rounds:
            found["prompts"] = rounds[entry["step"]]
        entries.append(found)
    return {"header": header(summary, len(entries)), "entries": entries}


def header(summary: dict, steps: int) -> dict:
    """What the run was."""
    settings = summary.get("config", {})
    hparams = {name: settings[name] for name in SETTINGS if name in settings}
    hparams |= {"clip_eps": list(clip_range(settings)), "learning_rate": settings.get("matrix_lr")}
    form = settings.get("format_weight", 0.0)
    return {
        "task": "Countdown: three numbers, two operations, one target",
        "dataset": "Kitten Town, made by a generator",
        "reward_strategy": f"rules: 1 for a right answer, {form:g} for the right form",
        "algorithm": "grpo",
        "totalSteps": steps,
        "model_name": f"KittenLLM ch5_reasoning, seed {summary.get('seed')}",
        "reference_model_name": "KittenLLM ch5_reasoning, after its warm-up",
        "hparams": hparams,
    }


def metrics_of(entry: dict, settings: dict) -> dict:
    """The numbers of a round under the names of UniPO; what was not measured is left out."""
    found = {name: entry.get(key) for name, key in METRICS.items()}
    if is_number(entry.get("loss")):
        found["policy_objective"] = -entry["loss"]
    if is_number(entry.get("lr_scale")) and is_number(settings.get("matrix_lr")):
        found["learning_rate"] = entry["lr_scale"] * settings["matrix_lr"]
    return {name: value for name, value in found.items() if is_number(value)}


def prompts_of(entry: dict, pieces: dict, settings: dict) -> list[dict]:
    """The groups of one round."""
    return [
        {
            "prompt": group["prompt"],
            "responses": [
                response(f"step{entry['step']}_p{place}_sample{number}", reply, pieces, settings)
                for number, reply in enumerate(group["replies"])
            ],
        }
        for place, group in enumerate(entry["groups"])
    ]


def response(name: str, reply: dict, pieces: dict, settings: dict) -> dict:
    """One reply, token by token."""
    strings = [pieces[str(token)] for token in reply["ids"]]
    old = [number / 100 for number in reply["logprobs"]]
    changes = [number / 100 for number in reply["change"]]
    advantage = reply["advantage"]
    tokens = {
        "ids": reply["ids"],
        "strings": strings,
        "old_log_probs": old,
        "log_probs": [round(o + c, 2) for o, c in zip(old, changes, strict=True)],
        "advantages": [advantage] * len(strings),
    }
    if not settings.get("kl_coef"):
        low, high = clip_range(settings)
        tokens["token_objective"] = [
            round(token_objective(math.exp(change), advantage, low, high), 4) for change in changes
        ]
    return {
        "id": name,
        "reward": reply["reward"],
        "advantage": advantage,
        "response_text": "".join(strings),
        "response_length": len(strings),
        "tokens": tokens,
    }


def token_objective(ratio: float, advantage: float, low: float, high: float) -> float:
    """min(ratio A, clip(ratio, 1 - low, 1 + high) A): what GRPO makes larger (DeepSeekMath, 3).

    >>> token_objective(1.5, 1.0, 0.2, 0.2), token_objective(1.5, -1.0, 0.2, 0.2)
    (1.2, -1.5)
    """
    clipped = min(max(ratio, 1 - low), 1 + high)
    return min(ratio * advantage, clipped * advantage)


def clip_range(settings: dict) -> tuple[float, float]:
    """How far a ratio may fall below and rise above 1."""
    low = settings.get("clip_eps", 0.2)
    return low, settings.get("clip_eps_high") or low
