"""The token credit picture: how one score for a sentence changes the weight of each token.

In the middle of the training the chapter keeps a snapshot: both models, some replies, their scores.
From it the picture can be drawn at any time, also with another gamma, lam or kl_coef: the credit is
computed anew, one real update is done on copies of the models, and the change of every token's
log-prob is read off.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from chapters.common.terminal import safe_text
from kittenllm import checks, plots, training
from kittenllm.forward import action_logprobs, frozen_logprobs
from kittenllm.gpt import GPT
from kittenllm.optim import make_optimizer
from kittenllm.ppo import (
    PPOConfig,
    ValueModel,
    gae,
    kl_shaped_rewards,
    ppo_policy_loss,
    whiten,
)
from kittenllm.runs.checkpoints import (
    CheckpointError,
    load_checkpoint,
    load_head,
    model_from,
    save_checkpoint,
    tokenizer_from,
    write_json_atomic,
)
from kittenllm.runs.json_files import printable
from kittenllm.sampling import Rollout
from kittenllm.settings import new_generator
from kittenllm.tokenizer import Tokenizer

PICTURE = "token_credit.png"
SHORTEST_REPLY = 5  # tokens, the end of turn included, of a reply worth looking at
LONGEST_REPLY = 14
KEPT_REPLIES = 4  # replies whose numbers are written into a file
SHORT = {  # names of the rows as headings of narrow columns
    "reward at the end": "end reward",
    "KL penalty": "KL penalty",
    "TD error": "TD error",
    "GAE advantage": "advantage",
    "change of log-prob": "log p change",
}
DOT = "\u00b7"  # a space that can be seen
ORANGE, PURPLE, RESET = "\x1b[48;5;215m\x1b[30m", "\x1b[48;5;141m\x1b[30m", "\x1b[0m"


@dataclass(frozen=True)
class Credit:
    """What every token of a batch of replies gets: (N, T-1) each, except scores (N,)."""

    scores: Tensor  # one number per reply
    kl_penalty: Tensor  # -kl_coef * (log p - log ref)
    rewards: Tensor  # kl_penalty, and the score on the last token
    td_errors: Tensor  # the surprise of this one token
    advantages: Tensor  # GAE: the surprises from here on
    values: Tensor  # what the value model guessed before each token


@dataclass(frozen=True)
class Snapshot:
    """Two models in the middle of PPO, replies of that policy, and what each reply scored."""

    policy: GPT
    value_model: ValueModel
    tokenizer: Tokenizer
    rollout: Rollout
    scores: Tensor  # (N,)
    ref_logprobs: Tensor  # (N, T-1)
    step: int  # finished steps of PPO

    def credit(self, config: PPOConfig) -> Credit:
        """The credit of every token, for the gamma, lam and kl_coef of `config`."""
        mask = self.rollout.response_mask
        with torch.no_grad():
            values = self.value_model(self.rollout.tokens, mask)
        logprobs, kl_coef = (self.rollout.logprobs, self.ref_logprobs), config.kl_coef
        no_scores = torch.zeros_like(self.scores)
        kl_penalty = kl_shaped_rewards(no_scores, *logprobs, mask, kl_coef=kl_coef)
        rewards = kl_shaped_rewards(self.scores, *logprobs, mask, kl_coef=kl_coef)
        td_errors, _ = gae(rewards, values, mask, gamma=config.gamma, lam=0.0)
        advantages, _ = gae(rewards, values, mask, gamma=config.gamma, lam=config.lam)
        return Credit(self.scores, kl_penalty, rewards, td_errors, advantages, values)

    def change_by_update(self, config: PPOConfig) -> Tensor:
        """How much one round of PPO on these replies changes every token's log-prob: (N, T-1).

        Step 3 of `train_ppo`, for the policy alone: the value model's update does not touch it. It
        moves the snapshot's own policy, so call it last.
        """
        policy, tokens, mask = self.policy, self.rollout.tokens, self.rollout.response_mask
        rates = {"matrix_lr": config.policy_lr, "other_lr": config.policy_lr}
        optimizer = make_optimizer(policy, **rates)
        old_logprobs, advantages = self.rollout.logprobs, self.credit(config).advantages
        if config.whiten_advantages:
            advantages = whiten(advantages, mask)
        generator = new_generator("cpu", 0, "token credit")
        small_steps = training.minibatches(len(mask), config.epochs, config.minibatches, generator)
        for number, rows in enumerate(small_steps):
            logprobs = action_logprobs(policy, tokens[rows], mask[rows])
            loss, metrics = ppo_policy_loss(
                logprobs, old_logprobs[rows], advantages[rows], mask[rows], clip_eps=config.clip_eps
            )
            if number > 0 and metrics["approx_kl"] > config.target_kl:
                break
            loss.backward()
            training.apply_gradients(policy, optimizer, config.max_grad_norm)
        return frozen_logprobs(policy, tokens, mask) - old_logprobs


def save_snapshot(path: Path, snapshot: Snapshot) -> None:
    """Write a snapshot.  Raises: CheckpointError."""
    rollout = snapshot.rollout
    payload = {
        "kind": "token credit",
        "config": {**vars(snapshot.policy.config)},
        "tokenizer": snapshot.tokenizer.to_state(),
        "policy": snapshot.policy.state_dict(),
        "value_model": snapshot.value_model.state_dict(),
        "rollout": {
            "tokens": rollout.tokens,
            "response_mask": rollout.response_mask,
            "logprobs": rollout.logprobs,
            "ended": rollout.ended,
        },
        "scores": snapshot.scores,
        "ref_logprobs": snapshot.ref_logprobs,
        "step": snapshot.step,
    }
    save_checkpoint(path, payload)


def load_snapshot(path: Path) -> Snapshot:
    """Read a snapshot, on the CPU.  Raises: CheckpointError."""
    payload = load_checkpoint(path)
    if payload.get("kind") != "token credit":
        raise CheckpointError(f"{path}: not a snapshot of PPO. Run chapters.ch3_ppo again.")
    try:
        return snapshot_from(payload)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: the parts of this snapshot do not fit together ({printable(error)}). "
            "Run chapters.ch3_ppo again."
        ) from error


def snapshot_from(payload: dict) -> Snapshot:
    """The snapshot in a file's content; its parts must have the shapes of one rollout."""
    policy = model_from(payload["config"], payload["policy"])
    weights = dict(payload["value_model"])
    head = {name: weights.pop(name) for name in list(weights) if not name.startswith("gpt.")}
    trunk = model_from(payload["config"], {name[4:]: value for name, value in weights.items()})
    value_model = ValueModel(trunk)
    load_head(value_model, head)
    rollout, tokenizer = Rollout(**payload["rollout"]), tokenizer_from(payload["tokenizer"])
    scores, ref_logprobs, step = payload["scores"], payload["ref_logprobs"], payload["step"]
    checks.token_ids("tokens", rollout.tokens, policy.config.vocab_size)
    N, T = rollout.tokens.shape
    checks.bool_mask("response_mask", rollout.response_mask, (N, T - 1))
    checks.bool_mask("ended", rollout.ended, (N,))
    for name, tensor, shape in (
        ("logprobs", rollout.logprobs, (N, T - 1)),
        ("ref_logprobs", ref_logprobs, (N, T - 1)),
        ("scores", scores, (N,)),
    ):
        checks.floats(name, tensor)
        if tuple(tensor.shape) != shape or tensor.dtype != torch.float32:
            raise ValueError(f"{name} is {tensor.dtype} of the shape {tuple(tensor.shape)}")
    if N == 0 or not bool(rollout.response_mask.any(dim=1).all()):
        raise ValueError("a reply without a token")
    if type(step) is not int or tokenizer.vocab_size != policy.config.vocab_size:
        raise ValueError("step or tokenizer of another run")
    return Snapshot(policy, value_model, tokenizer, rollout, scores, ref_logprobs, step)


def most_telling(snapshot: Snapshot, credits: Credit, count: int = 1) -> list[int]:
    """The numbers of the replies that show best where credit arrives, the best one first.

    First those that can be read (see `SHORTEST_REPLY`); of these, those that `earned_by_a_word`;
    of these, those in which that word surprised the value model most.
    """
    ranks = []
    for number in range(len(snapshot.scores)):
        mask = snapshot.rollout.response_mask[number]
        td_errors, advantages = credits.td_errors[number][mask], credits.advantages[number][mask]
        pieces = reply_pieces(snapshot, number)
        readable = SHORTEST_REPLY <= len(pieces) <= LONGEST_REPLY
        readable = readable and bool(snapshot.rollout.ended[number])
        surprise = float(td_errors[:-1].abs().max()) if len(pieces) > 1 else 0.0
        ranks.append((readable, earned_by_a_word(pieces, td_errors, advantages), surprise))
    return sorted(range(len(ranks)), key=lambda number: ranks[number], reverse=True)[:count]


def earned_by_a_word(pieces: list[str], td_errors: Tensor, advantages: Tensor) -> bool:
    """Is the largest advantage of a reply under the token that surprised most, and is it a word?

    Then the picture shows the story: the score arrives at the end, the credit under that word.
    """
    place = int(td_errors.abs().argmax())
    is_word = pieces[place].strip().isalpha() and place < len(pieces) - 1
    return is_word and place == int(advantages.abs().argmax())


def reply_pieces(snapshot: Snapshot, number: int) -> list[str]:
    """The tokens of one reply as text, its end of turn included."""
    row, mask = snapshot.rollout.tokens[number], snapshot.rollout.response_mask[number]
    return snapshot.tokenizer.tokens_as_text(row[1:][mask].tolist())


def redrawn_name(config: PPOConfig) -> str:
    """The file of a picture drawn again: `PICTURE`, which the report shows, stays as it is."""
    return f"token_credit_gamma{config.gamma:g}_lam{config.lam:g}_kl{config.kl_coef:g}.png"


def draw_again(path: Path, config: PPOConfig, *, colour: bool) -> str:
    """Draw the picture from the snapshot that lies beside it, and return it as text.

    Raises: CheckpointError if there is no snapshot.
    """
    snapshot = load_snapshot(path.with_name("credit.pt"))
    table = draw_token_credit(path, snapshot, config, colour=colour)
    return f"\nthe credit of every token ({path}):\n\n{table}\n"


def draw_token_credit(path: Path, snapshot: Snapshot, config: PPOConfig, *, colour: bool) -> str:
    """Draw the picture to `path` and return the same as text for a terminal.

    The numbers of this reply and of a few others go into a JSON file beside the picture, for the
    report.
    """
    usual = snapshot.credit(PPOConfig())  # the same replies, whatever settings they are drawn with
    numbers = most_telling(snapshot, usual, KEPT_REPLIES)
    credits = snapshot.credit(config)
    change = snapshot.change_by_update(config)
    kept = [credit_of_reply(snapshot, credits, change, number) for number in numbers]
    question, tokens, rows = kept[0]
    title = f"{question}   score {float(credits.scores[numbers[0]]):+.2f}"
    note = (
        f"gamma {config.gamma:g}, lam {config.lam:g}, kl_coef {config.kl_coef:g}; "
        f"after {snapshot.step} steps of PPO; each row has its own colour scale"
    )
    how = how_it_was_chosen(snapshot, usual, numbers[0])
    if how:
        note += f";\n{how}"
    plots.token_rows(path, tokens, rows, title, per_line=LONGEST_REPLY, note=note)
    replies = [
        {
            "question": question,
            "score": float(credits.scores[number]),
            "tokens": tokens,
            "rows": {name: row.tolist() for name, row in rows.items()},
            **parts_of_credit(snapshot, credits, number),
        }
        for number, (question, tokens, rows) in zip(numbers, kept, strict=True)
    ]
    settings = {"gamma": config.gamma, "lam": config.lam, "kl_coef": config.kl_coef}
    settings |= {"mean_score": float(credits.scores.mean())}
    content = {"note": note, "settings": settings, "replies": replies}
    write_json_atomic(path.with_suffix(".json"), content)
    return credit_table(tokens, rows, title, note, colour=colour)


def how_it_was_chosen(snapshot: Snapshot, credits: Credit, number: int) -> str:
    """The rule by which the first reply was chosen, as a sentence; "" if no reply fulfils it."""
    mask = snapshot.rollout.response_mask[number]
    td_errors, advantages = credits.td_errors[number][mask], credits.advantages[number][mask]
    pieces = reply_pieces(snapshot, number)
    if not earned_by_a_word(pieces, td_errors, advantages):
        return ""
    word = pieces[int(td_errors.abs().argmax())].strip()
    return (
        f"chosen of {len(snapshot.scores)} replies at lam {PPOConfig().lam:g}: in it one word "
        f"({word})\nsurprised the value model most and has the largest advantage"
    )


def credit_of_reply(
    snapshot: Snapshot, credits: Credit, change: Tensor, number: int
) -> tuple[str, list[str], dict[str, Tensor]]:
    """One reply -> (its question, its tokens as text, a number for each token in every row)."""
    tokenizer = snapshot.tokenizer
    row, mask = snapshot.rollout.tokens[number], snapshot.rollout.response_mask[number]
    rows = {
        "reward at the end": (credits.rewards - credits.kl_penalty)[number][mask],
        "KL penalty": credits.kl_penalty[number][mask],
        "TD error": credits.td_errors[number][mask],
        "GAE advantage": credits.advantages[number][mask],
        "change of log-prob": change[number][mask],
    }
    first = int(mask.nonzero()[0]) + 1
    prompt = tokenizer.decode(row[:first].tolist())
    question = prompt.split("<|im_start|>user\n")[-1].split("<|im_end|>")[0]
    return question, reply_pieces(snapshot, number), rows


def parts_of_credit(snapshot: Snapshot, credits: Credit, number: int) -> dict[str, list[float]]:
    """What the credit of one reply is computed from, besides its score: a script of the report
    computes it again. kl: log p - log ref, nats; values: the value model's guesses."""
    mask = snapshot.rollout.response_mask[number]
    kl = (snapshot.rollout.logprobs - snapshot.ref_logprobs)[number][mask]
    return {"kl": kl.tolist(), "values": credits.values[number][mask].tolist()}


def credit_table(
    tokens: list[str], rows: dict[str, Tensor], title: str, note: str, *, colour: bool
) -> str:
    """The picture turned by 90 degrees, in 80 columns: a line per token, a column per row."""
    lines = [safe_text(title), f"{'token':<10}" + "".join(f"{SHORT[name]:>14}" for name in rows)]
    for t, token in enumerate(tokens):
        line = f"{safe_text(token).replace(' ', DOT)[:9]:<10}"
        for row in rows.values():
            value, largest = float(row[t]), float(row.abs().max())
            text = f"{value:+14.2f}"
            if colour and abs(value) > largest / 4:
                text = f"{ORANGE if value > 0 else PURPLE}{text}{RESET}"
            line += text
        lines.append(line)
    return "\n".join([*lines, f"({note})"])
