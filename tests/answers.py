"""Answers to the exercises as readers write them: right ones in many styles, and wrong ones.

RIGHT: exercise -> functions that the grader must accept. WRONG: (exercise, function, words): the
grader must refuse it, and its hint must hold the words.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kittenllm import checks
from kittenllm.chat import ChatTokens, check_messages
from kittenllm.gpt import KVCache as PackageCache
from kittenllm.logprobs import average, kl_k3, masked_mean, sequence_logprobs
from kittenllm.orpo import log1mexp

RIGHT: dict[str, list] = {}
WRONG: list[tuple[str, object, str]] = []


def right(exercise: str):
    def note(function):
        RIGHT.setdefault(exercise, []).append(function)
        return function

    return note


def wrong(exercise: str, words: str):
    def note(function):
        WRONG.append((exercise, function, words))
        return function

    return note


# ----------------------------------------------------------------------------- gather and mask


@right("gather")
def with_gather(logits, targets):
    wide = logits if logits.dtype == torch.float64 else logits.float()
    index = targets.long()[..., None]
    return torch.log_softmax(wide, dim=-1).gather(-1, index)[..., 0]


@right("gather")
def with_logsumexp(logits, targets):
    wide = logits if logits.dtype == torch.float64 else logits.float()
    picked = torch.take_along_dim(wide, targets.long().unsqueeze(-1), dim=-1).squeeze(-1)
    return picked - wide.logsumexp(dim=-1)


@wrong("gather", "log is missing")
def picked_probabilities(logits, targets):
    return logits.softmax(-1).gather(-1, targets.long().unsqueeze(-1)).squeeze(-1)


@wrong("gather", "raw logits")
def picked_logits(logits, targets):
    return torch.take_along_dim(logits, targets.long().unsqueeze(-1), dim=-1).squeeze(-1)


@wrong("gather", "negated")
def picked_surprise(logits, targets):
    return -logits.log_softmax(-1).gather(-1, targets.long().unsqueeze(-1)).squeeze(-1)


@wrong("gather", "whatever the target is")
def picked_largest(logits, targets):
    return logits.float().log_softmax(-1).max(dim=-1).values


@wrong("gather", "wrong dimension")
def along_the_first_dimension(logits, targets):
    return F.log_softmax(logits, dim=0).gather(-1, targets.long().unsqueeze(-1)).squeeze(-1)


@wrong("gather", "overflows")
def exp_and_divide(logits, targets):
    odds = logits.exp()
    share = odds / odds.sum(-1, keepdim=True)
    return share.gather(-1, targets.long().unsqueeze(-1)).squeeze(-1).log()


@wrong("gather", "must have shape (3, 6)")
def not_squeezed(logits, targets):
    return logits.log_softmax(-1).gather(-1, targets.long().unsqueeze(-1))


@wrong("gather", "returns None")
def picked_nothing(logits, targets):
    logits.log_softmax(-1)


def check_mean(values, mask):
    checks.floats("values", values)
    checks.bool_mask("mask", mask, values.shape)


@right("mask")
def mean_of_the_picked(values, mask):
    check_mean(values, mask)
    picked = values[mask]
    if len(picked) == 0:
        return torch.where(mask, values, 0.0).sum()
    return picked.mean(dtype=torch.promote_types(values.dtype, torch.float32)).to(values.dtype)


@right("mask")
def mean_with_masked_fill(values, mask):
    check_mean(values, mask)
    wide = values.double() if values.dtype == torch.float64 else values.float()
    mean = wide.masked_fill(~mask, 0).sum() / max(1, int(mask.sum()))
    return mean.to(values.dtype)


@wrong("mask", "all places of the tensor")
def mean_of_all_places(values, mask):
    check_mean(values, mask)
    return torch.where(mask, values, 0.0).mean()


@wrong("mask", "mask is ignored")
def plain_mean(values, mask):
    check_mean(values, mask)
    return values.mean()


@wrong("mask", "upside down")
def mask_upside_down(values, mask):
    check_mean(values, mask)
    return values[~mask].mean()


@wrong("mask", "This is the sum")
def only_the_sum(values, mask):
    check_mean(values, mask)
    return torch.where(mask, values, 0.0).sum()


@wrong("mask", "mean of the means")
def mean_of_means(values, mask):
    check_mean(values, mask)
    rows = torch.where(mask, values, 0.0).sum(-1) / mask.sum(-1).clamp(min=1)
    return rows.mean()


@wrong("mask", "NaN")
def times_the_mask(values, mask):
    check_mean(values, mask)
    return (values * mask).sum() / mask.sum().clamp(min=1)


@wrong("mask", "clamp(min=1)")
def an_empty_mask_is_nan(values, mask):
    check_mean(values, mask)
    return torch.where(mask, values, 0.0).sum() / mask.sum()


@wrong("mask", "must have shape ()")
def a_mean_for_each_row(values, mask):
    check_mean(values, mask)
    return torch.where(mask, values, 0.0).sum(-1) / mask.sum(-1).clamp(min=1)


# ------------------------------------------------------------------------------ token_logprobs


def check_logits(logits, tokens):
    checks.floats("logits", logits, dims=3)
    checks.token_ids("tokens", tokens, logits.shape[-1])
    if tokens.shape != logits.shape[:2]:
        raise ValueError(f"tokens must have another shape, got {tuple(tokens.shape)}")


@right("token_logprobs")
def with_cross_entropy(logits, tokens):
    check_logits(logits, tokens)
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    flat = F.cross_entropy(logits[:, :-1].mT, tokens[:, 1:].long(), reduction="none")
    return -flat


@right("token_logprobs")
def with_logsumexp_and_loops(logits, tokens):
    check_logits(logits, tokens)
    logits = logits.float() if logits.dtype != torch.float64 else logits
    rows = []
    for row, row_tokens in zip(logits, tokens, strict=True):
        picked = [
            row[t, row_tokens[t + 1]] - row[t].logsumexp(0) for t in range(len(row_tokens) - 1)
        ]
        rows.append(torch.stack(picked))
    return torch.stack(rows)


@wrong("token_logprobs", "own position")
def at_the_token_itself(logits, tokens):
    return torch.log_softmax(logits, 2).gather(2, tokens.unsqueeze(2)).squeeze(2)[:, 1:]


@wrong("token_logprobs", "log is missing")
def probabilities(logits, tokens):
    return F.softmax(logits[:, :-1], dim=-1).gather(2, tokens[:, 1:, None])[..., 0]


@wrong("token_logprobs", "raw logits")
def raw_logits(logits, tokens):
    return torch.take_along_dim(logits[:, :-1], tokens[:, 1:, None], dim=2).squeeze(-1)


@wrong("token_logprobs", "overflows")
def log_of_softmax(logits, tokens):
    return F.softmax(logits[:, :-1], -1).log().gather(2, tokens[:, 1:, None]).squeeze(-1)


@wrong("token_logprobs", "must have shape (3, 5)")
def with_a_last_dimension(logits, tokens):
    return F.log_softmax(logits[:, :-1], -1).gather(2, tokens[:, 1:, None])


# ----------------------------------------------------------------------------------- chat_mask


def check_talk(messages, reply_next):
    check_messages(messages)
    last_role = messages[-1]["role"]
    if reply_next and last_role not in ("user", "tool"):
        raise ValueError(f"a reply must follow user or tool, the last message is {last_role!r}")


@right("chat_mask")
def with_lists(tokenizer, messages, *, reply_next=False):
    check_talk(messages, reply_next)
    tokens, mask = [], []
    for message in messages:
        head = [tokenizer.im_start_id] + tokenizer.encode(message["role"] + "\n")
        said = tokenizer.encode(message["content"]) + [tokenizer.im_end_id]
        tokens += head + said
        mask += [0] * len(head) + [int(message["role"] == "assistant")] * len(said)
    if reply_next:
        head = [tokenizer.im_start_id] + tokenizer.encode("assistant\n")
        tokens, mask = tokens + head, mask + [0] * len(head)
    return ChatTokens(tokens, [bool(m) for m in mask])


@right("chat_mask")
def with_pieces(tokenizer, messages, *, reply_next=False):
    check_talk(messages, reply_next)
    turns = list(messages) + ([{"role": "assistant"}] if reply_next else [])
    chat = ChatTokens()
    for turn in turns:
        learn = turn["role"] == "assistant"
        pieces = [(tokenizer.im_start_id, False), (tokenizer.encode(f"{turn['role']}\n"), False)]
        if "content" in turn:
            pieces += [(tokenizer.encode(turn["content"]), learn), (tokenizer.im_end_id, learn)]
        for ids, trained in pieces:
            chat.add(ids, trained)
    return chat


def chat_of(tokenizer, messages, reply_next, trained, space="", body=None):
    chat = ChatTokens()
    for message in messages:
        role = message["role"]
        chat.add(tokenizer.im_start_id, trained(role, 0))
        chat.add(tokenizer.encode(role + "\n"), trained(role, 1))
        chat.add(tokenizer.encode(message["content"]), trained(role, 2))
        chat.add(tokenizer.im_end_id, trained(role, 3))
        chat.add(tokenizer.encode(space), False)
    if reply_next:
        chat.add([tokenizer.im_start_id, *tokenizer.encode("assistant\n")], False)
    return chat


@wrong("chat_mask", "never learns to stop")
def end_not_trained(tokenizer, messages, *, reply_next=False):
    return chat_of(tokenizer, messages, reply_next, lambda r, n: r == "assistant" and n == 2)


@wrong("chat_mask", "Everything is trained")
def everything_trained(tokenizer, messages, *, reply_next=False):
    return chat_of(tokenizer, messages, reply_next, lambda r, n: True)


@wrong("chat_mask", "Every <|im_end|> is trained")
def every_end_trained(tokenizer, messages, *, reply_next=False):
    return chat_of(
        tokenizer, messages, reply_next, lambda r, n: n == 3 or (r == "assistant" and n == 2)
    )


@wrong("chat_mask", "The whole turn")
def head_trained(tokenizer, messages, *, reply_next=False):
    return chat_of(tokenizer, messages, reply_next, lambda r, n: r == "assistant")


@wrong("chat_mask", "What a tool says")
def tool_trained(tokenizer, messages, *, reply_next=False):
    return chat_of(
        tokenizer, messages, reply_next, lambda r, n: r in ("assistant", "tool") and n > 1
    )


@wrong("chat_mask", "between two turns")
def with_line_breaks(tokenizer, messages, *, reply_next=False):
    spoken = lambda r, n: r == "assistant" and n > 1  # noqa: E731
    return chat_of(tokenizer, messages, reply_next, spoken, "\n")


@wrong("chat_mask", "reply_next is ignored")
def no_prompt(tokenizer, messages, *, reply_next=False):
    return chat_of(tokenizer, messages, False, lambda r, n: r == "assistant" and n > 1)


@wrong("chat_mask", "returns None")
def chat_without_return(tokenizer, messages, *, reply_next=False):
    ChatTokens()


# ----------------------------------------------------------------------------------------- sft


def check_sft(logits, tokens, loss_mask):
    checks.floats("logits", logits, dims=3)
    checks.token_dtype("tokens", tokens)
    checks.bool_mask("loss_mask", loss_mask, logits.shape[:2])
    checks.bool_mask("loss_mask", loss_mask, tokens.shape)
    checks.token_ids("tokens", tokens[loss_mask], logits.shape[-1])


@right("sft")
def picked_by_index(logits, tokens, loss_mask):
    check_sft(logits, tokens, loss_mask)
    mask = loss_mask[:, 1:]
    chosen, targets = logits[:, :-1][mask], tokens[:, 1:][mask].long()
    if len(targets) == 0:
        return logits[mask.new_zeros(logits.shape)].sum(), {"accuracy": torch.tensor(0.0)}
    wide = chosen.float() if chosen.dtype in (torch.float16, torch.bfloat16) else chosen
    loss = F.cross_entropy(wide, targets).to(logits.dtype)
    return loss, {"accuracy": (chosen.argmax(-1) == targets).double().mean()}


@right("sft")
def in_loops(logits, tokens, loss_mask):
    check_sft(logits, tokens, loss_mask)
    losses, hits = [], []
    for b in range(len(tokens)):
        for t in range(1, tokens.shape[1]):
            if loss_mask[b, t]:
                before = logits[b, t - 1].double()
                losses.append(before.logsumexp(0) - before[tokens[b, t]])
                hits.append(float(before.argmax() == tokens[b, t]))
    if not losses:
        zero = torch.zeros((), dtype=logits.dtype)
        return zero, {"accuracy": torch.zeros(())}
    loss = torch.stack(losses).mean().to(logits.dtype)
    return loss, {"accuracy": torch.tensor(sum(hits) / len(hits)), "tokens": torch.tensor(3.0)}


def sft_losses(logits, tokens):
    return F.cross_entropy(logits[:, :-1].mT, tokens[:, 1:], reduction="none")


@wrong("sft", "mask is ignored")
def all_tokens(logits, tokens, loss_mask):
    return sft_losses(logits, tokens).mean(), {"accuracy": torch.tensor(0.0)}


@wrong("sft", "one place off")
def mask_not_shifted(logits, tokens, loss_mask):
    losses = sft_losses(logits, tokens)
    mask = loss_mask[:, :-1]
    return (losses * mask).sum() / mask.sum(), {"accuracy": torch.tensor(0.0)}


@wrong("sft", "NaN * 0 is NaN")
def multiplied_with_the_mask(logits, tokens, loss_mask):
    mask = loss_mask[:, 1:]
    losses = sft_losses(logits, tokens.clamp(min=0))
    return (losses * mask).sum() / mask.sum().clamp(min=1), {"accuracy": torch.tensor(0.0)}


@wrong("sft", "0 is divided by 0")
def nothing_trained(logits, tokens, loss_mask):
    mask = loss_mask[:, 1:]
    chosen, targets = logits[:, :-1][mask], tokens[:, 1:][mask]
    loss = F.cross_entropy(chosen, targets)
    return loss, {"accuracy": (chosen.argmax(-1) == targets).float().mean()}


@wrong("sft", "mean of the means of the rows")
def rows_first(logits, tokens, loss_mask):
    losses, mask = sft_losses(logits, tokens), loss_mask[:, 1:]
    rows = [losses[i][mask[i]].mean() for i in range(len(mask)) if mask[i].any()]
    return torch.stack(rows).mean(), {"accuracy": torch.tensor(0.0)}


@wrong("sft", "Only the loss comes back")
def sft_loss_alone(logits, tokens, loss_mask):
    mask = loss_mask[:, 1:]
    return F.cross_entropy(logits[:, :-1][mask], tokens[:, 1:][mask])


@wrong("sft", "The accuracy compares")
def accuracy_not_shifted(logits, tokens, loss_mask):
    loss, metrics = picked_by_index(logits, tokens, loss_mask)
    hits = (logits.argmax(-1) == tokens)[loss_mask].float().sum() / loss_mask.sum().clamp(min=1)
    return loss, {**metrics, "accuracy": hits}


@wrong("sft", "accuracy is missing")
def no_metric(logits, tokens, loss_mask):
    mask = loss_mask[:, 1:]
    return F.cross_entropy(logits[:, :-1][mask], tokens[:, 1:][mask]), {}


# -------------------------------------------------------------------------------------- reward


def check_rewards(chosen, rejected):
    checks.floats("chosen_rewards", chosen, dims=1)
    checks.floats("rejected_rewards", rejected, dims=1)
    checks.same_shape("chosen_rewards", chosen, "rejected_rewards", rejected)
    checks.count("number of pairs", len(chosen))


@right("reward")
def with_softplus(chosen_rewards, rejected_rewards):
    check_rewards(chosen_rewards, rejected_rewards)
    difference = rejected_rewards.double() - chosen_rewards.double()
    hits = (difference < 0).float() + 0.5 * (difference == 0).float()
    metrics = {"accuracy": hits.mean(), "margin": -difference.detach().mean()}
    return [F.softplus(difference).mean(), metrics]


@right("reward")
def pair_by_pair(chosen_rewards, rejected_rewards):
    check_rewards(chosen_rewards, rejected_rewards)
    total, hits = 0.0, 0.0
    for c, r in zip(chosen_rewards, rejected_rewards, strict=True):
        total = total - torch.nn.functional.logsigmoid(c - r)
        hits += 1.0 if c > r else 0.5 if c == r else 0.0
    n = len(chosen_rewards)
    with torch.no_grad():
        margin = chosen_rewards.float().mean() - rejected_rewards.float().mean()
    return total / n, {"margin": margin, "accuracy": torch.tensor(hits / n), "pairs": margin * 0}


def reward_metrics(d: Tensor) -> dict[str, Tensor]:
    d = d.detach()
    return {"accuracy": ((d.sign() + 1) / 2).mean(), "margin": d.mean()}


@wrong("reward", "sign is flipped")
def flipped_sign(chosen_rewards, rejected_rewards):
    check_rewards(chosen_rewards, rejected_rewards)
    d = chosen_rewards - rejected_rewards
    return F.softplus(d).mean(), reward_metrics(d)


@wrong("reward", "F.logsigmoid(x) is log(sigmoid(x)) without the overflow")
def overflowing(chosen_rewards, rejected_rewards):
    check_rewards(chosen_rewards, rejected_rewards)
    d = chosen_rewards - rejected_rewards
    return -torch.log(torch.sigmoid(d)).mean(), reward_metrics(d)


@wrong("reward", "F.logsigmoid(x) is log(sigmoid(x)) without the overflow")
def overflowing_otherwise(chosen_rewards, rejected_rewards):
    d = chosen_rewards - rejected_rewards
    return (1 + (-d).exp()).log().mean(), reward_metrics(d)


@wrong("reward", "F.logsigmoid(x) is log(sigmoid(x)) without the overflow")
def held_back(chosen_rewards, rejected_rewards):
    d = chosen_rewards - rejected_rewards
    return -torch.log(torch.sigmoid(d) + 1e-8).mean(), reward_metrics(d)


@wrong("reward", "This is the sum")
def summed(chosen_rewards, rejected_rewards):
    d = chosen_rewards - rejected_rewards
    return -F.logsigmoid(d).sum(), reward_metrics(d)


@wrong("reward", "minus is missing")
def no_minus(chosen_rewards, rejected_rewards):
    d = chosen_rewards - rejected_rewards
    return F.logsigmoid(d).mean(), reward_metrics(d)


@wrong("reward", "taken too early")
def mean_first(chosen_rewards, rejected_rewards):
    d = chosen_rewards - rejected_rewards
    return -F.logsigmoid(chosen_rewards.mean() - rejected_rewards.mean()), reward_metrics(d)


@wrong("reward", "counts as wrong")
def ties_are_wrong(chosen_rewards, rejected_rewards):
    d = chosen_rewards - rejected_rewards
    return -F.logsigmoid(d).mean(), {**reward_metrics(d), "accuracy": (d > 0).float().mean()}


@wrong("reward", "The metric margin has shape")
def margin_of_every_pair(chosen_rewards, rejected_rewards):
    d = chosen_rewards - rejected_rewards
    return -F.logsigmoid(d).mean(), {**reward_metrics(d), "margin": d.detach()}


@wrong("reward", "carries a gradient")
def metric_with_gradient(chosen_rewards, rejected_rewards):
    d = chosen_rewards - rejected_rewards
    return -F.logsigmoid(d).mean(), {**reward_metrics(d), "margin": d.mean()}


@wrong("reward", "is a float, not a 0-d tensor")
def metric_as_a_number(chosen_rewards, rejected_rewards):
    d = chosen_rewards - rejected_rewards
    return -F.logsigmoid(d).mean(), {**reward_metrics(d), "margin": d.mean().item()}


@wrong("reward", "It must stay a tensor")
def loss_as_a_number(chosen_rewards, rejected_rewards):
    d = chosen_rewards - rejected_rewards
    return -F.logsigmoid(d).mean().item(), reward_metrics(d)


@wrong("reward", "The loss has shape (4,)")
def no_mean(chosen_rewards, rejected_rewards):
    d = chosen_rewards - rejected_rewards
    return -F.logsigmoid(d), reward_metrics(d)


@wrong("reward", "changed places: return loss, metrics")
def metrics_first(chosen_rewards, rejected_rewards):
    d = chosen_rewards - rejected_rewards
    return reward_metrics(d), -F.logsigmoid(d).mean()


@wrong("reward", "An input was changed")
def changed_input(chosen_rewards, rejected_rewards):
    with torch.no_grad():
        chosen_rewards.sub_(rejected_rewards)
    return -F.logsigmoid(chosen_rewards).mean(), reward_metrics(chosen_rewards)


@wrong("reward", "With float64 inputs")
def only_float32(chosen_rewards, rejected_rewards):
    check_rewards(chosen_rewards, rejected_rewards)
    d = chosen_rewards - rejected_rewards
    return F.softplus(-d) @ (torch.ones(len(d)) / len(d)), reward_metrics(d)


@wrong("reward", "a ValueError with the value in it")
def no_checks(chosen_rewards, rejected_rewards):
    d = chosen_rewards - rejected_rewards
    return -F.logsigmoid(d).mean(), reward_metrics(d)


# ----------------------------------------------------------------------------------------- gae


def check_gae(rewards, values, mask, gamma, lam):
    checks.frames(mask, rewards=rewards, values=values)
    checks.between("gamma", gamma, 0, 1)
    checks.between("lam", lam, 0, 1)
    zero = torch.zeros_like(rewards)
    return torch.where(mask, rewards, zero).detach(), torch.where(mask, values, zero).detach()


@right("gae")
def row_by_row(rewards, values, mask, *, gamma, lam):
    rewards, values = check_gae(rewards, values, mask, gamma, lam)
    advantages = torch.zeros(values.shape, dtype=torch.float64)
    for b in range(len(mask)):
        value, advantage = 0.0, 0.0
        for t in reversed(mask[b].nonzero().flatten().tolist()):
            delta = rewards[b, t].item() + gamma * value - values[b, t].item()
            advantage = delta + gamma * lam * advantage
            value = values[b, t].item()
            advantages[b, t] = advantage
    return [advantages, advantages + values.double()]


@right("gae")
def by_lambda_returns(rewards, values, mask, *, gamma, lam):
    """R_t = r_t + gamma * ((1 - lam) * V_{t+1} + lam * R_{t+1}), A = R - V."""
    rewards, values = check_gae(rewards, values, mask, gamma, lam)
    value = target = torch.zeros_like(rewards[:, 0])
    columns = []
    for t in range(mask.shape[1] - 1, -1, -1):
        here = mask[:, t]
        new = rewards[:, t] + gamma * ((1 - lam) * value + lam * target)
        target = torch.where(here, new, target)
        value = torch.where(here, values[:, t], value)
        columns.insert(0, torch.where(here, new, torch.zeros_like(new)))
    returns = torch.stack(columns, dim=1)
    return returns - values, returns


def gae_loop(rewards, values, mask, step, skip=True):
    rewards, values = torch.where(mask, rewards, 0.0), torch.where(mask, values, 0.0)
    out, value, after = torch.zeros_like(values), torch.zeros(len(mask)), torch.zeros(len(mask))
    for t in reversed(range(mask.shape[1])):
        new = step(rewards[:, t], values[:, t], value, after)
        here = mask[:, t] if skip else torch.ones_like(mask[:, t])
        out[:, t] = torch.where(mask[:, t], new, 0.0)
        after, value = torch.where(here, new, after), torch.where(here, values[:, t], value)
    return out, out + values


@wrong("gae", "lam is missing")
def lam_forgotten(rewards, values, mask, *, gamma, lam):
    return gae_loop(rewards, values, mask, lambda r, v, n, a: r + gamma * n - v + gamma * a)


@wrong("gae", "gamma is missing in delta")
def gamma_forgotten(rewards, values, mask, *, gamma, lam):
    return gae_loop(rewards, values, mask, lambda r, v, n, a: r + n - v + gamma * lam * a)


@wrong("gae", "not subtracted")
def value_forgotten(rewards, values, mask, *, gamma, lam):
    return gae_loop(rewards, values, mask, lambda r, v, n, a: r + gamma * n + gamma * lam * a)


@wrong("gae", "It must be skipped")
def gaps_not_skipped(rewards, values, mask, *, gamma, lam):
    step = lambda r, v, n, a: r + gamma * n - v + gamma * lam * a  # noqa: E731
    return gae_loop(rewards, values, mask, step, skip=False)


@wrong("gae", "The returns are the advantages")
def returns_forgotten(rewards, values, mask, *, gamma, lam):
    step = lambda r, v, n, a: r + gamma * n - v + gamma * lam * a  # noqa: E731
    advantages, _ = gae_loop(rewards, values, mask, step)
    return advantages, advantages


@wrong("gae", "It must begin at the last one")
def forwards(rewards, values, mask, *, gamma, lam):
    step = lambda r, v, n, a: r + gamma * n - v + gamma * lam * a  # noqa: E731
    turned = gae_loop(rewards.flip(1), values.flip(1), mask.flip(1), step)
    return turned[0].flip(1), turned[1].flip(1)


@wrong("gae", "return advantages, returns")
def advantages_alone(rewards, values, mask, *, gamma, lam):
    step = lambda r, v, n, a: r + gamma * n - v + gamma * lam * a  # noqa: E731
    return gae_loop(rewards, values, mask, step)[0]


# ----------------------------------------------------------------------------------------- ppo


def check_ppo(logprobs, old_logprobs, advantages, mask, clip_eps):
    checks.frames(mask, logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages)
    checks.positive("clip_eps", clip_eps)


@right("ppo")
def counted_only(logprobs, old_logprobs, advantages, mask, *, clip_eps):
    check_ppo(logprobs, old_logprobs, advantages, mask, clip_eps)
    n = max(1, int(mask.sum()))
    change = logprobs[mask] - old_logprobs.detach()[mask]
    a, ratio = advantages.detach()[mask], change.exp()
    allowed = torch.where(a > 0, ratio.clamp(max=1 + clip_eps), ratio.clamp(min=1 - clip_eps))
    with torch.no_grad():
        outside = torch.logical_or(ratio > 1 + clip_eps, ratio < 1 - clip_eps)
        metrics = {
            "approx_kl": (ratio - 1 - change).float().sum() / n,
            "clip_fraction": outside.float().sum() / n,
        }
    return -(allowed * a).sum() / n, metrics


@right("ppo")
def token_by_token(logprobs, old_logprobs, advantages, mask, *, clip_eps):
    check_ppo(logprobs, old_logprobs, advantages, mask, clip_eps)
    losses, outside, moved = [], 0, 0.0
    for b, t in mask.nonzero().tolist():
        change = logprobs[b, t] - old_logprobs[b, t].item()
        ratio, a = torch.exp(change), advantages[b, t].item()
        losses.append(torch.max(-a * ratio, -a * torch.clamp(ratio, 1 - clip_eps, 1 + clip_eps)))
        outside += abs(ratio.item() - 1) > clip_eps
        moved += ratio.item() - 1 - change.item()
    n = len(losses)
    metrics = {"clip_fraction": outside / max(1, n), "approx_kl": moved / max(1, n)}
    metrics = {name: torch.tensor(number) for name, number in metrics.items()}
    return (torch.stack(losses).mean() if n else torch.tensor(0.0)), metrics


def ppo_with(logprobs, old_logprobs, advantages, mask, clip_eps, objective, reduce=masked_mean):
    change = torch.where(mask, logprobs - old_logprobs.detach(), 0.0)
    advantages = torch.where(mask, advantages.detach(), 0.0)
    ratio = change.exp()
    clipped = ratio.clamp(1 - clip_eps, 1 + clip_eps)
    with torch.no_grad():
        outside = ((ratio - 1).abs() > clip_eps).float()
        metrics = {"clip_fraction": masked_mean(outside, mask)}
        metrics["approx_kl"] = masked_mean(ratio - 1 - change, mask)
    return -reduce(objective(ratio, clipped, advantages), mask), metrics


def pessimist(ratio, clipped, advantages):
    return torch.minimum(ratio * advantages, clipped * advantages)


@wrong("ppo", "larger one is taken")
def the_better_one(logprobs, old, advantages, mask, *, clip_eps):
    better = lambda r, c, a: torch.maximum(r * a, c * a)  # noqa: E731
    return ppo_with(logprobs, old, advantages, mask, clip_eps, better)


@wrong("ppo", "minimum is missing")
def only_clipped(logprobs, old, advantages, mask, *, clip_eps):
    return ppo_with(logprobs, old, advantages, mask, clip_eps, lambda r, c, a: c * a)


@wrong("ppo", "Nothing is clipped")
def never_clipped(logprobs, old, advantages, mask, *, clip_eps):
    return ppo_with(logprobs, old, advantages, mask, clip_eps, lambda r, c, a: r * a)


@wrong("ppo", "wrong sign")
def uphill(logprobs, old, advantages, mask, *, clip_eps):
    loss, metrics = ppo_with(logprobs, old, advantages, mask, clip_eps, pessimist)
    return -loss, metrics


@wrong("ppo", "upside down")
def old_over_new(logprobs, old, advantages, mask, *, clip_eps):
    inverse = lambda r, c, a: pessimist(1 / r, (1 / r).clamp(1 - clip_eps, 1 + clip_eps), a)  # noqa: E731
    return ppo_with(logprobs, old, advantages, mask, clip_eps, inverse)


@wrong("ppo", "NaN * 0 is NaN")
def masked_at_the_end(logprobs, old, advantages, mask, *, clip_eps):
    ratio = (logprobs - old.detach()).exp()
    kept = pessimist(ratio, ratio.clamp(1 - clip_eps, 1 + clip_eps), advantages.detach()) * mask
    metrics = ppo_with(logprobs, old, advantages, mask, clip_eps, pessimist)[1]
    return -kept.sum() / mask.sum().clamp(min=1), metrics


@wrong("ppo", "0 is divided by 0")
def empty_is_nan(logprobs, old, advantages, mask, *, clip_eps):
    mean = lambda x, mask: x[mask].mean()  # noqa: E731
    return ppo_with(logprobs, old, advantages, mask, clip_eps, pessimist, mean)


@wrong("ppo", "divided by all places")
def all_places(logprobs, old, advantages, mask, *, clip_eps):
    mean = lambda x, mask: (x * mask).mean()  # noqa: E731
    return ppo_with(logprobs, old, advantages, mask, clip_eps, pessimist, mean)


@wrong("ppo", "k1")
def plain_kl(logprobs, old, advantages, mask, *, clip_eps):
    loss, metrics = ppo_with(logprobs, old, advantages, mask, clip_eps, pessimist)
    kl = masked_mean((old - logprobs).detach(), mask)
    return loss, {**metrics, "approx_kl": kl}


@wrong("ppo", "fixed numbers: .detach() them")
def gradient_of_the_old(logprobs, old_logprobs, advantages, mask, *, clip_eps):
    change = torch.where(mask, logprobs - old_logprobs, 0.0)
    ratio, a = change.exp(), torch.where(mask, advantages.detach(), 0.0)
    metrics = ppo_with(logprobs, old_logprobs, advantages, mask, clip_eps, pessimist)[1]
    worse = pessimist(ratio, ratio.clamp(1 - clip_eps, 1 + clip_eps), a)
    return -masked_mean(worse, mask), metrics


# --------------------------------------------------------------------------------- dpo and ipo


def pair_metrics(c, r, rc, rr, beta):
    for name, x in (("chosen", c), ("rejected", r), ("ref_chosen", rc), ("ref_rejected", rr)):
        checks.floats(f"{name}_logprobs", x, dims=1)
        checks.same_shape(f"{name}_logprobs", x, "chosen_logprobs", c)
    checks.count("number of pairs", len(c))
    checks.positive("beta", beta)
    with torch.no_grad():
        margin = beta * (c.float() - rc.float() - r.float() + rr.float())
    hits = (margin > 0).float() + (margin == 0).float() / 2
    return {"margin": margin.mean(), "accuracy": hits.mean()}


@right("dpo")
def with_binary_cross_entropy(c, r, rc, rr, *, beta, label_smoothing=0.0):
    metrics = pair_metrics(c, r, rc, rr, beta)
    checks.between("label_smoothing", label_smoothing, 0, 0.5, include_high=False)
    margin = beta * ((c - rc.detach()) - (r - rr.detach()))
    target = torch.full_like(margin, 1 - label_smoothing).detach()
    return F.binary_cross_entropy_with_logits(margin, target), metrics


@right("dpo")
def with_softplus_and_loops(c, r, rc, rr, *, beta, label_smoothing=0.0):
    metrics = pair_metrics(c, r, rc, rr, beta)
    checks.between("label_smoothing", label_smoothing, 0, 0.5, include_high=False)
    total = 0
    for i in range(len(c)):
        h = beta * c[i] - beta * r[i] - beta * rc[i].item() + beta * rr[i].item()
        total = total + (1 - label_smoothing) * F.softplus(-h) + label_smoothing * F.softplus(h)
    return (total / len(c), metrics)


def dpo_margin(c, r, rc, rr):
    return (c - r) - (rc - rr).detach()


@wrong("dpo", "sign is flipped")
def dpo_flipped(c, r, rc, rr, *, beta, label_smoothing=0.0):
    loss = F.softplus(beta * dpo_margin(c, r, rc, rr)).mean()
    return loss, pair_metrics(c, r, rc, rr, beta)


@wrong("dpo", "reference is missing")
def dpo_without_reference(c, r, rc, rr, *, beta, label_smoothing=0.0):
    return F.softplus(-beta * (c - r)).mean(), pair_metrics(c, r, rc, rr, beta)


@wrong("dpo", "beta is missing")
def dpo_without_beta(c, r, rc, rr, *, beta, label_smoothing=0.0):
    loss = F.softplus(-dpo_margin(c, r, rc, rr)).mean()
    return loss, pair_metrics(c, r, rc, rr, beta)


@wrong("dpo", "without the overflow")
def dpo_overflows(c, r, rc, rr, *, beta, label_smoothing=0.0):
    good = (beta * dpo_margin(c, r, rc, rr)).sigmoid()
    losses = -(1 - label_smoothing) * good.log()
    if label_smoothing:
        losses = losses - label_smoothing * (1 - good).log()
    return losses.mean(), pair_metrics(c, r, rc, rr, beta)


@wrong("dpo", "label_smoothing is ignored")
def dpo_not_smoothed(c, r, rc, rr, *, beta, label_smoothing=0.0):
    loss = F.softplus(-beta * dpo_margin(c, r, rc, rr)).mean()
    return loss, pair_metrics(c, r, rc, rr, beta)


@wrong("dpo", "changed places: 1 - s")
def dpo_shares_swapped(c, r, rc, rr, *, beta, label_smoothing=0.0):
    margin = beta * dpo_margin(c, r, rc, rr)
    s = label_smoothing if label_smoothing else 1.0
    losses = s * F.softplus(-margin) + (1 - s) * F.softplus(margin)
    return losses.mean(), pair_metrics(c, r, rc, rr, beta)


@wrong("dpo", "fixed numbers: .detach() them")
def dpo_trains_the_reference(c, r, rc, rr, *, beta, label_smoothing=0.0):
    checks.between("label_smoothing", label_smoothing, 0, 0.5, include_high=False)
    margin = beta * (c - r - rc + rr)
    s = label_smoothing
    losses = (1 - s) * F.softplus(-margin) + s * F.softplus(margin)
    return losses.mean(), pair_metrics(c, r, rc, rr, beta)


@wrong("dpo", "Only the loss comes back")
def dpo_loss_alone(c, r, rc, rr, *, beta, label_smoothing=0.0):
    return F.softplus(-beta * dpo_margin(c, r, rc, rr)).mean()


@right("ipo")
def expanded_square(c, r, rc, rr, *, beta):
    metrics = pair_metrics(c, r, rc, rr, beta)
    h, goal = c - rc.detach() - (r - rr.detach()), 0.5 / beta
    return (h * h - 2 * goal * h + goal**2).mean(), metrics


@right("ipo")
def with_mse(c, r, rc, rr, *, beta):
    metrics = pair_metrics(c, r, rc, rr, beta)
    h = torch.stack([c - rc.detach(), r - rr.detach()])
    gap = h[0] - h[1]
    return F.mse_loss(gap, torch.full_like(gap, 1 / (2 * beta))), metrics


@wrong("ipo", "beta stands in front of h")
def ipo_scaled(c, r, rc, rr, *, beta):
    loss = (beta * dpo_margin(c, r, rc, rr) - 1 / (2 * beta)).pow(2).mean()
    return loss, pair_metrics(c, r, rc, rr, beta)


@wrong("ipo", "The goal is 1 / beta")
def ipo_other_goal(c, r, rc, rr, *, beta):
    loss = (dpo_margin(c, r, rc, rr) - 1 / beta).pow(2).mean()
    return loss, pair_metrics(c, r, rc, rr, beta)


@wrong("ipo", "beta / 2")
def ipo_without_brackets(c, r, rc, rr, *, beta):
    loss = (dpo_margin(c, r, rc, rr) - 1 / 2 * beta).pow(2).mean()
    return loss, pair_metrics(c, r, rc, rr, beta)


@wrong("ipo", "taken too early")
def ipo_mean_first(c, r, rc, rr, *, beta):
    loss = (dpo_margin(c, r, rc, rr).mean() - 1 / (2 * beta)) ** 2
    return loss, pair_metrics(c, r, rc, rr, beta)


@wrong("ipo", "not squared")
def ipo_absolute(c, r, rc, rr, *, beta):
    loss = F.l1_loss(dpo_margin(c, r, rc, rr), torch.full_like(c, 1 / (2 * beta)))
    return loss, pair_metrics(c, r, rc, rr, beta)


# ---------------------------------------------------------------------------------------- orpo


def check_orpo(chosen, rejected, weight):
    for name, x in (("chosen", chosen), ("rejected", rejected)):
        checks.floats(f"{name}_logprobs", x, dims=1)
        checks.same_shape(f"{name}_logprobs", x, "chosen_logprobs", chosen)
        if (x > 1e-3).any():
            raise ValueError(f"{name}_logprobs must not be above 0, got {x.max().item()}")
    checks.count("number of pairs", len(chosen))
    checks.between("weight", weight, 0, float("inf"))


def odds(x):
    x = x.clamp(max=-min(1e-7, torch.finfo(x.dtype).eps))
    return x - log1mexp(x)


@right("orpo")
def with_softplus_of_odds(chosen_logprobs, rejected_logprobs, *, weight):
    check_orpo(chosen_logprobs, rejected_logprobs, weight)
    margin = odds(chosen_logprobs) - odds(rejected_logprobs)
    second = F.softplus(-margin).mean()
    loss = weight * second - chosen_logprobs.mean()
    with torch.no_grad():
        hits = (margin > 0).double() + 0.5 * (margin == 0).double()
        metrics = {"accuracy": hits.mean(), "margin": margin.mean(), "odds_loss": second.detach()}
        metrics |= {"nll": -chosen_logprobs.mean(), "chosen_logprob": chosen_logprobs.mean()}
        metrics |= {"rejected_logprob": rejected_logprobs.double().mean(), "pairs": margin.sum()}
    return loss, metrics


@right("orpo")
def without_the_second_part(chosen_logprobs, rejected_logprobs, *, weight):
    """Computed pair by pair, and nothing of the odds where the weight is 0."""
    check_orpo(chosen_logprobs, rejected_logprobs, weight)
    margins = [
        odds(c[None])[0] - odds(r[None])[0]
        for c, r in zip(chosen_logprobs, rejected_logprobs, strict=True)
    ]
    loss = -sum(chosen_logprobs) / len(margins)
    metrics = {"nll": loss.detach().float()}
    second = -sum(F.logsigmoid(margin) for margin in margins) / len(margins)
    if weight > 0:
        loss = loss + weight * second
    hits = [1.0 if m > 0 else 0.5 if m == 0 else 0.0 for m in margins]
    metrics["odds_loss"] = second.detach()
    metrics["margin"] = (sum(margins) / len(margins)).detach()
    metrics["accuracy"] = torch.tensor(sum(hits) / len(hits))
    metrics["chosen_logprob"] = chosen_logprobs.detach().mean()
    metrics["rejected_logprob"] = rejected_logprobs.detach().mean()
    return loss, metrics


def orpo_metrics(c, r):
    return {k: v.detach() for k, v in with_softplus_of_odds(c, r, weight=1.0)[1].items()}


@wrong("orpo", "ratios of probabilities")
def orpo_of_ratios(c, r, *, weight):
    return -c.mean() + weight * F.softplus(r - c).mean(), orpo_metrics(c, r)


@wrong("orpo", "SFT part is missing")
def orpo_without_sft(c, r, *, weight):
    return weight * F.softplus(odds(r) - odds(c)).mean(), orpo_metrics(c, r)


@wrong("orpo", "sign is flipped")
def orpo_flipped(c, r, *, weight):
    return -c.mean() + weight * F.softplus(odds(c) - odds(r)).mean(), orpo_metrics(c, r)


@wrong("orpo", "weight is missing")
def orpo_without_weight(c, r, *, weight):
    return -c.mean() + F.softplus(odds(r) - odds(c)).mean(), orpo_metrics(c, r)


@wrong("orpo", "second part has the wrong sign")
def orpo_plus(c, r, *, weight):
    return -c.mean() - weight * F.softplus(odds(r) - odds(c)).mean(), orpo_metrics(c, r)


@wrong("orpo", "A reply that is certain")
def orpo_naive(c, r, *, weight):
    check_orpo(c, r, weight)
    plain = [x - torch.log(1 - x.exp()) for x in (c, r)]
    return -c.mean() - weight * F.logsigmoid(plain[0] - plain[1]).mean(), orpo_metrics(c, r)


# ---------------------------------------------------------------------------- group_advantages


def check_groups(rewards, group_size, eps):
    checks.floats("rewards", rewards, dims=1)
    checks.count("group_size", group_size, low=2)
    checks.between("eps", eps, 0, float("inf"))
    if len(rewards) % group_size:
        raise ValueError(f"group_size {group_size} does not divide the {len(rewards)} rewards")


@right("group_advantages")
def with_chunks(rewards, *, group_size, normalize_std=True, eps=1e-4):
    check_groups(rewards, group_size, eps)
    pieces = []
    for group in rewards.detach().double().split(group_size):
        if group.min() == group.max():
            pieces.append(torch.zeros_like(group))
            continue
        centred = group - group.mean()
        if normalize_std:
            centred = centred / (centred.square().sum().div(group_size - 1).sqrt() + eps)
        pieces.append(centred)
    return torch.cat(pieces)


@right("group_advantages")
def with_var(rewards, *, group_size, normalize_std=True, eps=1e-4):
    check_groups(rewards, group_size, eps)
    table = rewards.detach().reshape(len(rewards) // group_size, group_size)
    spread, mean = torch.var_mean(table, dim=-1, keepdim=True)
    differs = table.max(dim=1, keepdim=True).values > table.min(dim=1, keepdim=True).values
    divisor = spread.sqrt() + eps if normalize_std else torch.ones_like(spread)
    divisor = torch.where(differs, divisor, torch.ones_like(divisor))
    return ((table - mean) * differs / divisor).reshape(-1)


@wrong("group_advantages", "biased std")
def biased(rewards, *, group_size, normalize_std=True, eps=1e-4):
    table = rewards.view(-1, group_size)
    centred = table - table.mean(1, keepdim=True)
    spread = centred.square().mean(1, keepdim=True).sqrt()
    return (centred / (spread + eps) if normalize_std else centred).flatten()


@wrong("group_advantages", "Each group has its own")
def batch_std(rewards, *, group_size, normalize_std=True, eps=1e-4):
    table = rewards.view(-1, group_size)
    return ((table - table.mean(1, keepdim=True)) / (rewards.std() + eps)).flatten()


@wrong("group_advantages", "groups are mixed up")
def interleaved(rewards, *, group_size, normalize_std=True, eps=1e-4):
    table = rewards.view(group_size, -1)
    return ((table - table.mean(0)) / (table.std(0) + eps)).flatten()


@wrong("group_advantages", "exactly 0")
def rounded(rewards, *, group_size, normalize_std=True, eps=1e-4):
    check_groups(rewards, group_size, eps)
    table = rewards.view(-1, group_size)
    centred = table - table.mean(1, keepdim=True)
    return (centred / (table.std(1, keepdim=True) + eps) if normalize_std else centred).flatten()


@wrong("group_advantages", "normalize_std=False is ignored")
def always_normalized(rewards, *, group_size, normalize_std=True, eps=1e-4):
    return with_var(rewards, group_size=group_size, eps=eps)


@wrong("group_advantages", "must have shape (6,)")
def still_a_table(rewards, *, group_size, normalize_std=True, eps=1e-4):
    return with_var(rewards, group_size=group_size).view(-1, group_size)


@wrong("group_advantages", "An input was changed")
def in_place(rewards, *, group_size, normalize_std=True, eps=1e-4):
    table = rewards.view(-1, group_size)
    table -= table.mean(1, keepdim=True)
    return (table / (table.std(1, keepdim=True) + eps)).flatten()


# ---------------------------------------------------------------------------------------- grpo


def check_grpo(logprobs, old, advantages, mask, low, high, ref, kl_coef, normalize, max_tokens):
    checks.rows("advantages", advantages, mask)
    checks.positive("clip_eps", low)
    checks.positive("clip_eps_high", high)
    checks.between("kl_coef", kl_coef, 0, float("inf"))
    checks.one_of("normalize", normalize, ("reply", "token", "constant"))
    if normalize == "constant":
        checks.count("max_tokens", max_tokens)
    if ref is None and kl_coef > 0:
        raise ValueError(f"kl_coef {kl_coef} needs ref_logprobs; pass them or use kl_coef=0")
    ref = logprobs if ref is None else ref
    checks.frames(mask, logprobs=logprobs, old_logprobs=old, ref_logprobs=ref)


def settings_of(options):
    names = {"clip_eps": 0.2, "clip_eps_high": None, "ref_logprobs": None, "kl_coef": 0.0}
    found = {**names, "normalize": "reply", "max_tokens": None, **options}
    if found["clip_eps_high"] is None:
        found["clip_eps_high"] = found["clip_eps"]
    return found.values()


@right("grpo")
def reply_by_reply(logprobs, old_logprobs, advantages, mask, **options):
    low, high, ref, kl_coef, normalize, max_tokens = settings_of(options)
    check_grpo(
        logprobs, old_logprobs, advantages, mask, low, high, ref, kl_coef, normalize, max_tokens
    )
    sums, counts, outside, moved, away = [], [], 0.0, 0.0, 0.0
    for i in range(len(mask)):
        here = mask[i]
        own = logprobs[i][here]
        change, a = own - old_logprobs[i][here].detach(), advantages[i].item()
        ratio = change.exp()
        best = ratio.clamp(max=1 + high) if a >= 0 else ratio.clamp(min=1 - low)
        x = own * 0 if ref is None else ref[i][here].detach() - own
        kl = x.exp() - 1 - x
        sums.append((kl_coef * kl - best * a).sum())
        counts.append(int(here.sum()))
        with torch.no_grad():
            outside += float(((ratio < 1 - low) | (ratio > 1 + high)).sum())
            moved += float((ratio - 1 - change).sum())
            away += float(kl.sum())
    n = max(1, sum(counts))
    if normalize == "reply":
        loss = sum(s / max(1, c) for s, c in zip(sums, counts, strict=True)) / len(mask)
    else:
        loss = sum(sums) / (n if normalize == "token" else len(mask) * max_tokens)
    metrics = {"clip_fraction": outside / n, "approx_kl": moved / n, "kl": away / n}
    return loss, {name: torch.tensor(number) for name, number in metrics.items()}


def grpo_with(
    logprobs, old, advantages, mask, options, objective=pessimist, kl=kl_k3, reduce=average, ends=0
):
    low, high, ref, kl_coef, normalize, max_tokens = settings_of(options)
    check_grpo(logprobs, old, advantages, mask, low, high, ref, kl_coef, normalize, max_tokens)
    low, high = [(low, high), (high, low), (low, low)][ends]
    own = logprobs.masked_fill(~mask, 0.0)
    change = own - old.detach().masked_fill(~mask, 0.0)
    ratio = change.exp()
    clipped = ratio.clamp(1 - low, 1 + high)
    gain = objective(ratio, clipped, advantages.detach().unsqueeze(1).expand_as(ratio))
    other = own.detach() if ref is None else ref.detach().masked_fill(~mask, 0.0)
    away = kl(own, other) if ref is not None else own * 0
    loss = reduce(kl_coef * away - gain, mask, normalize=normalize, max_tokens=max_tokens)
    with torch.no_grad():
        outside = ((ratio - clipped).abs() > 0).double()
        metrics = {"clip_fraction": masked_mean(outside, mask), "kl": masked_mean(away, mask)}
        metrics["approx_kl"] = masked_mean(ratio - 1 - change, mask)
    return loss, metrics


@right("grpo")
def with_masked_fill(logprobs, old_logprobs, advantages, mask, **options):
    return grpo_with(logprobs, old_logprobs, advantages, mask, options)


@wrong("grpo", "ends of the clip are swapped")
def ends_swapped(logprobs, old, advantages, mask, **options):
    return grpo_with(logprobs, old, advantages, mask, options, ends=1)


@wrong("grpo", "It has a setting of its own")
def symmetric(logprobs, old, advantages, mask, **options):
    return grpo_with(logprobs, old, advantages, mask, options, ends=2)


@wrong("grpo", "minimum is taken of the ratios")
def ratios_compared(logprobs, old, advantages, mask, **options):
    worse = lambda r, c, a: torch.minimum(r, c) * a  # noqa: E731
    return grpo_with(logprobs, old, advantages, mask, options, worse)


@wrong("grpo", "KL term is upside down")
def kl_upside_down(logprobs, old, advantages, mask, **options):
    kl = lambda p, ref: (p - ref).exp() - 1 - (p - ref)  # noqa: E731
    return grpo_with(logprobs, old, advantages, mask, options, kl=kl)


@wrong("grpo", "KL term is k1")
def kl_plain(logprobs, old, advantages, mask, **options):
    return grpo_with(logprobs, old, advantages, mask, options, kl=lambda p, ref: p - ref)


@wrong("grpo", 'normalize="token" must give')
def always_reply(logprobs, old, advantages, mask, **options):
    mean = lambda x, m, **_: sequence_logprobs(x, m, reduce="mean").mean()  # noqa: E731
    return grpo_with(logprobs, old, advantages, mask, options, reduce=mean)


@wrong("grpo", "This is the mean over all tokens")
def always_token(logprobs, old, advantages, mask, **options):
    mean = lambda x, m, **_: masked_mean(x, m)  # noqa: E731
    return grpo_with(logprobs, old, advantages, mask, options, reduce=mean)


@wrong("grpo", "N, the number of replies, is missing")
def constant_without_n(logprobs, old, advantages, mask, **options):
    def mean(x, m, *, normalize, max_tokens):
        if normalize == "constant":
            return torch.where(m, x, 0.0).sum() / max_tokens
        return average(x, m, normalize=normalize)

    return grpo_with(logprobs, old, advantages, mask, options, reduce=mean)


@wrong("grpo", "wrong sign")
def grpo_uphill(logprobs, old, advantages, mask, **options):
    return grpo_with(logprobs, old, advantages, mask, options, lambda *x: -pessimist(*x))


# --------------------------------------------------------------------------------------- cache


class ByOneSlice(PackageCache):
    def append(self, layer, k, v):
        start, end = self.length, self.length + k.size(2)
        if end > self.max_tokens:
            raise ValueError(f"the cache has room for {self.max_tokens} tokens, not for {end}")
        for memory, new in ((self.keys, k), (self.values, v)):
            memory[layer][: self.rows].narrow(2, start, k.size(2)).copy_(new)
        if layer + 1 == self.keys.shape[0]:
            self.length += k.size(2)
        return self.keys[layer, : self.rows, :, :end], self.values[layer, : self.rows, :, :end]

    def keep(self, rows):
        if rows.dtype == torch.bool:
            rows = rows.nonzero().squeeze(1)
        if len(rows) > self.rows:
            raise ValueError(f"cannot keep {len(rows)} rows of a cache of {self.rows}")
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]  # smaller memory
        self.valid, self.rows = self.valid[rows], len(rows)


class TokenByToken(PackageCache):
    def append(self, layer, k, v):
        end = self.length + k.shape[2]
        if end > self.max_tokens:
            raise ValueError(f"the cache has room for {self.max_tokens} tokens, not for {end}")
        for new in range(k.shape[2]):
            for row in range(self.rows):
                self.keys[layer, row, :, self.length + new] = k[row, :, new]
                self.values[layer, row, :, self.length + new] = v[row, :, new]
        if layer == len(self.keys) - 1:
            self.length = end
        return [self.keys[layer, : self.rows, :, :end], self.values[layer, : self.rows, :, :end]]

    def keep(self, rows):
        numbers = rows.nonzero().squeeze(1) if rows.dtype == torch.bool else rows
        if len(numbers) > self.rows:
            raise ValueError(f"cannot keep {len(numbers)} rows of a cache of {self.rows}")
        keys, values, valid = self.keys.clone(), self.values.clone(), self.valid.clone()
        for new, old in enumerate(numbers.tolist()):
            self.keys[:, new], self.values[:, new] = keys[:, old], values[:, old]
            self.valid[new] = valid[old]
        self.rows = numbers.numel()


right("cache")(ByOneSlice)
right("cache")(TokenByToken)


@wrong("cache", "with every layer")
class EveryLayerMoves(ByOneSlice):
    def append(self, layer, k, v):
        start = self.length
        both = super().append(layer, k, v)
        self.length = start + k.shape[2]
        return both


@wrong("cache", "never moves on")
class NeverMoves(ByOneSlice):
    def append(self, layer, k, v):
        both = super().append(layer, k, v)
        self.length = 0
        return both


@wrong("cache", "new tokens only")
class OnlyNew(ByOneSlice):
    def append(self, layer, k, v):
        super().append(layer, k, v)
        return k, v


@wrong("cache", "unused columns")
class AllColumns(ByOneSlice):
    def append(self, layer, k, v):
        super().append(layer, k, v)
        return self.keys[layer, : self.rows], self.values[layer, : self.rows]


@wrong("cache", "`valid` along")
class ValidForgotten(ByOneSlice):
    def keep(self, rows):
        valid = self.valid
        super().keep(rows)
        self.valid = valid


@wrong("cache", "overwrites a row that is needed later")
class OneAfterTheOther(ByOneSlice):
    def keep(self, rows):
        rows = rows.nonzero().squeeze(1) if rows.dtype == torch.bool else rows
        for new, old in enumerate(rows.tolist()):
            self.keys[:, new], self.values[:, new] = self.keys[:, old], self.values[:, old]
            self.valid[new] = self.valid[old]
        self.rows = len(rows)


@wrong("cache", "keep sorts the rows")
class Sorted(ByOneSlice):
    def keep(self, rows):
        super().keep(rows if rows.dtype == torch.bool else rows.sort().values)


# -------------------------------------------------------------------------------- mixed_reward


@right("mixed_reward")
def with_a_flat_list(kinds):
    owners = [(judge, own) for count, judge in kinds for own in range(count)]

    def reward(number, reply, ended):
        if not 0 <= number < len(owners):
            raise ValueError(f"there is no prompt {number}, only {len(owners)} prompts")
        judge, own = owners[number]
        return judge(own, reply, ended)

    return reward


@right("mixed_reward")
def by_counting_down(kinds):
    def reward(number, reply, ended):
        left = number
        for count, judge in kinds:
            if 0 <= left < count:
                return judge(left, reply, ended)
            left -= count
        raise ValueError(f"no kind has prompt {number}")

    return reward


@wrong("mixed_reward", "counts its own prompts from 0")
def number_of_the_whole_list(kinds):
    owners = [judge for count, judge in kinds for _ in range(count)]
    return lambda number, reply, ended: owners[number](number, reply, ended)


@wrong("mixed_reward", "not how many there are of this kind")
def minus_its_own_count(kinds):
    def reward(number, reply, ended):
        first = 0
        for count, judge in kinds:
            if first <= number < first + count:
                return judge(number - count, reply, ended)
            first += count
        raise ValueError(f"prompt {number} is of no kind")

    return reward


@wrong("mixed_reward", "not <=")
def one_too_many(kinds):
    def reward(number, reply, ended):
        first = 0
        for count, judge in kinds:
            if number <= first + count:
                return judge(number - first, reply, ended)
            first += count
        raise ValueError(f"prompt {number} is of no kind")

    return reward


@wrong("mixed_reward", "first += count")
def only_the_kind_before(kinds):
    def reward(number, reply, ended):
        first = 0
        for count, judge in kinds:
            if first <= number < first + count:
                return judge(number - first, reply, ended)
            first = count
        raise ValueError(f"prompt {number} is of no kind")

    return reward


@wrong("mixed_reward", "asked before")
def first_lives_outside(kinds):
    first = 0

    def reward(number, reply, ended):
        nonlocal first
        for count, judge in kinds:
            if first <= number < first + count:
                return judge(number - first, reply, ended)
            first += count
        raise ValueError(f"prompt {number} is of no kind")

    return reward


@wrong("mixed_reward", "last values")
def made_in_a_loop(kinds):
    owners, first = {}, 0
    for count, judge in kinds:
        for number in range(first, first + count):
            owners[number] = lambda n, reply, ended: judge(n - first, reply, ended)  # noqa: B023
        last, first = first, first + count
    first = last

    def reward(number, reply, ended):
        if number not in owners:
            raise ValueError(f"prompt {number} is of no kind")
        return owners[number](number, reply, ended)

    return reward


@wrong("mixed_reward", "The first reward answers")
def always_the_first(kinds):
    def reward(number, reply, ended):
        if not 0 <= number < sum(count for count, _ in kinds):
            raise ValueError(f"prompt {number} is of no kind")
        return kinds[0][1](number, reply, ended)

    return reward


@wrong("mixed_reward", "handed on as they came")
def ended_forgotten(kinds):
    judge = by_counting_down(kinds)
    return lambda number, reply, ended: judge(number, reply, True)


@wrong("mixed_reward", "must be refused")
def nothing_for_nobody(kinds):
    def reward(number, reply, ended):
        try:
            return by_counting_down(kinds)(number, reply, ended)
        except ValueError:
            return 0.0, {}

    return reward


@wrong("mixed_reward", "counts from the end")
def from_the_end(kinds):
    owners = [(judge, own) for count, judge in kinds for own in range(count)]

    def reward(number, reply, ended):
        if number >= len(owners):
            raise ValueError(f"prompt {number} is of no kind")
        judge, own = owners[number]
        return judge(own, reply, ended)

    return reward


@wrong("mixed_reward", "Worth and parts")
def worth_alone(kinds):
    judge = by_counting_down(kinds)
    return lambda number, reply, ended: judge(number, reply, ended)[0]


@wrong("mixed_reward", "A function must come back")
def called_at_once(kinds):
    return by_counting_down(kinds)(0, [], True)


@wrong("mixed_reward", "returns None")
def inner_function_kept(kinds):
    by_counting_down(kinds)
