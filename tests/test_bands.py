"""Reference bands: the rule by hand, the verdicts, the file, and the place that prints them."""

import json
import math

import pytest

from chapters.bands import __main__ as bands
from chapters.bands import docs as bands_docs
from chapters.bands.building import (
    POINTS,
    RULE,
    build,
    chapter_band,
    default_config,
    rounding,
    sample_curve,
    widened,
)
from chapters.bands.curves import CURVES
from chapters.bands.docs import compact_json
from chapters.bands.file import FILE, FORMAT, read_bands
from chapters.bands.key_numbers import KEY_NUMBERS
from chapters.bands.number import digits, number_of, shown
from chapters.bands.real_models import ROWS as REAL_RUNS
from chapters.bands.verdicts import (
    changed_settings,
    curve_bands,
    print_verdicts,
    verdicts,
    why_incomparable,
)
from chapters.common import runner
from chapters.common.runner import CHAPTERS
from kittenllm.settings import Common

CHAPTER = "ch0_base"
ROWS = default_config(CHAPTER)["rows_per_step"]
LOSSES = {0: 0.64, 1: 0.66, 2: 0.65}  # by seed


def a_summary(seed: int = 0, **changes) -> dict:
    """What chapter 0 would have written."""
    config = {**default_config(CHAPTER), **changes.pop("config", {})}
    summary = {
        "chapter": CHAPTER,
        "seed": seed,
        "quick": False,
        "size": "small",
        "version": "0.1.0",
        "config": config,
        "val_nats_per_token": LOSSES.get(seed, 0.65),
        "val_bits_per_byte": 0.355,
        "fact_recall": 0.999,
        "fact_recall_stderr": 0.002,
    }
    return {**summary, **changes}


def write_run(runs, summary: dict, steps: int = 60) -> None:
    folder = runs / CHAPTER
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(summary))
    lines = []
    for step in range(steps):
        entry = {"stage": "train", "step": step, "loss": 1.0 + summary["seed"] / 10 + step / 100}
        if step % 3 == 2:
            entry["val_loss"] = 2.0 + summary["seed"]
        lines.append(json.dumps(entry) + "\n")
    (folder / "metrics.jsonl").write_text("".join(lines))


@pytest.fixture
def three_runs(tmp_path):
    """Runs folders of three seeds."""
    folders = []
    for seed in LOSSES:
        folders.append(tmp_path / f"runs{seed}")
        write_run(folders[-1], a_summary(seed))
    return folders


@pytest.fixture
def three_bands(three_runs):
    return build(three_runs)["chapters"]


# ---------------------------------------------------------------------------------------- the rule


@pytest.mark.parametrize(
    "values, errors, share, band",
    [
        ([2.0, 3.0, 2.5], [0, 0, 0], False, (1.0, 4.0)),  # the distance once more on each side
        ([2.0, 2.1], [0.3, 0.1], False, (1.4, 2.7)),  # two standard errors are more
        ([2.0, 2.0], [0, 0], False, (1.98, 2.02)),  # never narrower than 1 %
        ([-2.0, -2.0], [0, 0], False, (-2.02, -1.98)),
        ([0.9, 1.0], [0, 0], True, (0.8, 1.0)),  # a share ends at 1
        ([0.0, 0.1], [0, 0], True, (0.0, 0.2)),  # and at 0
        ([0.5], [0.05], True, (0.4, 0.6)),  # one seed only
    ],
)
def test_the_rule_by_hand(values, errors, share, band):
    assert widened(values, errors, share=share) == pytest.approx(band)


def test_five_seeds_and_a_sixth():
    """The share of false alarms that the program states, for a normally distributed number."""
    import random

    dice = random.Random(0)
    outside = 0
    for _ in range(20_000):
        low, high = widened([dice.gauss(0, 1) for _ in range(5)], [0.0], share=False)
        outside += not low <= dice.gauss(0, 1) <= high
    assert outside / 20_000 == pytest.approx(0.0285, abs=0.004)
    assert "3 times in 100" in bands.__doc__


def test_curves_are_means_over_equal_parts():
    history = [{"stage": "train", "step": s, "loss": float(s)} for s in range(40)]
    history += [{"stage": "other", "step": 0, "loss": 99.0}, {"stage": "train", "step": 40}]
    points = sample_curve(history, "train", "loss")
    assert len(points) == 20
    assert points[0] == (0.5, 0.5) and points[-1] == (38.5, 38.5)
    assert sample_curve(history, "train", "absent") == []
    few = [{"stage": "t", "step": s, "x": 1.0} for s in (4, 9)]
    assert sample_curve(few, "t", "x") == [(4, 1.0), (9, 1.0)]


# ------------------------------------------------------------------------------------- the builder


def test_a_band_from_three_runs(three_bands):
    band = three_bands[CHAPTER]
    assert band["seeds"] == [0, 1, 2]
    assert band["config"] == default_config(CHAPTER)
    number = band["numbers"]["val_nats_per_token"]
    assert number == {"low": 0.62, "high": 0.68, "values": [0.64, 0.66, 0.65]}
    recall = band["numbers"]["fact_recall"]  # two standard errors are 0.004, 1 % is more
    assert (recall["low"], recall["high"]) == (pytest.approx(0.98901, abs=1e-5), 1.0)
    curves = {curve.name: curve for curve in curve_bands(CHAPTER, three_bands)}
    validation = curves["loss on unseen text"]
    assert validation.low == [2.0] * 20 and validation.high == [4.0] * 20
    training = curves["training loss"]
    assert training.steps[:2] == [1, 4]
    assert (training.low[0], training.high[0]) == pytest.approx((1.01, 1.21))


def test_a_chapter_that_is_nowhere_is_left_out(three_runs, three_bands):
    assert set(three_bands) == {CHAPTER}
    assert curve_bands("ch3_ppo", three_bands) == []
    with pytest.raises(ValueError, match="no finished chapter"):
        build([three_runs[0] / "nothing"])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"quick": True}, "not a full run"),
        ({"size": "medium"}, "not a full run"),
        ({"config": {"rows_per_step": 7}}, f"rows_per_step: {ROWS}, now 7"),
        ({"seed": 1}, "seed 1 is there twice"),
    ],
)
def test_what_the_builder_refuses(three_runs, tmp_path, changes, message):
    write_run(tmp_path / "runs9", a_summary(**{"seed": 9, **changes}))
    with pytest.raises(ValueError, match=message):
        build([*three_runs, tmp_path / "runs9"])


def test_the_program(three_runs, tmp_path, capsys):
    output = tmp_path / "bands.json"
    folders = [str(folder) for folder in three_runs]
    assert bands.main([*folders, "--output", str(output)]) == 0
    screen = capsys.readouterr().out
    assert "ch0_base            3 numbers from seeds [0, 1, 2] (better 5)" in screen
    assert "ch3_ppo           not finished in any folder" in screen
    assert read_bands(output)[CHAPTER] == build(three_runs)["chapters"][CHAPTER]
    write_run(tmp_path / "runs7", a_summary(seed=7))
    arguments = [str(tmp_path / "runs7"), "--output", str(output), "--only", CHAPTER]
    other = {
        **json.loads(output.read_text()),
        "chapters": {"ch1_sft": {"seeds": [3], "numbers": {}}},
    }
    output.write_text(json.dumps(other))
    assert bands.main(arguments) == 0
    capsys.readouterr()
    assert {name: band["seeds"] for name, band in read_bands(output).items()} == {
        "ch1_sft": [3],  # kept
        CHAPTER: [7],
    }
    assert bands.main([str(tmp_path), "--output", str(output)]) == 1
    assert "no finished chapter" in capsys.readouterr().err


def test_the_file_stays_small_and_readable():
    text = compact_json({"a": {"values": [1.5, 2.5], "b": [{"c": [1, 2]}]}})
    assert json.loads(text) == {"a": {"values": [1.5, 2.5], "b": [{"c": [1, 2]}]}}
    assert '"values": [ 1.5, 2.5 ]' in text
    assert digits(0.123456789) == 0.12346


# ------------------------------------------------------------------------------------ the verdicts


def test_inside_the_band(three_bands):
    found = verdicts(CHAPTER, a_summary(seed=7), three_bands)
    assert [v.key for v in found] == ["val_nats_per_token", "val_bits_per_byte", "fact_recall"]
    assert all(v.inside for v in found)
    assert found[0].text == "inside the band, 0.62 to 0.68"


def test_the_ends_of_a_band_are_inside(three_bands):
    for value, inside in [(0.62, True), (0.68, True), (0.6199, False), (0.6801, False)]:
        first = verdicts(CHAPTER, a_summary(val_nats_per_token=value), three_bands)[0]
        assert first.inside is inside
        assert first.text.startswith("inside" if inside else ("below", "above")[value > 0.65])


def test_outside_comes_with_the_likeliest_causes(three_bands):
    low = verdicts(CHAPTER, a_summary(fact_recall=0.46), three_bands)[2]
    assert not low.inside and (low.value, low.high) == (0.46, 1.0)
    assert low.text.startswith("below the band, 0.989 to 1. Likely: fewer --train-tokens")
    high = verdicts(CHAPTER, a_summary(val_nats_per_token=0.9), three_bands)[0]
    assert high.text.startswith("above the band, 0.62 to 0.68. Likely: fewer --train-tokens")


def test_a_changed_setting_is_named_first(three_bands):
    summary = a_summary(config={"train_tokens": 40_000}, fact_recall=0.0)
    assert changed_settings(three_bands[CHAPTER], summary) == "train_tokens: None, now 40000"
    recall = verdicts(CHAPTER, summary, three_bands)[2]
    assert "Likely: changed settings (train_tokens: None, now 40000); fewer" in recall.text


def test_extras_are_no_changed_settings():
    band = {"config": {"epochs": 1.0, "compare": False}}
    summary = {"config": {"epochs": 1.0, "compare": True}}
    assert changed_settings(band, summary) == ""


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"quick": True}, "not about --quick"),
        ({"size": "medium"}, "about --size small, not medium"),
        ({"config": {"text": "my_book.txt"}}, "not about --text"),
    ],
)
def test_runs_that_no_band_fits(three_bands, changes, reason, capsys):
    summary = a_summary(**changes)
    assert verdicts(CHAPTER, summary, three_bands) == []
    assert reason in why_incomparable(three_bands[CHAPTER], summary)
    print_verdicts(CHAPTER, summary, three_bands)
    screen = capsys.readouterr().out
    assert screen.startswith("ch0_base: no verdict, ") and screen.count("\n") <= 2


@pytest.mark.parametrize("value", [None, math.nan, "text", True, {"a": 1}])
def test_no_number_no_verdict(three_bands, value):
    found = verdicts(CHAPTER, a_summary(fact_recall=value), three_bands)
    assert [v.key for v in found] == ["val_nats_per_token", "val_bits_per_byte"]


def test_a_key_inside_a_dict():
    summary = {"dpo": {"gold_after": 1.5}, "gold": 2}
    assert number_of(summary, "dpo.gold_after") == 1.5
    assert number_of(summary, "gold") == 2
    assert number_of(summary, "gold.after") is None
    assert number_of(summary, "ipo.gold_after") is None


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
def test_lines_fit_a_narrow_terminal(three_bands, monkeypatch, capsys, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    summary = a_summary(fact_recall=0.2, val_nats_per_token=1.2, config={"rows_per_step": 32})
    print_verdicts(CHAPTER, summary, three_bands)
    screen = capsys.readouterr().out
    assert all(len(line) <= min(80, columns) for line in screen.splitlines())
    words = " ".join(screen.split())
    assert "ch0_base beside the runs of 3 seeds" in words
    assert f"other settings than theirs (rows_per_step: {ROWS}, now 32)" in words
    assert "val_bits_per_byte 0.355: inside the band" in words
    assert "fact_recall 0.2: below the band" in words


@pytest.mark.parametrize(
    "value, text", [(0, "0"), (1.0, "1"), (0.6491, "0.649"), (124.38, "124"), (-0.0785, "-0.0785")]
)
def test_numbers_in_three_digits(value, text):
    assert shown(value) == text


def test_unknown_chapters_and_other_programs_stay_silent(three_bands, capsys):
    print_verdicts("tiny_a", a_summary(), three_bands)
    print_verdicts(CHAPTER, {"redrawn": True}, three_bands)
    assert capsys.readouterr().out == ""
    assert verdicts("tiny_a", a_summary(), three_bands) == []


def test_the_runner_prints_them_once(three_bands, monkeypatch, tmp_path, capsys):
    """After a run, not when a finished one is only reused."""
    summary = a_summary()
    module = type("Module", (), {"run": staticmethod(lambda settings, common: summary)})
    monkeypatch.setattr(runner, "story_of", lambda name: module)
    common = Common(
        runs=tmp_path,
        after_chapter=lambda name, numbers: print_verdicts(name, numbers, three_bands),
    )
    assert runner.run_chapter(CHAPTER, None, common) == (summary, False)
    assert "val_nats_per_token 0.64: inside the band" in capsys.readouterr().out
    folder = common.folder(CHAPTER)
    folder.mkdir()
    (folder / "summary.json").write_text(json.dumps(summary))
    assert runner.run_chapter(CHAPTER, None, common) == (summary, True)
    assert capsys.readouterr().out == ""


# ------------------------------------------------------------------------------- threads, rounding


def test_a_table_names_its_threads_and_never_mixes_them(tmp_path):
    """Seed 0 on two threads beside seed 1 on one would show rounding as if it were luck."""
    folders = [tmp_path / "a", tmp_path / "b"]
    write_run(folders[0], a_summary(0, threads=2))
    write_run(folders[1], a_summary(1, threads=2))
    assert build(folders)["chapters"][CHAPTER]["threads"] == 2
    for threads in ({"threads": 1}, {}):  # {}: a run of an earlier version, which does not say it
        other = tmp_path / f"other{len(threads)}"
        write_run(other, a_summary(2, **threads))
        with pytest.raises(ValueError, match="seed 0 on 2, seed 1 on 2, seed 2 on"):
            build([*folders, other])
    assert build([tmp_path / "other0"])["chapters"][CHAPTER]["threads"] is None


@pytest.fixture
def two_threads(tmp_path):
    """Seeds 0 and 1 on two threads, seed 0 on one as well: the loss moves by 0.02."""
    folders = [tmp_path / name for name in ("two0", "two1", "one0")]
    write_run(folders[0], a_summary(0, threads=2, fingerprint="a", tokens_per_second=5))
    write_run(folders[1], a_summary(1, threads=2, fingerprint="b", seconds=9.0))
    write_run(folders[2], a_summary(0, threads=1, fingerprint="a", val_nats_per_token=0.62))
    return folders


def test_rounding_by_hand(two_threads):
    (entry,) = rounding(two_threads[:2], two_threads[2:])[CHAPTER]
    assert entry["seed"] == 0 and entry["threads"] == [2, 1]
    assert entry["values"]["val_nats_per_token"] == [0.64, 0.62]
    assert entry["values"]["fact_recall"] == [0.999, 0.999]
    assert entry["seconds"] == [None, None]  # these runs do not say it


def test_how_long_a_journey_took_on_how_many_threads():
    def entry(seed, *seconds):
        return {"seed": seed, "threads": [1, 2], "seconds": list(seconds), "values": {}}

    whole = {chapter: [entry(0, 20.0, 10.5), entry(3, 7.0, 5.0)] for chapter in KEY_NUMBERS}
    assert bands_docs.journey_lines({"rounding": whole}) == [
        f"The journey of seed 0 took {20 * len(whole)} s on one thread and "
        f"{10.5 * len(whole):.0f} s on 2 threads.",
        "",
        f"The journey of seed 3 took {7 * len(whole)} s on one thread and "
        f"{5 * len(whole)} s on 2 threads.",
        "",
    ]
    assert bands_docs.journey_lines({"rounding": {CHAPTER: whole[CHAPTER]}}) == []  # not all ran
    silent = whole | {CHAPTER: [entry(0, None, None), entry(3, 7.0, 5.0)]}
    assert len(bands_docs.journey_lines({"rounding": silent})) == 2
    mixed = whole | {CHAPTER: [entry(1, 2.0, 1.0)]}  # of other seeds: nothing to add up
    assert bands_docs.journey_lines({"rounding": mixed}) == []


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"seed": 3}, "no other run of seed 3"),
        ({"threads": 2}, "another number of threads"),
        ({"threads": None}, "2 and None"),
        ({"fingerprint": "c"}, "more than the threads"),
    ],
)
def test_runs_that_say_nothing_about_rounding(two_threads, tmp_path, changes, message):
    summary = {"seed": 0, "threads": 1, "fingerprint": "a", **changes}
    write_run(tmp_path / "odd", a_summary(**summary))
    with pytest.raises(ValueError, match=message):
        rounding(two_threads[:2], [tmp_path / "odd"])


def test_fewer_seeds_do_not_replace_the_shipped_bands(three_runs, tmp_path, monkeypatch, capsys):
    shipped = tmp_path / "bands.json"
    monkeypatch.setattr(bands, "FILE", shipped)
    monkeypatch.setattr(bands.read_bands, "__defaults__", (shipped,))
    folders = [str(folder) for folder in three_runs]
    assert bands.main(folders) == 0
    before = shipped.read_text(encoding="utf-8")
    for arguments in (folders[:2], [*folders[:1], "--only", CHAPTER]):
        assert bands.main(arguments) == 1
        assert "with 3 seeds" in capsys.readouterr().err
    assert shipped.read_text(encoding="utf-8") == before
    assert bands.main([*folders[:2], "--output", str(tmp_path / "mine.json")]) == 0
    assert bands.main(folders) == 0


# ------------------------------------------------------------------------- numbers in the documents


def test_a_number_and_its_error():
    number = bands_docs.number
    assert number(0.6124, 0.029, "%") == "61.2 ± 2.9"
    assert number(0.0194, None, "+3") == "+0.019" and number(113.6, 2.4, "0") == "114 ± 2"
    assert number(None, None, "%") == "–"


def test_a_block_is_written_from_the_file(two_threads, tmp_path):
    output = tmp_path / "bands.json"
    flags = ["--rounding", str(two_threads[2]), "--output", str(output), "--alone", "1"]
    assert bands.main([*map(str, two_threads[:2]), *flags]) == 0
    content = json.loads(output.read_text(encoding="utf-8"))
    text = (
        f"before <!-- numbers: results {CHAPTER} -->\nold\n<!-- end --> between\n"
        f"<!-- numbers: rounding {CHAPTER} -->\n<!-- end -->\n"
        "<!-- numbers: results ch3_ppo -->\nstays\n<!-- end -->"
    )
    filled = bands_docs.filled(text, content)
    assert filled.startswith("before <!--") and "old" not in filled and "stays" in filled
    assert "Default settings, 2 threads." in filled
    assert "|  | seed 0 | seed 1 |\n|---|---:|---:|\n| seconds | (–) | 9 |" in filled
    assert "| validation loss, nats per token | 0.640 | 0.660 |" in filled
    assert "| facts, when a text stops before the value | 99.9 ± 0.2 % | 99.9 ± 0.2 % |" in filled
    assert "(seed 0, 2 threads against one thread)" in filled
    assert "val nats per token 0.02, val bits per byte 0, fact recall 0.0 points." in filled
    assert bands_docs.filled(filled, content) == filled
    assert bands_docs.results(content) is None  # not all chapters are there
    assert "| 0.02 | – | 0.02 |" in bands_docs.rounding(content)
    del content["rounding"]  # runs on one number of threads do not say it
    assert bands_docs.rounding(content) == bands_docs.NOT_MEASURED
    assert bands_docs.filled(filled, content).count(bands_docs.NOT_MEASURED) == 1
    with pytest.raises(ValueError, match="no block of numbers has the name 'result'"):
        bands_docs.filled("<!-- numbers: result -->\n<!-- end -->", content)


def test_the_documents_hold_what_the_file_holds():
    """If not: python -m chapters.bands --docs."""
    content = json.loads(FILE.read_text(encoding="utf-8"))
    blocks = []
    for path in bands_docs.documents():
        text = path.read_text(encoding="utf-8")
        chinese = path.name.endswith(".zh.md")
        assert bands_docs.filled(text, content, chinese=chinese) == text, path
        blocks += [found[2] for found in bands_docs.BLOCK.finditer(text)]
        single = bands_docs.INLINE.findall(text)
        assert text.count("<!-- number") == text.count("<!-- end -->")
        assert text.count("<!-- number:") == len(single)
    wanted = [f"{kind} {name}" for name in KEY_NUMBERS for kind in ("results", "rounding")]
    wanted += ["memory of real models", *(f"measured {run}" for run in REAL_RUNS)]
    assert set(blocks) == {
        *("conversation", "results", "rounding", "one_file", "assistant"),
        *("results ch1_tools", "results ch1_language"),
        *wanted,
    }


# ---------------------------------------------------------------------- the table and the real file


def test_every_chapter_of_the_journey_has_key_numbers_and_curves():
    journey = {chapter.name for chapter in CHAPTERS if chapter.in_journey}
    assert journey <= set(KEY_NUMBERS) and set(CURVES) == set(KEY_NUMBERS)
    for chapter, numbers in KEY_NUMBERS.items():
        keys = [number.key for number in numbers]
        assert len(set(keys)) == len(keys)
        for number in numbers:
            assert number.low and number.high, number.key
            assert not number.low.endswith("."), "the verdict ends the sentence"
        assert 1 <= len(CURVES[chapter]) <= 2


def test_causes_name_flags_that_exist():
    common = {"size", "seed", "quick"}
    flags = {f"--{name.replace('_', '-')}" for name in common}
    for chapter in KEY_NUMBERS:
        flags |= {f"--{name.replace('_', '-')}" for name in default_config(chapter)}
    for chapter, numbers in KEY_NUMBERS.items():
        for number in numbers:
            words = f"{number.low} {number.high}".replace("(", " ").replace(")", " ").split()
            named = {word.strip(",;:.") for word in words if word.startswith("--")}
            assert named <= flags, f"{chapter} {number.key}: {named - flags}"


def test_the_committed_file():
    """Its shape. How many seeds it holds is the maker's business."""
    content = json.loads(FILE.read_text(encoding="utf-8"))
    assert content["format"] == FORMAT and content["rule"] == RULE
    assert FILE.stat().st_size < 60_000
    chapters = read_bands()
    assert CHAPTER in chapters and set(chapters) <= set(KEY_NUMBERS)
    for chapter, band in chapters.items():
        assert band["seeds"] == sorted(set(band["seeds"])) and band["seeds"]
        known = {number.key: number for number in KEY_NUMBERS[chapter]}
        assert band["numbers"] and set(band["numbers"]) <= set(known)
        for key, number in band["numbers"].items():
            assert len(number["values"]) == len(band["seeds"])
            low, high = number["low"], number["high"]
            assert low <= min(number["values"]) and max(number["values"]) <= high
            assert low < high or known[key].share
            if known[key].share:
                assert low >= 0 and high <= 1
        for key, shown_row in band.get("table", {}).items():  # a wrong key would be a dash for ever
            values = shown_row["values"]
            extra = key.startswith("distil.")  # an experiment that not every run has done
            assert (set(values) != {None}) if extra else None not in values, f"{chapter} {key}"
        for curve in curve_bands(chapter):
            assert 5 <= len(curve.steps) == len(curve.low) == len(curve.high) <= POINTS
            assert curve.steps == sorted(curve.steps)
            assert all(low <= high for low, high in zip(curve.low, curve.high, strict=True))


@pytest.mark.parametrize("chapter", sorted(read_bands()))
def test_the_committed_bands_are_about_the_default_settings(chapter):
    """Whoever changes a default makes the bands anew: python -m chapters.bands RUNS_DIR..."""
    assert read_bands()[chapter]["config"] == default_config(chapter)


def test_a_run_of_other_settings_is_no_reference(tmp_path):
    write_run(tmp_path, a_summary(config={"matrix_lr": 1.0}))
    with pytest.raises(ValueError, match="not the default settings"):
        chapter_band(CHAPTER, [tmp_path / CHAPTER])
