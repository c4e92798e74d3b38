"""Pictures and sentences say what is seen: which head, which reply, which pair, which condition."""

import copy
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from chapters.ch0_base import story as ch0_base
from chapters.ch1_sft import story as ch1_sft
from chapters.ch3_ppo import overoptimisation, token_credit
from chapters.ch3_ppo import story as ch3_ppo
from chapters.ch5_reasoning import pictures as thinking_pictures
from chapters.ch5_reasoning import story as ch5_reasoning
from chapters.common import pairs as preferences
from chapters.common import samples
from chapters.common.pairs import LabelledPair
from chapters.common.runner import CHAPTERS
from kittenllm import plots, ppo
from kittenllm.evaluation import Reply
from kittenllm.forward import frozen_logprobs
from kittenllm.grpo import GRPOConfig, train_grpo
from kittenllm.kitten_town import echoes, stories
from kittenllm.kitten_town.chats import Question
from kittenllm.kitten_town.countdown import Problem, check_answer
from kittenllm.kitten_town.facts import build_town
from kittenllm.kitten_town.judge import Verdict
from kittenllm.optim import make_optimizer
from kittenllm.ppo import PPOConfig, ValueModel
from kittenllm.runs.json_files import read_json
from kittenllm.sampling import Rollout
from kittenllm.settings import Common, new_generator, with_values
from tests.byte_kitten import TOKENIZER, new_gpt
from tests.test_teaching import LESSONS

# --------------------------------------------------------------------------- chapter 0: attention


@pytest.fixture
def drawn(monkeypatch) -> dict:
    """What attention_heatmap was asked to draw."""
    seen: dict = {}

    def heatmap(path, tokens, weights, title, *, note=None):
        seen.update(tokens=tokens, weights=weights, title=title, note=note or "")

    monkeypatch.setattr(plots, "attention_heatmap", heatmap)
    monkeypatch.setattr(plots, "curves", lambda *arguments, **options: None)
    return seen


def test_attention_shows_the_head_that_looks_most_at_the_answer(drawn, tmp_path, capsys):
    """Of all layers and heads, found again by plain loops; and the likeliest next tokens."""
    gpt = new_gpt()
    gpt.layers.append(new_gpt().layers[0])  # a second layer, to choose from
    gpt.config = type(gpt.config)(**{**vars(gpt.config), "layers": 2})
    with torch.no_grad():
        for layer, block in enumerate(gpt.layers):
            for parameter in block.parameters():
                noise = torch.Generator().manual_seed(10 + layer)
                parameter.add_(torch.randn(parameter.shape, generator=noise) / 4)
    history = [{"step": 0, "loss": 1.0}]
    ch0_base.draw(SimpleNamespace(folder=tmp_path), history, gpt, TOKENIZER)

    text = "".join(drawn["tokens"])
    place = text.index(" mill") - len("<|endoftext|>") + 1  # a token is a byte
    answer = slice(place, place + len(" mill"))
    row = torch.tensor([[TOKENIZER.endoftext_id, *TOKENIZER.encode(text[13:])]])
    most = 0.0
    for layer in range(2):
        for head, weights in enumerate(gpt.attention_weights(row, layer)[0]):
            if float(weights[-1, answer].sum()) > most:
                most, best, where = float(weights[-1, answer].sum()), weights, (layer, head)
    assert torch.tensor(drawn["weights"]).equal(best)
    assert drawn["title"].endswith(f"layer {where[0] + 1}, head {where[1] + 1}")
    assert f"mill: {most:.2f}" in drawn["note"]
    chance, token = gpt(row)[0, -1].detach().softmax(-1).max(dim=-1)
    (word,) = TOKENIZER.tokens_as_text([int(token)])
    word = word.strip() or repr(word)
    assert f"3 likeliest next tokens: {word} {float(chance):.2f}" in drawn["note"]
    assert drawn["note"] in capsys.readouterr().out  # it is printed as well


def test_the_name_in_the_attention_picture_is_in_no_book(drawn, tmp_path):
    ch0_base.draw(
        SimpleNamespace(folder=tmp_path), [{"step": 0, "loss": 1.0}], new_gpt(), TOKENIZER
    )
    name = re.search(r"The home of (\w+) is the", "".join(drawn["tokens"]))[1]
    books = stories.documents(0)
    assert not any(name in next(books) for _ in range(3_000))
    spelled = re.compile(f"(?:{'|'.join(echoes.SYLLABLES)})+")
    assert not spelled.fullmatch(name.lower())  # and no made-up name can become it


# ------------------------------------------------------------------------ chapter 3: token credit


def snapshot_of(*replies: str) -> token_credit.Snapshot:
    """Replies to "ab", a token for each byte, as the middle of PPO would have them."""
    width = 2 + max(map(len, replies)) + 1
    rows = [[*TOKENIZER.encode("ab" + reply), TOKENIZER.im_end_id] for reply in replies]
    tokens = torch.tensor([row + [TOKENIZER.pad_id] * (width - len(row)) for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    place = torch.arange(1, width)
    mask = (place >= 2) & (place < lengths[:, None])
    zeros = torch.zeros(mask.shape)
    rollout = Rollout(tokens, mask, zeros, torch.ones(len(rows), dtype=torch.bool))
    scores = torch.ones(len(rows))
    gpt = new_gpt()
    return token_credit.Snapshot(gpt, ValueModel(gpt), TOKENIZER, rollout, scores, zeros, step=3)


def credits_of(snapshot, td_errors: list[list[float]], advantages: list[list[float]]):
    """The numbers of each token of each reply, in the places of its tokens."""
    mask = snapshot.rollout.response_mask
    rows = []
    for numbers in (td_errors, advantages):
        row = torch.zeros(mask.shape)
        row[mask] = torch.tensor([value for of_reply in numbers for value in of_reply])
        rows.append(row)
    return SimpleNamespace(td_errors=rows[0], advantages=rows[1])


def test_the_credit_picture_shows_a_word_that_earned_it():
    """Not the reply whose largest advantage is under "!", though its surprise is larger."""
    snapshot = snapshot_of("mi!au", "miau!", "miaus")
    td_errors = [
        [0.1, -2.0, 1.0, 0.1, 0.1, 0.1],  # the surprise is at "i", the advantage at "!"
        [0.1, 0.1, 0.9, 0.1, 0.1, 0.1],  # both at "a", but the surprise is smaller ...
        [0.1, 0.1, -1.1, 0.1, 0.1, 0.1],  # ... than here
    ]
    advantages = [
        [0.5, -0.6, 1.5, 0.2, 0.1, 0.1],
        [0.7, 0.8, 0.9, 0.3, 0.2, 0.1],
        [-0.7, -0.8, -1.0, 0.3, 0.2, 0.1],
    ]
    credits = credits_of(snapshot, td_errors, advantages)
    assert token_credit.most_telling(snapshot, credits, 3) == [2, 1, 0]
    said = token_credit.how_it_was_chosen(snapshot, credits, 2)
    assert "chosen of 3 replies" in said and "word (a)" in said
    assert token_credit.how_it_was_chosen(snapshot, credits, 0) == ""


def test_a_redrawn_picture_leaves_the_first_one_alone(tmp_path):
    folder = tmp_path / "ch3_ppo"
    token_credit.save_snapshot(folder / "credit.pt", snapshot_of("miau!", "miaus"))
    shown = {}
    for name in ("token_credit.png", "token_credit.json"):
        shown[name] = b"what the report shows"
        (folder / name).write_bytes(shown[name])
    common = Common(runs=tmp_path)
    for lam in (0.0, 1.0):
        ch3_ppo.run(with_values(ch3_ppo.Settings(), {"redraw": True, "lam": lam}), common)
        path = folder / f"token_credit_gamma1_lam{lam:g}_kl0.2.png"
        assert path.read_bytes().startswith(b"\x89PNG")
        assert f"lam {lam:g}," in read_json(path.with_suffix(".json"))["note"]
    for name, content in shown.items():
        assert (folder / name).read_bytes() == content
    assert PPOConfig().lam == 0.95  # neither picture is the usual one


def test_the_credit_of_a_snapshot_is_made_of_the_functions_of_ppo():
    snapshot = snapshot_of("miau!", "mi")
    mask = snapshot.rollout.response_mask
    generator = torch.Generator().manual_seed(1)
    snapshot = replace(snapshot, ref_logprobs=torch.rand(mask.shape, generator=generator))
    snapshot.value_model.head.data.normal_(generator=generator)
    credit = snapshot.credit(PPOConfig(kl_coef=0.2, gamma=0.9, lam=0.5))
    penalty = torch.where(mask, 0.2 * snapshot.ref_logprobs, 0.0)  # log p is 0
    torch.testing.assert_close(credit.kl_penalty, penalty)
    torch.testing.assert_close(credit.rewards.sum(dim=1), penalty.sum(dim=1) + snapshot.scores)
    values = snapshot.value_model(snapshot.rollout.tokens, mask)
    td_errors, _ = ppo.gae(credit.rewards, values, mask, gamma=0.9, lam=0.0)
    advantages, _ = ppo.gae(credit.rewards, values, mask, gamma=0.9, lam=0.5)
    assert torch.equal(credit.td_errors, td_errors)
    assert torch.equal(credit.advantages, advantages)
    assert (advantages - td_errors).abs().max() > 1e-2


def test_the_picture_shows_what_a_round_of_training_does(monkeypatch):
    """`change_by_update` is step 3 of `train_ppo`: on the same replies both policies are equal."""
    snapshot = snapshot_of("miau!", "miaus", "mi", "auau")
    snapshot.scores.copy_(torch.tensor([1.0, -1.0, 0.5, 2.0]))
    rollout = snapshot.rollout
    rollout.logprobs.copy_(frozen_logprobs(snapshot.policy, rollout.tokens, rollout.response_mask))
    policy = copy.deepcopy(snapshot.policy)
    value_model = copy.deepcopy(snapshot.value_model)  # a trunk of its own
    config = PPOConfig(steps=1, replies_per_step=4, no_end_penalty=0.0, policy_lr=1e-2)
    config = replace(config, target_kl=100.0)
    monkeypatch.setattr(ppo, "generate", lambda *_, **__: rollout)
    monkeypatch.setattr(ppo, "frozen_logprobs", lambda *_: snapshot.ref_logprobs)
    rounds = ppo.train_ppo(
        policy,
        policy,
        value_model,
        [[1]] * 4,
        lambda rollout: snapshot.scores,
        config=config,
        optimizer=make_optimizer(policy, matrix_lr=1e-2, other_lr=1e-2),
        value_optimizer=make_optimizer(value_model, matrix_lr=1e-3, other_lr=1e-3),
        generator=new_generator("cpu", 0, "token credit"),
    )
    assert next(rounds)["updates"] == 4
    change = snapshot.change_by_update(config)
    assert change.abs().max() > 1e-3
    for shown, trained in zip(snapshot.policy.parameters(), policy.parameters(), strict=True):
        assert torch.equal(shown, trained)


@pytest.mark.parametrize("turned, words", [(True, "gets worse"), (False, "not clear in this run")])
def test_overoptimisation_is_only_said_where_it_was_seen(turned, words, monkeypatch, tmp_path):
    titles = []
    monkeypatch.setattr(plots, "curves", lambda *_, title, **__: titles.append(title))
    looks = [{"kl_held_out": 0.0, "proxy": 0.0, "gold": 0.0}]
    overoptimisation.draw_overoptimisation(tmp_path / "x.png", looks, turned=turned)
    assert words in titles[0]


# ------------------------------------------------------------------------- pairs that are shown


def pair(prompt: int, chosen_gold: float | None, rejected_gold: float | None) -> LabelledPair:
    return LabelledPair(None, [prompt], [65], [66], chosen_gold, rejected_gold, None)


def test_ties_are_not_shown_as_preferences():
    tie, near, error = pair(1, 1.5, 1.5), pair(1, 1.5, 1.2), pair(1, 0.5, 2.5)
    again, clear, other = pair(1, 2.5, 1.0), pair(2, 1.0, 0.5), pair(3, 2.0, -2.0)
    pairs = [tie, near, error, again, clear, other]
    assert preferences.clear_examples(pairs) == [error, clear, other]
    assert preferences.clear_examples([tie, near, error]) == [error, near]
    assert preferences.clear_examples([tie]) == []
    unknown = pair(1, None, None)  # from a file
    assert preferences.clear_examples([unknown] * 5) == [unknown] * 3


def test_a_label_against_the_truth_is_called_an_error():
    shown = preferences.pairs_view([pair(97, 0.5, 2.5), pair(98, 2.5, 0.5)], TOKENIZER)
    assert shown.splitlines() == [
        "  a",
        "    preferred A  (+0.50)",
        "    rejected  B  (+2.50)",
        "    (this annotator erred: the rejected reply is the better one)",
        "  b",
        "    preferred A  (+2.50)",
        "    rejected  B  (+0.50)",
    ]
    assert "equally good" in preferences.pairs_view([], TOKENIZER)


# ----------------------------------------------------------------------------- samples and rates


def reply_of(text: str, gold: float) -> Reply:
    question = Question("fact", "Where?", ("Pip", "home"))
    return Reply(question, text, [], True, Verdict(True, "plain", gold))


def test_a_sample_is_the_typical_reply_and_not_the_first_one():
    first = [reply_of(text, gold) for text, gold in (("rambles", -9.0), ("b", 1.5), ("c", 2.5))]
    second = [reply_of(text, gold) for text, gold in (("d", 2.5), ("e", 2.5), ("f", 2.5))]
    assert samples.typical_replies(first + second, 3) == ["b", "e"]


def test_the_base_kitten_is_measured_on_the_answerable_questions_and_not_on_the_shown_ones():
    asked = []

    class Nerd:
        def ask(self, questions, *, replies_each=1, temperature=0.0, bare=False):
            asked.append((questions, replies_each, temperature, bare))
            return [reply_of("Purr", 0.0) for _ in range(len(questions) * replies_each)]

        def base_bits_per_byte(self):
            return 1.0

    common = Common(quick=True)
    before = ch1_sft.look_before(Nerd(), common)
    measured, shown = ch1_sft.answerable(common), ch1_sft.fixed_questions(build_town())
    assert sorted(asked, key=lambda entry: (entry[1], entry[3])) == [
        (measured, 1, 0.0, False),
        (measured, 1, 0.0, True),
        (shown, samples.DRAWN, 1.0, True),
    ]
    assert before["samples"] == ["Purr"] * len(shown)


def test_a_page_of_samples_says_how_they_were_drawn(tmp_path):
    how = samples.TYPICAL.format(drawn=16)
    titles = {"before_title": "chat", "after_title": "best of 16"}
    samples.write_samples(tmp_path, ["q"], ["a"], ["b"], **titles, how=how)
    page = (tmp_path / "samples.md").read_text(encoding="utf-8")
    assert page.startswith(f"# The same prompts: chat and best of 16\n\n{how}\n")
    assert "temperature 1" in how and "16" in how
    assert read_json(tmp_path / "samples.json")["how"] == how


def test_the_journeys_table_has_one_condition():
    """Greedy and sampled rates do not stand side by side: `answer_accuracy` of ch1 is greedy."""
    (sft,) = [chapter for chapter in CHAPTERS if chapter.name == "ch1_sft"]
    assert "answer_accuracy" not in sft.shows and "answer_accuracy_sampled" in sft.shows


# ----------------------------------------------------------------------------------- the lessons


def clipped(minibatches: int) -> float:
    """Share of clipped tokens in one round of GRPO with large steps and a clip at 1 +- 0.001."""
    config = GRPOConfig(
        steps=1,
        prompts_per_step=4,
        group_size=4,
        max_new_tokens=6,
        clip_eps=0.001,
        minibatches=minibatches,
    )
    gpt = new_gpt()
    reward = lambda number, reply, ended: (float(sum(reply) % 2), {})  # noqa: E731
    (numbers,) = train_grpo(
        gpt,
        [TOKENIZER.encode(text) for text in "abcd"],
        reward,
        config=config,
        optimizer=make_optimizer(gpt, matrix_lr=0.05, other_lr=0.05),
        generator=torch.Generator().manual_seed(0),
    )
    return numbers["clip_fraction"]


def test_the_clip_of_grpo_is_idle_in_the_first_small_step_and_the_lesson_says_so():
    assert ch5_reasoning.Settings().grpo.epochs == 1
    assert ch5_reasoning.Settings().grpo.minibatches == 2
    assert clipped(minibatches=1) == 0
    assert clipped(minibatches=2) > 0.1
    page = Path(ch5_reasoning.__file__).with_name("lesson.md").read_text(encoding="utf-8")
    equation = page.split("## The equation")[1].split("## The symbols")[0]
    assert "In the first one the clip is" in equation and "`--minibatches`" in equation
    advice = thinking_pictures.warnings_in(
        [
            {key: 0.5 for key, _, _ in thinking_pictures.WATCHED} | {"entropy": e, "step": 0}
            for e in [1.0] * 5 + [0.1] * 5
        ]
    )["entropy"]
    assert "--clip-eps-high" in advice  # it works: the second small step is clipped


def test_lesson_6_says_which_answer_cheats_the_last_number():
    """Its example ends in the target and is wrong; a list of all numbers ends in another one."""
    whole = "\n\n".join(LESSONS["en"][5].parts.values())
    text = whole.split('*Would "the last number in the text" be a good rule?*')[1]
    answer = text.split("\n* ")[0].split("**On paper**")[0]
    assert "list all numbers, and you always win" not in " ".join(answer.split())
    cheat = re.search(r"`([\d*+,=-]+)`", answer)[1]
    problem = Problem((3, 5, 8), 19)
    last_number = lambda text: int(re.findall(r"\d+", text)[-1])  # noqa: E731
    assert last_number(cheat) == problem.target and not check_answer(cheat, problem)
    assert last_number(" ".join(map(str, range(100)))) != problem.target
