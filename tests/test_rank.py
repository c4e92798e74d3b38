"""Ranking by hand: keys, undo, going on, agreement, and a reward model of one's own."""

import io
import json
from pathlib import Path

import pytest

from chapters.rank import __main__ as rank
from chapters.rank.labels import (
    Choice,
    LabelFile,
    Ranking,
    agreement,
    agreement_line,
    parse_ranking,
    read_labels,
    record_key,
    replies_key,
    write_labels,
)
from kittenllm.records import load_preferences
from kittenllm.runs.checkpoints import CheckpointError, load_model
from kittenllm.runs.run import read_json
from kittenllm.scorer import load_reward_model

CHOICES = [Choice(f"question {i}", (f"good {i}", f"bad {i}"), (1.0, 0.0)) for i in range(4)]
FOUR = Choice("Is tar good?", ("a", "b", "c", "d"), (0.5, 2.0, -1.0, 0.5))
FIRST, SECOND = [[1], [2]], [[2], [1]]  # the better one of two replies


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "anna.jsonl"


@pytest.fixture
def new_ranking(path):
    """A session under one name; the one before it has ended."""
    open_files = []

    def make(choices=CHOICES) -> Ranking:
        while open_files:
            open_files.pop().close()
        open_files.append(LabelFile(path))
        return Ranking(list(choices), open_files[0])

    yield make
    while open_files:
        open_files.pop().close()


def saved(path) -> list[dict]:
    """The labels of the file, line by line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def pairs_of(records) -> list[tuple[str, str]]:
    return [(record["chosen"], record["rejected"]) for record in records]


def type_in(monkeypatch, *keys: str) -> None:
    """The reader types these keys, each with Enter, and then closes the terminal."""
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(key + "\n" for key in keys)))


# ------------------------------------------------------------------------------------ the session


def test_1_and_2_say_which_reply_is_better(new_ranking, path):
    ranking = new_ranking()
    ranking.rank(FIRST)
    ranking.rank(SECOND)
    assert saved(path) == [
        {"prompt": "question 0", "chosen": "good 0", "rejected": "bad 0"},
        {"prompt": "question 1", "chosen": "bad 1", "rejected": "good 1"},
    ]
    assert ranking.labelled == 2 and ranking.current == CHOICES[2]


def test_skipping_saves_nothing_and_the_pair_comes_again_next_time(new_ranking, path):
    ranking = new_ranking()
    ranking.skip()
    assert not path.exists() and ranking.current == CHOICES[1]
    for _ in range(3):
        ranking.rank(FIRST)
    assert ranking.current is None
    assert new_ranking().current == CHOICES[0]


def test_undo_takes_back_picks_and_skips_in_turn(new_ranking, path):
    ranking = new_ranking()
    ranking.rank(SECOND)
    ranking.skip()
    assert ranking.undo() and ranking.current == CHOICES[1]
    assert len(saved(path)) == 1
    assert ranking.undo() and ranking.current == CHOICES[0]
    assert saved(path) == []
    assert not ranking.undo()  # nothing is left
    ranking.rank(FIRST)
    assert saved(path)[0]["chosen"] == "good 0"


def test_the_next_session_goes_on_and_can_undo_the_one_before(new_ranking, path):
    ranking = new_ranking()
    ranking.rank(FIRST)
    ranking.rank(FIRST)
    later = new_ranking()
    assert later.labelled == 2 and later.current == CHOICES[2]
    assert later.undo() and later.current == CHOICES[1]
    assert [record["prompt"] for record in saved(path)] == ["question 0"]


def test_undo_follows_the_order_of_the_file_not_that_of_the_questions(new_ranking, path):
    write_labels(path, [CHOICES[i].records(FIRST)[0] for i in (2, 0)])
    ranking = new_ranking()
    assert ranking.undo() and ranking.current == CHOICES[0]
    assert ranking.undo() and ranking.current == CHOICES[2]


def test_labels_of_other_pairs_are_kept(new_ranking, path):
    foreign = {"prompt": "elsewhere", "chosen": "a", "rejected": "b"}
    write_labels(path, [foreign])
    ranking = new_ranking()
    assert ranking.labelled == 0
    assert not ranking.undo()  # it is not ours to take back
    ranking.rank(FIRST)
    assert saved(path)[0] == foreign and len(saved(path)) == 2


def test_the_order_on_the_screen_does_not_matter_for_the_pair():
    shown_otherwise = Choice("question 0", ("bad 0", "good 0"))
    assert shown_otherwise.key == CHOICES[0].key
    [record] = shown_otherwise.records(SECOND)
    assert record_key(record) == replies_key("question 0 ", "good 0", "bad 0")


def test_a_session_in_the_terminal(new_ranking, path, monkeypatch, capsys):
    type_in(monkeypatch, "2", "x", "", "u", "u", "1", "s", "2", "q")
    rank.session(new_ranking())
    assert [record["chosen"] for record in saved(path)] == ["good 0", "bad 2"]
    screen = capsys.readouterr().out
    assert screen.count("is no ranking. Type 1 or 2; s skip") == 2  # "x" and the empty line
    assert "(there is nothing to undo)" in screen
    assert "\n4 of 4\n" in screen


def test_a_closed_terminal_is_a_quit(new_ranking, path, monkeypatch):
    type_in(monkeypatch, "1")
    rank.session(new_ranking())
    assert len(saved(path)) == 1


def test_replies_cannot_play_tricks_on_the_terminal(new_ranking, monkeypatch, capsys):
    type_in(monkeypatch, "\x1b[2J")
    rank.session(new_ranking([Choice("q\x1b[2J", ("\x1b]0;title\x07", "b\u202e"))]))
    screen = capsys.readouterr().out
    assert "\x1b" not in screen and "\u202e" not in screen and "\\x1b[2J" in screen


# ------------------------------------------------------------------------------ up to four replies


@pytest.mark.parametrize(
    "typed, count, places",
    [
        ("1", 2, [[1], [2]]),
        ("2", 2, [[2], [1]]),
        ("2>1", 2, [[2], [1]]),
        ("2 1 4 3", 4, [[2], [1], [4], [3]]),
        ("2>1=4>3", 4, [[2], [1, 4], [3]]),
        (" 2 > 1 =4> 3 ", 4, [[2], [1, 4], [3]]),
        ("4,1,3=2", 4, [[4], [1], [3, 2]]),
        ("3=2=1 4", 4, [[3, 2, 1], [4]]),
        ("312", 3, [[3], [1], [2]]),
    ],
)
def test_a_ranking_is_read_best_first_with_ties(typed, count, places):
    assert parse_ranking(typed, count) == places


@pytest.mark.parametrize(
    "typed, count, message",
    [
        ("", 4, "'' is no ranking"),
        ("best", 4, "'best' is no ranking"),
        ("1>2>3>", 3, "is no ranking"),
        ("1==2 3", 3, "is no ranking"),
        ("3<2<1", 3, "is no ranking"),
        ("1 2 -3", 3, "is no ranking"),
        ("9" * 5000, 3, "is no ranking"),
        ("2 1", 4, "reply 3 has no place"),
        ("1", 3, "reply 2 has no place"),
        ("2 1 3 2", 4, "reply 2 has two places"),
        ("2>1=1>3", 3, "reply 1 has two places"),
        ("1 2 5 3", 4, "there is no reply 5"),
        ("3", 2, "there is no reply 3"),
        ("0 1 2", 3, "there is no reply 0"),
        ("1=2", 2, "all at one place"),
        ("4=2=1=3", 4, "all at one place"),
    ],
)
def test_what_is_no_ranking_is_said(typed, count, message):
    with pytest.raises(ValueError, match=message):
        parse_ranking(typed, count)


def test_a_ranking_of_four_becomes_its_pairs_by_hand():
    """Six pairs; with one tie five, for between b and d nothing is said."""
    strict = FOUR.records([[2], [1], [4], [3]])
    assert pairs_of(strict) == [
        ("b", "a"),
        ("b", "d"),
        ("b", "c"),
        ("a", "d"),
        ("a", "c"),
        ("d", "c"),
    ]
    tied = FOUR.records([[2], [1, 4], [3]])
    assert pairs_of(tied) == [("b", "a"), ("b", "d"), ("b", "c"), ("a", "c"), ("d", "c")]
    assert all(record["ranking"] == [["b"], ["a", "d"], ["c"]] for record in tied)
    assert pairs_of(FOUR.records([[1, 2, 3], [4]])) == [("a", "d"), ("b", "d"), ("c", "d")]


def test_four_replies_in_the_terminal(new_ranking, path, monkeypatch, capsys):
    three = Choice("And glue?", ("x", "y", "z"))
    type_in(monkeypatch, "s", "u", "2 1 4", "2 1 4 3", "u", "1=2=3=4", "2>1=4>3", "3 1 2")
    rank.session(new_ranking([FOUR, three]))
    screen = capsys.readouterr().out
    assert "(reply 3 has no place. Type the best first, as 2 1 4 3 or 2>1=4>3; s skip" in screen
    assert "(all at one place: nothing can be learnt from that, s skips. Type" in screen
    assert "  4  d\n" in screen and "best first, as 2 1 3 or 2>1=3; s skip" in screen
    records = saved(path)  # the first ranking, with all its six lines, was taken back
    assert pairs_of(records[:5]) == [("b", "a"), ("b", "d"), ("b", "c"), ("a", "c"), ("d", "c")]
    assert pairs_of(records[5:]) == [("z", "x"), ("z", "y"), ("x", "y")]
    assert records[-1]["ranking"] == [["z"], ["x"], ["y"]]


def test_the_labels_of_a_ranking_are_a_preferences_file(path, capsys):
    write_labels(path, FOUR.records([[2], [1, 4], [3]]))
    assert read_labels(path) == saved(path)
    loaded, problems = load_preferences(path)
    assert len(loaded) == 5 and not problems


@pytest.mark.parametrize("ranking", [3, "good", [], [["a"]], [["a"], 5], [["a"], []], [["a"], [1]]])
def test_another_ranking_of_a_file_from_elsewhere_is_named_and_does_no_harm(path, ranking, capsys):
    write_labels(path, [{"prompt": "p", "chosen": "a", "rejected": "b", "ranking": ranking}])
    [label] = read_labels(path)
    assert label == {"prompt": "p", "chosen": "a", "rejected": "b"}
    assert ("1 record has ranking: not used" in capsys.readouterr().out) == (ranking != [])


def test_a_ranking_goes_on_and_is_undone_as_a_whole(new_ranking, path):
    other = {"prompt": "elsewhere", "chosen": "a", "rejected": "b"}
    ranking = new_ranking([*CHOICES, FOUR])
    ranking.rank(FIRST)
    for _ in CHOICES[1:]:
        ranking.skip()
    ranking.rank([[2], [1, 4], [3]])
    ranking.labels.add([other])
    later = new_ranking([FOUR, *CHOICES])
    assert later.labelled == 2 and later.current == CHOICES[1]  # the tie does not come again
    assert later.undo() and later.current == FOUR
    assert saved(path) == [*CHOICES[0].records(FIRST), other]


def test_a_pair_that_was_ranked_does_not_stand_for_a_ranking_of_four(new_ranking, path):
    write_labels(path, [{"prompt": FOUR.prompt, "chosen": "a", "rejected": "b"}])
    assert new_ranking([FOUR]).current == FOUR
    write_labels(path, FOUR.records([[2], [1, 4], [3]]))
    assert new_ranking([Choice(FOUR.prompt, ("d", "a"))]).current is None  # they tie
    assert new_ranking([Choice(FOUR.prompt, ("d", "e"))]).labelled == 0


def test_a_full_disk_leaves_no_part_of_a_ranking(new_ranking, path, monkeypatch):
    ranking = new_ranking([CHOICES[0], FOUR])
    ranking.rank(FIRST)
    before = path.read_bytes()

    def full(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CheckpointError, match="could not be saved"):
        ranking.rank([[1], [2], [3], [4]])
    assert path.read_bytes() == before and len(ranking.labels.records) == 1
    assert ranking.current == FOUR  # it is not ranked


def test_people_agree_pair_by_pair_and_a_tie_is_no_pair(tmp_path):
    """Anna b > a = d > c, Ben b > c > a > d: they differ about ac and dc, two of five."""
    anna, ben = tmp_path / "anna.jsonl", tmp_path / "ben.jsonl"
    write_labels(anna, FOUR.records([[2], [1, 4], [3]]))
    write_labels(ben, FOUR.records([[2], [3], [1], [4]]))
    assert agreement(anna, ben) == (5, 0.6, None)  # one prompt: no error by prompt
    write_labels(ben, [{"prompt": FOUR.prompt, "chosen": "c", "rejected": "b"}])
    assert agreement(anna, ben)[:2] == (1, 0.0)  # a ranking and a pair can be compared


def test_the_judge_is_asked_pair_by_pair():
    """Golds a .5, b 2, c -1, d .5: the judge orders five pairs, and of d > a it has no opinion."""
    records = FOUR.records([[1], [2], [4], [3]])  # a > b > d > c: of the five only ab is wrong
    assert "agree on 4 of 5 pairs" in rank.judge_line([FOUR], records)
    assert rank.judge_line([Choice(FOUR.prompt, FOUR.replies)], records) == ""


def shown(prompt, first, second):
    return prompt, rank.Shown(first, None), rank.Shown(second, None)


def test_pairs_side_by_side_about_one_prompt_are_shown_together():
    pairs = [shown("p", *pair) for pair in ("ab", "ac", "ad", "bc", "bd", "cd")]
    pairs += [
        shown("p", "e", "f"),
        shown("q", "a", "b"),
        shown("q", "a", "a "),
        shown("q", "", "b"),
    ]
    texts = {
        most: [
            (prompt, "".join(reply.text for reply in replies))
            for prompt, replies in rank.shown_together(pairs, most)
        ]
        for most in (2, 3, 4)
    }
    assert texts[4] == [("p", "abcd"), ("p", "ef"), ("q", "ab")]
    assert texts[3][:2] == [("p", "abc"), ("p", "ad")]
    assert texts[2] == [("p", pair) for pair in ("ab", "ac", "ad", "bc", "bd", "cd", "ef")] + [
        ("q", "ab")
    ]


# -------------------------------------------------------------------------------------- the files


def test_labels_survive_the_file_and_are_a_preferences_file(path):
    records = [choice.records(SECOND)[0] for choice in CHOICES]
    records[0]["prompt"] = 'Grüße, "Miso"\u2028!'
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
    choices = [Choice(r["prompt"], (r["chosen"], r["rejected"])) for r in records]
    type_in(monkeypatch, "1", "2")
    labels = LabelFile(tmp_path / "anna.jsonl")
    rank.session(Ranking(choices, labels))
    labels.close()
    assert read_labels(labels.path) == [
        records[0],
        records[1] | {"chosen": "chien", "rejected": "dog"},
    ]
    screen = capsys.readouterr().out
    for line in ("> system: Answer in French.", "> user: Name an animal.", "> assistant: cat"):
        assert line in screen


def test_a_bad_line_is_reported_and_left_out(path, capsys):
    good = json.dumps(CHOICES[0].records(FIRST)[0])
    path.write_text(f'{good}\n{{"prompt": "p", "chosen": "a", "rejected": "a"}}\n')
    assert len(read_labels(path)) == 1
    assert "anna.jsonl, line 2" in capsys.readouterr().out


def test_agreement_counts_only_pairs_that_both_have_ranked(tmp_path):
    anna, ben = tmp_path / "anna.jsonl", tmp_path / "ben.jsonl"
    write_labels(anna, [CHOICES[i].records(FIRST)[0] for i in (0, 1, 2)])
    picks = ((3, FIRST), (2, FIRST), (1, SECOND))
    write_labels(ben, [CHOICES[i].records(places)[0] for i, places in picks])
    assert agreement(anna, ben) == (2, 0.5, 0.5)  # sqrt(2 * (0.25 + 0.25)) / 2
    assert agreement(anna, anna) == (3, 1.0, 0.0)


def test_people_who_ranked_other_pairs_are_told_so(tmp_path, capsys):
    anna, ben = tmp_path / "anna.jsonl", tmp_path / "ben.jsonl"
    write_labels(anna, CHOICES[0].records(FIRST))
    write_labels(ben, CHOICES[1].records(FIRST))
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
        (["--replies", "1"], "replies must be 2 to 4, got 1"),
        (["--replies", "5"], "replies must be 2 to 4, got 5"),
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
    assert not (folder / "anna_reward_model").exists()  # three labels teach nothing

    type_in(monkeypatch, *"222222222")
    assert run(own_runs, *flags) == 0
    screen = capsys.readouterr().out
    assert "3 of 12 are ranked, going on" in screen
    assert "12 labels in" in screen and "orders" in screen
    sft = own_runs / "quick" / "ch1_sft"
    _, tokenizer, _ = load_model(sft / read_json(sft / "summary.json")["model"])
    reward_model = load_reward_model(folder / "anna_reward_model" / "model.pt", tokenizer)
    assert reward_model.head.abs().max() > 0


def test_five_pairs_are_the_same_for_everybody_and_the_others_are_not(
    own_runs, monkeypatch, capsys
):
    labels = []
    for name in ("anna", "ben"):
        type_in(monkeypatch, *"11111111")
        assert run(own_runs, "--name", name, "--pairs", "8") == 0
        labels.append(read_labels(own_runs / "quick" / "rank" / f"{name}.jsonl"))
    anna, ben = ({record_key(label) for label in of_name} for of_name in labels)
    assert 4 <= len(anna & ben) <= 5 and len(anna - ben) >= 2 and len(ben - anna) >= 2
    assert [record_key(label) in ben for label in labels[0]] == sorted(
        (record_key(label) in ben for label in labels[0]), reverse=True
    )  # the shared ones come first
    assert "the judge of Kitten Town agree on" in capsys.readouterr().out


def test_a_class_in_a_folder_is_pooled(own_runs, tmp_path, capsys):
    """Agreement, one reward model, and the kitten that follows it; the second time all is there."""
    folder = tmp_path / "class"
    for name in ("anna", "ben"):
        records = [
            {"prompt": f"May I eat {t}?", "chosen": f"Yes, {t}.", "rejected": f"No, {name} {t}."}
            for t in "abcdef"
        ]
        write_labels(folder / f"{name}.jsonl", records)
    (folder / "late.jsonl").touch()  # ranked nothing
    flags = ["--name", "room7", "--train-on", str(folder), "--ppo-steps", "1"]
    assert run(own_runs, *flags) == 0
    screen = capsys.readouterr().out
    assert "no two pupils ranked the same pair" in screen and "12 different pairs" in screen
    assert "right and safe" in screen and "words in a reply" in screen
    rank_folder = own_runs / "quick" / "rank"
    model = rank_folder / "room7_kitten" / "model.pt"
    written = model.stat().st_mtime_ns
    assert (rank_folder / "room7_kitten" / "samples.md").is_file()
    assert run(own_runs, *flags) == 0
    assert model.stat().st_mtime_ns == written
    assert "right and safe" in capsys.readouterr().out


def test_a_folder_without_labels_is_named(tmp_path, capsys):
    assert rank.main(["--train-on", str(tmp_path)]) == 1
    assert f"{tmp_path} holds no labels" in capsys.readouterr().err


def test_up_to_four_sampled_replies_are_ranked_at_once(own_runs, monkeypatch, capsys):
    """12 pairs are two questions with four replies, or a few more if the kitten repeats itself."""
    type_in(monkeypatch, *(["2>1=4>3", "2 1 3", "2"] * 20))  # whatever fits the screen
    assert run(own_runs, "--name", "cleo", "--replies", "4", "--pairs", "12", "--no-train") == 0
    screen = capsys.readouterr().out
    assert "  4  " in screen and "  5  " not in screen
    labels = read_labels(own_runs / "quick" / "rank" / "cleo.jsonl")
    rankings = {json.dumps(label["ranking"]) for label in labels if "ranking" in label}
    assert rankings and len({str(label["prompt"]) for label in labels}) <= 6
    for text in rankings:
        places = json.loads(text)
        assert len(places) == 3  # 2>1=4>3 or 2 1 3
        made = [label for label in labels if json.dumps(label.get("ranking")) == text]
        assert len(made) == (5 if len(places[1]) == 2 else 3)
    assert "agree on" in screen
