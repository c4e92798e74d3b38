"""The curves of each chapter that are kept beside its key numbers, for a picture.

Read before: key_numbers.py. Used by building.py.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Curve:
    """One curve of metrics.jsonl."""

    name: str
    stage: str
    key: str
    unit: str


CURVES: dict[str, tuple[Curve, ...]] = {
    "ch0_base": (
        Curve("loss on unseen text", "train", "val_loss", "nats per token"),
        Curve("training loss", "train", "loss", "nats per token"),
    ),
    "ch1_sft": (
        Curve("loss on chats", "train", "chat_loss", "nats per trained token"),
        Curve("loss on pretraining text", "train", "base_bits_per_byte", "bits per byte"),
    ),
    "ch2_reward_model": (
        Curve("training loss", "train", "loss", "nats"),
        Curve("training accuracy", "train", "accuracy", "share of pairs"),
    ),
    "ch3_ppo": (
        Curve("score of the reward model", "train", "score", "points"),
        Curve("KL to the chat kitten", "train", "kl", "nats per reply"),
    ),
    "ch4_preferences": (
        Curve("DPO loss", "dpo", "loss", "nats"),
        Curve("ORPO loss", "orpo", "loss", "nats"),
    ),
    "ch5_reasoning": (
        Curve("right answers while practising", "grpo", "accuracy", "share of replies"),
        Curve("length of replies", "grpo", "reply_tokens", "tokens"),
    ),
    "ch6_r1": (
        Curve("right answers to puzzles while practising", "grpo", "accuracy", "share of replies"),
        Curve("the reward model's score of chats", "grpo", "score", "standard deviations"),
    ),
}
