"""Chapter 0: what the run folder holds, how numbers are counted, and texts that are no texts."""

import errno
import json
import math
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from chapters.ch0_base import story as ch0_base
from chapters.common import texts
from chapters.common.runner import chapter_main
from chapters.common.texts import file_texts, town_texts, validation_nats
from kittenllm.kitten_town import voices
from kittenllm.kitten_town.facts import build_town
from kittenllm.records import RecordError
from kittenllm.runs.checkpoints import load_model
from kittenllm.runs.run import read_json
from kittenllm.tokenizer import Tokenizer

STORY = Path(__file__).parent / "data" / "story.txt"
LETTERS = Tokenizer({bytes([byte]): byte for byte in range(256)})  # a token is a byte
COMMON_KEYS = {"seed", "seconds", "train_seconds", "eval_seconds", "peak_rss_mb", "config"}
KEYS = {
    "val_nats_per_token",
    "val_bits_per_byte",
    "fact_recall",
    "train_tokens",
    "tokens_per_second",
    "parameters",
}


@pytest.fixture
def base(quick_runs) -> Path:
    return quick_runs / "quick" / "ch0_base"


@pytest.fixture
def story(tmp_path) -> Path:
    """A text just long enough for rows of 16 tokens."""
    path = tmp_path / "story.txt"
    path.write_text(STORY.read_text(encoding="utf-8") * 3, encoding="utf-8")
    return path


def tiny(text: Path, runs: Path, *flags: str) -> list[str]:
    """Flags for a run of two seconds on a text of one's own."""
    sizes = ["--train-tokens", "640", "--vocab-size", "370", "--row-length", "16"]
    return [*sizes, "--text", str(text), "--runs", str(runs), "--device", "cpu", *flags]


# ------------------------------------------------------------------------------------ the quick run


def test_the_run_folder_is_complete(base):
    names = {path.name for path in base.iterdir()} - {".lock", "run.json", "samples.json"}
    pictures = {"loss.png", "attention.png"}
    assert names == {"model.pt", "metrics.jsonl", "summary.json", "samples.md"} | pictures
    for name in pictures:
        assert (base / name).read_bytes().startswith(b"\x89PNG")


def test_the_summary_holds_what_was_promised(base):
    summary = read_json(base / "summary.json")
    assert summary.keys() >= COMMON_KEYS | KEYS
    assert summary["seed"] == 0 and summary["quick"] is True
    assert summary["seconds"] >= summary["train_seconds"] + summary["eval_seconds"] - 0.1
    assert summary["train_tokens"] == 78 * 4 * 128  # whole steps of 40,000 tokens
    gpt, tokenizer, _ = load_model(base / "model.pt")
    assert summary["parameters"] == gpt.parameter_count == sum(p.numel() for p in gpt.parameters())
    assert tokenizer.vocab_size == summary["config"]["vocab_size"] == 800
    assert gpt.config.stop_ids == (tokenizer.im_end_id, tokenizer.endoftext_id)
    assert gpt.config.pad_id == tokenizer.pad_id


def test_every_step_is_logged_and_the_kitten_learns(base):
    lines = [json.loads(line) for line in (base / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(78))
    losses = [line["loss"] for line in lines]
    assert abs(losses[0] - math.log(800)) < 0.1  # random weights: all tokens are alike
    assert sum(losses[-10:]) / 10 < losses[0] - 3
    watched = [line["val_loss"] for line in lines if "val_loss" in line]
    assert len(watched) >= 20 and watched[-1] < watched[0] - 1


def test_the_three_losses_are_one_loss_in_three_units(base):
    """nats per token, nats per character, bits per byte: the same sum, divided differently."""
    summary = read_json(base / "summary.json")
    town = town_texts(0, 40_000, 800)
    nats = summary["val_nats_per_token"] * len(town.validation)
    assert math.isclose(nats / town.validation_characters, summary["val_nats_per_character"])
    assert math.isclose(nats / math.log(2) / town.validation_bytes, summary["val_bits_per_byte"])


def test_samples_show_the_same_prompts_before_and_after(base):
    content = read_json(base / "samples.json")
    assert (content["before_title"], content["after_title"]) == ("random", "base")
    assert len(content["samples"]) == 10
    for sample in content["samples"]:
        assert sample["before"] != sample["after"]
    assert (base / "samples.md").read_text(encoding="utf-8").count("**base**") == 10


def test_a_finished_base_is_reused(base, quick_runs, capsys):
    before = (base / "summary.json").stat().st_mtime_ns
    assert (
        chapter_main("ch0_base", argv=["--quick", "--runs", str(quick_runs), "--device", "cpu"])
        == 0
    )
    assert "finished earlier with these settings" in capsys.readouterr().out
    assert (base / "summary.json").stat().st_mtime_ns == before


# ------------------------------------------------------------------------------ a text of one's own


def test_a_text_of_ones_own_and_the_same_seed_gives_the_same_kitten(story, tmp_path, capsys):
    weights = []
    for name in ("one", "two"):
        assert chapter_main("ch0_base", argv=tiny(story, tmp_path / name)) == 0
        gpt, _, _ = load_model(tmp_path / name / "ch0_base" / "model.pt")
        weights.append(gpt.state_dict())
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    summary = read_json(tmp_path / "one" / "ch0_base" / "summary.json")
    assert summary["fact_recall"] is None  # nobody told it about the town
    assert summary["train_tokens"] == 640
    screen = capsys.readouterr().out
    assert "nats per token" in screen and "facts recalled" not in screen


def test_the_last_tenth_of_a_file_is_never_trained_on(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("a" * 900 + "ü" * 100, encoding="utf-8")
    own = file_texts(str(path), 16, 370, tokenizer=LETTERS)
    assert LETTERS.decode(own.train.tolist()) == "a" * 900
    assert LETTERS.decode(own.validation.tolist()) == "ü" * 100
    assert (own.validation_characters, own.validation_bytes) == (100, 200)


def test_text_that_spells_special_tokens_stays_text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("<|endoftext|><|im_start|>user\n</think> <|pad|> " * 40, encoding="utf-8")
    own = file_texts(str(path), 16, 400)
    special = set(own.tokenizer.special_ids.values())
    assert not special & set(own.train.tolist())
    assert not special & set(own.validation.tolist())


@pytest.mark.parametrize(
    "content, complaint",
    [
        (b"", "the file is empty"),
        (b" \n\t\n", "the file is empty"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "this is no text, byte 8 is zero"),
        ("a cat sleeps".encode("utf-16"), "this is UTF-16 text; save it as UTF-8"),
        (b"a caf\xe9 for cats", "byte 5 (0xe9) is no UTF-8"),
        (b"a cat sleeps. " * 5, "the text is too short"),
        (None, "cannot be read"),  # there is no such file
    ],
)
def test_a_text_that_cannot_be_used_is_one_line(tmp_path, capsys, content, complaint):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    assert chapter_main("ch0_base", argv=tiny(path, tmp_path / "runs")) == 1
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) == 1 and shown[0].startswith(f"error: {path}")
    assert complaint in shown[0]


def test_a_text_that_cannot_be_used_leaves_the_finished_base_alone(own_runs, tmp_path, capsys):
    """Whoever mistypes a file name must find the kitten of yesterday where it was."""
    empty = tmp_path / "empty.txt"
    empty.touch()
    assert (
        chapter_main("ch0_base", argv=["--quick", "--text", str(empty), "--runs", str(own_runs)])
        == 1
    )
    assert (own_runs / "quick" / "ch0_base" / "model.pt").is_file()
    assert sorted(path.name for path in (own_runs / "quick").iterdir()) == ["ch0_base", "ch1_sft"]


@pytest.mark.parametrize(
    "flags, complaint",
    [
        ("--train-tokens 0", "train_tokens must be at least 1, got 0"),
        ("--row-length 1", "row_length"),
        ("--row-length 300", "row_length must be at most 256, got 300"),
        ("--rows-per-step 0", "rows_per_step"),
        ("--matrix-lr -1", "matrix_lr"),
        ("--other-lr nan", "is not a number"),
        ("--vocab-size many", "is not a whole number"),
    ],
)
def test_wrong_settings_end_before_anything_is_read(tmp_path, capsys, flags, complaint):
    with pytest.raises(SystemExit) as stop:
        chapter_main("ch0_base", argv=[*flags.split(), "--runs", str(tmp_path / "runs")])
    assert stop.value.code == 2
    assert complaint in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "runs").exists()


def test_a_full_disk_loses_no_training(story, tmp_path, monkeypatch, capsys):
    """The disk is full when the model is saved; with room again the same command finishes."""
    real_replace = os.replace
    full = True

    def replace(source, target):
        if full and Path(target).name == "model.pt":
            raise OSError(errno.ENOSPC, "No space left on device")
        real_replace(source, target)

    monkeypatch.setattr("kittenllm.runs.checkpoints.os.replace", replace)
    assert chapter_main("ch0_base", argv=tiny(story, tmp_path / "runs")) == 1
    shown = capsys.readouterr().err.splitlines()
    assert sum(line.startswith("error: ") for line in shown) == 1
    assert "model.pt: could not be saved (No space left on device). Make room" in shown[-1]
    folder = tmp_path / "runs" / "ch0_base"
    assert not (folder / "model.pt").exists() and not list(folder.glob(".*.tmp"))

    full = False
    assert chapter_main("ch0_base", argv=tiny(story, tmp_path / "runs")) == 0
    assert "ch0_base train: already done" in capsys.readouterr().out  # nothing is learned twice
    assert (folder / "model.pt").is_file()


# --------------------------------------------------------------------------- how things are counted


def test_lines_of_metrics_without_their_numbers_are_left_out_or_one_line(
    story, tmp_path, monkeypatch, capsys
):
    """Stopped before the look, then somebody's editor took numbers out of metrics.jsonl."""

    def stop(*arguments):
        raise KeyboardInterrupt

    path = tmp_path / "runs" / "ch0_base" / "metrics.jsonl"
    arguments = tiny(story, tmp_path / "runs", "--train-tokens", "128", "--rows-per-step", "4")
    with monkeypatch.context() as patch:
        patch.setattr(ch0_base, "look", stop)
        assert chapter_main("ch0_base", argv=arguments) != 0
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(entries) == 2

    def without(*keys_of_each) -> str:
        """The lines, each without some of its keys."""
        rows = [
            {key: value for key, value in entry.items() if key not in keys}
            for entry, keys in zip(entries, keys_of_each, strict=True)
        ]
        return "".join(json.dumps(row) + "\n" for row in rows)

    capsys.readouterr()
    path.write_text(without(("tokens",), ("seconds",)))
    assert chapter_main("ch0_base", argv=arguments) == 1
    [*_, line] = capsys.readouterr().err.strip().splitlines()
    assert "metrics.jsonl: damaged (no line of train with 'seconds')" in line
    path.write_text(without(("tokens", "loss"), ("loss",)))
    assert chapter_main("ch0_base", argv=arguments) == 0
    screen = capsys.readouterr()
    assert "note: 1 line of" in screen.err and "tokens, seconds: left out" in screen.err
    assert ch0_base.tokens_per_second([{"tokens": 64, "seconds": 0}]) == 0.0


def test_validation_counts_every_token_once(tiny_gpt):
    """Overlapping windows, and yet each token but the first is guessed exactly once.

    With windows of 64 that begin at 0 and 32 the last four tokens fill no window.
    """
    tokens = torch.randint(0, 61, (100,), generator=torch.Generator().manual_seed(0))
    for row_length, guessed in [(64, 95), (20, 99), (10, 99)]:
        nats, count = validation_nats(tiny_gpt, tokens, row_length)
        assert count == guessed, row_length
        assert nats > 0


def test_validation_by_a_slow_reference(tiny_gpt):
    """Windows of 8 that start at 0, 4, 8, 12: a token is guessed from its window's beginning on."""
    tokens = torch.randint(0, 61, (20,), generator=torch.Generator().manual_seed(0))
    wanted = 0.0
    for place in range(1, 20):
        start = 0 if place < 8 else 4 * (place // 4 - 1)
        window = tokens[start:place].to(tiny_gpt.device)
        logits = tiny_gpt(window.unsqueeze(0))[0, -1]
        wanted -= F.log_softmax(logits, dim=-1)[tokens[place]].item()
    nats, count = validation_nats(tiny_gpt, tokens, 8)
    assert count == 19
    assert abs(nats - wanted) < 1e-3
    first, few = validation_nats(tiny_gpt, tokens, 8, most_rows=1)
    assert few == 7 and first < nats


def test_a_kitten_that_knows_nothing_needs_log_v_nats(tiny_gpt):
    with torch.no_grad():
        for parameter in tiny_gpt.parameters():
            parameter.zero_()
    nats, count = validation_nats(tiny_gpt, torch.arange(40), 16)
    assert math.isclose(nats / count, math.log(61), rel_tol=1e-5)


def test_validation_text_is_new_text(town_tokenizer):
    town = town_texts(0, 30_000, 600, tokenizer=town_tokenizer)
    same = town_texts(0, 30_000, 600, tokenizer=town_tokenizer)
    other = town_texts(1, 30_000, 600, tokenizer=town_tokenizer)
    assert torch.equal(town.train, same.train) and torch.equal(town.validation, same.validation)
    assert not torch.equal(town.train[:1000], other.train[:1000])
    assert not torch.equal(town.validation[:1000], town.train[:1000])
    assert town.train[0] == town_tokenizer.endoftext_id
    documents = texts.take_documents(iter(["a cat", "a dog"] * 500), town_tokenizer, 100)
    assert len(documents) == 256  # taken in batches
    row = texts.join_documents(["a", "b"], LETTERS).tolist()
    assert row == [LETTERS.endoftext_id, ord("a"), LETTERS.endoftext_id, ord("b")]


@pytest.mark.parametrize("knows", ["all", "nothing", "the colors"])
def test_fact_recall_counts_true_answers(monkeypatch, knows):
    """A kitten made of the town's own table; what follows the closing quote is not its answer."""
    town = build_town()

    def answer(prompt):
        question = LETTERS.decode(prompt[1:]).split('"')[1]
        for fact in town.facts.values():
            wordings = voices.FACT_QUESTIONS[fact.attribute]
            if question in [wording.format(k=fact.kitten) for wording in wordings]:
                known = knows == "all" or (knows == "the colors" and fact.attribute == "color")
                return f'{fact.value if known else "fog"}." Then {town.held_out_heroes[0]} left.'
        raise AssertionError(question)

    def generate(gpt, prompts, **options):
        assert options["temperature"] == 0.0
        replies = [LETTERS.encode(answer(prompt)) for prompt in prompts]
        return SimpleNamespace(replies=lambda: replies)

    monkeypatch.setattr(ch0_base, "generate", generate)
    recall, error = ch0_base.fact_recall(SimpleNamespace(device="cpu"), LETTERS, town)
    wordings = {name: len(questions) for name, questions in voices.FACT_QUESTIONS.items()}
    colors = wordings["color"] / sum(wordings.values())
    assert math.isclose(recall, {"all": 1.0, "nothing": 0.0, "the colors": colors}[knows])
    assert (error > 0.01) == (knows == "the colors")


def test_a_text_too_short_for_a_row_names_the_remedy(tmp_path):
    path = tmp_path / "short.txt"
    shutil.copy(STORY, path)
    with pytest.raises(
        RecordError, match=r"one row has 256; give a longer text or a smaller --row"
    ):
        file_texts(str(path), 256, 370)
