"""The start of attention: where the first heads look, and what stays as it was drawn."""

import pytest
import torch
from torch.testing import assert_close

from kittenllm.gpt import GPT, SIZES, GPTConfig
from kittenllm.start import LOUDER_EMBEDDINGS, LOUDER_LOOKS, TOKENS_BACK, wake


def fresh(size: str = "small", *, awake: bool) -> GPT:
    gpt = GPT(GPTConfig(vocab_size=300, **SIZES[size]))
    if awake:
        wake(gpt, torch.Generator().manual_seed(1))
    return gpt


def looks(gpt: GPT, head: int, back: int) -> float:
    """Mean attention of a head of the first layer to the token `back` places behind."""
    row = torch.randint(300, (1, 200), generator=torch.Generator().manual_seed(2))
    weights = gpt.attention_weights(row, 0)[0, head]  # (T, T)
    return weights.diagonal(-back)[50:].mean().item()


@pytest.mark.parametrize("size", SIZES)
def test_the_heads_of_the_first_layer_look_back(size):
    asleep, awake = fresh(size, awake=False), fresh(size, awake=True)
    for head in range(awake.config.heads):
        back = TOKENS_BACK[head % len(TOKENS_BACK)]
        assert looks(asleep, head, back) < 0.02  # a blur over up to 200 tokens
        places = {other: looks(awake, head, other) for other in range(8)}
        assert max(places, key=places.get) == back
        assert places[back] > 0.4


def test_the_common_vector_moves_all_logits_alike():
    """One vector more in every row of the output embedding: no probability changes."""
    gpt = fresh(awake=True)
    embeddings = gpt.embed_tokens.weight.detach().double()
    hidden = torch.randn(5, gpt.config.channels, generator=torch.Generator().manual_seed(3))
    hidden = hidden.double()
    without = embeddings - embeddings.mean(dim=0)
    assert_close((hidden @ embeddings.T).softmax(-1), (hidden @ without.T).softmax(-1))
    asleep = fresh(awake=False).embed_tokens.weight
    assert embeddings.mean(dim=0).norm() > 10 * asleep.mean(dim=0).norm()


def test_all_else_is_as_it_was_drawn():
    asleep, awake = fresh(awake=False), fresh(awake=True)
    before, after = dict(asleep.named_parameters()), dict(awake.named_parameters())
    for name, weight in before.items():
        if name.startswith("layers.0") and name.endswith(("q_proj.weight", "k_proj.weight")):
            continue  # they look back
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            assert_close(after[name], LOUDER_LOOKS * weight)
        elif name == "embed_tokens.weight":
            rest = (after[name] - LOUDER_EMBEDDINGS * weight).detach()
            assert_close(rest, rest[:1].expand_as(rest))  # one vector, the same for every token
        else:
            assert torch.equal(after[name], weight)


def test_the_generator_decides():
    first, again = fresh(awake=True), fresh(awake=True)
    assert torch.equal(first.embed_tokens.weight, again.embed_tokens.weight)
    other = GPT(first.config)
    wake(other, torch.Generator().manual_seed(2))
    assert not torch.equal(first.embed_tokens.weight, other.embed_tokens.weight)
