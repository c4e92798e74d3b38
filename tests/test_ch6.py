"""Chapter 6 in a small world: the kittens of the chapters before have random weights.

What is tested is the recipe: what is kept, who is rewarded by whom, and that a killed run goes on.
"""

import json
import random
import statistics

import pytest
import torch

from chapters.ch6_r1 import distil, mixture, ways
from chapters.ch6_r1 import story as ch6_r1
from chapters.ch6_r1.exams import ROWS, Examiner
from chapters.ch6_r1.mixture import Attempt, keep_best, keep_failures
from chapters.common import exam
from chapters.common.kitten import Kitten
from kittenllm.batches import pad_rows
from kittenllm.gpt import GPT, GPTConfig
from kittenllm.kitten_town.countdown import HELD_OUT_TRIPLES, Problem
from kittenllm.rewards import mixed_reward, score_by_rule
from kittenllm.runs.checkpoints import save_model
from kittenllm.runs.run import Run
from kittenllm.runs.stages import Stage
from kittenllm.runs.summaries import read_history, write_summary
from kittenllm.sampling import Rollout
from kittenllm.scorer import Scorer, new_reward_model, save_reward_model
from kittenllm.settings import Common, with_values

TINY = {
    **ch6_r1.QUICK,
    "problems": 3,
    "questions": 4,
    "chats": 3,
    "drill_tokens": 200,
    "sft_steps": 3,
    "sft_rows_per_step": 1,
    "grpo_steps": 3,
    "prompts_per_step": 2,
    "group_size": 2,
    "max_new_tokens": 8,
}
NAMES = ("ch0_base", "ch1_sft", "ch2_reward_model", "ch3_ppo", "ch5_reasoning")


def settings_of(**values) -> ch6_r1.Settings:
    return with_values(ch6_r1.Settings(), {**TINY, **values})


def random_gpt(tokenizer, seed: int) -> GPT:
    config = GPTConfig(
        vocab_size=tokenizer.vocab_size,
        context_length=256,
        layers=1,
        channels=16,
        heads=2,
        kv_heads=1,
        ffn_channels=16,
        stop_ids=(tokenizer.endoftext_id, tokenizer.im_end_id),
        pad_id=tokenizer.pad_id,
    )
    return GPT(config, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def small_world(tmp_path, town_tokenizer, monkeypatch):
    """A runs folder with five finished chapters whose kittens have learned nothing."""
    common = Common(runs=tmp_path / "runs", quick=True)
    earlier = {name: {"model": "model.pt", "fingerprint": name} for name in NAMES}
    for number, (name, summary) in enumerate(earlier.items()):
        summary["config"] = {"text": "", "questions": ""}
        gpt, path = random_gpt(town_tokenizer, number), common.folder(name) / "model.pt"
        path.parent.mkdir(parents=True)
        if name == "ch2_reward_model":
            save_reward_model(path, new_reward_model(gpt), town_tokenizer)
        else:
            save_model(path, gpt, town_tokenizer)
    monkeypatch.setattr(ch6_r1, "ensure", lambda name, common: earlier[name])
    monkeypatch.setattr(ch6_r1, "fingerprint_of", lambda common, name: name)
    monkeypatch.setattr("chapters.common.kitten.REPLAY_TOKENS", 20_000)
    monkeypatch.setattr("chapters.common.texts.VALIDATION_TOKENS", 2_000)
    monkeypatch.setattr(
        "chapters.common.measuring.QUICK_COUNTS",
        {kind: (2, 1) for kind in ("fact", "sum", "risky", "allowed", "talk")},
    )
    monkeypatch.setattr("chapters.common.measuring.UNIT_REPLIES", 4)
    monkeypatch.setattr("chapters.ch6_r1.exams.QUICK_PUZZLES", 2)
    return common


@pytest.fixture
def no_exams(monkeypatch):
    """The exams, the samples and the picture are not what a test is about: none is made."""
    scores = {f"{key}{end}": 0.5 for key in ROWS for end in ("", "_stderr")}
    monkeypatch.setattr(Examiner, "take", lambda self, name, gpt: {**scores, "samples": []})
    monkeypatch.setattr(Examiner, "samples", lambda self, *kittens: ([], [], []))
    monkeypatch.setattr(ch6_r1, "draw_steps", lambda path, scores: None)


# ------------------------------------------------------------------------------------- the chapter


def test_the_whole_chapter_in_a_small_world(small_world, capsys):
    summary = ch6_r1.run(settings_of(), small_world)
    assert list(summary["steps"]) == ["base", "chat", "PPO", "Zero", "cold_start", "R1"]
    assert summary["rejection"]["thoughts_drawn"] == 3 * TINY["attempts"]
    assert summary["puzzle_accuracy"] == summary["steps"]["R1"]["puzzle_accuracy"]
    folder = small_world.folder("ch6_r1")
    files = {path.name for path in folder.iterdir()}
    assert {"model.pt", "cold_start.pt", "samples.md", "steps.png", "summary.json"} <= files
    screen = capsys.readouterr().out
    assert "thoughts kept of 6 drawn" in screen and "cold_start" in screen
    again = ch6_r1.run(settings_of(), small_world)
    assert again == summary


def killed_after(stage_name: str, steps: int, monkeypatch):
    """From now on a training stops after so many steps of one stage, as a kill between two steps
    with a state that has just been saved."""
    real = Stage.follow

    def follow(self, training, *, show=()):
        for number, metrics in enumerate(real(self, training, show=show), start=1):
            yield metrics
            if self.name == stage_name and number == steps:
                self.run.log(self.name, self.step, metrics)
                self.step += 1
                self._save()
                raise KeyboardInterrupt

    monkeypatch.setattr(Stage, "follow", follow)


def test_a_killed_run_goes_on_bit_for_bit(small_world, no_exams, monkeypatch):
    """Killed in the cold start, and once more in the middle of RL: the same weights."""
    whole = ch6_r1.run(settings_of(), small_world)
    folder = small_world.folder("ch6_r1")
    weights = (folder / "model.pt").read_bytes()
    folder.rename(folder.with_name("whole"))
    for stage, steps in (("cold_start", 2), ("grpo", 1)):
        with monkeypatch.context() as patch:
            killed_after(stage, steps, patch)
            with pytest.raises(KeyboardInterrupt):
                ch6_r1.run(settings_of(), small_world)
        assert not (folder / "summary.json").exists()
    resumed = ch6_r1.run(settings_of(), small_world)
    assert (folder / "model.pt").read_bytes() == weights
    assert resumed["rejection"] == whole["rejection"]


def test_a_zero_of_word_problems_is_refused(small_world, monkeypatch):
    earlier = {name: ch6_r1.ensure(name, small_world) for name in NAMES}
    earlier["ch5_reasoning"]["config"]["questions"] = "mine.jsonl"
    with pytest.raises(ValueError, match="chapter 5 without --questions"):
        ch6_r1.run(settings_of(), small_world)


# ------------------------------------------------------------------------------ rejection sampling


def attempt(problem: str, length: int, right: bool = True, form: bool = True) -> Attempt:
    return Attempt(f"use {problem}", problem, list(range(length)), right, form)


def test_keep_best_by_hand():
    """The two shortest of what is right and well formed, whatever stands around them."""
    attempts = [
        attempt("a", 9),
        attempt("a", 3, right=False),
        attempt("b", 4),
        attempt("a", 5),
        attempt("a", 7),
        attempt("b", 2, form=False),
        attempt("c", 1, right=False, form=False),
    ]
    kept = keep_best(attempts, most=2)
    assert [(each.problem, len(each.reply)) for each in kept] == [("a", 5), ("a", 7), ("b", 4)]
    assert keep_best([], most=2) == []


def test_keep_best_never_keeps_a_wrong_or_malformed_reply_and_counts_problems_not_wordings():
    rng = random.Random(0)
    attempts = [
        attempt(rng.choice("abcdef"), rng.randrange(1, 30), rng.random() < 0.5, rng.random() < 0.8)
        for _ in range(300)
    ]
    attempts = [each._replace(text=f"{each.text}, number {i}") for i, each in enumerate(attempts)]
    for most in (1, 2, 5):
        kept = keep_best(attempts, most)
        assert all(each.right and each.form for each in kept)
        problems = [each.problem for each in kept]
        assert max(problems.count(problem) for problem in set(problems)) == most


def test_failures_teach_when_to_stop_and_not_what_to_answer(town_tokenizer):
    """The longest well-formed failure of each problem; all of it is trained but the answer."""
    t = town_tokenizer
    answer = t.encode("3*8=24,24-5=19")
    thought = [t.think_id, *t.encode("1"), t.end_think_id]
    reply = [*thought, t.answer_id, *answer, t.end_answer_id]
    failure = Attempt("use 1, 2, 3 make 9", "a", reply, False, True)
    attempts = [failure, attempt("a", 3, right=False), attempt("a", 40), attempt("b", 4)]
    attempts += [attempt("a", 50, right=False, form=False)]
    assert keep_failures(attempts, most=1) == [failure]
    assert keep_failures(attempts, most=0) == []
    (document,) = mixture.failure_documents(t, [failure])
    prompt = exam.as_user(t, failure.text)
    assert document.tokens == prompt + reply + [t.im_end_id]
    trained = [t for t, m in zip(document.tokens, document.loss_mask, strict=True) if m]
    assert trained == [*thought, t.answer_id, t.end_answer_id, t.im_end_id]


def test_attempts_are_judged_by_the_rules_and_only_practised_triples_are_asked(
    town_tokenizer, monkeypatch
):
    """A kitten that recites one right reply: it is kept for its own problem and for no other."""
    t = town_tokenizer
    answer = [t.think_id, *t.encode("1"), t.end_think_id, t.answer_id]
    answer += [*t.encode("3*8=24,24-5=19"), t.end_answer_id]
    thinker = Kitten(random_gpt(t, 0), t, Common())

    def recite(gpt, prompts, **settings):
        rows = [prompt + answer + [t.im_end_id] for prompt in prompts]
        return made_rollout(rows, [len(prompt) for prompt in prompts], t.pad_id)

    monkeypatch.setattr(mixture, "generate", recite)
    problems = [Problem((5, 8, 3), 19), Problem((3, 5, 8), 29)]
    attempts = mixture.attempts_of(
        thinker,
        [exam.countdown_exercise(problem) for problem in problems],
        2,
        max_new_tokens=48,
        generator=torch.Generator(),
    )
    assert [each.right for each in attempts] == [True, True, False, False]
    assert all(each.form and each.reply == answer for each in attempts)
    kept = keep_best(attempts, 1)
    assert [each.text for each in kept] == ["use 5, 8, 3 make 19"]
    (document,) = mixture.thought_documents(t, kept)
    prompt = exam.as_user(t, "use 5, 8, 3 make 19")
    assert document.tokens == prompt + answer + [t.im_end_id]
    assert document.loss_mask == [False] * len(prompt) + [True] * (len(answer) + 1)


def made_rollout(rows: list[list[int]], prompt_lengths: list[int], pad_id: int):
    tokens, lengths = pad_rows(rows, pad_id)
    place = torch.arange(1, tokens.shape[1])
    starts = torch.tensor(prompt_lengths)[:, None]
    mask = (place >= starts) & (place < lengths[:, None])
    ended = torch.ones(len(rows), dtype=torch.bool)
    return Rollout(tokens, mask, torch.zeros(mask.shape), ended)


def test_the_best_liked_sibling_is_kept_and_one_without_an_end_pays():
    rollout = made_rollout([[5, 6, 7]] * 6, [1] * 6, 0)
    rollout.ended[4] = False
    scores = torch.tensor([0.1, 0.5, 0.2, -3.0, 1.0, -0.5])
    assert mixture.best_of_groups(rollout, lambda _: scores, 3) == [1, 5]


def test_no_practised_triple_is_in_the_exam(small_world, no_exams, monkeypatch):
    asked = []
    real = exam.countdown_practice
    monkeypatch.setattr(
        ch6_r1.exam,
        "countdown_practice",
        lambda count, rng: asked.append(real(count, rng)) or asked[-1],
    )
    ch6_r1.run(settings_of(), small_world)
    practised = {exercise.topic for exercises in asked for exercise in exercises}
    assert len(asked) == 2 and practised and not practised & set(HELD_OUT_TRIPLES)
    chapter = Run(small_world, "again", settings_of())
    plan = Examiner(chapter, None, 8).plan
    assert {exercise.topic for exercise, _ in plan} <= set(HELD_OUT_TRIPLES)


# --------------------------------------------------------------------------------- the mixed reward


def test_the_mixed_reward_by_hand(town_tokenizer):
    """A puzzle is scored by the rules, a chat by 0.3 times the judge's score, less for no end."""
    t = town_tokenizer
    rules = exam.reward_for([exam.countdown_exercise(Problem((3, 5, 8), 19))], t, 0.3)
    judge = Scorer(new_reward_model(random_gpt(t, 3)), mean=-2.0, std=4.0)  # its head is 0: 0 + 2
    likes = mixture.liking(t, [t.encode("hello")], judge, 0.3)
    reward = mixed_reward([(1, rules), (1, likes)])
    answer = [t.think_id, *t.encode("1"), t.end_think_id, t.answer_id]
    answer += [*t.encode("3*8=24,24-5=19"), t.end_answer_id]
    assert reward(0, answer, True)[0] == pytest.approx(1.3)
    assert reward(0, answer, False)[0] == 0.0
    assert reward(1, t.encode("hi"), True) == (pytest.approx(0.3 * 0.5), {"score": 0.5})
    assert reward(1, t.encode("hi"), False)[0] == pytest.approx(0.3 * (0.5 - 2.0))
    with pytest.raises(ValueError, match="prompt 2 is of no kind: there are 2 prompts"):
        reward(2, answer, True)


def test_parts_of_each_kind_are_averaged_over_their_own_replies():
    rollout = made_rollout([[5, 6, 7]] * 4, [1] * 4, 0)
    verdicts = iter([(1.0, {"right": 1.0}), (0.0, {"right": 0.0}), (0.5, {"score": 3.0})] * 2)
    last = (0.5, {"score": 5.0})
    judged = lambda number, reply, ended: next(verdicts) if counts.pop() else last  # noqa: E731
    counts = [False, True, True, True]
    rewards, numbers = score_by_rule(rollout, [0, 1], judged, group_size=2)
    assert rewards.tolist() == [1.0, 0.0, 0.5, 0.5]
    assert numbers["right"] == 0.5 and numbers["score"] == 4.0


# --------------------------------------------------------------------------------------- the wiring


def asked_of(monkeypatch, name: str) -> dict:
    """From now on the training `name` of the story only notes its arguments."""
    seen: dict = {}

    def note(model, data, *others, **settings):
        seen.update(settings, model=model, data=data, others=others)
        return iter(())

    monkeypatch.setattr(ch6_r1, name, note)
    return seen


def test_every_setting_of_the_last_step_reaches_it(small_world, no_exams, monkeypatch):
    seen = asked_of(monkeypatch, "train_grpo")
    values = {"puzzle_share": 0.75, "chat_kl": 0.7, "chat_weight": 2.0, "format_weight": 0.9}
    ch6_r1.run(settings_of(grpo_steps=2, prompts_per_step=4, **values), small_world)
    assert seen["kl_coefs"] == [0.0] * 6 + [0.7] * 2 and len(seen["data"]) == 8
    assert seen["config"].steps == 2 and seen["config"].kl_coef == 0.0
    tokenizer = ch6_r1.load_model(small_world.folder("ch1_sft") / "model.pt")[1]
    form = [tokenizer.think_id, 5, tokenizer.end_think_id, tokenizer.answer_id, 5]
    (reward,) = seen["others"]
    assert reward(0, [*form, tokenizer.end_answer_id], True)[0] == 0.9
    worth, parts = reward(7, [5], True)
    assert worth == pytest.approx(2.0 * parts["score"])


@pytest.mark.parametrize("start, name", [("chat", "ch1_sft"), ("zero", "ch5_reasoning")])
def test_the_cold_start_begins_where_it_is_told_to(start, name, small_world, no_exams, monkeypatch):
    seen = asked_of(monkeypatch, "train_sft")
    asked_of(monkeypatch, "train_grpo")
    ch6_r1.run(settings_of(start=start, sft_steps=5, sft_replay_fraction=0.5), small_world)
    assert seen["config"].steps == 5 and seen["config"].replay_fraction == 0.5
    gpt, _, _ = ch6_r1.load_model(small_world.folder(name) / "model.pt")
    for got, wanted in zip(seen["model"].parameters(), gpt.parameters(), strict=True):
        assert torch.equal(got, wanted)


def test_longer_chats_of_chapter_1_wait_for_a_reply(town_tokenizer):
    prompts = mixture.long_chat_prompts(town_tokenizer, Common(), 7, 200)
    assert len(prompts) == 7
    for prompt in prompts:
        text = town_tokenizer.decode(prompt)
        assert text.endswith("<|im_end|><|im_start|>assistant\n") and len(prompt) <= 200
        assert text.count("<|im_start|>") >= 3  # a system message, or more than one round
    assert mixture.long_chat_prompts(town_tokenizer, Common(), 0, 200) == []


def test_drills_hold_no_held_out_triple_and_are_trained_whole(town_tokenizer):
    documents = mixture.drill_documents(town_tokenizer, 2_000, random.Random(0))
    assert 2_000 <= sum(map(len, documents)) < 2_200
    assert all(all(document.loss_mask) for document in documents)


# --------------------------------------------------------------------------------- the experiments


@pytest.fixture
def tiny_experiments(no_exams, monkeypatch):
    small = {"layers": 1, "channels": 16, "heads": 2, "kv_heads": 1, "ffn_channels": 8}
    monkeypatch.setattr(distil, "SMALL", small)
    monkeypatch.setattr(distil, "SEEDS", 2)
    monkeypatch.setattr(distil, "QUICK_PUZZLES", 2)
    return settings_of(distil=True, distil_base_steps=2, distil_rounds=2, distil_problems=2)


def test_distillation_in_a_small_world(small_world, tiny_experiments, monkeypatch):
    """Nobody can solve anything here, so every thought is kept: the ways and tokens count."""
    monkeypatch.setattr(mixture, "keep_best", lambda attempts, most: list(attempts))
    summary = ch6_r1.run(tiny_experiments, small_world)
    found = summary["distil"]
    assert list(found["arms"]) == ["base", "rl", "distilled", "distilled_rl"]
    arms = found["arms"]
    tokens = arms["rl"]["training_tokens"]
    assert tokens == arms["distilled"]["training_tokens"] > 0 == arms["base"]["training_tokens"]
    assert arms["distilled_rl"]["training_tokens"] == 2 * tokens
    assert all(len(arm["accuracies"]) == 2 for arm in arms.values())
    assert "no difference can be told" in found["verdict"]
    folder = small_world.folder("ch6_distil")
    assert (folder / "distilled.pt").is_file() and (folder / "distil.png").is_file()
    stages = {entry["stage"] for entry in read_history(folder / "metrics.jsonl")}
    names = ("base", "rl", "distilled", "distilled_rl")
    assert stages == {f"{name}_{seed}" for name in names for seed in (0, 1)}


def test_without_a_right_thought_there_is_nothing_to_distil(small_world, tiny_experiments):
    with pytest.raises(ValueError, match="R1 solved none of 2 puzzles.*--distil-problems"):
        ch6_r1.run(tiny_experiments, small_world)


@pytest.mark.parametrize(
    "rl, distilled, words",
    [
        ([0.1, 0.2, 0.3], [0.5, 0.6, 0.7], "distillation wins"),
        ([0.5, 0.6, 0.7], [0.1, 0.2, 0.3], "RL of its own wins"),
        ([0.1, 0.3, 0.5], [0.2, 0.4, 0.6], "no difference can be told"),
    ],
)
def test_the_verdict_falls_either_way(rl, distilled, words):
    rest = {"format_rate": 1.0, "tokens": 50.0}
    arms = {
        name: distil.summary_of([{"accuracy": value, **rest} for value in values])
        for name, values in (("rl", rl), ("distilled", distilled))
    }
    assert arms["rl"]["accuracy_stderr"] == pytest.approx(statistics.stdev(rl) / 3**0.5)
    assert words in distil.verdict(arms)


def test_four_ways_in_one_picture(small_world, no_exams, town_tokenizer, monkeypatch, capsys):
    folder = small_world.folder("ch5_reasoning")
    save_model(folder / "warm_up.pt", random_gpt(town_tokenizer, 8), town_tokenizer)
    lines = [{"stage": "warm_up", "step": 0, "seconds": 2.0}]
    lines.append({"stage": "grpo", "step": 0, "seconds": 3.0})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    monkeypatch.setattr(ways, "QUICK_PROBLEMS", 2)
    monkeypatch.setattr(ways, "ATTEMPTS", (1,))
    found = ch6_r1.run(settings_of(ways=True), small_world)["ways"]
    assert list(found) == ["thinking longer", "pure RL", "SFT and RL"]
    assert [round(found[way]["seconds"]) for way in list(found)[:2]] == [2, 5]
    votes = found["thinking longer"]["vote of n"]
    assert votes["2"]["tokens"] == 2 * votes["1"]["tokens"]
    assert (small_world.folder("ch6_ways") / "ways.png").is_file()
    assert "distillation: left out" in capsys.readouterr().out

    # Once --distil has finished, the fourth way joins: the picture of three is not kept.
    made = small_world.folder("ch6_distil")
    save_model(made / "distilled.pt", random_gpt(town_tokenizer, 9), town_tokenizer)
    (made / "metrics.jsonl").write_text('{"stage": "distilled_0", "step": 0, "seconds": 4.0}\n')
    write_summary(made / "summary.json", {"fingerprint": "of the small kitten"})
    found = ch6_r1.run(settings_of(ways=True), small_world)["ways"]
    assert list(found)[3:] == ["distillation"] and found["distillation"]["seconds"] == 4.0
    assert "left out" not in capsys.readouterr().out
