"""Sampling: what is drawn, what is written down about it, and that no row disturbs another."""

import math

import pytest
import torch

from kittenllm import sampling
from kittenllm.gpt import GPT, GPTConfig
from kittenllm.sampling import Rollout, draw, fill_holes, generate, stream

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14, 15, 16], [5, 6], [30], [8, 40, 41, 42, 43]]


def new_generator(gpt: GPT, seed: int = 0) -> torch.Generator:
    return torch.Generator(device=gpt.device).manual_seed(seed)


def recomputed(gpt: GPT, rollout: Rollout, temperature: float) -> torch.Tensor:
    """The log-probs by the plain forward: no cache, no mask, right-padded rows as they are."""
    with torch.no_grad():
        logits = gpt(rollout.tokens[:, :-1]) / temperature
    picked = logits.log_softmax(-1).gather(-1, rollout.tokens[:, 1:, None]).squeeze(-1)
    return torch.where(rollout.response_mask, picked, 0.0)


def many_prompts(count: int) -> list[list[int]]:
    return [PROMPTS[number % len(PROMPTS)] for number in range(count)]


# ------------------------------------------------------------------ drawing one token


def test_draw_follows_the_probabilities(device):
    """100,000 darts: each share within 5 standard errors of its probability."""
    probabilities = torch.tensor([0.5, 0.0, 0.2, 0.3], device=device)
    logits = probabilities.log().expand(100_000, 4)
    generator = torch.Generator(device=device).manual_seed(0)
    tokens, logprobs = draw(logits, 1.0, generator)
    shares = tokens.bincount(minlength=4) / len(tokens)
    error = (probabilities * (1 - probabilities) / len(tokens)).sqrt()
    assert ((shares - probabilities).abs() <= 5 * error).all()  # and exactly 0 where p is 0
    torch.testing.assert_close(logprobs, probabilities[tokens].log())


def test_temperature_sharpens_and_flattens(device):
    """p = (0.8, 0.2): at temperature 1/2 the odds 4 : 1 become 16 : 1, at 2 they become 2 : 1."""
    logits = torch.tensor([0.8, 0.2], device=device).log().expand(50_000, 2)
    for temperature, expected in ((0.5, 16 / 17), (1.0, 0.8), (2.0, 2 / 3)):
        generator = torch.Generator(device=device).manual_seed(1)
        tokens, logprobs = draw(logits, temperature, generator)
        assert (tokens == 0).float().mean().item() == pytest.approx(expected, abs=0.01)
        first = logprobs[tokens == 0][0].item()
        assert first == pytest.approx(math.log(expected), abs=1e-5)  # that of what was sampled


def test_temperature_zero_takes_the_likeliest(device):
    logits = torch.tensor([[1.0, 3.0, 2.0], [0.0, -1.0, -2.0]], device=device)
    tokens, logprobs = draw(logits, 0, None)
    assert tokens.tolist() == [1, 0]
    torch.testing.assert_close(logprobs, logits.log_softmax(-1)[[0, 1], [1, 0]])


def test_darts_on_the_edges(monkeypatch):
    """Rounding can put the dart exactly on the end of the line; and 0 hits nobody of width 0."""
    logits = torch.tensor([[-torch.inf, 0.0, 0.0]])
    monkeypatch.setattr(torch, "rand", lambda shape, generator, device: torch.ones(shape))
    assert draw(logits, 1.0, None)[0].tolist() == [2]
    monkeypatch.setattr(torch, "rand", lambda shape, generator, device: torch.zeros(shape))
    assert draw(logits, 1.0, None)[0].tolist() == [1]


def test_the_generator_alone_decides(tiny_gpt):
    def tokens(seed: int, global_seed: int) -> list[list[int]]:
        torch.manual_seed(global_seed)
        generator = new_generator(tiny_gpt, seed)
        arguments = {"max_new_tokens": 12, "temperature": 1.0, "generator": generator}
        return generate(tiny_gpt, PROMPTS, **arguments).tokens.tolist()

    assert tokens(1, 0) == tokens(1, 99)
    assert tokens(1, 0) != tokens(2, 0)


# ------------------------------------------------------------------ whole replies


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.5])
def test_recorded_logprobs_equal_recomputed_ones(tiny_gpt, temperature):
    """Ragged prompts, rows that leave early, every temperature: sampled and scored are one."""
    rollout = generate(
        tiny_gpt,
        many_prompts(60),
        max_new_tokens=40,
        temperature=temperature,
        generator=new_generator(tiny_gpt),
    )
    ended = rollout.ended.sum().item()
    assert 10 < ended < 60 and rollout.response_mask.sum(1).unique().numel() > 5  # a real mixture
    expected = recomputed(tiny_gpt, rollout, temperature)
    torch.testing.assert_close(rollout.logprobs, expected, atol=1e-4, rtol=0)
    assert expected[rollout.response_mask].std() > 0.5  # the tolerance is far below the signal


def test_greedy_logprobs_are_those_of_temperature_one(tiny_gpt):
    arguments = {"max_new_tokens": 15, "temperature": 0, "generator": None}
    rollout = generate(tiny_gpt, PROMPTS, **arguments)
    expected = recomputed(tiny_gpt, rollout, 1.0)
    torch.testing.assert_close(rollout.logprobs, expected, atol=1e-4, rtol=0)


def test_greedy_replies_equal_one_row_without_a_cache(tiny_gpt):
    rollout = generate(
        tiny_gpt,
        PROMPTS,
        max_new_tokens=20,
        temperature=0,
        generator=None,
        stop_ids=(1, 2, 20, 33, 45, 58),
    )
    for prompt, reply, ended in zip(PROMPTS, rollout.replies(), rollout.ended, strict=True):
        text, expected = list(prompt), []
        stopped = False
        while len(expected) < 20 and not stopped:
            logits = tiny_gpt(torch.tensor([text], device=tiny_gpt.device))[0, -1]
            token = int(logits.argmax())
            stopped = token in (1, 2, 20, 33, 45, 58)
            text.append(token)
            expected += [] if stopped else [token]
        assert reply == expected and bool(ended) == stopped


def test_layout_of_the_result(tiny_gpt):
    """Prompt, reply, padding; the mask covers the reply with its stop token, one place earlier."""
    rollout = generate(
        tiny_gpt,
        many_prompts(30),
        max_new_tokens=25,
        temperature=1.0,
        generator=new_generator(tiny_gpt),
    )
    T = rollout.tokens.shape[1]
    assert rollout.tokens.dtype == torch.int64 and rollout.response_mask.dtype == torch.bool
    assert rollout.response_mask.shape == rollout.logprobs.shape == (30, T - 1)
    assert rollout.lengths.max() == T  # no column of padding alone
    replies = rollout.replies()
    for row, prompt in enumerate(many_prompts(30)):
        tokens = rollout.tokens[row].tolist()
        length, start = int(rollout.lengths[row]), len(prompt)
        ended = bool(rollout.ended[row])
        assert tokens[:start] == prompt
        assert tokens[length:] == [tiny_gpt.config.pad_id] * (T - length)
        mask = [start <= place < length for place in range(1, T)]
        assert rollout.response_mask[row].tolist() == mask
        assert replies[row] == tokens[start : length - ended]
        assert not set(replies[row]) & {1, 2}  # nothing goes on after a stop token
        assert (tokens[length - 1] in (1, 2)) == ended
        assert ended or length - start == 25
    assert not rollout.logprobs[~rollout.response_mask].any()
    assert (rollout.logprobs[rollout.response_mask] < 0).all()
    assert rollout.ended.any() and not rollout.ended.all()


def test_every_token_can_be_drawn_even_padding():
    """Sampling and scoring are one distribution: no token is forbidden, not even PAD."""
    gpt = GPT(GPTConfig(vocab_size=4, channels=8, heads=2, kv_heads=1, context_length=300))
    arguments = {"max_new_tokens": 200, "temperature": 1.0, "generator": new_generator(gpt)}
    rollout = generate(gpt, [[1]], **arguments)
    (reply,) = rollout.replies()
    assert len(reply) == 200 and set(reply) == {0, 1, 2, 3}
    assert rollout.lengths.tolist() == [201]


def forced(monkeypatch, lengths: list[int]) -> None:
    """From now on reply n ends after lengths[n] tokens, whatever they are."""
    wanted = torch.tensor(lengths)
    rule = lambda tokens, rows, step: wanted.to(rows.device)[rows] == step + 1  # noqa: E731
    monkeypatch.setattr(sampling, "stop_rule", lambda gpt, stop_ids: rule)


def test_rows_that_leave_take_nothing_with_them(tiny_gpt, monkeypatch):
    """Replies end in every order; each still belongs to its prompt and has its own log-probs."""
    lengths = [3, 9, 1, 12, 5, 12, 2, 7, 9, 4]
    prompts = many_prompts(10)
    forced(monkeypatch, lengths)
    arguments = {"max_new_tokens": 12, "temperature": 1.0, "generator": new_generator(tiny_gpt)}
    rollout = generate(tiny_gpt, prompts, **arguments)
    assert rollout.response_mask.sum(1).tolist() == lengths and rollout.ended.all()
    for row, prompt in enumerate(prompts):
        assert rollout.tokens[row, : len(prompt)].tolist() == prompt
    expected = recomputed(tiny_gpt, rollout, 1.0)
    torch.testing.assert_close(rollout.logprobs, expected, atol=1e-4, rtol=0)


def test_finished_rows_cost_nothing(tiny_gpt, monkeypatch):
    """The rows read in each step are those that still grow."""
    read = []
    hidden = tiny_gpt.hidden

    def counting(tokens, **arguments):
        read.append(tokens.shape[0])
        return hidden(tokens, **arguments)

    monkeypatch.setattr(tiny_gpt, "hidden", counting)
    forced(monkeypatch, [1, 4, 2, 4])
    arguments = {"max_new_tokens": 9, "temperature": 1.0, "generator": new_generator(tiny_gpt)}
    generate(tiny_gpt, PROMPTS[:4], **arguments)
    assert read == [4, 3, 2, 2]  # and the loop ends with the last reply, not after 9 steps


@pytest.mark.parametrize("growing", ["10110", "11111", "00001", "10000", "0101010101"])
def test_fill_holes_keeps_exactly_the_growing_rows(growing):
    mask = torch.tensor([letter == "1" for letter in growing])
    count = int(mask.sum())
    kept = fill_holes(mask, count)
    assert sorted(kept.tolist()) == mask.nonzero().squeeze(1).tolist()
    stays = [place for place in range(count) if mask[place]]
    assert kept[stays].tolist() == stays  # rows that can stay do stay


def test_results_are_ordinary_tensors(tiny_gpt):
    """Made inside inference mode, a tensor could not be used in a loss."""
    arguments = {"max_new_tokens": 5, "temperature": 1.0, "generator": new_generator(tiny_gpt)}
    rollout = generate(tiny_gpt, PROMPTS, **arguments)
    for tensor in (rollout.tokens, rollout.response_mask, rollout.logprobs, rollout.ended):
        assert not tensor.is_inference() and not tensor.requires_grad
    logits = tiny_gpt(rollout.tokens)
    logits.log_softmax(-1).sum().backward()
    assert tiny_gpt.norm.weight.grad is not None


def test_sampling_leaves_the_model_as_it_was(tiny_gpt):
    before = {name: weight.clone() for name, weight in tiny_gpt.state_dict().items()}
    tiny_gpt.train()
    prompts = [list(prompt) for prompt in PROMPTS]
    arguments = {"max_new_tokens": 5, "temperature": 1.0, "generator": new_generator(tiny_gpt)}
    generate(tiny_gpt, prompts, **arguments)
    assert prompts == PROMPTS and tiny_gpt.training
    for name, weight in tiny_gpt.state_dict().items():
        assert torch.equal(weight, before[name]) and not weight.is_inference()


def test_the_context_can_be_filled_to_the_last_token(tiny_gpt):
    rollout = generate(
        tiny_gpt, [[5] * 60, [6]], max_new_tokens=4, temperature=0, generator=None, stop_ids=()
    )
    assert rollout.tokens.shape == (2, 64) and rollout.lengths.tolist() == [64, 5]


def test_one_new_token(tiny_gpt):
    rollout = generate(
        tiny_gpt, PROMPTS, max_new_tokens=1, temperature=0, generator=None, stop_ids=()
    )
    assert rollout.response_mask.sum(1).tolist() == [1] * 6 and not rollout.ended.any()
    expected = recomputed(tiny_gpt, rollout, 1.0)
    torch.testing.assert_close(rollout.logprobs, expected, atol=1e-4, rtol=0)


# ------------------------------------------------------------------ one reply, token by token


def test_stream_equals_generate(tiny_gpt):
    for prompt in PROMPTS:
        for temperature in (0, 1.0):
            settings = {"max_new_tokens": 30, "temperature": temperature}
            whole = generate(tiny_gpt, [prompt], generator=new_generator(tiny_gpt), **settings)
            parts = stream(tiny_gpt, prompt, generator=new_generator(tiny_gpt), **settings)
            assert list(parts) == whole.replies()[0]


def test_stream_leaves_inference_mode_between_tokens(tiny_gpt):
    settings = {"max_new_tokens": 5, "temperature": 0, "generator": None, "stop_ids": ()}
    inside = []
    tiny_gpt.norm.register_forward_hook(lambda *_: inside.append(torch.is_inference_mode_enabled()))
    for token in stream(tiny_gpt, [5], **settings):
        assert isinstance(token, int) and not torch.is_inference_mode_enabled()
    assert inside == [True] * 5


# ------------------------------------------------------------------ the caller's mistakes


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"prompts": []}, "at least one prompt"),
        ({"prompts": [[5], []]}, "prompt 1 is empty"),
        ({"prompts": [[5], [61]]}, "prompt 1 .*61"),
        ({"prompts": [[5, -1]]}, "-1"),
        ({"prompts": [[5] * 60]}, "60 tokens.*max_new_tokens=5.*context of 64"),
        ({"temperature": -0.5}, "-0.5"),
        ({"temperature": math.nan}, "nan"),
        ({"temperature": math.inf}, "inf"),
        ({"max_new_tokens": 0}, "max_new_tokens.*0"),
        ({"stop_ids": [61]}, "61"),
        ({"generator": None}, "torch.Generator"),
    ],
)
def test_impossible_requests(tiny_gpt, changes, words):
    settings = {
        "max_new_tokens": 5,
        "temperature": 1.0,
        "generator": new_generator(tiny_gpt),
        "stop_ids": None,
    }
    prompts = changes.get("prompts", [[5]])
    settings.update({name: value for name, value in changes.items() if name != "prompts"})
    with pytest.raises(ValueError, match=words):
        generate(tiny_gpt, prompts, **settings)
    if len(prompts) == 1:
        with pytest.raises(ValueError, match=words.replace("prompt 1", "prompt 0")):
            stream(tiny_gpt, prompts[0], **settings)  # at once, before the first token


def test_lengths_and_replies_by_hand():
    rollout = Rollout(
        tokens=torch.tensor([[7, 8, 5, 2, 0], [7, 5, 6, 5, 0]]),
        response_mask=torch.tensor([[False, True, True, False], [True, True, True, False]]),
        logprobs=torch.zeros(2, 4),
        ended=torch.tensor([True, False]),
    )
    assert rollout.lengths.tolist() == [4, 4]
    assert rollout.replies() == [[5], [5, 6, 5]]
