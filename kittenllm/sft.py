"""Supervised fine-tuning: the same next-token loss, but only on the assistant's own tokens.

loss = -mean over trained t of log p(token_t | the tokens before it)

The instruction data of InstructGPT (Ouyang et al. 2022, arXiv 2203.02155, section 3.5, step 1).
The prompt is read but not learnt: a `loss_mask` marks the assistant's words *and its end-of-turn
token*, or the kitten would never learn to stop. Conversations are packed into rows without
padding; `document_ids` keep attention inside each one. A share of plain pretraining text is
replayed so that old abilities are not forgotten.

At 7 billion parameters: the same loss, and some ten thousand conversations are enough. Llama 2 saw
27,540, written with care, twice: 64 rows of 4,096 tokens a step, a rate of 2e-5 (Touvron et al.
2023, arXiv 2307.09288, section 3.1). With its 32,000 words the logits of one such step would fill
33 GB in float32; fused kernels never store them (Hsu et al. 2024, arXiv 2410.10989).

A step that does not fit into memory is read in parts, whose gradients add up (`tokens_per_pass`).
The loss is a mean over all trained tokens of the step, so a part weighs as much as it has of them:
the mean of the parts' means would be another loss, as many libraries found out late.

Letters: B rows, T tokens in a row, V vocabulary, n trained tokens. Loss in nats per token.
Read before: chat.py, batches.py, logprobs.py. Left out: dropout, evaluation during training (the
chapter does it between two steps).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kittenllm import checks
from kittenllm.batches import PackedRows, TokenStream
from kittenllm.config import check_options, option
from kittenllm.distributed import world
from kittenllm.forward import LARGE_VOCABULARY, action_hidden
from kittenllm.gpt import GPT
from kittenllm.logprobs import pick_logprobs
from kittenllm.optim import learning_rate_scale
from kittenllm.training import (
    Means,
    Optimizer,
    Stopwatch,
    apply_gradients,
    loss_shares,
    rows_between,
)


def sft_loss(logits: Tensor, tokens: Tensor, loss_mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean negative log-probability of the trained tokens of the whole batch, nats per token.

    logits (B, T, V), tokens (B, T), loss_mask (B, T) bool: True where the token itself is trained
    on. `loss_mask[:, 0]` is never used: nothing produces the first token.
    Metrics: accuracy (share of trained tokens that were the likeliest).

    Raises: ValueError for wrong shapes or dtypes, or a trained token id outside 0 .. V-1.
    """
    checks.floats("logits", logits, dims=3)
    checks.token_dtype("tokens", tokens)
    checks.bool_mask("loss_mask", loss_mask, logits.shape[:2])
    checks.bool_mask("loss_mask", loss_mask, tokens.shape)
    checks.token_ids("tokens", tokens[loss_mask], logits.shape[-1])

    trained = loss_mask[:, 1:]  # (B, T-1) action frame
    row, place = trained.nonzero(as_tuple=True)  # (n,), (n,) where they are
    # What was known before each trained token: logits[row, place], with a quicker backward pass.
    producing = logits.flatten(0, 1).index_select(0, row * logits.shape[1] + place)  # (n, V)
    produced = tokens[row, place + 1]  # (n,) what came

    logprobs = pick_logprobs(producing, produced)  # (n,)
    count = max(1, len(logprobs))  # no trained token: the loss is 0, not NaN
    loss = -logprobs.sum() / count
    hits = producing.argmax(dim=-1) == produced  # (n,)
    metrics = {"accuracy": (hits.sum() / count).to(logits.dtype)}
    return loss.to(logits.dtype), metrics


@dataclass(frozen=True)
class SFTConfig:
    """Settings of fine-tuning. Learning rates: whoever builds the optimizer reads them."""

    steps: int = option(1280, "optimizer steps", low=1)
    rows_per_step: int = option(3, "B, packed rows in a step: many small steps learn more", low=1)
    replay_fraction: float = option(
        0.25, "share of the rows that are pretraining text", low=0, below=1
    )
    matrix_lr: float | None = option(
        2e-3,
        "Muon's rate, hidden matrices; usually 1e-3 to 5e-3; none: AdamW there too",
        above=0,
    )
    other_lr: float = option(2e-3, "AdamW's rate, embeddings, norms; usually 1e-3 to 1e-2", above=0)
    warmup: float = option(0.02, "share of the steps with a rising rate", low=0, high=1)
    cooldown: float = option(0.5, "share of the steps with a falling rate", low=0, high=1)
    max_grad_norm: float = option(1.0, "longer gradients are shortened to this", above=0)

    def __post_init__(self):
        check_options(self)


def step_rows(
    rows: PackedRows,
    replay: TokenStream | None,
    step: int,
    config: SFTConfig,
    generator: torch.Generator,
) -> tuple[PackedRows, int]:
    """The rows of one step, chats first and replayed text after them, and how many are chats.

    25 % of 3 rows is 0.75 rows: three steps of four replay one row, and the fourth none.
    """
    share = config.replay_fraction if replay is not None else 0.0
    replayed_before = int(share * config.rows_per_step * step)
    replayed_after = int(share * config.rows_per_step * (step + 1))
    replayed = replayed_after - replayed_before
    first = config.rows_per_step * step - replayed_before
    last = config.rows_per_step * (step + 1) - replayed_after
    seed = generator.initial_seed()
    chats = rows.select(rows_between(len(rows), first, last, seed=seed))
    if replay is None or replayed == 0:
        return chats, len(chats)
    tokens = replay.batch(replayed, rows.tokens.shape[1], generator).to(chats.tokens.device)
    mixed = PackedRows(
        tokens=torch.cat([chats.tokens, tokens]),
        loss_mask=torch.cat([chats.loss_mask, torch.ones_like(tokens, dtype=torch.bool)]),
        document_ids=torch.cat([chats.document_ids, replay.document_ids(tokens)]),
    )
    return mixed, len(chats)


def row_shares(loss_mask: Tensor, tokens_per_pass: int | None) -> list[tuple[Tensor, float]]:
    """The rows of a step in parts of at most `tokens_per_pass` tokens, each with its share of the
    trained tokens of all processes; None: all rows at once.  loss_mask (B, T)."""
    rows, trained = torch.arange(len(loss_mask), device=loss_mask.device), loss_mask[:, 1:]
    if tokens_per_pass is None:
        return [(rows, world().weight(int(trained.sum())))]
    return loss_shares(trained, rows, rows, "token", tokens_per_pass)


def read_rows(gpt: GPT, rows: PackedRows, *, whole_rows: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, tokens and loss mask for `sft_loss`: of whole rows, (B, T, V), (B, T), (B, T), or of
    what is trained and what is in front of it, side by side in one row: (1, n+1, V), (1, n+1),
    (1, n+1). Both give the same loss.
    """
    if whole_rows:
        return gpt(rows.tokens, document_ids=rows.document_ids), rows.tokens, rows.loss_mask
    trained = rows.loss_mask[:, 1:]  # (B, T-1)
    hidden = action_hidden(gpt, rows.tokens, trained, document_ids=rows.document_ids)  # (n, C)
    produced = rows.tokens[:, 1:][trained]  # (n,)
    logits = gpt.logits(F.pad(hidden, (0, 0, 0, 1)))  # (n+1, V) the last one produces nothing
    counts = torch.ones_like(produced, dtype=torch.bool)
    return logits[None], F.pad(produced, (1, 0))[None], F.pad(counts, (1, 0))[None]


def train_sft(
    gpt: GPT,
    rows: PackedRows,
    *,
    config: SFTConfig,
    optimizer: Optimizer,
    generator: torch.Generator,
    start_step: int = 0,
    replay: TokenStream | None = None,
    tokens_per_pass: int | None = None,
) -> Iterator[dict[str, float]]:
    """Fine-tune on packed conversations; yields one dict of numbers per step.

    To go on after a stop, restore the model, the optimizer and the generator's state, and pass the
    number of finished steps as `start_step`. tokens_per_pass: most tokens in memory at once; None
    is all rows of a step.

    Keys: step, loss (nats per trained token, replay included), chat_loss (chats only), accuracy
    (see `sft_loss`), tokens (real ones in this step), trained_tokens, grad_norm, lr_scale, seconds,
    seconds_training.

    Raises: ValueError if there are no rows.
    """
    checks.count("len(rows)", len(rows))
    whole_rows = gpt.config.vocab_size < LARGE_VOCABULARY or replay is not None
    for step in range(start_step, config.steps):
        watch = Stopwatch()
        scale = learning_rate_scale(
            step, config.steps, warmup=config.warmup, cooldown=config.cooldown
        )
        optimizer.set_scale(scale)
        batch, chats = step_rows(rows, replay, step, config, generator)
        mine = world().shard(batch).to(gpt.device)  # all of them without torchrun
        is_chat = world().shard(torch.arange(len(batch)) < chats).to(gpt.device)  # (B,)
        means = Means("loss", "chat_loss", "accuracy")

        for part, share in row_shares(mine.loss_mask, tokens_per_pass):
            logits, tokens, loss_mask = read_rows(gpt, mine.select(part), whole_rows=whole_rows)
            loss, metrics = sft_loss(logits, tokens, loss_mask)
            (share * loss).backward()
            counts = share > 0  # or other processes have more parts
            means.add({"loss": loss, **metrics}, weight=int(loss_mask[:, 1:].sum()) * counts)
            if chats < len(batch):  # once more without the replayed rows, only to be watched
                loss_mask = loss_mask & is_chat[part][:, None]
                with torch.no_grad():
                    loss, _ = sft_loss(logits, tokens, loss_mask)
            means.add({"chat_loss": loss}, weight=int(loss_mask[:, 1:].sum()) * counts)
        grad_norm = apply_gradients(gpt, optimizer, config.max_grad_norm)
        numbers = means.means()
        watch.lap("training")
        yield {
            "step": step,
            **numbers,
            "tokens": int((batch.document_ids >= 0).sum()),
            "trained_tokens": int(batch.loss_mask[:, 1:].sum()),
            "grad_norm": grad_norm,
            "lr_scale": scale,
            **watch.seconds,
        }
