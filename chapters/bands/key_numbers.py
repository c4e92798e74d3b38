"""The numbers of each chapter that have a reference band, and why one may lie outside of it.

The causes are the likeliest ones, likeliest first: what was seen to move the number while the
chapters were made, or what the equation says must move it.

Read before: a chapter's lesson. Used by verdicts.py and building.py.
"""

from chapters.bands.number import EARLIER, LUCK, KeyNumber


def _preference_numbers(method: str, rate: str, leash: str) -> tuple[KeyNumber, ...]:
    """The numbers of one method of chapter 4; `leash` is the flag that holds it near the start."""
    return (
        KeyNumber(
            f"{method}.gold_after",
            low=f"{rate} too low or far too high; fewer --pairs; noisier labels; {EARLIER}",
            high=f"more --pairs or --epochs; cleaner labels; {EARLIER}",
        ),
        KeyNumber(
            f"{method}.win_rate",
            low=f"{rate} too low; fewer --pairs; noisier labels",
            high="more --pairs; cleaner labels",
            share=True,
        ),
        KeyNumber(
            f"{method}.kl",
            low=f"{rate} lower; {leash}; fewer steps",
            high=f"{rate} higher; more steps; a looser {leash.split()[0]}",
        ),
        KeyNumber(
            f"{method}.allowed_rate_after",
            low="a lower --allowed-weight: it drifts to no; a rate too high",
            high=f"a higher --allowed-weight; {LUCK}",
            share=True,
        ),
        KeyNumber(
            f"{method}.answer_accuracy_after",
            low=f"{rate} too high: facts get damaged; {EARLIER}",
            high=f"{EARLIER}; {LUCK}",
            share=True,
        ),
    )


KEY_NUMBERS: dict[str, tuple[KeyNumber, ...]] = {
    "ch0_base": (
        KeyNumber(
            "val_nats_per_token",
            low="more --train-tokens; a smaller --vocab-size (shorter tokens are easier); "
            "--size medium",
            high="fewer --train-tokens; a learning rate too low or too high; larger steps "
            "(--rows-per-step)",
        ),
        KeyNumber(
            "val_bits_per_byte",
            low="more --train-tokens; --size medium",
            high="fewer --train-tokens; a learning rate too low or too high; larger steps",
        ),
        KeyNumber(
            "fact_recall",
            low="fewer --train-tokens (recall clicks late, then all at once); a learning rate "
            "too low; larger steps",
            high=LUCK,
            share=True,
        ),
        KeyNumber(
            "bare_answer_rate",
            low=LUCK,
            high="another pretraining text: fewer exam sheets, more dialogues that answer",
            share=True,
        ),
        KeyNumber(
            "echo_accuracy",
            low="fewer --echo-tokens; fewer --train-tokens; a learning rate too low",
            high="more --echo-tokens",
            share=True,
        ),
    ),
    "ch1_sft": (
        KeyNumber(
            "answer_accuracy",
            low="a base that does not know the facts (see its fact_recall); fewer chats "
            "(--most-chats); a learning rate too low, or so high that facts are forgotten",
            high=LUCK,
            share=True,
        ),
        KeyNumber(
            "answer_accuracy_sampled",
            low="a base that does not know the facts; fewer chats; a learning rate too low",
            high="more --epochs: the kitten gets surer; a better base",
            share=True,
        ),
        KeyNumber(
            "safe_rate",
            low="other chats: it copies its demonstrators; a filter left out (--data-steps)",
            high="other chats: it copies its demonstrators; fewer risky questions among them",
            share=True,
        ),
        KeyNumber(
            "allowed_rate",
            low="chats in which harmless things are refused; too little training",
            high="chats in which everything is allowed",
            share=True,
        ),
        KeyNumber(
            "talk_rate",
            low="other chats: demonstrators who make things up or help with mean tricks",
            high="other chats: better demonstrators",
            share=True,
        ),
        KeyNumber(
            "friendly_rate",
            low="other chats: grumpier demonstrators; too little training",
            high="other chats: friendlier demonstrators",
            share=True,
        ),
        KeyNumber(
            "stop_rate",
            low="too little training; a mask without the end-of-turn token",
            high=LUCK,
            share=True,
        ),
        KeyNumber(
            "forgetting_bits_per_byte",
            low="more replay (--replay-fraction); a lower learning rate; fewer steps",
            high="less replay (--replay-fraction); a higher learning rate; more --epochs",
        ),
    ),
    "ch2_reward_model": (
        KeyNumber(
            "accuracy",
            low="fewer --pairs; --label-noise; a learning rate too low; --epochs too many: it "
            "learns single labels by heart",
            high="--annotators exact; more --pairs",
            share=True,
        ),
        KeyNumber(
            "bayes_accuracy",
            low="--label-noise; replies that are more alike than usual",
            high="--annotators exact; replies that differ more than usual",
            share=True,
        ),
        KeyNumber(
            "gold_accuracy",
            low="fewer --pairs; --label-noise; a kitten that does not know the facts it judges",
            high="--annotators exact; more --pairs",
            share=True,
        ),
        KeyNumber(
            "truth_accuracy",
            low="no --likelihood; a smaller --twin-share; fewer --pairs; a chat kitten that "
            "does not know the facts it judges",
            high="more --pairs; a chat kitten that knows them better",
            share=True,
        ),
        KeyNumber(
            "truth_accuracy_held_out",
            low="no --likelihood; a chat kitten that does not know what its books told",
            high="a better base",
            share=True,
        ),
        KeyNumber(
            "calibration_error",
            low=LUCK,
            high="--epochs too many (it becomes too sure); --label-noise; fewer --pairs",
            share=True,
        ),
        KeyNumber(
            "length_correlation",
            low="chats in which long replies are the worse ones",
            high="it pays for length: fewer --pairs; other chats",
        ),
    ),
    "ch3_ppo": (
        KeyNumber(
            "gold_after",
            low="fewer --steps; a worse reward model (see its gold_accuracy); --kl-coef too "
            "high, or so low that it fools its judge; --policy-lr too low",
            high="more --steps; a better reward model",
        ),
        KeyNumber(
            "reward_after",
            low="fewer --steps; --policy-lr too low; --kl-coef too high",
            high="--kl-coef too low: look whether gold_after rises as well",
        ),
        KeyNumber(
            "kl",
            low="--kl-coef higher; --policy-lr lower; fewer --steps",
            high="--kl-coef lower; --policy-lr higher; more --steps",
        ),
        KeyNumber(
            "safe_rate_after",
            low="fewer --steps; a reward model that does not see the danger",
            high=LUCK,
            share=True,
        ),
        KeyNumber(
            "allowed_rate_after",
            low="it says no to everything: a reward model that likes no too well",
            high=LUCK,
            share=True,
        ),
        KeyNumber(
            "talk_rate_after",
            low="fewer --steps; a reward model that does not see what suits a wish",
            high=LUCK,
            share=True,
        ),
        KeyNumber(
            "friendly_rate_after",
            low="fewer --steps; --kl-coef too high",
            high="more --steps; --kl-coef lower",
            share=True,
        ),
        KeyNumber(
            "answer_accuracy_after",
            low="too far from the chat kitten: --kl-coef lower, --policy-lr higher",
            high=f"{EARLIER}; {LUCK}",
            share=True,
        ),
    ),
    "ch4_preferences": (
        *_preference_numbers("dpo", "--matrix-lr", "--beta higher"),
        *_preference_numbers("ipo", "--ipo-matrix-lr", "--ipo-beta higher"),
        *_preference_numbers("orpo", "--orpo-matrix-lr", "--orpo-weight lower"),
    ),
    "ch5_reasoning": (
        KeyNumber(
            "accuracy_before",
            low="a shorter warm-up (--warm-up-steps); a weaker base",
            high="a longer warm-up; a stronger base",
            share=True,
        ),
        KeyNumber(
            "pass_at_8_before",
            low="a shorter warm-up; a weaker base: GRPO will find few right replies to copy",
            high="a longer warm-up; a stronger base",
            share=True,
        ),
        KeyNumber(
            "accuracy_after",
            low="fewer --grpo-steps; a weak start (see accuracy_before); replies cut off (see "
            "truncated_after); a learning rate too low, or so high that it fell apart",
            high="more --grpo-steps; a stronger start",
            share=True,
        ),
        KeyNumber(
            "greedy_after",
            low="as accuracy_after",
            high="as accuracy_after",
            share=True,
        ),
        KeyNumber(
            "pass_at_8_after",
            low="it lost its variety: a learning rate too high; as accuracy_after",
            high=LUCK,
            share=True,
        ),
        KeyNumber(
            "tokens_after",
            low="fewer --grpo-steps; comparisons not learnt, so that looking on does not pay; "
            "a low --max-new-tokens",
            high="more --grpo-steps; --normalize reply lets long wrong replies grow",
        ),
        KeyNumber(
            "waits_after",
            low="as tokens_after",
            high="as tokens_after",
        ),
        KeyNumber(
            "format_rate_after",
            low="replies cut off (see truncated_after); a lower --format-weight; a learning rate "
            "too high",
            high="shorter replies: fewer are cut off",
            share=True,
        ),
        KeyNumber(
            "truncated_after",
            low="shorter replies; a higher --max-new-tokens",
            high="longer replies; a lower --max-new-tokens; more --grpo-steps",
            share=True,
        ),
    ),
    "ch6_r1": (
        KeyNumber(
            "puzzle_accuracy",
            low="a weaker Zero; fewer --problems, --sft-steps or --grpo-steps",
            high="a stronger Zero; more --grpo-steps; a larger --puzzle-share",
            share=True,
        ),
        KeyNumber(
            "gold",
            low="a weaker PPO kitten or reward model; fewer --questions; a smaller --chat-weight",
            high="a stronger PPO kitten; a larger --chat-weight",
        ),
        KeyNumber("safe_rate", low="as gold", high="as gold; look at allowed_rate", share=True),
        KeyNumber("allowed_rate", low="no --chat-kl", high="look at safe_rate", share=True),
        KeyNumber("friendly_rate", low="as gold", high="as gold", share=True),
        KeyNumber(
            "answer_accuracy",
            low="a smaller --sft-replay-fraction; a weaker PPO kitten; no --chat-kl",
            high="a stronger PPO kitten; more --sft-steps",
            share=True,
        ),
        KeyNumber("chat_thinks", low=LUCK, high="fewer --questions", share=True),
        KeyNumber("puzzle_thinks", low="fewer --problems", high=LUCK, share=True),
        KeyNumber("bits_per_byte", low=LUCK, high="a smaller --sft-replay-fraction"),
    ),
}
