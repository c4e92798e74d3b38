"""Chapter 2: pairs and their labels, what is measured on them, and files that hold no pairs."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from chapters.ch2_reward_model import story as ch2_reward_model
from chapters.ch2_reward_model import truth
from chapters.ch2_reward_model.story import Settings, length_correlation, look
from chapters.common.measuring import is_right
from chapters.common.pairs import (
    LabelledPair,
    best_guess_accuracy,
    file_pairs,
    full_tokens,
    sample_pairs,
    split_by_prompt,
)
from chapters.common.runner import chapter_main
from kittenllm.chat import chat_prompt
from kittenllm.evaluation import Reply
from kittenllm.gpt import GPT, GPTConfig
from kittenllm.kitten_town.chats import Question, held_out_questions
from kittenllm.kitten_town.facts import ATTRIBUTES, build_town
from kittenllm.kitten_town.judge import Verdict, judge, words_of
from kittenllm.kitten_town.voices import TONES
from kittenllm.records import RecordError
from kittenllm.reward_model import RewardModel, score_sequences
from kittenllm.runs.checkpoints import CheckpointError, load_model, save_model
from kittenllm.runs.run import read_json
from kittenllm.sampling import Rollout
from kittenllm.scorer import Scorer, load_reward_model, save_reward_model
from kittenllm.settings import new_generator, new_random, with_values
from kittenllm.tokenizer import Tokenizer

LETTERS = Tokenizer({bytes([byte]): byte for byte in range(256)})  # a token is a byte
COMMON_KEYS = {"seed", "seconds", "train_seconds", "eval_seconds", "peak_rss_mb", "config"}
KEYS = {
    "accuracy",
    "bayes_accuracy",
    "gold_accuracy",
    "calibration_error",
    "length_correlation",
    "pairs",
    "truth_accuracy",
    "truth_accuracy_stderr",
    "truth_accuracy_held_out",
    "truth_accuracy_held_out_stderr",
}


@pytest.fixture(scope="module")
def reward_run(quick_runs) -> Path:
    """The quick chapter, once."""
    flags = ["--quick", "--seed", "0", "--device", "cpu", "--runs", str(quick_runs)]
    assert chapter_main("ch2_reward_model", argv=flags) == 0
    return quick_runs / "quick" / "ch2_reward_model"


@pytest.fixture(scope="module")
def chat_kitten(quick_runs) -> tuple[GPT, Tokenizer]:
    gpt, tokenizer, _ = load_model(quick_runs / "quick" / "ch1_sft" / "model.pt")
    return gpt, tokenizer


@pytest.fixture(scope="module")
def draw_pairs(chat_kitten):
    """draw_pairs(held_out=True) are 24 pairs of the quick kitten, always from the same dice."""

    def draw(**options) -> list[LabelledPair]:
        return sample_pairs(
            *chat_kitten,
            build_town(),
            count=24,
            rng=new_random(0, "test"),
            generator=new_generator("cpu", 0, "test"),
            **options,
        )

    return draw


def letters_gpt() -> GPT:
    """A kitten without any training that reads bytes."""
    config = GPTConfig(vocab_size=LETTERS.vocab_size, layers=1, channels=16, heads=2, kv_heads=1)
    return GPT(config)


# ------------------------------------------------------------------------------------ the quick run


def test_the_run_folder_is_complete(reward_run):
    names = {path.name for path in reward_run.iterdir()} - {".lock", "run.json", "samples.json"}
    pictures = {"scores.png", "calibration.png", "accuracy.png"}
    assert names == {"model.pt", "metrics.jsonl", "summary.json", "samples.md"} | pictures


def test_the_summary_holds_what_was_promised(reward_run):
    summary = read_json(reward_run / "summary.json")
    assert summary.keys() >= COMMON_KEYS | KEYS
    assert {f"{key}_stderr" for key in ("accuracy", "bayes_accuracy", "gold_accuracy")} <= set(
        summary
    )
    assert 0 <= summary["accuracy"] <= 1 and 0.5 <= summary["bayes_accuracy"] <= 1
    assert -1 <= summary["length_correlation"] <= 1
    assert summary["pairs"] == ch2_reward_model.QUICK["pairs"]


@pytest.mark.parametrize("held_out", [False, True])
def test_pairs_about_truth_differ_in_the_value_only(held_out):
    """Same question, same words, same tone; the judge of the town calls one right, one wrong."""
    town = build_town()
    facts = town.held_out_facts if held_out else town.taught_facts
    pairs = truth.truth_pairs(town, held_out=held_out)
    assert {pair.question.topic for pair in pairs} == {(f.kitten, f.attribute) for f in facts}
    assert len(pairs) == 8 * len(facts) == len({pair.question.text for pair in pairs})
    for pair in pairs:
        right = judge(town, pair.question, pair.true, words_of(pair.true))
        wrong = judge(town, pair.question, pair.false, words_of(pair.false))
        assert right.right and not wrong.right and right.tone == wrong.tone
        different = [
            (first, second)
            for first, second in zip(words_of(pair.true), words_of(pair.false), strict=True)
            if first != second
        ]
        ((true, false),) = different
        values = ATTRIBUTES[pair.question.topic[1]]
        assert {true.lower(), false.lower()} <= {value.lower() for value in values}
    assert pairs == truth.truth_pairs(town, held_out=held_out)  # the same for every kitten
    assert {judge(town, p.question, p.true, []).tone for p in pairs} == set(TONES)


def twin_pairs(tokenizer, count=400, *, annotators="noisy", label_noise=0.0, seed=5):
    rng = new_random(seed, "twins")
    asked = {"annotators": annotators, "label_noise": label_noise}
    return truth.draw_pairs(build_town(), tokenizer, count, rng, **asked)


def words_of_reply(tokenizer, tokens: list[int]) -> str:
    """The text of a reply, which ends with the end of its turn and has no other."""
    assert tokens[-1] == tokenizer.im_end_id and tokens.count(tokenizer.im_end_id) == 1
    return tokenizer.decode(tokens[:-1])


def test_twins_are_about_all_that_is_taught_and_about_nothing_else(town_tokenizer):
    """In chat format, with the shares of TWIN_SHARES; nothing held out is among them."""
    town = build_town()
    taught = {
        "fact": {("fact", fact.kitten, fact.attribute) for fact in town.taught_facts},
        "sum": {("sum", *sorted(pair)) for pair in town.taught_sums},
        "risky": {("risky", t.verb, t.name) for t in town.taught_things if t.dangerous},
        "allowed": {("allowed", t.verb, t.name) for t in town.taught_things if not t.dangerous},
    }
    count = 4000
    pairs = twin_pairs(town_tokenizer, count)
    assert len(pairs) == count
    for kind, share in truth.TWIN_SHARES.items():
        of_kind = [pair for pair in pairs if pair.question.kind == kind]
        assert abs(len(of_kind) - count * share) < 4 * math.sqrt(count * share * (1 - share))
        if kind in taught:
            assert {pair.about for pair in of_kind} == taught[kind]
    asked = {pair.question.text for pair in pairs}
    for kind in truth.TWIN_SHARES:
        held_out = {question.text for question in held_out_questions(town, kind, 100, 1)}
        assert not asked & held_out
    for pair in pairs:
        assert pair.prompt == chat_prompt(town_tokenizer, pair.question.messages())


def test_of_twins_one_is_right_and_both_have_one_tone(town_tokenizer):
    """Exact annotators prefer the right one; the golds are the judge's of each reply; about facts
    and sums one word makes the difference."""
    town = build_town()
    tones, kinds = set(), set()
    for pair in twin_pairs(town_tokenizer, 1200, annotators="exact"):
        texts = [words_of_reply(town_tokenizer, part) for part in (pair.chosen, pair.rejected)]
        verdicts = [
            judge(town, pair.question, text, tokens[:-1])
            for text, tokens in zip(texts, (pair.chosen, pair.rejected), strict=True)
        ]
        assert [verdict.right for verdict in verdicts] == [True, False], texts
        assert [verdict.score for verdict in verdicts] == [pair.chosen_gold, pair.rejected_gold]
        assert pair.chosen_gold > pair.rejected_gold and pair.best_accuracy == 1.0
        assert verdicts[0].tone == verdicts[1].tone
        tones.add(verdicts[0].tone)
        kinds.add(pair.question.kind)
        if pair.question.kind not in ("fact", "sum"):
            continue
        words = zip(*(words_of(text) for text in texts), strict=True)
        ((true, false),) = [(first, second) for first, second in words if first != second]
        topic = pair.question.topic
        if pair.question.kind == "sum":
            assert int(true) == sum(topic) and abs(int(true) - int(false)) in (1, 2)
        else:
            values = {value.lower() for value in ATTRIBUTES[topic[1]]}
            assert {true.lower(), false.lower()} <= values
        marks = [re.sub("[A-Za-z]+|[0-9]+", "", text) for text in texts]
        assert marks[0] == marks[1]  # what is no word is the same as well
    assert tones == set(TONES) and kinds == set(truth.TWIN_SHARES)


def test_annotators_err_about_twins_as_about_all_else(town_tokenizer):
    """Noisy ones lean towards the truth, as often as they should; a flip turns a label round."""
    noisy = twin_pairs(town_tokenizer, 1000)
    right = sum(pair.chosen_gold > pair.rejected_gold for pair in noisy)
    chances = [1 / (1 + math.exp(-abs(p.chosen_gold - p.rejected_gold))) for p in noisy]
    assert [pair.best_accuracy for pair in noisy] == pytest.approx(chances)
    error = math.sqrt(sum(chance * (1 - chance) for chance in chances))
    assert abs(right - sum(chances)) < 4 * error and right < 1000
    flipped = twin_pairs(town_tokenizer, annotators="exact", label_noise=1.0)
    assert all(pair.chosen_gold < pair.rejected_gold for pair in flipped)
    assert {pair.best_accuracy for pair in flipped} == {1.0}


def test_the_same_dice_make_the_same_twins(town_tokenizer):
    pairs = twin_pairs(town_tokenizer, 40)
    assert pairs == twin_pairs(town_tokenizer, 40)
    assert pairs != twin_pairs(town_tokenizer, 40, seed=6)
    assert twin_pairs(town_tokenizer, 0) == []
    with pytest.raises(ValueError, match="annotators must be"):
        twin_pairs(town_tokenizer, 1, annotators="nice")


@pytest.mark.parametrize("knows, share", [("all", 1.0), ("nothing", 0.5), ("the opposite", 0.0)])
def test_truth_is_counted_by_the_scores(monkeypatch, knows, share):
    """A judge made of the town's own table reads prompt, reply and end of turn."""
    town = build_town()
    sign = {"all": 1.0, "nothing": 0.0, "the opposite": -1.0}[knows]
    true = {
        (pair.question.text, pair.true)
        for held_out in (False, True)
        for pair in truth.truth_pairs(town, held_out=held_out)
    }

    def score(reward_model, rows):
        scores = []
        for row in rows:
            assert row[-1] == LETTERS.im_end_id
            text = LETTERS.decode(row)
            question, reply = re.search(
                r"user\n(.*)<\|im_end\|>\n?<\|im_start\|>assistant\n(.*)<\|im_end\|>", text
            ).groups()
            scores.append(sign * ((question, reply) in true))
        return torch.tensor(scores)

    monkeypatch.setattr(truth, "score_sequences", score)
    for held_out in (False, True):
        found, error = truth.truth_accuracy(None, LETTERS, town, held_out=held_out)
        assert (found, error) == (share, 0.0)


def test_the_first_step_knows_nothing(reward_run):
    """The head starts at zero: every pair is a tie, and the loss is log 2."""
    lines = [json.loads(line) for line in (reward_run / "metrics.jsonl").read_text().splitlines()]
    assert math.isclose(lines[0]["loss"], math.log(2), rel_tol=1e-5)
    assert lines[0]["accuracy"] == 0.5
    assert any("held_out_accuracy" in line for line in lines)


def test_a_finished_chapter_is_reused(reward_run, quick_runs, capsys):
    before = (reward_run / "summary.json").stat().st_mtime_ns
    flags = ["--quick", "--device", "cpu", "--runs", str(quick_runs)]
    assert chapter_main("ch2_reward_model", argv=flags) == 0
    assert (reward_run / "summary.json").stat().st_mtime_ns == before
    assert "finished earlier" in capsys.readouterr().out


# --------------------------------------------------------------------------------- a model to load


def test_the_reward_model_in_the_file_is_the_trained_one(reward_run, chat_kitten):
    gpt, tokenizer = chat_kitten
    reward_model = load_reward_model(reward_run / "model.pt", tokenizer)
    assert reward_model.head.abs().max() > 0
    sft, trained = dict(gpt.named_parameters()), dict(reward_model.gpt.named_parameters())
    assert any(not torch.equal(sft[name], trained[name]) for name in sft)


def test_saving_and_loading_keeps_every_score(tmp_path):
    reward_model = RewardModel(letters_gpt())
    with torch.no_grad():
        reward_model.head.normal_(generator=torch.Generator().manual_seed(0))
    save_reward_model(tmp_path / "rm.pt", reward_model, LETTERS)
    loaded = load_reward_model(tmp_path / "rm.pt", LETTERS)
    texts = [LETTERS.encode("No."), LETTERS.encode("Yes, my dear.")]
    assert torch.equal(score_sequences(loaded, texts), score_sequences(reward_model, texts))


def test_a_reward_model_with_another_tokenizer_is_refused(reward_run):
    with pytest.raises(CheckpointError, match="another tokenizer.*266 tokens"):
        load_reward_model(reward_run / "model.pt", LETTERS)


def test_a_chat_model_is_no_reward_model(tmp_path):
    save_model(tmp_path / "chat.pt", letters_gpt(), LETTERS)
    with pytest.raises(CheckpointError, match="not a reward model"):
        load_reward_model(tmp_path / "chat.pt", LETTERS)


def test_the_scorer_gives_the_scores_zero_and_unit():
    reward_model = RewardModel(letters_gpt())
    with torch.no_grad():
        reward_model.head.normal_(generator=torch.Generator().manual_seed(0))
    tokens = torch.randint(0, 256, (20, 7), generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(20, 6, dtype=torch.bool)
    mask[:, 2:] = True
    rollout = Rollout(tokens, mask, torch.zeros(20, 6), torch.ones(20, dtype=torch.bool))
    scorer = Scorer(reward_model).standardised_on(rollout)
    scores = scorer(rollout)
    assert_close(scores.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    assert_close(scores.std(), torch.tensor(1.0), atol=1e-5, rtol=0)
    rewards = reward_model(rollout.tokens, rollout.lengths)
    assert torch.equal(scores.argsort(), rewards.argsort())  # the order is untouched
    assert_close(scorer.standardised_on(rollout)(rollout), scores)  # twice is once


def test_equal_scores_keep_their_unit():
    tokens = torch.randint(0, 256, (4, 5), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(4, 4, dtype=torch.bool)
    rollout = Rollout(tokens, mask, torch.zeros(4, 4), torch.ones(4, dtype=torch.bool))
    scorer = Scorer(RewardModel(letters_gpt())).standardised_on(rollout)  # the head is zero
    assert scorer.std == 1.0 and torch.equal(scorer(rollout), torch.zeros(4))


# ---------------------------------------------------------------------------------------- the pairs


def test_pairs_are_two_different_replies_to_one_question(draw_pairs, chat_kitten):
    gpt, tokenizer = chat_kitten
    town = build_town()
    for pair in draw_pairs():
        assert pair.chosen != pair.rejected
        for tokens, gold in (
            (pair.chosen, pair.chosen_gold),
            (pair.rejected, pair.rejected_gold),
        ):
            ended = tokens[-1] in gpt.config.stop_ids
            words = tokens[:-1] if ended else tokens
            verdict = judge(town, pair.question, tokenizer.decode(words), words, ended=ended)
            assert gold == verdict.score
        assert pair.chosen_tokens == pair.prompt + pair.chosen
        assert pair.preference == (pair.prompt, pair.chosen, pair.rejected)


def test_training_and_measuring_ask_about_different_things(draw_pairs):
    """Held-out is split by content: no fact, thing or sum is in both."""
    town = build_town()
    held_out_facts = {(fact.kitten, fact.attribute) for fact in town.held_out_facts}
    held_out_things = {(thing.verb, thing.name) for thing in town.held_out_things}
    held_out = held_out_facts | held_out_things
    kinds = ("fact", "risky", "allowed")
    taught_topics = {p.question.topic for p in draw_pairs() if p.question.kind in kinds}
    measured_topics = {
        p.question.topic for p in draw_pairs(held_out=True) if p.question.kind in kinds
    }
    assert taught_topics and not taught_topics & held_out
    assert measured_topics and measured_topics <= held_out


def test_other_annotators_see_the_same_replies(draw_pairs):
    def replies(pairs: list[LabelledPair]) -> list[tuple]:
        return [(p.prompt, *sorted((p.chosen, p.rejected))) for p in pairs]

    noisy, exact = draw_pairs(), draw_pairs(annotators="exact")
    assert replies(noisy) == replies(exact)
    assert all(pair.chosen_gold >= pair.rejected_gold for pair in exact)
    assert any(pair.chosen_gold < pair.rejected_gold for pair in noisy)  # people are only people


def test_label_noise_1_turns_every_label_round(draw_pairs):
    flipped = draw_pairs(annotators="exact", label_noise=1.0)
    assert all(pair.chosen_gold <= pair.rejected_gold for pair in flipped)
    assert {pair.best_accuracy for pair in flipped} <= {1.0, 0.5}  # a flip that one can count on


@pytest.mark.parametrize(
    "golds, annotators, noise, accuracy",
    [
        ((2.0, 0.0), "noisy", 0.0, 0.880797),  # sigmoid(2)
        ((0.0, 2.0), "noisy", 0.0, 0.880797),  # the label may be wrong, the guess is the same
        ((1.0, 1.0), "noisy", 0.0, 0.5),
        ((2.0, 0.0), "noisy", 0.5, 0.5),  # coins
        ((2.0, 0.0), "noisy", 0.1, 0.880797 * 0.9 + 0.119203 * 0.1),
        ((2.0, 0.0), "exact", 0.0, 1.0),
        ((2.0, 0.0), "exact", 0.3, 0.7),
        ((1.0, 1.0), "exact", 0.0, 0.5),
    ],
)
def test_the_best_possible_guess_by_hand(golds, annotators, noise, accuracy):
    best = best_guess_accuracy(*golds, annotators=annotators, label_noise=noise)
    assert math.isclose(best, accuracy, abs_tol=1e-6)


def test_a_kitten_that_always_says_the_same_gives_no_pairs(draw_pairs, monkeypatch):
    monkeypatch.setattr("chapters.common.pairs._unlabelled_pairs", lambda *arguments, **options: [])
    with pytest.raises(ValueError, match="only 0 of 24 pairs"):
        draw_pairs()


# ------------------------------------------------------------------------------------- the numbers


def a_pair(chosen_gold, rejected_gold, *, prompt=(1,), lengths=(3, 3), kind="fact"):
    best = best_guess_accuracy(chosen_gold, rejected_gold, annotators="noisy", label_noise=0.0)
    question = Question(kind, "?", ("Pip", "toy"))
    replies = [list(range(length)) for length in lengths]
    return LabelledPair(question, list(prompt), *replies, chosen_gold, rejected_gold, best)


def test_look_by_hand():
    pairs = [
        a_pair(2.0, 0.0),  # scored right
        a_pair(0.0, 2.0, kind="risky"),  # the label is wrong, the scores agree with the label
        a_pair(1.0, 0.8),  # too close for gold_accuracy
        a_pair(2.0, 1.0),  # a tie of the scores counts half
    ]
    chosen = torch.tensor([3.0, 1.0, 0.0, 5.0])
    rejected = torch.tensor([1.0, 0.0, 1.0, 5.0])
    keys = look(chosen, rejected, pairs)
    assert keys["accuracy"] == (1 + 1 + 0 + 0.5) / 4
    assert keys["gold_accuracy"] == (1 + 0 + 0.5) / 3
    assert keys["gold_accuracy_by_kind"] == {"fact": 0.75, "risky": 0.0}
    sigmoids = [1 / (1 + math.exp(-d)) for d in (2.0, 2.0, 0.2, 1.0)]
    assert math.isclose(keys["bayes_accuracy"], sum(sigmoids) / 4)


def test_nobody_knows_the_truth_about_pairs_from_a_file():
    pairs = [LabelledPair(None, [1], [2], [3]), LabelledPair(None, [4], [5, 6], [7])]
    keys = look(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), pairs)
    assert keys["accuracy"] == 0.5
    assert keys["bayes_accuracy"] is None and keys["gold_accuracy"] is None


def test_right_wrong_and_ties():
    better, worse = torch.tensor([2.0, 0.0, 1.0]), torch.tensor([1.0, 1.0, 1.0])
    assert is_right(better - worse).tolist() == [1.0, 0.0, 0.5]


def test_pairs_about_one_topic_count_as_one_surprise():
    """Four pairs with four prompts: about two things, the error of the two things; in a file, where
    nobody knows the topics, the error of the four prompts."""
    scores = torch.tensor([1.0, 1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0, 1.0])
    things = [Question("risky", f"{n}?", ("chew", "wire" if n < 2 else "glue")) for n in range(4)]
    pairs = [LabelledPair(things[n], [n], [8], [9], 1.0, 0.0, 0.7) for n in range(4)]
    keys = look(*scores, pairs)
    assert keys["accuracy"] == 0.5 and math.isclose(keys["accuracy_stderr"], 0.5)
    assert keys["gold_accuracy_by_kind_stderr"] == {"risky": keys["gold_accuracy_stderr"]}
    file_pairs = [LabelledPair(None, [n], [8], [9]) for n in range(4)]
    error = look(*scores, file_pairs)["accuracy_stderr"]
    assert math.isclose(error, math.sqrt(4 / 3 * 4 * 0.25) / 4)


def test_length_correlation_at_its_limits():
    pairs = [a_pair(0, 0, lengths=lengths) for lengths in ((5, 3), (2, 6), (4, 4))]
    longer = torch.tensor([2.0, -4.0, 0.0])  # the score difference is the length difference
    assert math.isclose(length_correlation(longer, pairs), 1.0, rel_tol=1e-6)
    assert math.isclose(length_correlation(-longer, pairs), -1.0, rel_tol=1e-6)
    assert length_correlation(torch.zeros(3), pairs) == 0.0
    # Turning a label round changes both differences and not the correlation.
    turned = [a_pair(0, 0, lengths=lengths) for lengths in ((3, 5), (2, 6), (4, 4))]
    assert math.isclose(length_correlation(torch.tensor([-2.0, -4.0, 0.0]), turned), 1.0)


def test_the_reward_model_reads_the_end_of_turn_if_there_is_one():
    question = Question("greeting", "Hi!", ("",))
    for ended in (True, False):
        reply = Reply(question, "Hi.", LETTERS.encode("Hi."), ended, Verdict(True, "plain", 1.5))
        tokens = full_tokens(LETTERS, reply)
        assert (tokens[-1] == LETTERS.im_end_id) is ended
        assert LETTERS.decode(tokens).count("Hi.") == 1


# --------------------------------------------------------------------------------- files of pairs


def line(prompt="May I?", chosen="No.", rejected="Yes.") -> str:
    return json.dumps({"prompt": prompt, "chosen": chosen, "rejected": rejected}) + "\n"


@pytest.mark.parametrize(
    "bad, reason",
    [
        (line(chosen="Yes."), "equal"),
        (line(chosen=""), '"chosen" is empty'),
        (line(rejected="  "), '"rejected" is empty'),
        (line(chosen="long " * 40), "the context holds 64"),
        ("no json\n", "no valid JSON"),
    ],
)
def test_bad_preference_records_are_reported_skips(tmp_path, bad, reason):
    path = tmp_path / "pairs.jsonl"
    path.write_text(line() + bad + line(prompt="And I?"))
    pairs, problems = file_pairs(path, LETTERS, 64)
    assert [LETTERS.decode(pair.chosen) for pair in pairs] == ["No.<|im_end|>"] * 2
    assert len(problems) == 1
    assert "pairs.jsonl, line 2" in str(problems[0]) and reason in str(problems[0])
    with pytest.raises(RecordError, match="line 2"):
        file_pairs(path, LETTERS, 64, strict=True)


def test_a_file_without_any_usable_pair_is_refused(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(line(chosen="long " * 40))
    with pytest.raises(RecordError, match="no pair fits into the context of 64 tokens"):
        file_pairs(path, LETTERS, 64)


def test_text_in_a_file_never_makes_a_special_token(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(line(chosen="<|im_end|>No."))
    [pair], _ = file_pairs(path, LETTERS, 128)
    assert pair.chosen.count(LETTERS.im_end_id) == 1


def test_a_file_is_split_by_prompt():
    pairs = [LabelledPair(None, [i % 20], [i], [i + 1]) for i in range(60)]
    learnt, measured = split_by_prompt(pairs, new_random(0, "split"))
    assert len(learnt) + len(measured) == 60
    assert {pair.prompt[0] for pair in learnt}.isdisjoint(pair.prompt[0] for pair in measured)
    assert len({pair.prompt[0] for pair in measured}) == 2  # a tenth of the prompts
    with pytest.raises(RecordError, match="one prompt"):
        split_by_prompt(pairs[:1], new_random(0, "split"))


def test_the_chapter_learns_from_a_file(own_runs, tmp_path, capsys):
    path = tmp_path / "pairs.jsonl"
    path.write_text(
        "".join(line(f"May I eat {letter}?") for letter in "abcdefghijkl") + line("x", "a", "a")
    )
    flags = ["--quick", "--device", "cpu", "--runs", str(own_runs), "--preferences", str(path)]
    assert chapter_main("ch2_reward_model", argv=flags) == 0
    screen = capsys.readouterr().out
    assert "1 record was skipped" in screen and "line 13" in screen
    summary = read_json(own_runs / "quick" / "ch2_reward_model" / "summary.json")
    assert summary["pairs"] == 11 and summary["held_out_pairs"] == 1
    assert summary["bayes_accuracy"] is None and summary["gold_accuracy"] is None


@pytest.mark.parametrize(
    "flags, named",
    [
        (["--pairs", "0"], "pairs must be at least 1, got 0"),
        (["--label-noise", "1.5"], "1.5"),
        (["--annotators", "nice"], "'nice'"),
        (["--matrix-lr", "0"], "matrix_lr"),
        (["--epochs", "0"], "epochs must be above 0"),
    ],
)
def test_a_wrong_flag_is_one_line(flags, named, capsys):
    with pytest.raises(SystemExit) as end:
        chapter_main("ch2_reward_model", argv=flags)
    assert end.value.code == 2
    assert named in capsys.readouterr().err.splitlines()[-1]


def test_the_defaults_are_those_of_the_algorithm():
    """The chapter's settings reach the algorithm."""
    values = {"pairs_per_step": 7, "matrix_lr": 0.5, "other_lr": 0.25}
    config = with_values(Settings(), values).reward_model
    assert config.pairs_per_step == 7
    assert (config.matrix_lr, config.other_lr) == (0.5, 0.25)
