"""Fine-tuning: what is trained, what is not, and that packing changes nothing.

A test that compares with a *wrong* version shows that the assertion can tell the two apart.
"""

import copy
import math
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from kittenllm import sft
from kittenllm.batches import TokenStream, pack
from kittenllm.forward import action_logprobs
from kittenllm.gpt import GPT
from kittenllm.logprobs import masked_mean
from kittenllm.optim import make_optimizer
from kittenllm.pretrain import PretrainConfig, train_pretrain
from kittenllm.sft import SFTConfig, read_rows, row_shares, sft_loss, step_rows, train_sft

# Numbers are graded, not their types: a metric may be float32 where ours is float64.
assert_close = partial(torch.testing.assert_close, check_dtype=False)

NAN = float("nan")
PAD, START, END = 0, 1, 2


# ------------------------------------------------------------------------------ the loss


def check_by_hand(function):
    """Two rows, three trained tokens with probabilities 1/2, 1/4 and 1/8."""
    probs = torch.tensor(
        [
            [[0.2, 0.8], [1 / 2, 1 / 2], [3 / 4, 1 / 4], [0.9, 0.1]],
            [[1 / 8, 7 / 8], [0.3, 0.7], [0.6, 0.4], [0.5, 0.5]],
        ]
    )
    tokens = torch.tensor([[0, 1, 0, 1], [1, 0, 0, 0]])
    loss_mask = torch.tensor([[False, False, True, True], [False, True, False, False]])
    loss, _ = function(probs.log(), tokens, loss_mask)
    assert_close(loss, torch.tensor((math.log(2) + math.log(4) + math.log(8)) / 3))


def test_sft_loss_by_hand():
    check_by_hand(sft_loss)


def test_wrong_losses_are_noticed():
    def mask_that_does_nothing(logits, tokens, loss_mask):
        return sft_loss(logits, tokens, torch.ones_like(loss_mask))

    def mask_one_too_early(logits, tokens, loss_mask):
        return sft_loss(logits, tokens, loss_mask.roll(-1, dims=1))

    def same_position(logits, tokens, loss_mask):
        losses = F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none")
        return masked_mean(losses.view(tokens.shape), loss_mask), {}

    def divided_by_all_tokens(logits, tokens, loss_mask):
        loss, _ = sft_loss(logits, tokens, loss_mask)
        return loss * loss_mask.sum() / loss_mask.numel(), {}

    def mean_of_row_means(logits, tokens, loss_mask):
        rows = [
            sft_loss(logits[i : i + 1], tokens[i : i + 1], loss_mask[i : i + 1])[0] for i in (0, 1)
        ]
        return sum(rows) / 2, {}

    for wrong in (
        mask_that_does_nothing,
        mask_one_too_early,
        same_position,
        divided_by_all_tokens,
        mean_of_row_means,
    ):
        with pytest.raises(AssertionError):
            check_by_hand(wrong)


def test_equals_cross_entropy_with_ignore_index():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 8, 11, generator=generator)
    tokens = torch.randint(11, (3, 8), generator=generator)
    loss_mask = torch.rand(3, 8, generator=generator) < 0.5
    labels = torch.where(loss_mask, tokens, -100)[:, 1:]
    outside = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels.flatten(), ignore_index=-100)
    loss, metrics = sft_loss(logits, tokens, loss_mask)
    assert_close(loss, outside)
    hits = (logits[:, :-1].argmax(-1) == labels)[labels >= 0]
    assert_close(metrics["accuracy"], hits.float().mean())


def test_only_logits_that_produce_trained_tokens_get_a_gradient():
    logits = torch.randn(2, 5, 7, requires_grad=True)
    tokens = torch.randint(7, (2, 5))
    loss_mask = torch.tensor(
        [[True, False, True, False, False], [False, False, False, False, True]]
    )
    sft_loss(logits, tokens, loss_mask)[0].backward()
    touched = logits.grad.abs().sum(dim=-1) > 0
    assert touched.tolist() == [
        [False, True, False, False, False],  # position 1 produces token 2; nothing produces token 0
        [False, False, False, True, False],
    ]


def test_the_end_token_is_trained_when_the_mask_says_so():
    """A model that never ends pays for it: the end-of-turn token is an action like any other."""
    logits = torch.zeros(1, 3, 4)
    logits[0, 1, END] = -30.0  # "never stop" before the end token
    tokens = torch.tensor([[START, 3, END]])
    with_end, _ = sft_loss(logits, tokens, torch.tensor([[False, True, True]]))
    without_end, _ = sft_loss(logits, tokens, torch.tensor([[False, True, False]]))
    assert with_end > 15 and without_end < 1.5


def test_nothing_trained_is_zero_and_not_nan():
    logits = torch.randn(2, 4, 5, requires_grad=True)
    loss, metrics = sft_loss(logits, torch.zeros(2, 4, dtype=torch.int64), torch.zeros(2, 4).bool())
    assert loss == 0 and metrics["accuracy"] == 0
    if loss.requires_grad:  # ours does, see test_contract.py; the stub asks for a 0 alone
        loss.backward()
        assert torch.equal(logits.grad, torch.zeros_like(logits))


# ------------------------------------------------------------------------------- packing


def conversations(count: int, V: int = 61) -> list[tuple[list[int], list[bool]]]:
    """Little conversations of different length: a prompt, and a reply that ends."""
    generator = torch.Generator().manual_seed(count)
    made = []
    for i in range(count):
        prompt = [START] + torch.randint(3, V, (2 + i % 4,), generator=generator).tolist()
        reply = torch.randint(3, V, (1 + i % 5,), generator=generator).tolist() + [END]
        made.append((prompt + reply, [False] * len(prompt) + [True] * len(reply)))
    return made


def packed_loss(gpt, chats, document_ids="as packed"):
    rows = pack(chats, row_length=32, pad_id=PAD).to(gpt.device)
    ids = rows.document_ids if document_ids == "as packed" else None
    return sft_loss(gpt(rows.tokens, document_ids=ids), rows.tokens, rows.loss_mask)[0]


def test_packed_equals_unpacked(tiny_gpt):
    chats = conversations(12)
    alone = []
    for tokens, mask in chats:
        tokens = torch.tensor([tokens], device=tiny_gpt.device)
        mask = torch.tensor([mask], device=tiny_gpt.device)
        loss, _ = sft_loss(tiny_gpt(tokens), tokens, mask)
        alone.append(loss * mask.sum())
    unpacked = sum(alone) / sum(sum(mask) for _, mask in chats)
    assert_close(packed_loss(tiny_gpt, chats), unpacked, atol=1e-5, rtol=0)
    leaking = packed_loss(tiny_gpt, chats, document_ids=None)  # attention across conversations
    assert (leaking - unpacked).abs() > 0.1


def test_full_logits_cost_time_and_change_nothing(tiny_gpt):
    """Logits for the trained places alone would do: the same loss and the same gradient."""
    rows = pack(conversations(9), row_length=32, pad_id=PAD).to(tiny_gpt.device)
    trained = rows.loss_mask[:, 1:]
    few = action_logprobs(tiny_gpt, rows.tokens, trained, document_ids=rows.document_ids)
    losses = [packed_loss(tiny_gpt, conversations(9)), -masked_mean(few, trained)]
    assert_close(losses[0], losses[1], atol=1e-6, rtol=1e-6)
    weights = list(tiny_gpt.parameters())
    full, few = (torch.autograd.grad(loss, weights) for loss in losses)
    length = torch.stack([gradient.norm() for gradient in full]).norm()
    for a, b in zip(full, few, strict=True):
        assert (a - b).norm() < 1e-6 * length


# -------------------------------------------------------------------------- the training


@pytest.fixture
def fresh_gpt(tiny_gpt):
    """Fresh small weights, which learn better than large random ones."""
    return GPT(tiny_gpt.config, generator=torch.Generator().manual_seed(0)).to(tiny_gpt.device)


def test_replay_takes_its_share_and_chats_come_in_order():
    rows = pack(conversations(60), row_length=32, pad_id=PAD)
    stream = TokenStream(torch.arange(3, 61).repeat(3))
    config = SFTConfig(steps=20, rows_per_step=8, replay_fraction=0.15)
    generator = torch.Generator().manual_seed(0)
    seen, replayed = 0, 0
    for step in range(20):
        batch, chats = step_rows(rows, stream, step, config, generator)
        assert len(batch) == 8
        assert batch.loss_mask[chats:].all() and (batch.document_ids[chats:] == 0).all()
        seen, replayed = seen + chats, replayed + 8 - chats
    assert replayed == 24 and seen == 136  # 15 % of 160 rows


def test_the_loop_trains_packed_conversations_as_if_they_were_alone(tiny_gpt):
    """The first loss of the loop is the loss of the single conversations of that step."""
    chats = conversations(12)
    rows = pack(chats, row_length=32, pad_id=PAD)
    alone, tokens_alone = 0.0, 0
    with torch.no_grad():
        for tokens, mask in chats:
            tokens = torch.tensor([tokens], device=tiny_gpt.device)
            mask = torch.tensor([mask], device=tiny_gpt.device)
            alone += sft_loss(tiny_gpt(tokens), tokens, mask)[0].item() * int(mask.sum())
            tokens_alone += int(mask.sum())
    steps = train_sft(
        tiny_gpt,
        rows,
        config=SFTConfig(rows_per_step=len(rows)),  # all of them in one step
        optimizer=make_optimizer(tiny_gpt, matrix_lr=1e-3, other_lr=1e-3),
        generator=torch.Generator().manual_seed(0),
    )
    first = next(steps)
    assert first["trained_tokens"] == tokens_alone
    assert first["loss"] == pytest.approx(alone / tokens_alone, rel=1e-4)
    assert first["chat_loss"] == pytest.approx(first["loss"])


@pytest.mark.package_only
def test_the_loop_trains_on_what_sft_loss_returns(fresh_gpt, monkeypatch):
    """What is taught is what trains: a loss without its mask trains all tokens of the rows."""
    rows = pack(conversations(12), row_length=32, pad_id=PAD)
    right, asked = sft.sft_loss, []

    def without_mask(logits, tokens, loss_mask):
        asked.append(logits.requires_grad)
        return right(logits, tokens, torch.ones_like(loss_mask))

    monkeypatch.setattr(sft, "sft_loss", without_mask)
    loop = train_sft(
        fresh_gpt,
        rows,
        config=SFTConfig(rows_per_step=len(rows)),
        optimizer=make_optimizer(fresh_gpt, matrix_lr=1e-3, other_lr=1e-3),
        generator=torch.Generator().manual_seed(0),
    )
    with torch.no_grad():
        logits = fresh_gpt(rows.tokens, document_ids=rows.document_ids)
        expected, _ = without_mask(logits, rows.tokens, rows.loss_mask)
    asked.clear()
    first = next(loop)
    assert asked[0] and first["loss"] == pytest.approx(expected.item(), abs=1e-6)


# --------------------------------------------------------------------------- a step in parts


def test_a_part_weighs_as_many_tokens_as_it_trains():
    """Rows with 1 and 3 trained tokens, whose mean losses are 4 and 2: the step's loss is
    (1 * 4 + 3 * 2) / 4 = 2.5, and not (4 + 2) / 2 = 3. The first token of a row is never trained.
    """
    loss_mask = torch.tensor([[True, False, True, False], [False, True, True, True]])
    assert [(rows.tolist(), share) for rows, share in row_shares(loss_mask, None)] == [([0, 1], 1)]
    shares = {rows.item(): share for rows, share in row_shares(loss_mask, 4)}
    assert shares == {0: 1 / 4, 1: 3 / 4}
    assert shares[0] * 4.0 + shares[1] * 2.0 == 2.5
    assert row_shares(torch.zeros(2, 4, dtype=torch.bool), 4) == []  # nothing to learn: no pass


@pytest.fixture
def passes(monkeypatch) -> list[int]:
    """How many tokens each forward pass of a GPT has read."""
    read, hidden = [], GPT.hidden

    def noting(self, tokens, **settings):
        read.append(tokens.numel())
        return hidden(self, tokens, **settings)

    monkeypatch.setattr(GPT, "hidden", noting)
    return read


def trained_in_parts(fresh_gpt, tokens_per_pass, replay):
    """The numbers of four steps, and the weights after them."""
    gpt = copy.deepcopy(fresh_gpt).double()
    steps = train_sft(
        gpt,
        pack(conversations(40), row_length=32, pad_id=PAD),
        config=SFTConfig(steps=4, rows_per_step=5, max_grad_norm=1e6),
        optimizer=make_optimizer(gpt, matrix_lr=None, other_lr=1e-2),
        generator=torch.Generator().manual_seed(0),
        replay=TokenStream(torch.arange(3, 61).repeat(3)) if replay else None,
        tokens_per_pass=tokens_per_pass,
    )
    return list(steps), gpt.state_dict()


@pytest.mark.parametrize("replay", [False, True])
@pytest.mark.parametrize("tokens_per_pass", [1, 70])
def test_gradients_of_parts_add_up_to_those_of_the_step(fresh_gpt, passes, tokens_per_pass, replay):
    """Row after row, or two rows at a time, the model learns what it learns from all at once."""
    numbers, weights = trained_in_parts(fresh_gpt, None, replay)
    assert set(passes) == {5 * 32}
    passes.clear()
    numbers_of_parts, weights_of_parts = trained_in_parts(fresh_gpt, tokens_per_pass, replay)
    assert max(passes) == (32 if tokens_per_pass == 1 else 64)
    for one, other in zip(numbers, numbers_of_parts, strict=True):
        assert one.keys() == other.keys()
        for key in one.keys() - {"seconds", "seconds_training"}:
            assert other[key] == pytest.approx(one[key], rel=1e-6), key
    for name, weight in weights.items():
        assert_close(weights_of_parts[name], weight, rtol=1e-5, atol=1e-6)


def test_the_mean_of_means_is_noticed(fresh_gpt, monkeypatch):
    """Parts of one row each that weigh the same: the usual mistake ends somewhere else."""
    _, weights = trained_in_parts(fresh_gpt, None, False)
    right = sft.row_shares

    def all_the_same(loss_mask, tokens_per_pass):
        parts = right(loss_mask, tokens_per_pass)
        return [(rows, 1 / len(parts)) for rows, _ in parts]

    monkeypatch.setattr(sft, "row_shares", all_the_same)
    _, wrong = trained_in_parts(fresh_gpt, 1, False)
    apart = max(float((wrong[name] - weights[name]).abs().max()) for name in weights)
    assert apart > 1e-3


def test_logits_of_trained_places_alone_give_the_same_loss_and_gradient(fresh_gpt):
    """With a large vocabulary no other logits are made."""
    gpt = fresh_gpt.double()
    rows = pack(conversations(12), row_length=32, pad_id=PAD)
    results = []
    for whole_rows in (True, False):
        logits, tokens, loss_mask = read_rows(gpt, rows, whole_rows=whole_rows)
        loss, metrics = sft_loss(logits, tokens, loss_mask)
        gradients = torch.autograd.grad(loss, list(gpt.parameters()))
        results.append((loss, metrics["accuracy"], int(loss_mask[:, 1:].sum()), *gradients))
        made = logits.shape[:2]
    for one, other in zip(*results, strict=True):
        assert_close(one, other, rtol=1e-6, atol=1e-9)
    assert made == (1, int(rows.loss_mask[:, 1:].sum()) + 1)
    nothing = replace(rows, loss_mask=torch.zeros_like(rows.loss_mask))
    loss, _ = sft_loss(*read_rows(gpt, nothing, whole_rows=False))
    assert loss == 0


def test_a_large_vocabulary_takes_that_way(fresh_gpt, monkeypatch):
    ways, right = [], sft.read_rows

    def noting(gpt, rows, *, whole_rows):
        ways.append(whole_rows)
        return right(gpt, rows, whole_rows=whole_rows)

    monkeypatch.setattr(sft, "read_rows", noting)
    trained_in_parts(fresh_gpt, None, False)
    monkeypatch.setattr(sft, "LARGE_VOCABULARY", fresh_gpt.config.vocab_size)
    trained_in_parts(fresh_gpt, None, False)
    trained_in_parts(fresh_gpt, None, True)  # replayed rows are watched apart: as before
    assert ways == 4 * [True] + 4 * [False] + 4 * [True]


# ------------------------------------------------------------------------------ the loop


def test_no_replay_without_a_stream():
    rows = pack(conversations(60), row_length=32, pad_id=PAD)
    batch, chats = step_rows(
        rows, None, 3, SFTConfig(rows_per_step=8), torch.Generator().manual_seed(0)
    )
    assert len(batch) == chats == 8


def run_sft(gpt, optimizer, generator, start_step, stop_step):
    rows = pack(conversations(40), row_length=32, pad_id=PAD)
    stream = TokenStream(torch.arange(3, 61).repeat(3))
    config = SFTConfig(steps=8, rows_per_step=4, matrix_lr=3e-3, other_lr=1e-2)
    steps = train_sft(
        gpt,
        rows,
        config=config,
        optimizer=optimizer,
        generator=generator,
        start_step=start_step,
        replay=stream,
    )
    return [next(steps) for _ in range(start_step, stop_step)]


def test_a_resumed_run_is_bit_equal(fresh_gpt):
    whole, halves = copy.deepcopy(fresh_gpt), copy.deepcopy(fresh_gpt)
    rates = {"matrix_lr": 3e-3, "other_lr": 1e-2}
    run_sft(whole, make_optimizer(whole, **rates), torch.Generator().manual_seed(3), 0, 8)

    optimizer, generator = make_optimizer(halves, **rates), torch.Generator().manual_seed(3)
    run_sft(halves, optimizer, generator, 0, 5)
    saved = copy.deepcopy((halves.state_dict(), optimizer.state_dict(), generator.get_state()))
    halves = copy.deepcopy(fresh_gpt)
    halves.load_state_dict(saved[0])
    optimizer, generator = make_optimizer(halves, **rates), torch.Generator()
    optimizer.load_state_dict(saved[1])
    generator.set_state(saved[2])
    run_sft(halves, optimizer, generator, 5, 8)
    for a, b in zip(whole.parameters(), halves.parameters(), strict=True):
        assert torch.equal(a, b)


def test_sft_learns_to_answer_and_to_stop(fresh_gpt):
    """Every prompt token is answered by itself and the end token; ten steps are a start."""
    chats = [([START, t, t, END], [False, False, True, True]) for t in range(3, 61)]
    rows = pack(chats, row_length=32, pad_id=PAD)
    optimizer = make_optimizer(fresh_gpt, matrix_lr=1e-2, other_lr=1e-2)
    steps = list(
        train_sft(
            fresh_gpt,
            rows,
            config=SFTConfig(steps=60, rows_per_step=8),
            optimizer=optimizer,
            generator=torch.Generator().manual_seed(0),
        )
    )
    assert steps[0]["loss"] > 3.5 and steps[-1]["loss"] < 0.5
    assert steps[0]["trained_tokens"] <= steps[0]["tokens"] / 2
    logits = fresh_gpt(torch.tensor([[START, 7, 7]], device=fresh_gpt.device))
    assert logits[0, 2].argmax() == END


def test_pretraining_learns_a_cycle(fresh_gpt):
    stream = TokenStream(torch.arange(10, 15).repeat(60))
    steps = list(
        train_pretrain(
            fresh_gpt,
            stream,
            config=PretrainConfig(steps=40, rows_per_step=4, row_length=16),
            optimizer=make_optimizer(fresh_gpt, matrix_lr=1e-2, other_lr=1e-2),
            generator=torch.Generator().manual_seed(0),
        )
    )
    assert abs(steps[0]["loss"] - math.log(61)) < 0.3  # a fresh model knows nothing
    assert steps[-1]["loss"] < 0.5
    assert [s["step"] for s in steps] == list(range(40)) and steps[0]["tokens"] == 64


@pytest.mark.parametrize(
    "field, value",
    [
        ("steps", 0),
        ("replay_fraction", 1.0),
        ("matrix_lr", 0),
        ("warmup", 0.9),
        ("rows_per_step", -2),
    ],
)
def test_settings_are_checked(field, value):
    with pytest.raises(ValueError, match=f"{field}.*{value}"):
        SFTConfig(**{field: value})
    with pytest.raises(ValueError, match="row_length.*1"):
        PretrainConfig(row_length=1)
