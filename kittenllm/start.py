"""The first weights of a kitten: random, but not flat.

One idea: fresh from the dice, attention is flat. Every query fits every key a little, so each token
sees the same blur of all tokens before it, and finding out that one *can* look at a single place
takes most of a short training. Three things, done once before the first step, spare a kitten that:

    louder    embeddings, queries and keys are drawn larger: what a head prefers, it prefers clearly
    common    all embeddings share one random vector: a thing that every token has, so a head can
              look at a *place*, whatever stands there. (It moves all logits alike: no
              probability changes.)
    back      the heads of the first layer begin as "one, one, two, three tokens back"

The last is the first half of a copying circuit ("what stood before me?"); the second half, and all
the rest, is learned. Large models grow such heads by themselves, after some billion tokens (Olsson
et al. 2022, arXiv 2209.11895). Starting attention with the shape that it has after training is
called mimetic initialisation (Trockman and Kolter 2023, arXiv 2305.09828).

At 7 billion parameters: nobody does this; two trillion tokens are enough to find it out.

Letters: V vocabulary, C channels, D channels of one head.
Read before: gpt.py. Left out: starting the other layers.
"""

import torch

from kittenllm.gpt import GPT

LOUDER_EMBEDDINGS = 5.0  # 0.02 -> 0.1
LOUDER_LOOKS = 4.0  # queries and keys: 0.02 -> 0.08
TOKENS_BACK = (1, 1, 2, 3)  # where the heads of the first layer look
SHARPNESS = 6.0  # how strongly: about two thirds of the attention go there


@torch.no_grad()
def wake(gpt: GPT, generator: torch.Generator) -> None:
    """Change freshly drawn weights as told above; `generator` draws the common vector."""
    embeddings = gpt.embed_tokens.weight  # (V, C)
    common = torch.randn(gpt.config.channels, generator=generator)  # (C,)
    embeddings.mul_(LOUDER_EMBEDDINGS)
    embeddings.add_(embeddings.std() * common.to(embeddings.device))
    for name, weight in gpt.named_parameters():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            weight.mul_(LOUDER_LOOKS)
    for head in range(gpt.config.heads):
        look_back(gpt, head, TOKENS_BACK[head % len(TOKENS_BACK)])


def look_back(gpt: GPT, head: int, tokens: int) -> None:
    """Make a head of the first layer look `tokens` back, whatever stands there.

    The key of every token becomes the same vector: all pairs of channels point to 0 degrees. RoPE
    turns it by the angle of its position. The query points to where a key stands that is `tokens`
    behind: minus that many turns.
    """
    config = gpt.config
    D, half = config.head_channels, config.head_channels // 2
    common = gpt.embed_tokens.weight.mean(dim=0)  # (C,)
    common = common / common.norm() / config.channels**0.5  # of a normalised token it reads about 1
    key = torch.cat([torch.ones(half), torch.zeros(half)]).to(common)  # (D,) 0 degrees
    query = torch.cat([gpt.cos[tokens, :half], -gpt.sin[tokens, :half]])  # (D,)
    kv_head = head * config.kv_heads // config.heads
    k_proj = gpt.get_parameter("layers.0.self_attn.k_proj.weight")  # (K D, C)
    q_proj = gpt.get_parameter("layers.0.self_attn.q_proj.weight")  # (H D, C)
    k_proj[kv_head * D : (kv_head + 1) * D] = SHARPNESS * key[:, None] * common
    q_proj[head * D : (head + 1) * D] = SHARPNESS * query[:, None] * common
