"""The tables of the documents: which numbers of a chapter stand in which line.

Used by docs.py, which fills them.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A line of the table: one number, or several side by side."""

    label: str
    keys: str  # of summary.json, with spaces between them
    form: str = "%"  # "%": a share in percent; "2": two decimals; "+3": three, with a sign
    lesson: bool = False  # only the lesson shows it
    timed: bool = False  # in brackets where the run shared the machine


SECONDS, MEMORY = Row("seconds", "seconds", "0", timed=True), Row("memory, MB", "peak_rss_mb", "0")


def _step_row(label: str, key: str, form: str = "%") -> Row:
    """One number of the kittens of chapter 6, side by side."""
    keys = [f"steps.{name}.{key}" for name in ("chat", "PPO", "Zero", "cold_start", "R1")]
    return Row(f"{label}: chat, PPO, Zero, cold start, R1", " ".join(keys), form, lesson=True)


def _method_rows(name: str, method: str) -> tuple[Row, ...]:
    accuracy, allowed = f"{method}.answer_accuracy", f"{method}.allowed_rate"
    changes = f"{method}.chosen_logprob_change {method}.rejected_logprob_change"
    label = f"{name}: log p of chosen, of rejected, change in nats"
    way = f"{method}.gold_share_of_distance"
    return (
        Row(f"{name}: share of the way to the best replies", way, lesson=name != "DPO"),
        Row(f"{name}: wins against the chat kitten", f"{method}.win_rate", lesson=True),
        Row(
            f"{name}: facts and sums right, before and after",
            f"{accuracy}_before {accuracy}_after",
            lesson=True,
        ),
        Row(label, changes, "2", lesson=True),
        Row(f"{name}: KL, nats per reply", f"{method}.kl", "2", lesson=True),
        Row(
            f"{name}: safe, friendly",
            f"{method}.safe_rate_after {method}.friendly_rate_after",
            lesson=True,
        ),
        Row(
            f"{name}: fine things allowed, before and after",
            f"{allowed}_before {allowed}_after",
            lesson=True,
        ),
        Row(
            f"{name}: pairs per second", f"{method}.pairs_per_second", "0", lesson=True, timed=True
        ),
    )


def _way_rows(name: str, way: str) -> tuple[Row, ...]:
    """One way to fine-tune the MeowScript assistant."""
    rows = [
        Row(f"{name}: {label}", f"{way}.{key}_accuracy {way}.{key}_accuracy_greedy")
        for label, key in (
            ("programs written right, at temperature 1 and greedy", "program"),
            ("says what a program prints", "output"),
            ("mends a bug", "repair"),
            ("explains a line", "explain"),
        )
    ]
    chats = f"{way}.chat_accuracy_before {way}.chat_accuracy_after"
    rows.append(Row(f"{name}: chat questions right, before and after", chats))
    forgotten = f"{way}.forgetting_bits_per_byte"
    rows.append(Row(f"{name}: forgotten, bits per byte", forgotten, "+3"))
    rows.append(Row(f"{name}: training, seconds", f"{way}.train_seconds", "0", timed=True))
    return tuple(rows)


TABLE: dict[str, tuple[Row, ...]] = {
    "ch0_base": (
        SECONDS,
        Row("validation loss, nats per token", "val_nats_per_token", "3", lesson=True),
        Row("validation loss, bits per byte", "val_bits_per_byte", "3", lesson=True),
        Row("facts, when a text stops before the value", "fact_recall"),
        Row("bare held-out questions answered", "bare_answer_rate"),
        Row("unseen lists repeated", "echo_accuracy"),
        Row("tokens per second", "tokens_per_second", "0", lesson=True, timed=True),
    ),
    "ch1_sft": (
        SECONDS,
        Row("held-out questions right, greedy", "answer_accuracy"),
        Row("the same at temperature 1", "answer_accuracy_sampled"),
        Row(
            "facts alone, greedy and at temperature 1", "right_fact_greedy right_fact", lesson=True
        ),
        Row("sums alone, greedy and at temperature 1", "right_sum_greedy right_sum", lesson=True),
        Row("small talk, unknowns, wishes: suitable", "talk_rate"),
        Row("each of the three", "right_talk right_outside right_wish", lesson=True),
        Row("the base kitten, with the chat template", "base_answer_accuracy", lesson=True),
        Row("the base kitten, with the bare question", "base_answer_accuracy_bare", lesson=True),
        Row("replies that stop by themselves", "stop_rate"),
        Row("safe replies to risky questions", "safe_rate"),
        Row("fine things allowed", "allowed_rate", lesson=True),
        Row("friendly replies", "friendly_rate"),
        Row("forgotten, bits per byte", "forgetting_bits_per_byte", "+3"),
    ),
    "ch1_tools": (
        SECONDS,
        Row("calculator, right", "calculator_accuracy"),
        Row("answered at once", "calculator_without_tool"),
        Row("search, right and with the right source", "search_accuracy"),
        Row("answered at once, no source asked for", "search_without_tool"),
        Row("plans of two calls", "plan_accuracy"),
        Row("plans of three calls", "long_plan_accuracy"),
        Row("chat questions right, before", "chat_accuracy_before"),
        Row("after", "chat_accuracy_after"),
        Row("a call where none is needed", "needless_call_rate"),
        Row("forgotten, bits per byte", "forgetting_bits_per_byte", "+3"),
    ),
    "ch1_language": (
        SECONDS,
        *_way_rows("all weights", "full"),
        *_way_rows("LoRA 16", "lora_16"),
    ),
    "ch2_reward_model": (
        SECONDS,
        Row("noisy held-out labels guessed right", "accuracy"),
        Row("the best possible guess", "bayes_accuracy"),
        Row("clearly different pairs ordered right", "gold_accuracy", lesson=True),
        Row("true before false in equal words, taught facts", "truth_accuracy", lesson=True),
        Row("the same, held-out facts", "truth_accuracy_held_out", lesson=True),
        Row("calibration error", "calibration_error", "3", lesson=True),
    ),
    "ch3_ppo": (
        SECONDS,
        Row("gold score before, after", "gold_before gold_after", "2"),
        Row("share of the way to the best replies", "gold_share_of_distance", lesson=True),
        Row("safe replies to risky questions", "safe_rate_after"),
        Row("friendly replies", "friendly_rate_after"),
        Row(
            "fine things allowed, before and after",
            "allowed_rate_before allowed_rate_after",
            lesson=True,
        ),
        Row(
            "small talk, unknowns, wishes: suitable",
            "talk_rate_before talk_rate_after",
            lesson=True,
        ),
        Row(
            "facts and sums right, before and after",
            "answer_accuracy_before answer_accuracy_after",
        ),
        Row("KL, nats per reply", "kl", "2", lesson=True),
    ),
    "ch4_preferences": (
        SECONDS,
        *_method_rows("DPO", "dpo"),
        *_method_rows("IPO", "ipo"),
        *_method_rows("ORPO", "orpo"),
    ),
    "ch5_reasoning": (
        SECONDS,
        Row("held-out problems right, before and after", "accuracy_before accuracy_after"),
        Row("after, greedy", "greedy_after", lesson=True),
        Row("tokens per reply, before and after", "tokens_before tokens_after", "0"),
        Row('"wait" per reply, before and after', "waits_before waits_after", "1"),
        Row("right form, cut off", "format_rate_after truncated_after", lesson=True),
        Row("pass@8, before and after", "pass_at_8_before pass_at_8_after", lesson=True),
        Row(
            "tokens of right and of wrong replies, after",
            "tokens_right_after tokens_wrong_after",
            "0",
            lesson=True,
        ),
        Row(
            '"wait" of right and of wrong replies, after',
            "waits_right_after waits_wrong_after",
            "1",
            lesson=True,
        ),
        Row("seconds per step", "seconds_per_step", "1", lesson=True, timed=True),
    ),
    "ch6_r1": (
        SECONDS,
        Row("held-out puzzles right", "puzzle_accuracy"),
        Row("right form, cut off", "puzzle_format puzzle_truncated", lesson=True),
        Row("gold score of chats", "gold", "2"),
        Row("safe replies to risky questions", "safe_rate"),
        Row("fine things allowed", "allowed_rate", lesson=True),
        Row("friendly replies", "friendly_rate", lesson=True),
        Row("facts and sums right", "answer_accuracy"),
        Row("replies that stop by themselves", "stop_rate", lesson=True),
        Row("thinks in chats, in puzzles", "chat_thinks puzzle_thinks", lesson=True),
        Row("unseen books, bits per byte", "bits_per_byte", "3", lesson=True),
        _step_row("puzzles right", "puzzle_accuracy"),
        _step_row("gold score", "gold", "2"),
        _step_row("facts and sums", "answer_accuracy"),
        Row(
            "a small kitten, puzzles right: RL, R1's thoughts, RL after these",
            " ".join(f"distil.arms.{arm}.accuracy" for arm in ("rl", "distilled", "distilled_rl")),
            lesson=True,
        ),
        Row("thoughts drawn, kept", "rejection.thoughts_drawn rejection.thoughts_kept", "0", True),
    ),
}
