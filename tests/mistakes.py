"""Typical wrong answers to the exercises, and what to say about each.

Each mistake is written out: advice.py compares its numbers with those of a function that
failed. Whoever has forgotten the reference in DPO gets exactly the numbers of a DPO without it.

Read before: advice.py. Left out: mistakes that nobody has made yet; for them there are the
three hints of exercises/hints.py.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from chapters.check.table import EXERCISES
from kittenllm.chat import ChatTokens
from kittenllm.logprobs import masked_mean
from kittenllm.orpo import log_odds

RIGHT = {  # the package's own, also while another one is put in their place
    name: getattr(importlib.import_module(f"kittenllm.{exercise.module}"), exercise.function)
    for name, exercise in EXERCISES.items()
}


@dataclass(frozen=True)
class Mistake:
    """A wrong answer: `wrong` gives what it gives for one part of the result.

    Without `wrong`, the mistake is a result that is not finite where the right one is; with
    `or_other` also one that is wrong in this example, but right in the plain one.
    """

    sentence: str
    wrong: Callable | None = None
    example: str = "plain"
    part: str = "loss"
    or_other: bool = False


# ------------------------------------------------------------------------------- the mistakes


def mean_of(losses: Tensor) -> Tensor:
    return losses.mean()


def per_pair(loss: Callable[[Tensor], Tensor]) -> Callable:
    """A wrong reward, as a function of the difference of the scores."""
    return lambda chosen, rejected: loss(chosen - rejected)


def of_ratios(loss: Callable, reduce: Callable = mean_of) -> Callable:
    """A wrong DPO or IPO, as a function of the two log-ratios log(p / ref) and beta."""

    def wrong(chosen, rejected, ref_chosen, ref_rejected, *, beta, label_smoothing=0.0):
        return reduce(loss(chosen - ref_chosen, rejected - ref_rejected, beta))

    return wrong


def smoothed_with(right_share: Callable[[float], float]) -> Callable:
    """A DPO whose two labels have other shares."""

    def wrong(chosen, rejected, ref_chosen, ref_rejected, *, beta, label_smoothing):
        margin = beta * (chosen - rejected - ref_chosen + ref_rejected)
        share = right_share(label_smoothing)
        return -(share * F.logsigmoid(margin) + (1 - share) * F.logsigmoid(-margin)).mean()

    return wrong


def minus_flipped(chosen, rejected, ref_chosen, ref_rejected, *, beta, label_smoothing):
    margin = beta * (chosen - rejected - ref_chosen + ref_rejected)
    right, flipped = F.logsigmoid(margin), F.logsigmoid(-margin)
    return -((1 - label_smoothing) * right - label_smoothing * flipped).mean()


def without_reference(loss: Callable) -> Callable:
    """A DPO or IPO that looks at the policy alone."""

    def wrong(chosen, rejected, ref_chosen, ref_rejected, *, beta):
        return loss(chosen - rejected, beta).mean()

    return wrong


def reference_added(loss: Callable) -> Callable:
    def wrong(chosen, rejected, ref_chosen, ref_rejected, *, beta):
        return loss(chosen - rejected + ref_chosen - ref_rejected, beta).mean()

    return wrong


def clipped_with(objective: Callable, reduce: Callable = masked_mean, sign: int = -1) -> Callable:
    """A wrong clip: `objective(ratio, clipped ratio, advantage)` of every token."""

    def wrong(logprobs, old, advantages, mask, *, clip_eps, clip_eps_high=None, **others):
        ratio = (logprobs - old).exp()
        clipped = ratio.clamp(1 - clip_eps, 1 + (clip_eps_high or clip_eps))
        if advantages.dim() == 1:
            advantages = advantages[:, None].expand_as(ratio)
        return sign * reduce(objective(ratio, clipped, advantages), mask)

    return wrong


def smaller(ratio: Tensor, clipped: Tensor, advantages: Tensor) -> Tensor:
    return torch.minimum(ratio * advantages, clipped * advantages)


def other_clip(low: str, high: str) -> Callable:
    """GRPO's right clip with other ends."""

    def wrong(logprobs, old, advantages, mask, *, normalize, **ends):
        ratio = (logprobs - old).exp()
        clipped = ratio.clamp(1 - ends[low], 1 + ends[high])
        return -masked_mean(smaller(ratio, clipped, advantages[:, None]), mask)

    return wrong


def row_means(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of every row that has something, then of those rows."""
    some = mask.any(dim=1)
    rows = torch.where(mask, values, 0.0).sum(1)[some] / mask.sum(1)[some]
    return rows.mean()


def all_row_means(values: Tensor, mask: Tensor) -> Tensor:
    return (torch.where(mask, values, 0.0).sum(1) / mask.sum(1).clamp(min=1)).mean()


def total(values: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, values, 0.0).sum()


def over_all_places(values: Tensor, mask: Tensor) -> Tensor:
    return total(values, mask) / mask.numel()


def ignored_mask(values: Tensor, mask: Tensor) -> Tensor:
    return values.mean()


def with_kl(kl: Callable) -> Callable:
    """GRPO with another KL term, made from log(p / ref)."""

    def wrong(logprobs, old, advantages, mask, *, ref_logprobs, kl_coef, normalize):
        ratio = (logprobs - old).exp()
        surrogate = smaller(ratio, ratio.clamp(0.8, 1.2), advantages[:, None])
        return masked_mean(kl_coef * kl(logprobs - ref_logprobs) - surrogate, mask)

    return wrong


def k3(log_ratio: Tensor) -> Tensor:
    """From log(p / ref): ref/p - 1 - log(ref/p)."""
    return (-log_ratio).exp() - 1 + log_ratio


def move_metric(metric: Callable) -> Callable:
    """A wrong metric of the clip, made from the log-ratio and eps."""

    def wrong(logprobs, old, advantages, mask, *, clip_eps, **others):
        return masked_mean(metric(logprobs - old, clip_eps).float(), mask)

    return wrong


def sft_with(reduce: Callable, shift: int = 1, sign: int = -1) -> Callable:
    """A wrong SFT loss: another mean, or logits that speak about another token."""

    def wrong(logits, tokens, loss_mask):
        logprobs = logits.log_softmax(-1)
        if shift == 0:  # the logits of a token say how likely it was
            own = logprobs.gather(-1, tokens[..., None]).squeeze(-1)
            return sign * reduce(own, loss_mask)
        picked = logprobs[:, :-1].gather(-1, tokens[:, 1:, None]).squeeze(-1)
        mask = loss_mask[:, 1:] if shift == 1 else loss_mask[:, :-1]
        return sign * reduce(picked, mask)

    return wrong


def picked_from(scores: Callable) -> Callable:
    """token_logprobs with something else than log_softmax."""

    def wrong(logits, tokens):
        return scores(logits)[:, :-1].gather(-1, tokens[:, 1:, None]).squeeze(-1)

    return wrong


def gathered_from(scores: Callable) -> Callable:
    """pick_logprobs with something else than log_softmax."""

    def wrong(logits, targets):
        return scores(logits).gather(-1, targets[..., None]).squeeze(-1)

    return wrong


def gae_with(
    delta: Callable | None = None,
    pull: Callable | None = None,
    gap: str = "skipped",
    order: Callable = reversed,
) -> Callable:
    """GAE with another delta(r, v, next v, gamma), pull(gamma, lam), gaps, or order of steps."""

    def wrong(rewards, values, mask, *, gamma, lam):
        rewards, kept = torch.where(mask, rewards, 0.0), torch.where(mask, values, 0.0)
        factor = pull(gamma, lam) if pull else gamma * lam
        advantages = torch.zeros_like(kept)
        next_value = next_advantage = torch.zeros(len(mask))
        for t in order(range(mask.shape[1])):
            here = mask[:, t] if gap == "skipped" else torch.ones(len(mask), dtype=torch.bool)
            value = kept[:, t]
            change = (
                delta(rewards[:, t], value, next_value, gamma)
                if delta
                else rewards[:, t] + gamma * next_value - value
            )
            advantage = change + factor * next_advantage
            advantages[:, t] = torch.where(here, advantage, 0.0)
            next_advantage = torch.where(here, advantage, next_advantage)
            next_value = torch.where(here, value, next_value)
        if gap == "zeroed at the end":
            advantages = torch.where(mask, advantages, 0.0)
        return advantages

    return wrong


def returns_of(formula: Callable) -> Callable:
    """GAE's second result, made from its advantages, the rewards and the values."""

    def wrong(rewards, values, mask, *, gamma, lam):
        advantages, _ = RIGHT["gae"](rewards, values, mask, gamma=gamma, lam=lam)
        return formula(advantages, torch.where(mask, rewards, 0.0), values, mask)

    return wrong


def in_groups(formula: Callable, flat: bool = True) -> Callable:
    """group_advantages made from the table of groups."""

    def wrong(rewards, *, group_size, normalize_std=True, eps=1e-4):
        result = formula(rewards.view(-1, group_size), eps)
        return result.flatten() if flat else result

    return wrong


def centred(groups: Tensor) -> Tensor:
    return groups - groups.mean(dim=1, keepdim=True)


def spread(groups: Tensor) -> Tensor:
    return groups.std(dim=1, keepdim=True)


def columns_for_groups(rewards: Tensor, *, group_size: int) -> Tensor:
    """Takes every G-th reply for a sibling."""
    groups = rewards.view(group_size, -1).T
    return (centred(groups) / (spread(groups) + 1e-4)).T.flatten()


def chat_with(
    trained: Callable[[str, str, int], bool],
    head: str = "{role}\n",
    between: str = "",
    together: bool = False,
    reply_next_done: bool = True,
) -> Callable:
    """A wrong encode_chat: `trained(role, part, turns that follow)` for start, head, content, end.

    between: text behind each turn; together: head and content encoded as one text.
    """

    def wrong(tokenizer, messages, *, reply_next=False):
        chat = ChatTokens()
        for number, message in enumerate(messages):
            role, left = message["role"], len(messages) - number - 1
            chat.add(tokenizer.im_start_id, trained=trained(role, "start", left))
            opening = head.format(role=role)
            if together:
                text = tokenizer.encode(opening + message["content"])
                chat.add(text, trained=trained(role, "content", left))
            else:
                chat.add(tokenizer.encode(opening), trained=trained(role, "head", left))
                content = tokenizer.encode(message["content"])
                chat.add(content, trained=trained(role, "content", left))
            chat.add(tokenizer.im_end_id, trained=trained(role, "end", left))
            if between:
                chat.add(tokenizer.encode(between), trained=False)
        if reply_next and reply_next_done:
            chat.add(tokenizer.im_start_id, trained=trained("assistant", "start", 0))
            opening = tokenizer.encode(head.format(role="assistant"))
            chat.add(opening, trained=trained("assistant", "head", 0))
        return chat

    return wrong


def as_it_should(role: str, part: str, left: int) -> bool:
    return role == "assistant" and part in ("content", "end")


def cache_with(append: Callable | None = None, keep: Callable | None = None) -> type:
    """The package's cache with one method that is wrong."""
    methods = {"append": append, "keep": keep}
    return type("Wrong", (RIGHT["cache"],), {k: v for k, v in methods.items() if v})


def append_with(start=None, moves=None, shown=None, values_too: bool = True) -> Callable:
    """A wrong append: another first column, other layers that move on, other columns shown."""

    def append(self, layer, k, v):
        first = start(self) if start else self.length
        end = first + k.shape[2]
        self.keys[layer, : self.rows, :, first:end] = k
        if values_too:
            self.values[layer, : self.rows, :, first:end] = v
        if moves(layer, len(self.keys)) if moves else layer == len(self.keys) - 1:
            self.length = end
        columns = shown(first, end) if shown else slice(0, end)
        rows = slice(0, self.rows)
        return self.keys[layer, rows, :, columns], self.values[layer, rows, :, columns]

    return append


def keep_with(order=None, valid: bool = True, rows_set: bool = True, one_by_one=False) -> Callable:
    """A wrong keep: other rows, `valid` or `rows` forgotten, or one copied after the other."""

    def keep(self, rows):
        if rows.dtype == torch.bool:
            rows = rows.nonzero().squeeze(1)
        rows = order(rows) if order else rows
        tensors = [self.keys.transpose(0, 1), self.values.transpose(0, 1)]
        for tensor in [*tensors, self.valid] if valid else tensors:
            if one_by_one:
                for new, row in enumerate(rows.tolist()):
                    tensor[new] = tensor[row]
            else:
                tensor[: len(rows)] = tensor[rows]
        if rows_set:
            self.rows = len(rows)

    return keep


def one_reward(answer: Callable) -> Callable:
    """A wrong mixed_reward: answer(kinds, number, reply, ended); no kind is a ValueError."""

    def wrong(kinds):
        def reward(number, reply, ended):
            if not 0 <= number < sum(count for count, _ in kinds):
                raise ValueError(f"prompt {number} is of no kind")
            return answer(kinds, number, reply, ended)

        return reward

    return wrong


def own_number(formula: Callable, inside: Callable | None = None, move: Callable | None = None):
    """A wrong mixed_reward that walks along the kinds: formula(number, first, count) is the own
    number, inside(number, first, count) whose prompt it is, move(first, count) the next first."""

    def answer(kinds, number, reply, ended):
        first = 0
        for count, reward_of_kind in kinds:
            own = first <= number < first + count
            if inside(number, first, count) if inside else own:
                return reward_of_kind(formula(number, first, count), reply, ended)
            first = move(first, count) if move else first + count
        raise ValueError("of no kind")

    return one_reward(answer)


def from_first(number: int, first: int, count: int) -> int:
    return number - first


def remembering(kinds):
    """A wrong mixed_reward whose `first` lives outside of the inner function."""
    first = 0

    def reward(number, reply, ended):
        nonlocal first
        for count, reward_of_kind in kinds:
            if first <= number < first + count:
                return reward_of_kind(number - first, reply, ended)
            first += count
        raise ValueError("of no kind")

    return reward


def last_kind(kinds, number, reply, ended):
    return kinds[-1][1](number - sum(count for count, _ in kinds[:-1]), reply, ended)


def refusing(which: Callable[[int, int], bool]) -> Callable:
    """A wrong mixed_reward that refuses other numbers: which(number, how many there are)."""

    def wrong(kinds):
        def reward(number, reply, ended):
            if which(number, sum(count for count, _ in kinds)):
                raise ValueError(f"prompt {number} is of no kind")
            try:
                return RIGHT["mixed_reward"](kinds)(number, reply, ended)
            except ValueError:
                return 0.0, {}

        return reward

    return wrong


FLIPPED = (
    "The sign is flipped: chosen and rejected have changed places. A pair whose chosen reply is "
    "ahead must cost little, so it is chosen minus rejected inside the sigmoid."
)
NO_MINUS = (
    "The loss has the wrong sign: a minus is missing in front (or one too many). Losses are made "
    "small, so what is good must make the loss smaller."
)
SUMMED = "This is the sum. The loss is the mean: divide by how many are counted."
OVERFLOW = (
    "The loss is wrong for scores that are far apart: sigmoid gives 0 there, and the log of 0 is "
    "an overflow. F.logsigmoid(x) is log(sigmoid(x)) without the overflow."
)
MEAN_FIRST = (
    "The mean is taken too early: first the loss of every single pair, then the mean of these "
    "losses."
)
MASKED_NAN = (
    "What is outside the mask reaches the result: NaN there makes it NaN, for NaN * 0 is NaN. Put "
    "torch.where(mask, x, 0.0) before exp, log_softmax and sums."
)
EMPTY = (
    "Where nothing is counted, 0 is divided by 0. Then the loss is 0: divide by "
    "mask.sum().clamp(min=1)."
)
MASK_IGNORED = "The mask is ignored. Only the places where it is True count, not all of them."
ALL_PLACES = (
    "The sum is right, but it is divided by all places of the tensor. Divide by the number of True "
    "in the mask."
)
ROW_MEANS = (
    "This is the mean of the means of the rows. Here every counted token weighs the same: one sum "
    "over the whole batch, divided by one count."
)
FIRST_DIMENSION = (
    "This normalises over the wrong dimension: the vocabulary is the last one, dim=-1."
)
NO_REFERENCE = (
    "The reference is missing: subtract the reference's margin (chosen - rejected) from the "
    "policy's."
)
REFERENCE_ADDED = (
    "The reference's margin is added. It must be subtracted: log(p / ref) = log p - log ref."
)
NO_BETA = "beta is missing: the margin is beta times the difference of the log-ratios."


def bradley_terry(margin: Tensor, beta: float = 1.0) -> Tensor:
    return -F.logsigmoid(beta * margin)


def aim(gap: Tensor, beta: float) -> Tensor:
    return (gap - 1 / (2 * beta)).square()


def odds_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    return -F.logsigmoid(log_odds(chosen) - log_odds(rejected)).mean()


CLIP = (  # of PPO and of GRPO, which share the clip
    Mistake(
        "Of the two candidates the larger one is taken. The smaller one counts: torch.minimum.",
        clipped_with(lambda r, c, a: torch.maximum(r * a, c * a)),
    ),
    Mistake(
        "The minimum is missing: the clipped ratio alone excuses steps in the wrong direction.",
        clipped_with(lambda r, c, a: c * a),
    ),
    Mistake("Nothing is clipped here.", clipped_with(lambda r, c, a: r * a)),
    Mistake(
        "The minimum is taken of the ratios. Multiply each by the advantage first: for a "
        "negative advantage the order turns round.",
        clipped_with(lambda r, c, a: torch.minimum(r, c) * a),
    ),
    Mistake(NO_MINUS, clipped_with(smaller, sign=1)),
)

MISTAKES: dict[str, list[Mistake]] = {
    "gather": [
        Mistake(
            "These are probabilities. The log is missing: log_softmax instead of softmax.",
            gathered_from(lambda x: x.softmax(-1)),
            part="result",
        ),
        Mistake(
            "These are the raw logits. They become log-probabilities by log_softmax over the "
            "vocabulary.",
            gathered_from(lambda x: x),
            part="result",
        ),
        Mistake(
            "The log-probabilities are negated. A log-probability is 0 or below; the minus "
            "belongs to a loss.",
            gathered_from(lambda x: -x.log_softmax(-1)),
            part="result",
        ),
        Mistake(
            "The largest log-probability is taken, whatever the target is: gather must pick at "
            "the target.",
            lambda x, y: x.log_softmax(-1).amax(-1),
            part="result",
        ),
        Mistake(FIRST_DIMENSION, gathered_from(lambda x: x.log_softmax(1)), part="result"),
        Mistake(FIRST_DIMENSION, gathered_from(lambda x: x.log_softmax(0)), part="result"),
        Mistake(
            "With large logits this overflows: exp, or the log of a softmax that is 0. log_softmax "
            "does both in one step and stays finite.",
            example="huge",
            part="result",
        ),
    ],
    "mask": [
        Mistake(ALL_PLACES, over_all_places, part="result"),
        Mistake(MASK_IGNORED, ignored_mask, part="result"),
        Mistake(
            "The mask is upside down: True means that the place counts.",
            lambda values, mask: values[~mask].mean(),  # not by masked_mean: it may be the pupil's
            part="result",
        ),
        Mistake(
            "This is the sum. Divide it by the number of places that count.", total, part="result"
        ),
        Mistake(ROW_MEANS, row_means, part="result"),
        Mistake(ROW_MEANS, all_row_means, part="result"),
        Mistake(MASKED_NAN, example="padding", part="result"),
        Mistake(EMPTY, example="empty", part="result"),
    ],
    "token_logprobs": [
        Mistake(
            "The logits are read at the token's own position. Logits at position t speak about "
            "token t + 1: cut the last logits off, and the first token.",
            lambda x, y: x.log_softmax(-1).gather(-1, y[..., None]).squeeze(-1)[:, 1:],
            part="result",
        ),
        Mistake(
            "The shift goes the wrong way: the logits lose their last position, the tokens their "
            "first one.",
            lambda x, y: x[:, 1:].log_softmax(-1).gather(-1, y[:, :-1, None]).squeeze(-1),
            part="result",
        ),
        Mistake(
            "These are probabilities. The log is missing: log_softmax instead of softmax.",
            picked_from(lambda x: x.softmax(-1)),
            part="result",
        ),
        Mistake(
            "These are the raw logits. They become log-probabilities by log_softmax over the "
            "vocabulary.",
            picked_from(lambda x: x),
            part="result",
        ),
        Mistake(
            "The log-probabilities are negated. A log-probability is 0 or below; the minus "
            "belongs to a loss.",
            picked_from(lambda x: -x.log_softmax(-1)),
            part="result",
        ),
        Mistake(FIRST_DIMENSION, picked_from(lambda x: x.log_softmax(1)), part="result"),
        Mistake(FIRST_DIMENSION, picked_from(lambda x: x.log_softmax(0)), part="result"),
        Mistake(
            "With large logits this overflows: exp, or the log of a softmax that is 0. log_softmax "
            "does both in one step and stays finite.",
            example="huge",
            part="result",
        ),
    ],
    "chat_mask": [
        Mistake(
            "The <|im_end|> behind the assistant's words is not trained. Then the kitten never "
            "learns to stop.",
            chat_with(lambda role, part, left: role == "assistant" and part == "content"),
            part="mask",
        ),
        Mistake(
            "Every <|im_end|> is trained. Only the one behind the assistant's own words is "
            "something that the kitten says.",
            chat_with(lambda *turn: as_it_should(*turn) or turn[1] == "end"),
            part="mask",
        ),
        Mistake(
            "The whole turn of the assistant is trained. The start mark and the role are in the "
            "prompt already when the kitten is asked: content and end mark only.",
            chat_with(lambda role, part, left: role == "assistant"),
            part="mask",
        ),
        Mistake(
            "The role is trained too. It is in the prompt already when the kitten is asked: "
            "content and end mark only.",
            chat_with(lambda role, part, left: role == "assistant" and part != "start"),
            part="mask",
        ),
        Mistake(
            "Everything is trained. The mask is True on what the assistant says, and nowhere else.",
            chat_with(lambda *turn: True),
            part="mask",
        ),
        Mistake(
            "Nothing is trained. The mask is True on the assistant's words and the <|im_end|> "
            "behind them.",
            chat_with(lambda *turn: False),
            part="mask",
        ),
        Mistake(
            "The mask is upside down: what others say is trained, and not what the assistant says.",
            chat_with(lambda *turn: not as_it_should(*turn)),
            part="mask",
        ),
        Mistake(
            "The user's words are trained. It is the assistant who learns to speak.",
            chat_with(lambda role, part, left: role == "user" and part in ("content", "end")),
            part="mask",
        ),
        Mistake(
            "Only the last reply is trained. Every reply of the assistant counts.",
            chat_with(lambda role, part, left: as_it_should(role, part, left) and left == 0),
            part="mask",
        ),
        Mistake(
            "What a tool says is trained. The kitten reads it and does not say it: only "
            '"assistant" is trained.',
            chat_with(lambda role, part, left: role not in ("user", "system") and part[0] in "ce"),
            example="tool",
            part="mask",
        ),
        Mistake(
            "There is something between two turns. Nothing stands there: no line break, no space.",
            chat_with(as_it_should, between="\n"),
            part="tokens",
        ),
        Mistake(
            "The line break behind the role is missing.",
            chat_with(as_it_should, head="{role}"),
            part="tokens",
        ),
        Mistake(
            "Role and content are encoded as one text, and their line breaks merge into one token. "
            "Encode the head and the content apart.",
            chat_with(as_it_should, together=True),
            example="breaks",
            part="tokens",
        ),
        Mistake(
            "reply_next is ignored: with it the tokens go on with <|im_start|>assistant and a line "
            "break.",
            chat_with(as_it_should, reply_next_done=False),
            example="prompt",
            part="tokens",
        ),
    ],
    "sft": [
        Mistake(MASK_IGNORED, sft_with(ignored_mask)),
        Mistake(
            "The logits are read at the trained token itself. Logits at position t speak about "
            "token t + 1.",
            sft_with(masked_mean, shift=0),
        ),
        Mistake(
            "The mask is one place off: it speaks about the token itself, so the mask that fits to "
            "(B, T-1) is loss_mask[:, 1:].",
            sft_with(masked_mean, shift=2),
        ),
        Mistake(ALL_PLACES, sft_with(over_all_places)),
        Mistake(ALL_PLACES, lambda *three: sft_with(total)(*three) / three[2].numel()),
        Mistake(ROW_MEANS, sft_with(row_means)),
        Mistake(SUMMED, sft_with(total)),
        Mistake(NO_MINUS, sft_with(masked_mean, sign=1)),
        Mistake(
            "The accuracy compares the likeliest token with the one at the same place. Logits at "
            "position t speak about token t + 1.",
            lambda x, y, mask: (x.argmax(-1) == y)[mask].float().mean(),
            part="accuracy",
        ),
        Mistake(
            "The accuracy is that of all tokens. Only the trained ones count.",
            lambda x, y, mask: (x[:, :-1].argmax(-1) == y[:, 1:]).float().mean(),
            part="accuracy",
        ),
        Mistake(MASKED_NAN, example="padding", or_other=True),
        Mistake(EMPTY, example="empty"),
    ],
    "reward": [
        Mistake(FLIPPED, per_pair(lambda d: bradley_terry(-d).mean())),
        Mistake(NO_MINUS, per_pair(lambda d: F.logsigmoid(d).mean())),
        Mistake(SUMMED, per_pair(lambda d: bradley_terry(d).sum())),
        Mistake(MEAN_FIRST, per_pair(lambda d: bradley_terry(d.mean()))),
        Mistake(
            "The log is missing: the loss is the surprise, -log of the probability that sigmoid "
            "gives.",
            per_pair(lambda d: -d.sigmoid().mean()),
        ),
        Mistake(
            "The log is missing: the loss is the surprise, -log of the probability that sigmoid "
            "gives.",
            per_pair(lambda d: (-d).sigmoid().mean()),
        ),
        Mistake(
            "The sigmoid is missing: this is only the mean difference of the scores.",
            per_pair(lambda d: -d.mean()),
        ),
        Mistake(
            "This is a hinge loss. The loss is -log sigmoid of the difference.",
            per_pair(lambda d: (1 - d).clamp(min=0).mean()),
        ),
        Mistake(OVERFLOW, example="far", or_other=True),
        Mistake(
            "A tie counts half in the accuracy: here it counts as wrong.",
            per_pair(lambda d: (d > 0).float().mean()),
            part="accuracy",
        ),
        Mistake(
            "A tie counts half in the accuracy: here it counts as right.",
            per_pair(lambda d: (d >= 0).float().mean()),
            part="accuracy",
        ),
        Mistake(
            "The metric margin has the wrong sign: it is chosen minus rejected.",
            per_pair(lambda d: -d.mean()),
            part="margin",
        ),
    ],
    "gae": [
        Mistake(
            "gamma * lam must pull the next advantage; here lam is missing.",
            gae_with(pull=lambda gamma, lam: gamma),
            part="advantages",
        ),
        Mistake(
            "gamma * lam must pull the next advantage; here gamma is missing.",
            gae_with(pull=lambda gamma, lam: lam),
            part="advantages",
        ),
        Mistake(
            "Only the surprise of this one token is counted: gamma * lam times the next advantage "
            "is missing.",
            gae_with(pull=lambda gamma, lam: 0.0),
            part="advantages",
        ),
        Mistake(
            "gamma is missing in delta: reward + gamma * next value - value.",
            gae_with(lambda r, v, after, gamma: r + after - v),
            part="advantages",
        ),
        Mistake(
            "The value of this token is not subtracted: delta = reward + gamma * next value - "
            "value.",
            gae_with(lambda r, v, after, gamma: r + gamma * after),
            part="advantages",
        ),
        Mistake(
            "The walk goes from the first token to the last. It must begin at the last one: "
            "reversed(range(...)).",
            gae_with(order=list),
            part="advantages",
        ),
        Mistake(
            "The next value is missing in delta: reward + gamma * next value - value.",
            gae_with(lambda r, v, after, gamma: r - v),
            part="advantages",
        ),
        Mistake(
            "delta has the wrong sign: reward + gamma * next value - value.",
            gae_with(lambda r, v, after, gamma: v - r - gamma * after),
            part="advantages",
        ),
        Mistake(
            "A False in the middle of a row is taken for a token of value 0. It must be skipped: "
            "keep the remembered next value and next advantage there, with torch.where.",
            gae_with(gap="zeroed at the end"),
            part="advantages",
        ),
        Mistake(
            "Outside the mask the advantages are not 0, and a False in the middle of a row is "
            "taken for a token. Use torch.where with the mask for all three.",
            gae_with(gap="not zeroed"),
            part="advantages",
        ),
        Mistake(
            "The returns are the advantages: the values must be added.",
            returns_of(lambda advantages, rewards, values, mask: advantages),
            part="returns",
        ),
        Mistake(
            "The returns are advantages minus values. They are advantages plus values.",
            returns_of(
                lambda advantages, rewards, values, mask: (
                    advantages - torch.where(mask, values, 0.0)
                )
            ),
            part="returns",
        ),
        Mistake(
            "The returns are advantages plus rewards. They are advantages plus values.",
            returns_of(lambda advantages, rewards, values, mask: advantages + rewards),
            part="returns",
        ),
        Mistake(
            "The returns are not 0 outside the mask.",
            returns_of(lambda advantages, rewards, values, mask: advantages + values),
            part="returns",
        ),
        Mistake(MASKED_NAN, example="padding", part="advantages"),
        Mistake(MASKED_NAN, example="padding", part="returns"),
    ],
    "ppo": [
        *CLIP,
        Mistake(
            "The ratio is upside down: it is p / p_old, exp(logprobs - old_logprobs).",
            clipped_with(lambda r, c, a: torch.minimum(a / r, (1 / r).clamp(0.8, 1.2) * a)),
        ),
        Mistake(
            "The log-ratio is not turned into a ratio: exp is missing.",
            clipped_with(lambda r, c, a: torch.minimum(r.log() * a, r.log().clamp(0.8, 1.2) * a)),
        ),
        Mistake(SUMMED, clipped_with(smaller, total)),
        Mistake(ALL_PLACES, clipped_with(smaller, over_all_places)),
        Mistake(MASK_IGNORED, clipped_with(smaller, ignored_mask)),
        Mistake(ROW_MEANS, clipped_with(smaller, row_means)),
        Mistake(ROW_MEANS, clipped_with(smaller, all_row_means)),
        Mistake(MASKED_NAN, example="padding", or_other=True),
        Mistake(EMPTY, example="empty"),
        Mistake(
            "clip_fraction counts ratios above 1 + eps only. Those below 1 - eps count too.",
            move_metric(lambda x, eps: x.exp() > 1 + eps),
            part="clip_fraction",
        ),
        Mistake(
            "clip_fraction compares the log-ratio with eps. It is the ratio that is clipped.",
            move_metric(lambda x, eps: x.abs() > eps),
            part="clip_fraction",
        ),
        Mistake(
            "clip_fraction counts the ratios inside the interval. Those outside are wanted.",
            move_metric(lambda x, eps: (x.exp() - 1).abs() <= eps),
            part="clip_fraction",
        ),
        Mistake(
            "approx_kl is upside down: ratio - 1 - log ratio with ratio = p / p_old.",
            move_metric(lambda x, eps: k3(x)),
            part="approx_kl",
        ),
        Mistake(
            "approx_kl is the mean of -log ratio (k1). Wanted is ratio - 1 - log ratio (k3).",
            move_metric(lambda x, eps: -x),
            part="approx_kl",
        ),
        Mistake(
            "approx_kl is half the squared log-ratio (k2). Wanted is ratio - 1 - log ratio (k3).",
            move_metric(lambda x, eps: 0.5 * x.square()),
            part="approx_kl",
        ),
    ],
    "dpo": [
        Mistake(FLIPPED, of_ratios(lambda c, r, beta: bradley_terry(r - c, beta))),
        Mistake(NO_REFERENCE, without_reference(bradley_terry)),
        Mistake(REFERENCE_ADDED, reference_added(bradley_terry)),
        Mistake(NO_BETA, of_ratios(lambda c, r, beta: bradley_terry(c - r))),
        Mistake(
            "The margin is divided by beta. It is multiplied by it.",
            of_ratios(lambda c, r, beta: bradley_terry(c - r, 1 / beta)),
        ),
        Mistake(SUMMED, of_ratios(lambda c, r, beta: bradley_terry(c - r, beta), torch.sum)),
        Mistake(NO_MINUS, of_ratios(lambda c, r, beta: -bradley_terry(c - r, beta))),
        Mistake(MEAN_FIRST, of_ratios(lambda c, r, beta: bradley_terry((c - r).mean(), beta))),
        Mistake(
            "The log is missing: the loss is -log of what sigmoid gives.",
            of_ratios(lambda c, r, beta: -(beta * (c - r)).sigmoid()),
        ),
        Mistake(OVERFLOW, example="far", or_other=True),
        Mistake(
            "label_smoothing is ignored: with it a share s of the labels is believed wrong.",
            smoothed_with(lambda s: 1.0),
            example="smoothed",
        ),
        Mistake(
            "The two shares of label_smoothing have changed places: 1 - s is for the label as it "
            "is, s for the flipped one.",
            smoothed_with(lambda s: s),
            example="smoothed",
        ),
        Mistake(
            "The flipped label's part has the wrong sign. Both parts are surprises, and both are "
            "added.",
            minus_flipped,
            example="smoothed",
        ),
        Mistake(
            "label_smoothing is halved. The flipped label has the share s, the other 1 - s.",
            smoothed_with(lambda s: 1 - s / 2),
            example="smoothed",
        ),
    ],
    "ipo": [
        Mistake(
            "h or the goal has the wrong sign: it is (h - goal) squared, and in h the chosen reply "
            "comes first, minus the rejected one.",
            of_ratios(lambda c, r, beta: aim(r - c, beta)),
        ),
        Mistake(NO_REFERENCE, without_reference(aim)),
        Mistake(REFERENCE_ADDED, reference_added(aim)),
        Mistake(
            "beta stands in front of h. IPO has it in the goal only, 1 / (2 beta).",
            of_ratios(lambda c, r, beta: aim(beta * (c - r), beta)),
        ),
        Mistake(
            "The goal is 1 / beta here. It is 1 / (2 * beta).",
            of_ratios(lambda c, r, beta: (c - r - 1 / beta).square()),
        ),
        Mistake(
            "The goal is beta / 2 here: 1 / 2 * beta is computed from the left. Write 1 / (2 * "
            "beta).",
            of_ratios(lambda c, r, beta: (c - r - beta / 2).square()),
        ),
        Mistake(
            "The distance to the goal is not squared.",
            of_ratios(lambda c, r, beta: (c - r - 1 / (2 * beta)).abs()),
        ),
        Mistake(
            "The distance to the goal is not squared.",
            of_ratios(lambda c, r, beta: c - r - 1 / (2 * beta)),
        ),
        Mistake(
            "The goal is missing: this is the square of h alone.",
            of_ratios(lambda c, r, beta: (c - r).square()),
        ),
        Mistake(SUMMED, of_ratios(lambda c, r, beta: aim(c - r, beta), torch.sum)),
        Mistake(NO_MINUS, of_ratios(lambda c, r, beta: -aim(c - r, beta))),
        Mistake(MEAN_FIRST, of_ratios(lambda c, r, beta: aim((c - r).mean(), beta))),
        Mistake(
            "This is DPO's loss. IPO's is the squared distance from a goal.",
            of_ratios(lambda c, r, beta: bradley_terry(c - r, beta)),
        ),
    ],
    "orpo": [
        Mistake(
            "These are ratios of probabilities. ORPO compares odds: log p - log(1 - p).",
            lambda c, r, *, weight: -c.mean() + weight * bradley_terry(c - r).mean(),
        ),
        Mistake(
            "The SFT part is missing: minus the mean of chosen_logprobs.",
            lambda c, r, *, weight: weight * odds_loss(c, r),
        ),
        Mistake(FLIPPED, lambda c, r, *, weight: -c.mean() + weight * odds_loss(r, c)),
        Mistake(
            "The SFT part is made of the rejected replies. It is made of the chosen ones.",
            lambda c, r, *, weight: -r.mean() + weight * odds_loss(c, r),
        ),
        Mistake(
            "The SFT part teaches both replies. Only the chosen one is good text.",
            lambda c, r, *, weight: -c.mean() - r.mean() + weight * odds_loss(c, r),
        ),
        Mistake(
            "weight is missing: it stands before the second part.",
            lambda c, r, *, weight: -c.mean() + odds_loss(c, r),
        ),
        Mistake(
            "weight is at the wrong part: it belongs to the odds.",
            lambda c, r, *, weight: -weight * c.mean() + odds_loss(c, r),
        ),
        Mistake(
            "Both parts together have the factor weight. It belongs to the odds alone.",
            lambda c, r, *, weight: weight * (odds_loss(c, r) - c.mean()),
        ),
        Mistake(
            "The second part has the wrong sign: -log sigmoid is added, for it is a loss.",
            lambda c, r, *, weight: -c.mean() - weight * odds_loss(c, r),
        ),
        Mistake(
            "The SFT part has the wrong sign: minus the mean of chosen_logprobs.",
            lambda c, r, *, weight: c.mean() + weight * odds_loss(c, r),
        ),
        Mistake(
            MEAN_FIRST,
            lambda c, r, *, weight: (
                -c.mean() + weight * bradley_terry((log_odds(c) - log_odds(r)).mean())
            ),
        ),
        Mistake(
            "A reply that is certain, log p = 0, gives infinity or NaN: log(1 - p) is the log of "
            "0 there. Hold log p a hair below 0 first, with .clamp(max=-1e-7).",
            example="certain",
        ),
        Mistake(
            "A tie counts half in the accuracy: here it counts as wrong.",
            lambda c, r, *, weight: (c > r).float().mean(),
            example="ties",
            part="accuracy",
        ),
        Mistake(
            "A tie counts half in the accuracy: here it counts as right.",
            lambda c, r, *, weight: (c >= r).float().mean(),
            example="ties",
            part="accuracy",
        ),
        Mistake(
            "The metric odds_loss is to be without its weight.",
            lambda c, r, *, weight: weight * odds_loss(c, r),
            part="odds_loss",
        ),
        Mistake(
            "The metric margin is the mean difference of the log-odds, not of the log-probs.",
            lambda c, r, *, weight: (c - r).mean(),
            part="margin",
        ),
        Mistake(
            "The metric nll has the wrong sign: minus the mean of chosen_logprobs.",
            lambda c, r, *, weight: c.mean(),
            part="nll",
        ),
    ],
    "group_advantages": [
        Mistake(
            "This is the biased std, which divides by G. The unbiased one divides by G - 1: "
            "torch's std does so by itself (correction=1).",
            in_groups(lambda g, eps: centred(g) / (g.std(1, keepdim=True, correction=0) + eps)),
            part="result",
        ),
        Mistake(
            "The std is that of all rewards. Each group has its own: dim=1, keepdim=True.",
            in_groups(lambda g, eps: centred(g) / (g.std() + eps)),
            part="result",
        ),
        Mistake(
            "The mean is that of all rewards. Each group has its own: dim=1, keepdim=True.",
            in_groups(lambda g, eps: (g - g.mean()) / (spread(g) + eps)),
            part="result",
        ),
        Mistake(
            "Mean and std are those of all rewards. Each group has its own: dim=1, keepdim=True.",
            in_groups(lambda g, eps: (g - g.mean()) / (g.std() + eps)),
            part="result",
        ),
        Mistake(
            "The groups are mixed up: replies 0 .. G-1 are the first group. view(-1, group_size) "
            "makes one line per group.",
            columns_for_groups,
            part="result",
        ),
        Mistake(
            "The division by the std is missing.",
            in_groups(lambda g, eps: centred(g)),
            part="result",
        ),
        Mistake(
            "eps is missing: the divisor is the std plus eps.",
            in_groups(lambda g, eps: centred(g) / spread(g)),
            part="result",
        ),
        Mistake(
            "The variance divides here. It is the std, its square root.",
            in_groups(lambda g, eps: centred(g) / (g.var(1, keepdim=True) + eps)),
            part="result",
        ),
        Mistake(
            "The sign is wrong: a reply better than its siblings has an advantage above 0.",
            in_groups(lambda g, eps: -centred(g) / (spread(g) + eps)),
            part="result",
        ),
        Mistake(
            "The mean is not subtracted.",
            in_groups(lambda g, eps: g / (spread(g) + eps)),
            part="result",
        ),
        Mistake(
            "normalize_std=False is ignored: then nothing is divided.",
            in_groups(lambda g, eps: centred(g) / (spread(g) + eps)),
            example="raw",
            part="result",
        ),
        Mistake(
            "Equal rewards must give exactly 0: minus their rounded mean, they do not. Find the "
            "groups whose rewards are all equal, and put 0 there.",
            in_groups(lambda g, eps: centred(g) / (spread(g) + eps)),
            example="equal",
            part="result",
        ),
        Mistake(
            "Equal rewards must give exactly 0. Here 0 is divided by 0.",
            example="equal",
            part="result",
        ),
    ],
    "grpo": [
        Mistake(
            "The ends of the clip are swapped: 1 - clip_eps below, 1 + clip_eps_high above.",
            other_clip("clip_eps_high", "clip_eps"),
        ),
        Mistake(
            "The upper end of the clip is 1 + clip_eps. It has a setting of its own, "
            "clip_eps_high.",
            other_clip("clip_eps", "clip_eps"),
        ),
        Mistake(
            "clip_eps_high is the lower end as well. Below it is 1 - clip_eps.",
            other_clip("clip_eps_high", "clip_eps_high"),
        ),
        *CLIP,
        Mistake(
            "The ratio is upside down: it is p / p_old, exp(logprobs - old_logprobs).",
            clipped_with(lambda r, c, a: torch.minimum(a / r, (1 / r).clamp(0.9, 1.3) * a)),
        ),
        Mistake(MASK_IGNORED, clipped_with(smaller, ignored_mask)),
        Mistake(
            'normalize="token" must give every token of the batch the same weight: one sum, one '
            "count. This is the mean of the replies' means.",
            clipped_with(smaller, all_row_means),
        ),
        Mistake(
            'normalize="reply" is the mean of each reply and then of all N replies. This is the '
            "mean over all tokens.",
            clipped_with(smaller),
            example="reply",
        ),
        Mistake(
            'With normalize="reply" a reply without tokens counts as 0, among all N replies. Here '
            "it is left out.",
            clipped_with(smaller, row_means),
            example="reply",
        ),
        Mistake(
            'With normalize="reply" a reply without tokens divides 0 by 0. It counts as 0: '
            "mask.sum(dim=1).clamp(min=1).",
            example="reply",
        ),
        Mistake(
            'normalize="constant" divides the sum by N * max_tokens, whatever the mask is. This '
            "is the mean over the counted tokens.",
            clipped_with(smaller),
            example="constant",
        ),
        Mistake(
            'normalize="constant" divides by N * max_tokens; here N, the number of replies, is '
            "missing.",
            clipped_with(smaller, lambda x, mask: total(x, mask) / 10),
            example="constant",
        ),
        Mistake(
            'normalize="constant" divides by N * max_tokens; here max_tokens is missing.',
            clipped_with(smaller, lambda x, mask: total(x, mask) / len(mask)),
            example="constant",
        ),
        Mistake(
            'normalize="constant" divides by N * max_tokens. Here the sum is not divided.',
            clipped_with(smaller, total),
            example="constant",
        ),
        Mistake("The KL term is missing in the loss.", with_kl(torch.zeros_like), example="kl"),
        Mistake(
            "The KL term is upside down: with r = ref / p it is r - 1 - log r.",
            with_kl(lambda x: k3(-x)),
            example="kl",
        ),
        Mistake(
            "The KL term is k1, log p - log ref: as a loss it does not pull. Wanted is k3.",
            with_kl(lambda x: x),
            example="kl",
        ),
        Mistake(
            "The KL term is k2, half a square. Wanted is k3: r - 1 - log r with r = ref / p.",
            with_kl(lambda x: 0.5 * x.square()),
            example="kl",
        ),
        Mistake(
            "The KL term has the wrong sign: going away from the reference costs, so it is added "
            "to the loss.",
            with_kl(lambda x: -k3(x)),
            example="kl",
        ),
        Mistake(
            "kl_coef is missing before the KL term.",
            with_kl(lambda x: 2 * k3(x)),  # the example has kl_coef 1/2
            example="kl",
        ),
        Mistake(MASKED_NAN, example="padding", or_other=True),
        Mistake(EMPTY, example="empty"),
    ],
    "cache": [
        Mistake(
            "length moves on with every layer. All layers append the same tokens: it moves when "
            "the last one has appended.",
            cache_with(append_with(moves=lambda layer, layers: True)),
            part="lengths",
        ),
        Mistake(
            "length moves on when the first layer appends. The last one moves it, or the others "
            "write one place too far.",
            cache_with(append_with(moves=lambda layer, layers: layer == 0)),
            part="lengths",
        ),
        Mistake(
            "length never moves on, so every token is written over the one before.",
            cache_with(append_with(moves=lambda layer, layers: False)),
            part="lengths",
        ),
        Mistake(
            "The new tokens are written to the first columns, over the old ones. They go to "
            "columns length .. end - 1.",
            cache_with(append_with(start=lambda cache: 0)),
            part="lengths",
        ),
        Mistake(
            "append returns the new tokens only. The result is everything so far, columns 0 .. "
            "end - 1.",
            cache_with(append_with(shown=slice)),
            part="shapes",
        ),
        Mistake(
            "append returns unused columns too. Cut them off: only columns 0 .. end - 1 hold "
            "something.",
            cache_with(append_with(shown=lambda first, end: slice(None))),
            part="shapes",
        ),
        Mistake(
            "The values are not written: append has keys and values to keep.",
            cache_with(append_with(values_too=False)),
            part="values",
        ),
        Mistake(
            "keep does not move `valid` along: the rows then have the padding of other rows.",
            cache_with(keep=keep_with(valid=False)),
            part="kept valid",
        ),
        Mistake(
            "keep does not set self.rows, the number of rows still in use.",
            cache_with(keep=keep_with(rows_set=False)),
            part="rows",
        ),
        Mistake(
            "keep sorts the rows. They must come in the order that was asked for.",
            cache_with(keep=keep_with(lambda rows: rows.sort().values)),
            part="kept keys",
        ),
        Mistake(
            "keep copies one row after another and overwrites a row that is needed later. "
            "Indexing with the whole tensor, x[:, rows], copies all of them first.",
            cache_with(keep=keep_with(one_by_one=True)),
            part="kept keys",
        ),
        Mistake(
            "keep takes the first rows, whichever are asked for.",
            cache_with(keep=keep_with(lambda rows: torch.arange(len(rows)))),
            part="kept keys",
        ),
    ],
    "mixed_reward": [
        Mistake(
            "Each reward counts its own prompts from 0: hand it the number less the number at "
            "which its kind begins.",
            own_number(lambda number, first, count: number),
            part="worth",
        ),
        Mistake(
            "What is subtracted is the number of prompts of earlier kinds, not how many there are "
            "of this kind.",
            own_number(lambda number, first, count: number - count),
            part="worth",
        ),
        Mistake(
            "A kind takes one prompt too many: it ends before first + count, so it is < and not "
            "<=.",
            own_number(from_first, lambda number, first, count: number <= first + count),
            part="worth",
        ),
        Mistake(
            "A kind begins behind all earlier ones, not behind the last one only: first += count.",
            own_number(from_first, move=lambda first, count: count),
            part="worth",
        ),
        Mistake(
            "The reward depends on what was asked before. Begin with first = 0 within the inner "
            "function, in every call.",
            remembering,
            part="worth",
        ),
        Mistake(
            "The last reward answers for all prompts. A function that is made in a loop sees the "
            "last values of the loop: look for the kind when it is called.",
            one_reward(last_kind),
            part="worth",
        ),
        Mistake(
            "The first reward answers for all prompts, whatever kind they are of.",
            one_reward(lambda kinds, *asked: kinds[0][1](*asked)),
            part="worth",
        ),
        Mistake(
            "Reply and ended must be handed on as they came: here a reply without an end counts as "
            "ended.",
            one_reward(lambda kinds, n, reply, _: RIGHT["mixed_reward"](kinds)(n, reply, True)),
            part="heard",
        ),
        Mistake(
            "A prompt of no kind must be refused: raise a ValueError that names its number.",
            refusing(lambda number, prompts: False),
            part="refused",
        ),
        Mistake(
            "A negative number is of no kind, but Python counts from the end with it. Refuse it "
            "with a ValueError.",
            refusing(lambda number, prompts: number >= prompts),
            part="refused",
        ),
    ],
}
