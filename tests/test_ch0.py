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

from chapters.ch0_base import exam
from chapters.ch0_base import story as ch0_base
from chapters.common import texts
from chapters.common.runner import chapter_main
from chapters.common.texts import file_texts, town_texts, validation_nats
from kittenllm.batches import TokenStream
from kittenllm.kitten_town import echoes, voices
from kittenllm.kitten_town.chats import held_out_questions
from kittenllm.kitten_town.facts import build_town
from kittenllm.records import RecordError
from kittenllm.runs.checkpoints import load_model
from kittenllm.runs.run import read_json
from kittenllm.settings import Common, new_generator
from kittenllm.tokenizer import Tokenizer

STORY = Path(__file__).parent / "data" / "story.txt"
LETTERS = Tokenizer({bytes([byte]): byte for byte in range(256)})  # a token is a byte
COMMON_KEYS = {"seed", "seconds", "train_seconds", "eval_seconds", "peak_rss_mb", "config"}
KEYS = {
    "val_nats_per_token",
    "val_bits_per_byte",
    "fact_recall",
    "fact_recall_stderr",
    "bare_answer_rate",
    "bare_answer_rate_stderr",
    "echo_accuracy",
    "echo_accuracy_stderr",
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
    assert summary["train_tokens"] == 58 * 4 * 128  # whole steps of 30,000 tokens
    for key in ("fact_recall", "bare_answer_rate", "echo_accuracy"):
        assert 0 <= summary[key] <= 1
    gpt, tokenizer, _ = load_model(base / "model.pt")
    assert summary["parameters"] == gpt.parameter_count == sum(p.numel() for p in gpt.parameters())
    assert tokenizer.vocab_size == summary["config"]["vocab_size"] == 800
    assert gpt.config.stop_ids == (tokenizer.im_end_id, tokenizer.endoftext_id)
    assert gpt.config.pad_id == tokenizer.pad_id


def test_every_step_is_logged_and_the_kitten_learns(base):
    lines = [json.loads(line) for line in (base / "metrics.jsonl").read_text().splitlines()]
    echoes = [line for line in lines if line["stage"] == "echo"]
    reading = [line for line in lines if line["stage"] == "train"]
    assert [line["step"] for line in echoes] == list(range(19))  # 10,000 tokens
    assert [line["step"] for line in reading] == list(range(58))
    losses = [line["loss"] for line in echoes + reading]
    assert losses[0] == pytest.approx(first_loss(), rel=1e-4)
    assert sum(losses[-10:]) / 10 < losses[0] - 3
    watched = [line["val_loss"] for line in reading if "val_loss" in line]
    assert len(watched) >= 20 and watched[-1] < watched[0] - 1


def first_loss() -> float:
    """What the woken kitten, which has learned nothing, makes of the first windows of the echoes.

    It knows nothing, and yet its loss is far above log V: it is not flat (start.py), so it bets,
    and always on the very token that it has just read. Without that bet it would be near log V.
    """
    town = town_texts(0, 30_000, 800, echo_tokens=10_000)
    generator = new_generator("cpu", 0, "ch0_base", "echo")
    tokens = town.echoes.batch(4, 128, generator)  # (B, T)
    gpt = ch0_base.new_kitten(town.tokenizer, Common(seed=0, device=torch.device("cpu")))
    with torch.no_grad():
        logits = gpt(tokens, document_ids=town.echoes.document_ids(tokens))  # (B, T, V)
    guesses, wanted = logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()
    just_read = tokens[:, :-1].flatten()
    assert torch.equal(guesses.argmax(dim=1), just_read)
    loss = F.cross_entropy(guesses, wanted).item()
    bets = F.one_hot(just_read, 800).bool()
    without_bet = torch.where(bets, guesses.mean(dim=1, keepdim=True), guesses)
    rest = F.cross_entropy(without_bet, wanted).item()
    assert math.log(800) < rest < math.log(800) + 1 < loss - 1
    return loss


def test_the_three_losses_are_one_loss_in_three_units(base):
    """nats per token, nats per character, bits per byte: the same sum, divided differently."""
    summary = read_json(base / "summary.json")
    town = town_texts(0, 30_000, 800)
    nats = summary["val_nats_per_token"] * len(town.validation)
    assert math.isclose(nats / town.validation_characters, summary["val_nats_per_character"])
    assert math.isclose(nats / math.log(2) / town.validation_bytes, summary["val_bits_per_byte"])


def test_samples_show_the_same_prompts_before_and_after(base):
    content = read_json(base / "samples.json")
    assert (content["before_title"], content["after_title"]) == ("random", "base")
    assert len(content["samples"]) == 15
    prompts = [sample["prompt"] for sample in content["samples"]]
    assert prompts[-2].endswith(" lives in the") and prompts[-1].endswith("the well says:")
    for sample in content["samples"]:
        assert sample["before"] != sample["after"]
    assert (base / "samples.md").read_text(encoding="utf-8").count("**base**") == 15


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
    for key in ("fact_recall", "bare_answer_rate", "echo_accuracy"):  # nobody told it of the town
        assert summary[key] is None and summary[f"{key}_stderr"] is None
    assert summary["train_tokens"] == 640
    screen = capsys.readouterr().out
    assert "nats per token" in screen and "facts told" not in screen


def test_the_last_tenth_of_a_file_is_never_trained_on(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("a" * 900 + "ü" * 100, encoding="utf-8")
    own = file_texts(str(path), 16, 370, tokenizer=LETTERS)
    assert LETTERS.decode(own.train.tokens.tolist()) == "a" * 900
    assert LETTERS.decode(own.validation.tokens.tolist()) == "ü" * 100
    assert (own.validation_characters, own.validation_bytes) == (100, 200)


def test_text_that_spells_special_tokens_stays_text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("<|endoftext|><|im_start|>user\n</think> <|pad|> " * 40, encoding="utf-8")
    own = file_texts(str(path), 16, 400)
    special = set(own.tokenizer.special_ids.values())
    assert not special & set(own.train.tokens.tolist())
    assert not special & set(own.validation.tokens.tolist())


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

    def stop(*arguments, **named):
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
        nats, count = validation_nats(tiny_gpt, TokenStream(tokens), row_length)
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
    nats, count = validation_nats(tiny_gpt, TokenStream(tokens), 8)
    assert count == 19
    assert abs(nats - wanted) < 1e-3
    first, few = validation_nats(tiny_gpt, TokenStream(tokens), 8, most_rows=1)
    assert few == 7 and first < nats


def test_a_kitten_that_knows_nothing_needs_log_v_nats(tiny_gpt):
    with torch.no_grad():
        for parameter in tiny_gpt.parameters():
            parameter.zero_()
    nats, count = validation_nats(tiny_gpt, TokenStream(torch.arange(40)), 16)
    assert math.isclose(nats / count, math.log(61), rel_tol=1e-5)


def test_validation_text_is_new_text(town_tokenizer):
    town = town_texts(0, 30_000, 600, tokenizer=town_tokenizer)
    same = town_texts(0, 30_000, 600, tokenizer=town_tokenizer)
    other = town_texts(1, 30_000, 600, tokenizer=town_tokenizer)
    assert torch.equal(town.train.tokens, same.train.tokens)
    assert torch.equal(town.validation.tokens, same.validation.tokens)
    assert not torch.equal(town.train.tokens[:1000], other.train.tokens[:1000])
    assert not torch.equal(town.validation.tokens[:1000], town.train.tokens[:1000])
    assert town.train.tokens[0] == town_tokenizer.endoftext_id
    assert town.echoes is None  # nobody asked for any
    documents = texts.take_documents(iter(["a cat", "a dog"] * 500), town_tokenizer, 100)
    assert len(documents) == 256  # taken in batches
    row = texts.join_documents(["a", "b"], LETTERS).tokens.tolist()
    assert row == [LETTERS.endoftext_id, ord("a"), LETTERS.endoftext_id, ord("b")]


def test_echoes_come_before_the_reading(town_tokenizer):
    town = town_texts(0, 3_000, 600, echo_tokens=2_000, tokenizer=town_tokenizer)
    assert len(town.echoes) >= 2_000
    said = town_tokenizer.decode(town.echoes.tokens[1:].tolist()).split("<|endoftext|>")
    shapes = [shape.split("{")[0] for shape in echoes.SHAPES.values()]
    assert all(text.startswith(tuple(shapes)) for text in said)  # "" starts those of a person
    assert any(text.startswith("The well: ") for text in said)
    assert not any(" lives in the " in text for text in said)


# ---------------------------------------------------------------------------------- the exam


def made_of(monkeypatch, writes, *, temperature):
    """A kitten that writes what `writes(text)` says after each text; returns what it was given."""
    given = []

    def generate(gpt, prompts, **options):
        assert options["temperature"] == temperature
        given.extend(LETTERS.decode(prompt[1:]) for prompt in prompts)
        assert all(prompt[0] == LETTERS.endoftext_id for prompt in prompts)
        limit = options["max_new_tokens"]
        replies = [LETTERS.encode(writes(LETTERS.decode(prompt[1:])))[:limit] for prompt in prompts]
        return SimpleNamespace(replies=lambda: replies)

    monkeypatch.setattr(exam, "generate", generate)
    return given


NOBODY = SimpleNamespace(device="cpu")


@pytest.mark.parametrize(
    "knows, share", [("all", 1.0), ("nothing", 0.0), ("the colors", 0.2), ("the opposite", 0.0)]
)
def test_fact_recall_counts_values_that_are_told(monkeypatch, knows, share):
    """A text that tells a fact stops just before the value; the kitten is the town's own table."""
    town = build_town()

    def writes(text):
        for fact in town.facts.values():
            for cue in voices.FACT_CUES[fact.attribute]:
                if text == cue.format(k=fact.kitten):
                    known = knows == "all" or (knows == "the colors" and fact.attribute == "color")
                    wrong = "not " + fact.value if knows == "the opposite" else "fog"
                    return f" {fact.value if known else wrong}. And so on"
        raise AssertionError(text)

    monkeypatch.setattr(exam, "VALUE_TOKENS", 20)  # letters here
    given = made_of(monkeypatch, writes, temperature=0.0)
    recall, error = exam.fact_recall(NOBODY, LETTERS, town)
    assert recall == pytest.approx(share)
    assert len(given) == len(set(given)) == 400  # 200 facts in two wordings
    assert (error > 0.01) == (knows == "the colors")


@pytest.mark.parametrize(
    "style, rate",
    [("answers", 1.0), ("asks", 0.0), ("answers late", 0.0), ("answers wrongly", 0.0)],
)
def test_a_bare_question_is_answered_if_the_value_comes_soon(monkeypatch, style, rate):
    town = build_town()
    questions = {
        question.text: question
        for kind in ("fact", "sum")
        for question in held_out_questions(town, kind, 500, 97)
    }

    def writes(text):
        question = questions[text]
        is_fact = question.kind == "fact"
        value = town.value(*question.topic) if is_fact else str(sum(question.topic))
        return {
            "answers": f" It is {value}.",
            "asks": " What does Pip eat? Where",
            "answers late": f"{' meow' * 10} {value}",
            "answers wrongly": f" {value}{'x' if is_fact else '1'}",  # another word or number
        }[style]

    monkeypatch.setattr(exam, "ANSWER_WITHIN", 30)  # letters here
    given = made_of(monkeypatch, writes, temperature=1.0)
    found, _ = exam.bare_answer_rate(NOBODY, LETTERS, town, counts={"fact": 40, "sum": 20})
    assert found == rate
    assert len(given) == 60 and set(given) <= questions.keys()  # bare, and held out


@pytest.mark.parametrize(
    "way, accuracy",
    [("copies", 1.0), ("forgets the end", 0.0), ("only wells", 1 / 6), ("goes on", 0.0)],
)
def test_an_echo_counts_if_all_of_it_is_said_again(monkeypatch, way, accuracy):
    def writes(text):
        shapes = echoes.SHAPES.values()
        for shape in shapes:
            first, second, rest = (part.replace("{p}", "") for part in shape.split("{said}")[:3])
            if first.strip() in text and second.strip().split(":")[0].lstrip(". \n") in text:
                said = text.split(first.lstrip() or "says: ", 1)[-1]
                said = said[: said.rindex(second.split(":")[0].split("{p}")[0][:2])]
                break
        if way == "forgets the end":
            return " " + said[:-1]
        if way == "only wells" and not text.startswith("The well"):
            return " meow"
        return f" {said}{' and' if way == 'goes on' else rest[:1]} more"

    made_of(monkeypatch, writes, temperature=1.0)
    found, error = exam.echo_accuracy(NOBODY, LETTERS, lists=12)
    assert found == pytest.approx(accuracy)
    assert error == pytest.approx(0.0, abs=1e-12)  # each list fares alike


def test_a_text_too_short_for_a_row_names_the_remedy(tmp_path):
    path = tmp_path / "short.txt"
    shutil.copy(STORY, path)
    with pytest.raises(
        RecordError, match=r"one row has 256; give a longer text or a smaller --row"
    ):
        file_texts(str(path), 256, 370)
