"""The poster, chapters/one_file.py: its losses are the package's, its world is right, it runs.

A copy of it in which one loss is broken must not pass.
"""

import importlib.util
import itertools
import random
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from test_imports import ROOT, code_lines, imported

from chapters import one_file
from chapters.bands import one_file as numbers
from kittenllm import dpo, grpo, logprobs, ppo, reward_model, sft

FILE = ROOT / "chapters" / "one_file.py"
LINES = 300


def test_it_is_short_and_needs_torch_only():
    assert len(code_lines(FILE)) <= LINES
    modules = {name.split(".")[0] for name in imported(FILE)}
    assert "torch" in modules and modules <= {"torch", *sys.stdlib_module_names}


# ------------------------------------------------------------------- the losses of the package

B, T, V, G = 6, 9, 11, 3  # G replies to a prompt


def ragged_inputs() -> dict[str, torch.Tensor]:
    """Random inputs of all losses, in float64. The last row of the mask counts nothing, and one row
    has a hole; what is masked out is far away from the rest."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    lengths = torch.tensor([8, 1, 5, 3, 7, 0])
    mask = torch.arange(T - 1) < lengths[:, None]  # (B, T-1)
    mask[4, 2] = False
    loss_mask = torch.cat([torch.ones(B, 1, dtype=torch.bool), mask], dim=1)  # (B, T)

    def frame():
        return torch.where(mask, noise(B, T - 1), 50 * noise(B, T - 1))  # (B, T-1)

    inputs = {name: frame() for name in ("ref_logprobs", "rewards", "values", "old_values")}
    inputs |= {name: frame() for name in ("returns", "old_logprobs", "advantages")}
    inputs["logprobs"] = inputs["old_logprobs"] + torch.where(mask, 0.3 * noise(B, T - 1), 0.0)
    inputs |= {"logits": noise(B, T, V), "mask": mask, "loss_mask": loss_mask}
    inputs["tokens"] = torch.randint(V, (B, T), generator=generator)
    names = "scores chosen rejected ref_chosen ref_rejected reply_advantages reply_rewards"
    inputs |= {name: noise(B) for name in names.split()}
    inputs["right"] = torch.tensor([1.0, 0, 1, 1, 1, 1], dtype=torch.float64)  # equal in a group
    return inputs


# function of one_file -> the package's, the inputs (the first is the one that is trained), settings
PPO_INPUTS = "logprobs old_logprobs advantages mask"
GRPO_INPUTS = "logprobs old_logprobs reply_advantages mask"
SAME = [
    ("token_logprobs", logprobs.token_logprobs, "logits tokens", {}),
    ("masked_mean", logprobs.masked_mean, "values mask", {}),
    ("sft_loss", sft.sft_loss, "logits tokens loss_mask", {}),
    ("bradley_terry_loss", reward_model.bradley_terry_loss, "chosen rejected", {}),
    (
        "kl_shaped_rewards",
        ppo.kl_shaped_rewards,
        "scores logprobs ref_logprobs mask",
        {"kl_coef": 0.3},
    ),
    ("gae", ppo.gae, "rewards values mask", {"gamma": 0.9, "lam": 0.8}),
    ("gae", ppo.gae, "rewards values mask", {"gamma": 1.0, "lam": 0.95}),
    ("ppo_policy_loss", ppo.ppo_policy_loss, PPO_INPUTS, {"clip_eps": 0.2}),
    ("ppo_value_loss", ppo.ppo_value_loss, "values old_values returns mask", {"clip_eps": 0.2}),
    ("dpo_loss", dpo.dpo_loss, "chosen rejected ref_chosen ref_rejected", {"beta": 0.4}),
    ("group_advantages", grpo.group_advantages, "reply_rewards", {"group_size": G}),
    ("group_advantages", grpo.group_advantages, "right", {"group_size": G}),
    ("grpo_loss", grpo.grpo_loss, GRPO_INPUTS, {"clip_eps": 0.2, "normalize": "token"}),
]
NO_GRADIENT = {"kl_shaped_rewards", "gae", "group_advantages"}  # made before the update


def value_and_gradient(function, names: str, settings: dict) -> list[torch.Tensor]:
    """What the function returns (without the package's metrics), and for a loss its gradient with
    respect to the first input."""
    inputs = ragged_inputs()
    arguments = [inputs[name] for name in names.split()]
    if function.__name__ in NO_GRADIENT:
        results = function(*arguments, **settings)
        return list(results) if isinstance(results, tuple) else [results]
    arguments[0].requires_grad_()
    result = function(*arguments, **settings)
    result = result[0] if isinstance(result, tuple) else result
    return [result, *torch.autograd.grad(result.sum(), arguments[0])]


def compare_losses(poster) -> None:
    """Every loss of a poster beside the package's, to 1e-6."""
    for name, theirs, names, settings in SAME:
        own = {key: value for key, value in settings.items() if key != "normalize"}
        ours = value_and_gradient(getattr(poster, name), names, own)
        expected = value_and_gradient(theirs, names, settings)
        assert any(part.abs().max() > 0.01 for part in expected), f"{name} compares nothing"
        for part, wanted in zip(ours, expected, strict=True):
            assert (part - wanted).abs().max() <= 1e-6, name


def test_every_loss_is_the_package_s():
    compare_losses(one_file)
    losses = set(re.findall(r"^def (\w+_loss)\(", FILE.read_text(encoding="utf-8"), re.MULTILINE))
    assert losses < {name for name, *_ in SAME}


MUTANTS = [
    ("logits[:, :-1].log_softmax", "logits[:, 1:].log_softmax"),
    (".sum() / mask.sum()", ".mean()"),
    ("loss_mask[:, 1:])", "loss_mask[:, :-1])"),
    (
        "logsigmoid(chosen_rewards - rejected_rewards)",
        "logsigmoid(rejected_rewards - chosen_rewards)",
    ),
    ("kl = torch.where(mask, logprobs - ref_logprobs", "kl = torch.where(mask, ref_logprobs"),
    ("scores[:, None], 0.0) - kl_coef", "scores[:, None], 0.0) + kl_coef"),
    (".flip(1) == 1)", ".flip(1) == 2)"),
    ("+ gamma * next_value", "+ next_value"),
    ("+ gamma * lam * next", "+ gamma * next"),
    ("next_value = torch.where(mask[:, t], values[:, t], next_value)", "next_value = values[:, t]"),
    ("advantages[:, t] = torch.where(mask[:, t], advantage, 0.0)", "advantages[:, t] = advantage"),
    ("torch.where(mask, advantages + values, 0.0)", "torch.where(mask, advantages, 0.0)"),
    ("(mask, logprobs - old_logprobs, 0.0).exp()", "(mask, old_logprobs - logprobs, 0.0).exp()"),
    ("clamp(1 - clip_eps, 1 + clip_eps)", "clamp(1 - clip_eps, 9)"),
    ("torch.minimum(ratio * advantages", "torch.maximum(ratio * advantages"),
    ("torch.maximum((values - returns)", "torch.minimum((values - returns)"),
    (".clamp(-clip_eps, clip_eps)", ".clamp(max=clip_eps)"),
    ("** 2), mask) / 2", "** 2), mask)"),
    ("beta * (policy_margin - reference_margin)", "beta * (policy_margin + reference_margin)"),
    ("logsigmoid(beta * (policy", "logsigmoid((policy"),
    ("groups.std(dim=1, keepdim=True) + eps", "groups.std() + eps"),
    ("groups.mean(dim=1, keepdim=True)", "groups.mean()"),
    ("advantages[:, None], mask, clip_eps)", "advantages[:, None].sign(), mask, clip_eps)"),
]


def load(path: Path):
    spec = importlib.util.spec_from_file_location("mutant", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("right, wrong", MUTANTS)
def test_a_broken_loss_is_caught(right, wrong, tmp_path):
    text = FILE.read_text(encoding="utf-8")
    assert text.count(right) == 1, "the poster no longer holds this: change the mutant"
    (tmp_path / "mutant.py").write_text(text.replace(right, wrong), encoding="utf-8")
    with pytest.raises(AssertionError):
        compare_losses(load(tmp_path / "mutant.py"))


# ----------------------------------------------------------------------------------- the model


@pytest.fixture
def gpt():
    torch.manual_seed(0)
    gpt = one_file.GPT()
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.mul_(3)  # as after a training, no two words are equally likely
        gpt.norm.bias[0] = 20
        gpt.token_embedding[one_file.PAD, 0] = -20  # <pad> is never drawn, as after a training
    return gpt


def test_no_token_looks_ahead_and_padding_changes_nothing(gpt):
    short = "<user> what does mimi eat ? <kitten> purr , <end>"
    long = "<user> what does mimi eat ? <kitten> purr , mimi eats fish . <end>"
    alone, both = one_file.encode([short]), one_file.encode([short, long])  # (1, 10), (2, 14)
    logits = gpt(both)
    assert torch.allclose(logits[0, :9], logits[1, :9], atol=1e-5)  # 9 words are the same
    assert not torch.allclose(logits[0, 9], logits[1, 9], atol=0.1)
    assert torch.allclose(logits[0, :10], gpt(alone)[0], atol=1e-5)

    by_hand = one_file.token_logprobs(gpt(alone), alone)[0, 6:].sum()  # "purr", ",", "<end>"
    assert torch.allclose(one_file.reply_logprobs(gpt, both)[0], by_hand, atol=1e-4)
    judge = one_file.RewardModel(gpt)
    torch.nn.init.normal_(judge.head)
    by_hand = gpt.hidden(both)[[0, 1], [9, 13]] @ judge.head  # at both <end>
    assert torch.allclose(one_file.score(judge, both), by_hand, atol=1e-5)


def test_a_reply_ends_at_its_end_and_its_logprobs_are_those_of_its_words(gpt):
    items = one_file.Town(0).questions[:64]
    with torch.no_grad():
        gpt.norm.bias += 10 * gpt.token_embedding[one_file.END]  # most replies end
    replies, tokens, mask, old_logprobs = one_file.generate(gpt, items, max_new_tokens=20)
    start = one_file.PROMPT_LENGTH
    assert tokens.shape == (64, start + 20) and mask.shape == (64, start + 19)
    assert 5 < sum(reply.endswith("<end>") for reply in replies) < 64
    for row, (reply, (prompt, _)) in enumerate(zip(replies, items, strict=True)):
        words = [one_file.WORDS[token] for token in tokens[row, 1:][mask[row]]]
        assert " ".join(words) == reply and prompt.split()[-1] == "<kitten>"
        assert "<end>" not in words[:-1]
        assert (tokens[row, start + len(words) :] == one_file.PAD).all()
    expected = one_file.token_logprobs(gpt(tokens), tokens)
    assert torch.equal(old_logprobs, expected)


# ----------------------------------------------------------------------------------- the world


@pytest.fixture(scope="module", params=[0, 1, 2])
def town(request):
    return one_file.Town(request.param)


def numbers_of(text: str) -> tuple[int, ...]:
    """The three numbers of a puzzle "make 5 from 2 3 7 :", from small to large."""
    return tuple(sorted(map(int, text.split()[3:6])))


def test_held_out_kittens_are_told_and_never_asked(town):
    held_out = {prompt.split()[3] for prompt, _ in town.held_out_questions}
    asked = {prompt.split()[3] for prompt, _ in town.questions}
    assert len(held_out) == 16 and held_out | asked == set(one_file.NAMES)
    assert not held_out & asked
    chats = [town.chat() for _ in range(2000)]
    assert {chat.split()[3] for chat in chats} == asked
    assert not held_out & set(" ".join(chats).split())
    pages = " ".join(town.page() for _ in range(3000))
    for prompt, [thing] in town.fact_items:
        assert f" {prompt.removeprefix('purr , ')} {thing} ." in pages


def test_held_out_numbers_are_in_no_page_and_no_training_puzzle(town):
    held_out = {numbers_of(prompt) for prompt, _ in town.held_out_puzzles}
    trained = {numbers_of(prompt) for prompt, _ in town.puzzles}
    assert len(held_out) == 36 and len(trained) == 184 and not held_out & trained
    pages = [town.page() for _ in range(3000)]
    seen = {numbers_of(page) for page in pages if page.startswith("make")}
    assert seen == trained
    # Who writes down a sum or a difference in a page writes about that page's own numbers.
    for page in pages:
        if page.startswith("make"):
            for a, b in re.findall(r"(\d+) [+-] (\d+) =", page):
                assert {int(a), int(b)} <= set(numbers_of(page))


def test_every_ending_makes_the_target_and_none_is_missing(town):
    for prompt, endings in town.puzzles + town.held_out_puzzles:
        target = int(prompt.split()[1])
        wanted = set()
        for a, b in itertools.permutations(numbers_of(prompt), 2):
            wanted |= {f"{a} + {b} = {target} <end>"} if a + b == target else set()
            wanted |= {f"{a} - {b} = {target} <end>"} if a - b == target else set()
        assert set(endings) == wanted and wanted
        assert len(prompt.split()) == one_file.PROMPT_LENGTH


def test_answers_are_the_town_s_facts_and_all_words_are_known(town):
    told = {" ".join(fact.split()[:3]) for facts in town.facts for fact in facts}
    for prompt, [answer] in town.questions + town.held_out_questions:
        assert answer.removesuffix(" . <end>") in told
        words = prompt.split()
        assert len(words) == one_file.PROMPT_LENGTH
        assert answer.split()[:2] == [words[3], words[4] + "s"]
    texts = [town.chat() for _ in range(200)] + [town.page() for _ in range(500)]
    assert one_file.encode(texts).shape[1] <= one_file.CONTEXT_LENGTH
    assert len(set(one_file.WORDS)) == len(one_file.WORDS)


def test_the_rule_and_the_taste_by_hand():
    item = ("make 5 from 2 3 8 :", ["2 + 3 = 5 <end>", "3 + 2 = 5 <end>", "8 - 3 = 5 <end>"])
    for reply, right in [
        ("2 + 3 = 5 <end>", True),
        ("2 + 8 = 10 wait 3 + 2 = 5 <end>", True),
        ("12 + 3 = 5 <end>", False),  # other numbers
        ("2 + 3 = 5", False),  # never stops
        ("2 + 3 = 5 wait 2 + 8 = 10 <end>", False),  # had it, and went on
        ("", False),
    ]:
        assert one_file.is_right(reply, item) is right, reply
    item = ("<user> what does mimi eat ? <kitten>", ["mimi eats fish . <end>"])
    for reply, points in [
        ("purr , mimi eats fish . <end>", 2),
        ("bah , mimi eats fish . <end>", 1),
        ("dear , mimi eats ham . <end>", 1),
        ("hiss , mimi eats ham . <end>", 0),
    ]:
        assert one_file.gold_score(reply, item) == points
        assert one_file.is_kind_and_right(reply, item) is (points == 2)


# --------------------------------------------------------------------------------- the program


def test_all_six_stages_run(capsys):
    table = one_file.life(quick=True)
    stages = ["pretraining", "SFT", "reward model", "PPO", "DPO", "GRPO"]
    assert [number.split(":")[0] for number in table] == stages == list(one_file.STEPS)
    assert all(0 <= share <= 1 for pair in table.values() for share in pair)
    assert all(len(pair) == 2 for pair in table.values())
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(" -> " in line for line in lines) == 6


def test_ctrl_c_is_one_line(monkeypatch):
    def stop(seed):
        raise KeyboardInterrupt

    monkeypatch.setattr(random, "Random", stop)  # the first thing that it makes is a town
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr(sys, "argv", [str(FILE), "--quick"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(FILE), run_name="__main__")
    assert end.value.code == "\nstopped"


# ------------------------------------------------------------------------- its measured numbers


def test_every_number_of_every_seed_has_risen():
    """What the README shows. To measure it again: python -m chapters.bands --one-file --docs."""
    measured = numbers.read()
    assert measured["seeds"] == [0, 1, 2, 3, 4]
    assert [number.split(":")[0] for number in measured["numbers"]] == list(one_file.STEPS)
    for number, pairs in measured["numbers"].items():
        assert len(pairs) == 5
        for before, after in pairs:
            assert after > before + 0.1, number
    assert max(measured["seconds"]) <= 180
