"""Pretraining: learn to guess the next token of plain text.

loss = -mean_t log p(token_t | the tokens before it)

This is the whole secret of a base GPT (Radford et al. 2018, "Improving Language Understanding by
Generative Pre-Training", eq. 1). The windows start anywhere in the text, many small steps: with
few tokens to spend, 4 windows a step teach far more than 32.

At 7 billion parameters: the same loss on 2 trillion tokens, 4 million of them in each step, with
AdamW at a rate of 3e-4 (Llama 2, Touvron et al. 2023, arXiv 2307.09288, section 2.2). Weights,
gradients and optimizer take 16 bytes per parameter, 112 GB in all: they are cut into shards over
many GPUs (ZeRO, Rajbhandari et al. 2020, arXiv 1910.02054, section 3.1).

Letters: B windows, T tokens in a window. Loss in nats per token.
Read before: gpt.py, logprobs.py, batches.py. Left out: dropout, evaluation during training (the
chapter does it between two steps).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from kittenllm.batches import TokenStream
from kittenllm.config import check_options, option
from kittenllm.distributed import world
from kittenllm.gpt import GPT
from kittenllm.logprobs import token_logprobs
from kittenllm.optim import learning_rate_scale
from kittenllm.training import Optimizer, Stopwatch, apply_gradients


@dataclass(frozen=True)
class PretrainConfig:
    """Settings of pretraining. Learning rates: whoever builds the optimizer reads them."""

    steps: int = option(1220, "optimizer steps", low=1)
    rows_per_step: int = option(4, "B, rows of text in a step: many small steps learn more", low=1)
    row_length: int = option(256, "T, tokens in a row; at most the model's context", low=2)
    matrix_lr: float = option(5e-3, "Muon's rate, hidden matrices; usually 2e-3 to 1e-2", above=0)
    other_lr: float = option(6e-3, "AdamW's rate, embeddings, norms; usually 1e-3 to 1e-2", above=0)
    warmup: float = option(0.02, "share of the steps with a rising rate", low=0, high=1)
    cooldown: float = option(0.5, "share of the steps with a falling rate", low=0, high=1)
    max_grad_norm: float = option(1.0, "longer gradients are shortened to this", above=0)

    def __post_init__(self):
        check_options(self)


def train_pretrain(
    gpt: GPT,
    stream: TokenStream,
    *,
    config: PretrainConfig,
    optimizer: Optimizer,
    generator: torch.Generator,
    start_step: int = 0,
) -> Iterator[dict[str, float]]:
    """Train on random windows of the text; yields one dict of numbers per step.

    To go on after a stop, restore the model, the optimizer and the generator's state, and pass the
    number of finished steps as `start_step`.

    Keys: step, loss (nats per token), tokens (in this step), grad_norm, lr_scale, seconds,
    seconds_training.

    Raises: ValueError if the text is shorter than one window.
    """
    for step in range(start_step, config.steps):
        watch = Stopwatch()
        scale = learning_rate_scale(
            step, config.steps, warmup=config.warmup, cooldown=config.cooldown
        )
        optimizer.set_scale(scale)
        batch = stream.batch(config.rows_per_step, config.row_length, generator)
        tokens = world().shard(batch).to(gpt.device)  # (B, T)
        documents = stream.document_ids(tokens)  # (B, T): no look from one document into another

        logits = gpt(tokens, document_ids=documents)  # (B, T, V)
        loss = -token_logprobs(logits, tokens).mean()
        loss, _ = world().average(loss, {}, count=len(tokens))
        loss.backward()
        grad_norm = apply_gradients(gpt, optimizer, config.max_grad_norm)
        watch.lap("training")
        yield {
            "step": step,
            "loss": loss.item(),
            "tokens": batch.numel(),
            "grad_norm": grad_norm,
            "lr_scale": scale,
            **watch.seconds,
        }
