"""The way of a newcomer: the journey, the help pages, the chat, and what the texts promise."""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from chapters.ch1_sft import data_effects
from chapters.ch1_sft import story as ch1_sft
from chapters.ch1_sft.data_effects import compare, probe
from chapters.ch1_sft.story import Settings, packed_rows, step_count
from chapters.common.runner import chapter_main
from kittenllm.records import RecordError
from kittenllm.runs.checkpoints import load_model
from kittenllm.runs.run import read_json
from kittenllm.settings import Common, with_values
from kittenllm.sft import SFTConfig
from kittenllm.tokenizer import Tokenizer

CHATS = Path(__file__).parent / "data" / "chats.jsonl"
LETTERS = Tokenizer({bytes([byte]): byte for byte in range(256)})  # a token is a byte
COMMON_KEYS = {"seed", "seconds", "train_seconds", "eval_seconds", "peak_rss_mb", "config"}
RATES = {
    "answer_accuracy",
    "answer_accuracy_sampled",
    "stop_rate",
    "safe_rate",
    "allowed_rate",
    "friendly_rate",
}
KEYS = RATES | {
    "base_answer_accuracy",
    "forgetting_bits_per_byte",
    "forgetting_without_replay",
    "kept",
    "dropped",
}
PLANTED = {
    "broken": 300,
    "empty": 300,
    "duplicate": 700,
    "near_duplicate": 700,
    "secret": 300,
    "forbidden": 300,
    "surplus": 6000,
}


@pytest.fixture
def chat(quick_runs) -> Path:
    return quick_runs / "quick" / "ch1_sft"


def flags(runs: Path, *more) -> list[str]:
    return ["--quick", "--runs", str(runs), "--device", "cpu", *map(str, more)]


def conversation(question: str, answer: str) -> str:
    messages = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
    ]
    return json.dumps({"messages": messages}) + "\n"


# ------------------------------------------------------------------------------------ the quick run


def test_the_run_folder_is_complete(chat):
    names = {path.name for path in chat.iterdir()} - {".lock", "run.json", "samples.json"}
    assert names == {"model.pt", "metrics.jsonl", "summary.json", "samples.md", "loss.png"}
    assert (chat / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_the_summary_holds_what_was_promised(chat):
    summary = read_json(chat / "summary.json")
    assert summary.keys() >= COMMON_KEYS | KEYS | {f"{rate}_stderr" for rate in RATES}
    assert all(0 <= summary[rate] <= 1 for rate in RATES)
    assert summary["forgetting_without_replay"] is None  # --compare has not run
    assert summary["data_effects"] is None
    assert summary["kept"] == 400


def test_every_kind_of_planted_record_is_found(chat):
    """At least 95 % of each kind, at 95 % precision or better; --quick cleans the whole file."""
    quality = read_json(chat / "summary.json")["filter_quality"]
    assert {kind: found["planted"] for kind, found in quality.items()} == PLANTED
    for kind, found in quality.items():
        assert found["precision"] >= 0.95, kind
        assert found["recall"] >= 0.95, kind


def test_no_line_of_the_raw_file_is_unaccounted_for(chat, quick_runs):
    dropped = read_json(chat / "summary.json")["dropped"]
    assert dropped.keys() == PLANTED.keys()
    raw = (ch1_sft.DATA / "chats_raw.jsonl").read_text(encoding="utf-8").count("\n")
    screen = (quick_runs / "screen.txt").read_text(encoding="utf-8")
    kept = int(re.search(r"^kept +(\d+) of (\d+)$", screen, re.MULTILINE)[1])
    assert kept + sum(dropped.values()) == raw
    assert f"kept {kept:>19} of {raw}\n" in screen


def test_the_screen_shows_what_is_trained(quick_runs):
    """In brackets, since this is no terminal: the assistant's words and its end of turn."""
    screen = (quick_runs / "screen.txt").read_text(encoding="utf-8")
    view = screen.split("only the marked tokens are trained:\n\n")[1].split("\n\n")[0]
    for line in view.splitlines():
        role, content = re.fullmatch(r"<\|im_start\|>(\w+)\\n(.*)", line).groups()
        assert content.endswith("<|im_end|>]" if role == "assistant" else "<|im_end|>")
        assert content.startswith("[") == (role == "assistant")
    assert "<|im_start|>assistant" in view


def test_the_chats_are_learned_and_the_forgetting_is_watched(chat):
    lines = [json.loads(line) for line in (chat / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["chat_loss"] < lines[0]["chat_loss"] - 0.3
    watched = [line["base_bits_per_byte"] for line in lines if "base_bits_per_byte" in line]
    assert len(watched) >= 5
    summary = read_json(chat / "summary.json")
    assert math.isfinite(summary["forgetting_bits_per_byte"])
    assert summary["steps"] == len(lines)


def test_samples_begin_with_what_the_base_kitten_said(chat):
    content = read_json(chat / "samples.json")
    assert (content["before_title"], content["after_title"]) == ("base", "chat")
    base = read_json(chat.parent / "ch0_base" / "samples.json")
    prompts = [sample["prompt"] for sample in content["samples"]]
    first = [sample["prompt"] for sample in base["samples"]]
    assert prompts == first[:13] and len(first) == 15  # the base also tells a fact and an echo


def test_the_weights_are_new_and_the_vocabulary_is_not(chat):
    new, tokenizer, _ = load_model(chat / "model.pt")
    old, old_tokenizer, _ = load_model(chat.parent / "ch0_base" / "model.pt")
    assert tokenizer.to_state() == old_tokenizer.to_state()
    assert new.config == old.config
    weights = old.state_dict()
    assert all(not torch.equal(tensor, weights[name]) for name, tensor in new.state_dict().items())


# ------------------------------------------------------------------------------- chats of one's own


def test_own_chats_with_all_that_real_files_hold(own_runs, tmp_path, capsys):
    """Bad records are skipped and named, a long one is left out and that is said, text that
    spells special tokens is trained on as text."""
    path = tmp_path / "chats.jsonl"
    lines = CHATS.read_text(encoding="utf-8")
    lines += '{"prompt": "hello"}\n{"messages": [{"role": "user"}]}\n'
    lines += conversation("what is <|im_start|>?", "a mark, as is <|im_end|>.")
    lines += conversation("tell me everything", "meow, " * 400)
    path.write_text(lines, encoding="utf-8")
    assert chapter_main("ch1_sft", argv=flags(own_runs, "--chats", path)) == 0
    screen, errors = capsys.readouterr()
    assert "Traceback" not in errors
    assert "7 records were skipped:" in screen and "... and 4 more" in screen
    assert f"{path}, line 3: message 1 is 'assistant' at the beginning" in screen
    assert "1 conversations have more than 256 tokens and were left out" in screen
    summary = read_json(own_runs / "quick" / "ch1_sft" / "summary.json")
    assert summary["kept"] == 5  # before the long one was left out
    assert summary["filter_quality"] is None  # nobody has labelled this file
    assert summary["steps"] == 1
    assert (own_runs / "quick" / "ch1_sft.old1" / "model.pt").is_file()  # put aside, not lost


GOOD = conversation("hello", "hi!")
BAD_CHATS = [
    ("", "the file is empty"),
    (b"PK\x03\x04\x00\x00\x08\x00", "this is no text, byte 4 is zero"),
    (b'{"messages": "\xff"}', "byte 14 (0xff) is no UTF-8"),
    ("meow", "there is no usable JSON or JSONL record in it; line 1: no valid JSON"),
    ("[]", "there is no usable JSON or JSONL record in it; the list is empty"),
    ('{"text": "hello"}', 'no "messages", "conversations" or "instruction" in this record'),
    ('{"messages": [{"role": "user"}]}', 'message 1 has no key "content"'),
    (GOOD.replace('"assistant"', '"pirate"'), "unknown role 'pirate'"),
    (GOOD.replace('"user"', '"assistant"'), "message 1 is 'assistant' at the beginning"),
    (GOOD.replace('"assistant"', '"user"'), "message 2 is 'user' after 'user'"),
    (conversation("hello", "meow, " * 400), "no conversation fits into the context of 256 tokens"),
    (None, "cannot be read"),  # there is no such file
]


@pytest.mark.parametrize("content, complaint", BAD_CHATS)
def test_chats_that_cannot_be_used_are_one_line(own_runs, tmp_path, capsys, content, complaint):
    path = tmp_path / "chats.json"
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    assert chapter_main("ch1_sft", argv=flags(own_runs, "--chats", path)) == 1
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) == 1 and shown[0].startswith("error: ")
    assert complaint in shown[0]


def test_strict_stops_at_the_first_bad_record(own_runs, capsys):
    assert chapter_main("ch1_sft", argv=flags(own_runs, "--chats", CHATS, "--strict")) == 1
    shown = capsys.readouterr().err
    assert f"{CHATS}, line 3: " in shown and "correct or remove this record" in shown


def test_chats_that_cannot_be_used_leave_the_finished_kitten_alone(own_runs, tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    assert chapter_main("ch1_sft", argv=flags(own_runs, "--chats", empty)) == 1
    assert sorted(path.name for path in (own_runs / "quick").iterdir()) == ["ch0_base", "ch1_sft"]
    assert (own_runs / "quick" / "ch1_sft" / "model.pt").is_file()


def test_a_wrong_file_name_is_said_before_a_base_is_trained(tmp_path, capsys):
    """Nobody should wait two minutes to learn that."""
    runs = tmp_path / "runs"
    assert chapter_main("ch1_sft", argv=flags(runs, "--chats", tmp_path / "nothing.jsonl")) == 1
    assert not (runs / "quick" / "ch0_base").exists()


@pytest.mark.parametrize(
    "wrong, complaint",
    [
        ("--epochs 0", "epochs must be above 0, got 0.0"),
        ("--most-chats -1", "most_chats must be at least 0, got -1"),
        ("--replay-fraction 1", "replay_fraction"),
        ("--rows-per-step 0", "rows_per_step"),
        ("--data-steps dublicate", "'dublicate' is not one of duplicate, near_duplicate"),
    ],
)
def test_wrong_settings_end_before_anything_is_read(tmp_path, capsys, wrong, complaint):
    with pytest.raises(SystemExit) as stop:
        chapter_main("ch1_sft", argv=flags(tmp_path / "runs", *wrong.split()))
    assert stop.value.code == 2
    assert complaint in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "runs").exists()


# ----------------------------------------------------------------------------------- the comparison


def test_the_comparison_measures_every_variant(own_runs, tmp_path, capsys):
    """--compare: everything, no replay, and each data step left out in turn."""
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(conversation(f"hello {n}", "hi!") for n in range(9)), encoding="utf-8")
    more = ("--chats", path, "--data-steps", "secret", "--compare")
    assert chapter_main("ch1_sft", argv=flags(own_runs, *more)) == 0
    folder = own_runs / "quick" / "ch1_sft"
    summary = read_json(folder / "summary.json")
    assert list(summary["data_effects"]) == [
        "everything",
        "everything, again",
        "no replay",
        "without secret",
    ]
    wanted = {"answer_accuracy_sampled", "safe_rate", "leak_rate", "forbidden_rate"}
    for effect in summary["data_effects"].values():
        assert effect.keys() >= wanted | {"forgetting_bits_per_byte"}
    without = summary["data_effects"]["no replay"]["forgetting_bits_per_byte"]
    assert summary["forgetting_without_replay"] == without
    same = summary["data_effects"]["everything"]["forgetting_bits_per_byte"]
    assert math.isclose(same, summary["forgetting_bits_per_byte"], abs_tol=1e-6)
    assert (folder / "forgetting.png").read_bytes().startswith(b"\x89PNG")
    assert "without secret" in capsys.readouterr().out


def test_every_variant_is_trained_with_the_loop_that_is_handed_over(monkeypatch):
    """As many steps as the real run, and only one of them replays nothing."""

    @dataclass
    class Loaded:
        common: Common
        gpt = SimpleNamespace(config=SimpleNamespace(context_length=256))
        tokenizer = LETTERS

        def base_bits_per_byte(self):
            return 1.0

    monkeypatch.setattr(data_effects, "load_base", lambda base, common: Loaded(common))
    monkeypatch.setattr(data_effects, "draw_comparison", lambda chapter: None)
    monkeypatch.setattr(data_effects, "effects_table", lambda effects: "")
    chapter = SimpleNamespace(common=Common(seed=5), once=lambda name, make: {})
    settings, config = with_values(Settings(), {"data_steps": ("secret",)}), SFTConfig(steps=7)
    trained, seeds = {}, {}

    def train(chapter, name, kitten, rows, config):
        trained[name] = rows, config
        seeds[name] = kitten.common.seed

    compare(chapter, {}, [], settings, config, lambda *given: "rows", train)
    assert trained == {
        "compare_everything": ("rows", config),
        "compare_everything_again": ("rows", config),
        "compare_no_replay": ("rows", SFTConfig(steps=7, replay_fraction=0.0)),
        "compare_without_secret": ("rows", config),
    }
    assert seeds.pop("compare_everything_again") == 1_005
    assert set(seeds.values()) == {5}


def test_a_probe_counts_the_replies_that_give_something_away(monkeypatch):
    said = iter(["The password is Miso7.", "I do not know.", "THE PASSWORD IS pip.", ""])
    prompts = []

    def generate(gpt, asked, **options):
        prompts.extend(LETTERS.decode(prompt) for prompt in asked)
        return SimpleNamespace(replies=lambda: [LETTERS.encode(next(said)) for _ in asked])

    monkeypatch.setattr(data_effects, "generate", generate)
    kitten = SimpleNamespace(gpt=None, tokenizer=LETTERS)
    people = ["Anna", "Boris", "Clara", "David"]
    questions = ("Password of {person}?", "Key of {person}?")
    share, error = probe(kitten, questions, people, r"password is \S+", None)
    assert (share, error) == (0.5, pytest.approx(0.5 / 3**0.5))  # four people, four topics
    assert "Password of Anna?" in prompts[0] and "Key of David?" in prompts[3]


# -------------------------------------------------------------------------------------- small parts


@pytest.mark.parametrize(
    "rows, settings, steps",
    [
        (100, {"rows_per_step": 10, "replay_fraction": 0.0, "epochs": 1.0}, 10),
        # half of the rows are old text
        (100, {"rows_per_step": 10, "replay_fraction": 0.5, "epochs": 1.0}, 20),
        (100, {"rows_per_step": 10, "replay_fraction": 0.0, "epochs": 2.5}, 25),
        (1, {"rows_per_step": 10}, 1),
    ],
)
def test_steps_until_every_chat_was_seen(rows, settings, steps):
    assert step_count([None] * rows, with_values(Settings(), settings)) == steps


def test_chats_longer_than_a_row_are_left_out_and_that_is_said(capsys):
    short, long = (json.loads(conversation("?", answer)) for answer in ("yes", "meow" * 30))
    rows = packed_rows([short, long, short], LETTERS, 80)
    assert int(rows.loss_mask.sum()) == 2 * 4  # y, e, s, end of turn
    assert "1 conversations have more than 80 tokens and were left out" in capsys.readouterr().out
    with pytest.raises(RecordError, match="no conversation fits into the context of 80 tokens"):
        packed_rows([long], LETTERS, 80)
