"""Chapter 5: the tasks, the exam, the refusal and the warnings, and one quick run of everything."""

import json
import math
import random
from itertools import combinations, islice

import pytest
import torch

from chapters.ch0_base import story as ch0_base
from chapters.ch5_reasoning import pictures, thinking
from chapters.ch5_reasoning import story as ch5_reasoning
from chapters.ch5_reasoning.recipe import Recipe
from chapters.ch5_reasoning.story import Settings, refuse_without_signal
from chapters.ch5_reasoning.thinking import thought_document
from chapters.common import exam
from chapters.common.exam import Exercise, Result, pass_at_k
from chapters.common.kitten import Kitten
from chapters.common.runner import chapter_main
from kittenllm.chat import text_prompt
from kittenllm.gpt import GPT, GPTConfig
from kittenllm.grpo import GRPOConfig
from kittenllm.kitten_town import rules, stories
from kittenllm.kitten_town.countdown import (
    HELD_OUT_TRIPLES,
    TRAINING_TRIPLES,
    Problem,
    sorted_triple,
)
from kittenllm.kitten_town.scribbles import WAIT
from kittenllm.records import RecordError, load_questions
from kittenllm.runs.run import Run
from kittenllm.settings import Common, with_values
from kittenllm.sft import SFTConfig
from kittenllm.tokenizer import Tokenizer, train_bpe

PROBLEM = Problem((3, 5, 8), 19)
THINK = "3*5=15 left 8,15+8=23 vs 19 no wait 3*8=24 left 5,24-5=19 vs 19 yes"
ANSWER = "3*8=24,24-5=19"


@pytest.fixture(scope="module")
def thinker(town_tokenizer) -> Kitten:
    """A small kitten with random weights: it knows the words, and nothing else."""
    tokenizer = town_tokenizer
    config = GPTConfig(
        vocab_size=tokenizer.vocab_size,
        context_length=160,
        layers=1,
        channels=32,
        heads=2,
        kv_heads=1,
        ffn_channels=48,
        stop_ids=(tokenizer.im_end_id, tokenizer.endoftext_id),
        pad_id=tokenizer.pad_id,
    )
    gpt = GPT(config, generator=torch.Generator().manual_seed(0))
    return Kitten(gpt, tokenizer, Common())


def reply_ids(tokenizer, think: str = THINK, answer: str = ANSWER) -> list[int]:
    """The tokens of a whole reply, without the stop token."""
    prompt = text_prompt(tokenizer, PROBLEM.prompt)
    return thought_document(tokenizer, PROBLEM.prompt, think, answer).tokens[len(prompt) : -1]


def results_of(*problems: str, **values) -> list[Result]:
    """Made-up results: one per letter, r right, w wrong in the right form, x cut off."""
    results = []
    for number, letters in enumerate(problems):
        exercise = Exercise(f"text {number}", lambda text: 0.0, f"problem {number}")
        for letter in letters:
            text = f"<think>{letter}</think><answer>{letter}</answer>"
            tokens, waits = values.get(letter, (10, 0))
            results.append(
                Result(exercise, text, tokens, letter != "x", letter == "r", letter != "x", waits)
            )
    return results


# ---------------------------------------------------------------------------------------- the text


def test_of_a_scribble_the_reply_and_its_end_are_trained_and_nothing_else(town_tokenizer):
    document = thought_document(town_tokenizer, PROBLEM.prompt, THINK, ANSWER)
    prompt = text_prompt(town_tokenizer, PROBLEM.prompt)
    assert document.tokens[: len(prompt)] == prompt
    assert document.loss_mask == [False] * len(prompt) + [True] * (len(document) - len(prompt))
    assert document.tokens[len(prompt)] == town_tokenizer.think_id  # the prompt ends right before
    assert document.tokens[-1] == town_tokenizer.endoftext_id  # stopping is trained too
    text = town_tokenizer.decode(document.tokens[len(prompt) : -1])
    assert text == f"<think>{THINK}</think><answer>{ANSWER}</answer>"


def test_a_patient_scribble_teaches_attempts_and_the_end_but_not_to_go_on(town_tokenizer):
    think = f"{THINK}{WAIT}{THINK}"
    document = thought_document(town_tokenizer, PROBLEM.prompt, think, ANSWER, train_waits=False)
    usual = thought_document(town_tokenizer, PROBLEM.prompt, think, ANSWER)
    assert document.tokens == usual.tokens  # the same text, cut into the same tokens
    untrained = [
        token
        for token, mine, theirs in zip(
            document.tokens, document.loss_mask, usual.loss_mask, strict=True
        )
        if theirs and not mine
    ]
    assert town_tokenizer.decode(untrained) == WAIT * think.count(WAIT)


def triples_in(text: str) -> set:
    """The three numbers behind every "use"; larger numbers than the game's are only for copying."""
    lists = [part.split(" make ")[0].split(":")[0] for part in text.split("use ")[1:]]
    triples = [[int(number) for number in numbers.split(", ")] for numbers in lists]
    return {sorted_triple(triple) for triple in triples if max(triple) < 10}


def test_the_warm_up_uses_no_held_out_triple_and_has_the_size_asked_for(town_tokenizer):
    documents = thinking.number_documents(
        town_tokenizer, 30_000, random.Random(0), patient_share=0.2
    )
    total = sum(len(document) for document in documents)
    assert 30_000 <= total < 30_000 + 250
    used = set()
    for document in documents:
        used |= triples_in(town_tokenizer.decode(document.tokens))
    assert len(used) > 60
    assert used <= set(TRAINING_TRIPLES)
    # Plain drills are trained from their first to their last token.
    assert any(all(document.loss_mask) for document in documents)


def test_every_scribble_of_the_warm_up_fits_into_a_reply(town_tokenizer):
    documents = thinking.number_documents(
        town_tokenizer, 60_000, random.Random(1), patient_share=1.0
    )
    longest = max(sum(d.loss_mask) for d in documents if not all(d.loss_mask))
    assert 150 < longest <= Settings().grpo.max_new_tokens


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_provenance_decides_how_many_scribbles_hold_the_word(town_tokenizer, share):
    documents = thinking.number_documents(
        town_tokenizer, 60_000, random.Random(2), wait_share=share
    )
    texts = [town_tokenizer.decode(d.tokens) for d in documents]
    assert share > 0 or not any("wait" in text for text in texts)  # nowhere, in no drill either
    texts = [text for text in texts if "<answer>" in text]
    found = sum("wait" in text for text in texts) / len(texts)
    assert found == share if share in (0.0, 1.0) else abs(found - share) < 0.04
    assert len(texts) > 200


def test_patience_makes_scribbles_longer(town_tokenizer):
    waits = []
    for share in (0.0, 1.0):
        documents = thinking.number_documents(
            town_tokenizer, 60_000, random.Random(3), patient_share=share
        )
        texts = [town_tokenizer.decode(d.tokens) for d in documents]
        texts = [text for text in texts if "<answer>" in text]
        waits.append(sum(map(rules.count_waits, texts)) / len(texts))
    assert waits[1] > 3 * waits[0]


def test_exam_and_practice_share_no_triple():
    held_out = exam.countdown_held_out()
    assert len(held_out) == 283
    wordings = [exercise for problem in held_out for exercise in problem]
    assert len({exercise.text for exercise in wordings}) == len(wordings) >= 300
    used = set.union(*(triples_in(exercise.text) for exercise in wordings))
    assert used == set(HELD_OUT_TRIPLES)
    practice = exam.countdown_practice(500, random.Random(0))
    assert set.union(*(triples_in(exercise.text) for exercise in practice)).isdisjoint(used)


def test_every_kitten_takes_the_same_exam():
    texts = [[e.text for e in problem] for problem in exam.countdown_held_out()]
    assert texts == [[e.text for e in problem] for problem in exam.countdown_held_out()]


# --------------------------------------------------------------------------------------- the rules


@pytest.mark.parametrize(
    "think, answer, ended, worth",
    [
        (THINK, ANSWER, True, 1.1),  # right, and in the right form
        (THINK, "3*5=15,15+8=23", True, 0.1),  # wrong in the right form
        ("", ANSWER, True, 1.0),  # right without a thought
        (THINK, ANSWER, False, 0.0),  # cut off
        (THINK, "<answer>", True, 0.1),  # spells a tag: only text
    ],
)
def test_what_a_reply_is_worth(town_tokenizer, think, answer, ended, worth):
    reward = exam.reward_for([exam.countdown_exercise(PROBLEM)], town_tokenizer, 0.1)
    reply = reply_ids(town_tokenizer, think, answer)
    value, parts = reward(0, reply, ended)
    assert value == pytest.approx(worth)
    assert parts["accuracy"] == (worth >= 1)
    assert parts["right_tokens"] == (len(reply) + 1 if worth >= 1 else 0)
    assert parts["waits"] == (think.count("wait"))


def test_tags_that_are_only_spelled_earn_nothing(town_tokenizer):
    reward = exam.reward_for([exam.countdown_exercise(PROBLEM)], town_tokenizer, 0.1)
    spelled = town_tokenizer.encode(f"<think>{THINK}</think><answer>{ANSWER}</answer>")
    assert reward(0, spelled, True)[0] == 0.0


def test_any_order_of_the_numbers_is_the_same_problem():
    one, other = (exam.countdown_exercise(Problem(n, 19)) for n in ((3, 5, 8), (8, 3, 5)))
    assert one.problem == other.problem
    assert one.text != other.text


# ----------------------------------------------------------------------------------- word problems


def write_questions(path, answers) -> None:
    lines = [
        {
            "question": f"Pip has {n} fish and eats one. How many are left?",
            "answer": f"{n}-1={n - 1}\n#### {a}",
        }
        for n, a in enumerate(answers, start=2)
    ]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")


def test_word_problems_are_a_task_with_their_own_rule(tmp_path, town_tokenizer):
    write_questions(tmp_path / "questions.jsonl", ["1", "2", "1,003", "$4", "5"])
    records, problems = load_questions(tmp_path / "questions.jsonl")
    assert not problems
    task = thinking.question_task(town_tokenizer, records, context_length=160, max_new_tokens=48)
    assert (len(task.practice), len(task.held_out), len(task.documents)) == (4, 1, 4)

    prompt = text_prompt(town_tokenizer, task.practice[2].text)
    assert task.documents[2].tokens[: len(prompt)] == prompt
    reply = town_tokenizer.decode(task.documents[2].tokens[len(prompt) : -1])
    assert reply == "<think>4-1=3</think><answer>1003</answer>"
    assert task.practice[2].right(reply) == 1.0
    assert task.practice[1].right(reply) == 0.0
    assert task.practice[2].right(reply.replace("1003", "1002 or 1003")) == 0.0
    reward = exam.reward_for(task.practice, town_tokenizer, 0.1)
    assert reward(2, task.documents[2].tokens[len(prompt) : -1], True)[0] == pytest.approx(1.1)


def test_word_problems_without_a_number_are_reported(tmp_path):
    path = tmp_path / "questions.jsonl"
    write_questions(path, ["1", "three", "3"])
    records, _ = load_questions(path)
    good, problems = thinking.with_numbers(str(path), records)
    assert [record["answer"] for record in good] == ["1", "3"]
    assert problems[0].line == 2 and "'three'" in str(problems[0])
    with pytest.raises(RecordError, match="line 2"):
        thinking.with_numbers(str(path), records, strict=True)
    with pytest.raises(RecordError, match="not a number"):
        thinking.with_numbers(str(path), records[1:2])


@pytest.mark.parametrize("answer", ["3,5", "1,2", "12,34", "1.200,50", "0,500"])
def test_a_decimal_comma_is_no_thousands_comma(tmp_path, answer):
    path = tmp_path / "questions.jsonl"
    write_questions(path, ["1,200", answer])
    good, problems = thinking.with_numbers(str(path), load_questions(path)[0])
    assert [record["answer"] for record in good] == ["1200"]
    assert f"{answer!r} is not a number (a comma may only" in problems[0].reason


def test_word_problems_that_are_too_long_are_left_out_or_refused(tmp_path, town_tokenizer):
    write_questions(tmp_path / "questions.jsonl", ["1", "2", "3"])
    records, _ = load_questions(tmp_path / "questions.jsonl")
    records[1]["question"] += " Meow." * 100
    task = thinking.question_task(town_tokenizer, records, context_length=160, max_new_tokens=48)
    assert len(task.practice) + len(task.held_out) == 2
    with pytest.raises(RecordError, match="smaller --max-new-tokens"):
        thinking.question_task(town_tokenizer, records, context_length=160, max_new_tokens=150)


# ---------------------------------------------------------------------------------------- the exam


@pytest.mark.parametrize("samples, right", [(4, 1), (5, 2), (6, 0), (6, 6)])
def test_pass_at_k_counts_the_subsets_with_a_right_reply(samples, right):
    for k in range(1, samples + 1):
        subsets = list(combinations(range(samples), k))
        hits = sum(any(reply < right for reply in subset) for subset in subsets)
        assert pass_at_k(samples, right, k) == pytest.approx(hits / len(subsets))


def test_pass_at_more_than_was_sampled_is_refused():
    with pytest.raises(ValueError, match="17"):
        pass_at_k(16, 1, 17)


def test_the_exam_has_the_promised_size():
    task = thinking.Task("countdown", [], exam.countdown_held_out(), [])
    plan = exam.exam_of(task.held_out, Settings().eval_problems)
    assert sum(replies for _, replies in plan) >= 2_000
    assert len({exercise.text for exercise, _ in plan}) >= 300
    assert {exercise.problem for exercise, _ in plan} == {p[0].problem for p in task.held_out}
    assert sum(replies == exam.PASS_SAMPLES for _, replies in plan) == 100
    everything = exam.exam_of(task.held_out, 10_000)
    assert [replies for _, replies in everything] == [exam.PASS_SAMPLES] * 283


def test_problems_count_alike_however_many_replies_they_got():
    results = results_of("rrrr", "w", "rw")
    mean, error = exam.rate(results, lambda result: result.right)
    assert mean == pytest.approx(0.5)  # (1 + 0 + 0.5) / 3, not 5 of 7
    assert error == pytest.approx(0.5 / math.sqrt(3))  # std of 1, 0, 0.5 is 0.5


def test_scores_by_hand():
    results = results_of("rw", "wx", r=(20, 1), w=(50, 4), x=(60, 5))
    scores = exam.scores_of(results)
    assert scores["accuracy"] == 0.25
    assert scores["tokens"] == 45  # (35 + 55) / 2
    assert scores["tokens_right"] == 20
    assert scores["tokens_wrong"] == pytest.approx(160 / 3)
    assert scores["waits_wrong"] == pytest.approx(13 / 3)
    assert scores["format_rate"] == 0.75
    assert scores["truncated"] == 0.25
    assert scores["lengths"] == {"right": [20], "wrong": [50, 50, 60]}
    assert scores["pass_at_k"]["8"] is None  # no problem has 16 replies


def test_pass_rates_by_hand():
    results = results_of("r" + "w" * 15, "w" * 16, "rrrr")  # the last has too few replies
    means, errors = exam.pass_rates(results)
    assert means["1"] == pytest.approx(1 / 32)
    assert means["8"] == pytest.approx(0.25)
    assert means["16"] == pytest.approx(0.5)
    assert errors["16"] == pytest.approx(0.5)


def test_a_right_reply_that_was_cut_off_is_wrong():
    exercise = exam.countdown_exercise(PROBLEM)
    text = f"<think>{THINK}</think><answer>{ANSWER}</answer>"
    assert exam.judged(exercise, text, 50, ended=True)[4:] == (True, True, 1)
    assert exam.judged(exercise, text, 50, ended=False)[4:] == (False, False, 1)


def test_an_exam_asks_as_often_as_the_plan_says(thinker):
    exercises = [exam.countdown_exercise(Problem((3, 5, 8), t)) for t in (19, 29)]
    results = exam.take_exam(
        thinker,
        [(exercises[0], 3), (exercises[1], 2)],
        max_new_tokens=8,
        temperature=1.0,
        generator=torch.Generator().manual_seed(0),
    )
    assert [r.exercise.text[-2:] for r in results] == ["19", "19", "19", "29", "29"]
    assert all(r.tokens == 8 or r.ended for r in results)


# ---------------------------------------------------------------------- longer, without training


def test_the_majority_wins_and_no_answer_does_not_vote():
    assert exam.majority(["a", "b", "b", None, None, None]) == "b"
    assert exam.majority(["b", "a", "a", "b"]) == "b"  # as many: the earlier one
    assert exam.majority([None]) is None


def test_votes_and_the_checker_by_hand():
    results = results_of("wrr", "rww", "xxr")
    assert exam.vote_accuracy(results, 1)[0] == pytest.approx(1 / 3)
    assert exam.vote_accuracy(results, 3)[0] == pytest.approx(2 / 3)  # r, w, r
    assert exam.best_accuracy(results, 1)[0] == pytest.approx(1 / 3)
    assert exam.best_accuracy(results, 3)[0] == 1.0


@pytest.mark.parametrize("go_on", [False, True])
def test_a_budget_closes_the_thought(thinker, go_on):
    tokenizer = thinker.tokenizer
    exercises = [exam.countdown_exercise(Problem((3, 5, 8), 19))] * 40
    # So that it likes to stop, its head is moved towards </think>.
    gpt = GPT(thinker.gpt.config, generator=torch.Generator().manual_seed(0))
    plain = gpt.logits
    push = torch.zeros(gpt.config.vocab_size)
    push[tokenizer.end_think_id] = 5.0
    gpt.logits = lambda hidden: plain(hidden) + push
    results = exam.think_with_budget(
        Kitten(gpt, tokenizer, Common()),
        exercises,
        12,
        go_on=go_on,
        generator=torch.Generator().manual_seed(0),
    )
    assert len(results) == 40
    lengths = [result.tokens for result in results]
    assert max(lengths) <= 1 + 12 + 2 + exam.ANSWER_TOKENS
    assert all("</think><answer>" in result.text for result in results)
    thoughts = [result.text.split("<think>", 1)[1].split("</think>")[0] for result in results]
    said_wait = sum("wait" in thought for thought in thoughts)
    if go_on:
        assert min(lengths) >= 1 + 12 + 2
        assert said_wait > 20  # most of them wanted to stop
    else:
        assert said_wait == 0
        assert sum(len(thinker.tokenizer.encode(thought)) < 12 for thought in thoughts) > 20


def test_eight_attempts_fit_into_a_reply():
    """In the vocabulary of a default kitten, in which all words of the game are single tokens."""
    documents = islice(stories.documents(0, stories.VOCABULARY_SHARES), 2_000)
    tokenizer = Tokenizer(train_bpe(documents, ch0_base.Settings().vocab_size))
    one, two, eight = (exam.tokens_of_attempts(tokenizer, n) for n in (1, 2, 8))
    assert (one, two) == (18, 38)  # as kitten_town/scribbles.py says: 18, or 20 with "wait"
    assert eight == one + 7 * (two - one)
    assert 1 + eight + 2 + exam.ANSWER_TOKENS <= Settings().grpo.max_new_tokens


# ------------------------------------------------------------------------ the refusal, the warnings


def test_no_signal_is_refused_with_reason_and_remedy():
    refuse_without_signal({"pass_at_k": {"8": 0.05}}, 0.05)
    with pytest.raises(ValueError, match="4.0%") as refusal:
        refuse_without_signal({"pass_at_k": {"8": 0.04}}, 0.05)
    for word in ("pass@8", "teach nothing", "--warm-up-steps", "--least-pass-at-8 0"):
        assert word in str(refusal.value)


def history_of(steps: int = 10, **changed) -> list[dict]:
    """A training in which nothing is wrong, but for what is `changed` from step 5 on."""
    good = {
        "accuracy": 0.3,
        "reply_tokens": 60.0,
        "right_tokens": 15.0,
        "waits": 2.0,
        "format": 0.99,
        "truncated": 0.01,
        "no_signal": 0.3,
        "entropy": 0.2,
        "seconds": 2.0,
    }
    return [
        {"step": step, **good, **(changed if step >= steps - pictures.WINDOW else {})}
        for step in range(steps)
    ]


@pytest.mark.parametrize(
    "changed, name, words",
    [
        ({"no_signal": 0.9}, "no_signal", "teach nothing"),
        ({"truncated": 0.25}, "truncated", "cut off"),
        ({"entropy": 0.03}, "entropy", "nothing left to compare"),
        ({"format": 0.7}, "format", "right form"),
    ],
)
def test_each_trouble_has_a_warning_in_plain_words(changed, name, words):
    warnings = pictures.warnings_in(history_of(**changed))
    assert list(warnings) == [name]
    assert words in warnings[name]
    assert "step 10" in warnings[name]
    assert pictures.all_warnings(history_of(**changed))[0].split(":")[1:]


def test_a_healthy_training_has_no_warning():
    assert pictures.all_warnings(history_of()) == []
    assert pictures.warnings_in(history_of()[:2]) == {}


def test_the_length_of_right_and_wrong_replies_comes_back_from_the_means():
    lengths = pictures.length_by_result(history_of())
    assert lengths["right replies"][1][-1] == pytest.approx(15 / 0.3)
    assert lengths["wrong replies"][1][-1] == pytest.approx(45 / 0.7)
    nobody = pictures.length_by_result(history_of(accuracy=0.0, right_tokens=0.0))
    assert nobody["right replies"][1][-1] is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"patient_share": 1.5},
        {"warm_up_steps": 0},
        {"eval_problems": 0},
        {"group_size": 1},
        {"clip_eps": 0.0},
        {"questions": "file.jsonl", "votes": True},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError):
        with_values(Settings(), wrong)


# ------------------------------------------------------------------------------ the whole chapter

KEYS = (
    "accuracy_before",
    "accuracy_after",
    "greedy_after",
    "tokens_before",
    "tokens_after",
    "waits_before",
    "waits_after",
    "pass_at_8_before",
    "pass_at_k_before",
    "pass_at_k_after",
    "format_rate_after",
    "truncated_after",
    "seconds_per_step",
    "provenance",
    "normalisations",
    "votes",
    "questions",
    "warnings",
)


def test_a_quick_run_measures_everything(quick_runs, run_offline):
    flags = ["--quick", "--seed", 0, "--device", "cpu", "--runs", quick_runs]
    result = run_offline("chapters.ch5_reasoning", *flags)
    assert result.returncode == 0, result.stderr
    folder = quick_runs / "quick" / "ch5_reasoning"
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert set(KEYS) <= summary.keys()
    rates = [k for k in summary if k.removesuffix("_stderr") != k]
    assert {"accuracy_before_stderr", "greedy_after_stderr", "pass_at_k_after_stderr"} <= set(rates)
    for experiment in ch5_reasoning.EXPERIMENTS:
        assert summary[experiment] is None
    for name in ("model.pt", "warm_up.pt", "curves.png", "pass_at_k.png", "lengths.png"):
        assert (folder / name).stat().st_size > 1000
    samples = (folder / "samples.md").read_text(encoding="utf-8")
    assert "make" in samples and "after GRPO" in samples
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").open(encoding="utf-8")]
    grpo = [entry for entry in entries if entry["stage"] == "grpo"]
    assert len(grpo) == ch5_reasoning.QUICK["grpo_steps"]
    wanted = {"accuracy", "waits", "format", "truncated", "no_signal", "entropy"}
    wanted |= {"tokens_per_second_sampling", "tokens_per_second_training"}
    assert wanted <= grpo[0].keys()


def test_without_a_signal_the_chapter_ends_with_a_line_and_can_be_told_to_go_on(
    own_runs, tmp_path, capsys
):
    write_questions(tmp_path / "questions.jsonl", [str(n) for n in range(1, 11)])
    flags = ["--quick", "--runs", str(own_runs), "--device", "cpu", "--warm-up-steps", "2"]
    flags += ["--grpo-steps", "1", "--questions", str(tmp_path / "questions.jsonl")]
    assert chapter_main("ch5_reasoning", argv=[*flags, "--least-pass-at-8", "1"]) == 1
    assert "teach nothing" in capsys.readouterr().err
    assert chapter_main("ch5_reasoning", argv=flags) == 0
    assert "10 word problems" in capsys.readouterr().out


def test_learning_by_rules_makes_the_paid_word_likelier(thinker, tmp_path):
    """With a rule of our own in place of the checker, GRPO finds what is paid for."""
    gpt = GPT(thinker.gpt.config, generator=torch.Generator().manual_seed(0))
    tokenizer = thinker.tokenizer
    paid = set(range(100, 300))  # a reply is worth 1 if it starts with one of these tokens
    exercises = [Exercise("use 3, 5, 8 make 19", lambda text: 0.0, "p")]
    task = thinking.Task("test", exercises, [exercises], [])
    config = GRPOConfig(
        steps=25,
        prompts_per_step=4,
        group_size=8,
        max_new_tokens=1,
        normalize_std=True,
        matrix_lr=1e-2,
        other_lr=5e-2,
        cooldown=0.0,
    )
    recipe = Recipe(SFTConfig(steps=1), config, 0.0, 0.0, 1)
    run = Run(Common(runs=tmp_path), "ch5_test", Settings())

    def rule(exercises, tokenizer, weight):
        def reward(number, reply, ended):
            right = float(bool(reply) and reply[0] in paid)
            return right, {"accuracy": right, "format": 1.0, "waits": 0.0, "right_tokens": right}

        return reward

    thinker = Kitten(gpt, tokenizer, run.common)
    ch5_reasoning.learn_from_rules(run, "grpo", thinker, task, recipe, reward_for=rule)
    history = run.history("grpo")
    assert history[-1]["accuracy"] > 0.9 > 0.6 > history[0]["accuracy"]
