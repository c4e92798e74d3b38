"""Ranking by hand: keys, undo, going on, agreement, and a reward model of one's own."""

import io
import json
from pathlib import Path

import pytest

from chapters.rank import __main__ as rank
from chapters.rank.labels import (
    Choice,
    Ranking,
    agreement,
    agreement_line,
    pair_key,
    read_labels,
    record_key,
    write_labels,
)
from kittenllm.records import load_preferences
from kittenllm.runs.checkpoints import load_model
from kittenllm.runs.run import read_json
from kittenllm.scorer import load_reward_model

CHOICES = [Choice(f"question {i}", f"good {i}", f"bad {i}", better=1) for i in range(4)]


@pytest.fixture
def saved() -> list:
    """What the last save wrote."""
    return []


@pytest.fixture
def new_ranking(saved):
    def make(choices=CHOICES, records=()) -> Ranking:
        def save(all_records):
            saved[:] = [dict(record) for record in all_records]

        return Ranking(list(choices), list(records), save)

    return make


def type_in(monkeypatch, *keys: str) -> None:
    """The reader types these keys, each with Enter, and then closes the terminal."""
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(key + "\n" for key in keys)))


# ------------------------------------------------------------------------------------ the session


def test_1_and_2_say_which_reply_is_better(new_ranking, saved):
    ranking = new_ranking()
    ranking.pick(1)
    ranking.pick(2)
    assert saved == [
        {"prompt": "question 0", "chosen": "good 0", "rejected": "bad 0"},
        {"prompt": "question 1", "chosen": "bad 1", "rejected": "good 1"},
    ]
    assert ranking.labelled == 2 and ranking.current == CHOICES[2]


def test_skipping_saves_nothing_and_the_pair_comes_again_next_time(new_ranking, saved):
    ranking = new_ranking()
    ranking.skip()
    assert saved == [] and ranking.current == CHOICES[1]
    for _ in range(3):
        ranking.pick(1)
    assert ranking.current is None
    assert new_ranking(records=saved).current == CHOICES[0]


def test_undo_takes_back_picks_and_skips_in_turn(new_ranking, saved):
    ranking = new_ranking()
    ranking.pick(2)
    ranking.skip()
    assert ranking.undo() and ranking.current == CHOICES[1]
    assert len(saved) == 1
    assert ranking.undo() and ranking.current == CHOICES[0]
    assert saved == []
    assert not ranking.undo()  # nothing is left
    ranking.pick(1)
    assert saved[0]["chosen"] == "good 0"


def test_the_next_session_goes_on_and_can_undo_the_one_before(new_ranking, saved):
    ranking = new_ranking()
    ranking.pick(1)
    ranking.pick(1)
    later = new_ranking(records=saved)
    assert later.labelled == 2 and later.current == CHOICES[2]
    assert later.undo() and later.current == CHOICES[1]
    assert [record["prompt"] for record in saved] == ["question 0"]


def test_labels_of_other_pairs_are_kept(new_ranking, saved):
    foreign = {"prompt": "elsewhere", "chosen": "a", "rejected": "b"}
    ranking = new_ranking(records=[foreign])
    assert ranking.labelled == 0
    assert not ranking.undo()  # it is not ours to take back
    ranking.pick(1)
    assert saved[0] == foreign and len(saved) == 2


def test_the_order_on_the_screen_does_not_matter_for_the_pair():
    shown_otherwise = Choice("question 0", "bad 0", "good 0", better=2)
    assert shown_otherwise.key == CHOICES[0].key
    assert record_key(shown_otherwise.record(2)) == pair_key("question 0 ", "good 0", "bad 0")


def test_a_session_in_the_terminal(new_ranking, saved, monkeypatch, capsys):
    type_in(monkeypatch, "2", "x", "", "u", "u", "1", "s", "2", "q")
    rank.session(new_ranking())
    assert [record["chosen"] for record in saved] == ["good 0", "bad 2"]
    screen = capsys.readouterr().out
    assert screen.count("(type 1 or 2") == 2  # for "x" and for the empty line
    assert "(there is nothing to undo)" in screen
    assert "pair 4 of 4" in screen


def test_a_closed_terminal_is_a_quit(new_ranking, saved, monkeypatch):
    type_in(monkeypatch, "1")
    rank.session(new_ranking())
    assert len(saved) == 1


def test_replies_cannot_play_tricks_on_the_terminal(new_ranking, monkeypatch, capsys):
    type_in(monkeypatch)
    rank.session(new_ranking([Choice("q\x1b[2J", "\x1b]0;title\x07", "b\u202e")]))
    screen = capsys.readouterr().out
    assert "\x1b" not in screen and "\u202e" not in screen and "\\x1b[2J" in screen


# -------------------------------------------------------------------------------------- the files


def test_labels_survive_the_file_and_are_a_preferences_file(tmp_path):
    records = [choice.record(2) for choice in CHOICES]
    records[0]["prompt"] = 'Grüße, "Miso"\u2028!'
    path = tmp_path / "anna.jsonl"
    write_labels(path, records)
    assert read_labels(path) == records
    loaded, problems = load_preferences(path)
    assert not problems and loaded[1]["rejected"] == "good 1"


def test_a_whole_conversation_is_compared_shown_and_saved(tmp_path, monkeypatch, capsys):
    """Two pairs that differ only in what the system says are two pairs."""
    records = [
        {
            "prompt": [
                {"role": "system", "content": f"Answer in {language}."},
                {"role": "user", "content": "Name an animal."},
                {"role": "assistant", "content": "cat"},
                {"role": "user", "content": "And another?"},
            ],
            "chosen": good,
            "rejected": bad,
        }
        for language, good, bad in (("French", "chien", "dog"), ("English", "dog", "chien"))
    ]
    path = tmp_path / "pairs.jsonl"
    write_labels(path, records)
    assert read_labels(path) == records
    assert record_key(records[0]) != record_key(records[1])
    assert agreement(path, path)[:2] == (2, 1.0)
    choices = [Choice(r["prompt"], r["chosen"], r["rejected"]) for r in records]
    saved = tmp_path / "anna.jsonl"
    type_in(monkeypatch, "1", "2")
    rank.session(Ranking(choices, [], lambda labels: write_labels(saved, labels)))
    assert read_labels(saved) == [
        records[0],
        records[1] | {"chosen": "chien", "rejected": "dog"},
    ]
    screen = capsys.readouterr().out
    for line in ("> system: Answer in French.", "> user: Name an animal.", "> assistant: cat"):
        assert line in screen


def test_a_bad_line_is_reported_and_left_out(tmp_path, capsys):
    path = tmp_path / "anna.jsonl"
    good = json.dumps(CHOICES[0].record(1))
    path.write_text(f'{good}\n{{"prompt": "p", "chosen": "a", "rejected": "a"}}\n')
    assert len(read_labels(path)) == 1
    assert "anna.jsonl, line 2" in capsys.readouterr().out


def test_agreement_counts_only_pairs_that_both_have_ranked(tmp_path):
    anna, ben = tmp_path / "anna.jsonl", tmp_path / "ben.jsonl"
    write_labels(anna, [CHOICES[i].record(1) for i in (0, 1, 2)])
    write_labels(ben, [CHOICES[i].record(pick) for i, pick in ((3, 1), (2, 1), (1, 2))])
    assert agreement(anna, ben) == (2, 0.5, 0.5)  # sqrt(2 * (0.25 + 0.25)) / 2
    assert agreement(anna, anna) == (3, 1.0, 0.0)


def test_people_who_ranked_other_pairs_are_told_so(tmp_path, capsys):
    anna, ben = tmp_path / "anna.jsonl", tmp_path / "ben.jsonl"
    write_labels(anna, [CHOICES[0].record(1)])
    write_labels(ben, [CHOICES[1].record(1)])
    with pytest.raises(ValueError, match="no pair in common"):
        agreement(anna, ben)
    assert rank.main(["--agreement", f"{anna},{ben}"]) == 1
    assert "--pairs-file" in capsys.readouterr().err


def test_kappa_is_0_for_coins_and_1_for_twins():
    assert "kappa +0.00" in agreement_line(40, 0.5, 0.08)
    assert "kappa +1.00" in agreement_line(40, 1.0, 0.0)
    assert "80% +- 6%" in agreement_line(40, 0.8, 0.063)
    assert "80% +- n/a" in agreement_line(40, 0.8, None)  # all about one prompt


@pytest.mark.parametrize(
    "flags, named",
    [
        (["--name", "../x"], "'../x'"),
        (["--pairs", "0"], "pairs must be at least 1, got 0"),
        (["--agreement", "one.jsonl"], "got 1"),
    ],
)
def test_a_wrong_flag_is_one_line(flags, named, capsys):
    with pytest.raises(SystemExit) as end:
        rank.main(flags)
    assert end.value.code == 2
    assert named in capsys.readouterr().err


# ------------------------------------------------------------------------------------- the program


def run(runs: Path, *flags: str) -> int:
    return rank.main(["--quick", "--device", "cpu", "--runs", str(runs), *flags])


def test_without_a_kitten_nothing_is_trained_unasked(tmp_path, monkeypatch, capsys):
    def ensure(name, common):
        raise AssertionError(f"{name} would be trained")

    monkeypatch.setattr(rank, "ensure", ensure)
    runs = tmp_path / "runs"
    assert run(runs) == 1
    error = capsys.readouterr().err
    assert f"python -m chapters.ch1_sft --quick --runs {runs}" in error
    assert "--train-kitten" in error and not runs.exists()
    with pytest.raises(AssertionError, match="ch1_sft would be trained"):
        run(runs, "--train-kitten")


def test_a_kitten_of_another_seed_is_not_the_one_asked_for(own_runs, tmp_path, capsys):
    assert run(own_runs, "--seed", "7") == 1
    assert "--quick --seed 7 --runs" in capsys.readouterr().err
    (own_runs / "quick" / "ch0_base" / "summary.json").unlink()  # ch1_sft would train it again
    assert run(own_runs) == 1
    assert "no finished chat kitten" in capsys.readouterr().err


def test_rank_stop_go_on_and_train(own_runs, tmp_path, monkeypatch, capsys):
    """A whole lesson: pairs from a file, two sessions, a reward model that PPO can use."""
    pairs = tmp_path / "pairs.jsonl"
    records = [
        {"prompt": f"May I eat {t}?", "chosen": f"Yes, {t}.", "rejected": f"No, {t}."}
        for t in "abcdefghijkl"
    ]
    write_labels(pairs, records)
    flags = ["--name", "anna", "--pairs-file", str(pairs), "--pairs", "12"]
    type_in(monkeypatch, *"111", "q")
    assert run(own_runs, *flags) == 0
    folder = own_runs / "quick" / "rank"
    assert len(read_labels(folder / "anna.jsonl")) == 3
    assert not (folder / "anna_reward_model.pt").exists()  # three labels teach nothing

    type_in(monkeypatch, *"222222222")
    assert run(own_runs, *flags) == 0
    screen = capsys.readouterr().out
    assert "3 of 12 pairs are ranked, going on" in screen
    assert "12 labels in" in screen and "orders" in screen
    sft = own_runs / "quick" / "ch1_sft"
    _, tokenizer, _ = load_model(sft / read_json(sft / "summary.json")["model"])
    reward_model = load_reward_model(folder / "anna_reward_model.pt", tokenizer)
    assert reward_model.head.abs().max() > 0


def test_sampled_pairs_are_the_same_for_everybody(own_runs, monkeypatch, capsys):
    labels = []
    for name in ("anna", "ben"):
        type_in(monkeypatch, *"11111")
        assert run(own_runs, "--name", name) == 0
        labels.append(read_labels(own_runs / "quick" / "rank" / f"{name}.jsonl"))
    assert labels[0] == labels[1] and 4 <= len(labels[0]) <= 5
    assert "the judge of Kitten Town agree on" in capsys.readouterr().out
