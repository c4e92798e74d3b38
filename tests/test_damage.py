"""Whatever is in a file of ours: an answer or one sentence, and the file stays as it is.

A table of nasty contents times the files times the programs that read them. A program may answer
without the file, or refuse with one printable line; it may not end in another error, hang, or
change the file.
"""

import functools
import itertools
import json
import os
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from chapters.__main__ import table
from chapters.bands import building, file, verdicts
from chapters.ch2_reward_model.pictures import draw_judge
from chapters.ch3_ppo import overoptimisation
from chapters.ch3_ppo.token_credit import load_snapshot
from chapters.ch4_preferences import pictures as preferences
from chapters.ch4_preferences import story as ch4_preferences
from chapters.ch4_preferences.frontier import built_on, checked_paths, checked_points, looks_of
from chapters.ch5_reasoning import pictures as reasoning
from chapters.check import curves
from chapters.common.runner import default_settings, find_chapter
from chapters.common.samples import side_by_side, write_samples
from chapters.enumerable import __main__ as enumerable
from chapters.museum import __main__ as museum
from chapters.rank import __main__ as rank
from chapters.rank.labels import Choice, LabelFile, Ranking, read_labels
from chapters.report.page import write_report
from kittenllm import plots
from kittenllm.dpo import DPOConfig
from kittenllm.gpt import GPT, GPTConfig
from kittenllm.runs.checkpoints import (
    CheckpointError,
    layer_shapes,
    load_checkpoint,
    load_model,
    save_checkpoint,
    save_model,
)
from kittenllm.runs.json_files import parse_json, read_json, read_metrics
from kittenllm.runs.run import Run, fingerprint_of, read_summary, write_summary
from kittenllm.scorer import load_reward_model
from kittenllm.settings import Common
from kittenllm.tokenizer import Tokenizer

TINY = enumerable.Settings(steps=1, ppo_steps=1)
DEEP = "[" * 100_000
SIXTY = '{"a":' * 60 + "1" + "}" * 60
CONTENTS = {
    "empty": b"",
    "half": b'{"seconds": 1, "mod',
    "a list": b"[]",
    "null": b"null",
    "a number of 5,000 digits": b"9" * 5000,
    "letters that are no UTF-8": b'{"a": "\xff\xfe\x80"}',
    "zero bytes": b"\0" * 100,
    "deep": DEEP.encode(),
    "deep inside": f'{{"samples": {DEEP}'.encode(),
    "sixty deep": SIXTY.encode(),
}
# In the place of every value of a file, one kind after the other.
VALUES = {
    "null": "null",
    "true": "true",
    "a word": '"meow"',
    "an escape": '"\\u001b[2J\\ud800"',
    "below zero": "-1",
    "400 digits": "9" * 400,
    "5,000 digits": "9" * 5000,
    "1e999": "1e999",
    "NaN": "NaN",
    "a list": '[1, ["a"]]',
    "an object": '{"a": {"b": null}}',
    "sixty deep": SIXTY,
    "a way out": '"../../model.pt"',
}


@dataclass(frozen=True)
class Steps:
    steps: int = 2
    text: str = ""


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer({bytes([byte]): byte for byte in range(256)})


@pytest.fixture(scope="module")
def gpt(tokenizer) -> GPT:
    stops = (tokenizer.im_end_id,)
    shape = {"layers": 1, "channels": 16, "heads": 2, "kv_heads": 1, "ffn_channels": 16}
    return GPT(GPTConfig(tokenizer.vocab_size, stop_ids=stops, pad_id=tokenizer.pad_id, **shape))


@pytest.fixture
def runs(made_runs, tmp_path, monkeypatch) -> Path:
    """A copy of `made_runs`, to be damaged; its kitten says nothing, which takes no time."""
    monkeypatch.setattr("chapters.report.life.answers_of", lambda gpt, tokenizer, bare: [])
    return Path(shutil.copytree(made_runs, tmp_path / "runs"))


@pytest.fixture(scope="module")
def made_runs(tmp_path_factory, gpt, tokenizer) -> Path:
    """A runs folder with a finished chapter, an unfinished one, and the tiny world."""
    common = Common(runs=tmp_path_factory.mktemp("made") / "runs")
    settings = default_settings("ch0_base", common)
    run = Run(common, "ch0_base", settings, inputs={})
    for step in range(3):
        numbers = {"loss": 1.0, "gold": 0.5, "kl_held_out": 0.1, "seconds": 0.1}
        run.log("train", step, numbers)
    write_samples(run.folder, ["p"], ["b"], ["a"], before_title="random", after_title="base")
    keys = {"val_nats_per_token": 0.6, "val_nats_per_token_stderr": 0.1, "dropped": {"x": 1}}
    run.finish(keys, model=(gpt, tokenizer))
    half = Run(common, "half", Steps())
    half.once("before", lambda: {"gold": 1.0})
    list(half.stage("train", total=2, objects={}).follow(iter([{"loss": 1.0}] * 2)))
    half._lock_file.close()
    tiny = Run(common, "enumerable", TINY)
    tiny.finish(dict.fromkeys(enumerable.DISTANCES, 0.5))
    run._lock_file.close()
    tiny._lock_file.close()
    return common.runs


def readers(runs: Path) -> dict:
    """Every function with which a program reads a run folder -> what it gets to read."""
    common = Common(runs=runs)
    base = runs / "ch0_base"
    half_again = lambda: Run(common, "half", Steps())  # noqa: E731

    def goes_on():
        run = half_again()
        run.once("before", lambda: {"gold": 1.0})
        run.stage("train", total=2, objects={})
        return run.history("train")

    def summary_of_base():
        return read_summary(base / "summary.json") or {}

    def reference_bands():
        return building.build([runs], ["ch0_base"])

    return {
        "report": lambda: write_report(runs),
        "what the kitten said": lambda: side_by_side([base]),
        "journey": lambda: table([(find_chapter("ch0_base"), summary_of_base(), True)]),
        "fingerprint": lambda: fingerprint_of(common, "ch0_base") + "",
        "going on": goes_on,
        "verdicts": lambda: verdicts.print_verdicts("ch0_base", summary_of_base()),
        "bands": reference_bands,
        "frontier": lambda: (built_on(common, "ch0_base", "x"), looks_of(base / "metrics.jsonl")),
        "enumerable": lambda: enumerable.report(enumerable.run(TINY, common)),
        "model": lambda: load_model(base / "model.pt"),
    }


def assert_one_line(action, name: str) -> None:
    """`action` gives an answer, or an error that the programs show as one printable line."""
    try:
        action()
    except (ValueError, CheckpointError) as error:
        text = str(error)
        assert text.isprintable() and 0 < len(text) < 1500, (name, text)


FILES = {
    "ch0_base/summary.json": ("report", "journey", "fingerprint", "verdicts", "bands", "frontier"),
    "ch0_base/run.json": ("report", "frontier"),
    "ch0_base/samples.json": ("report", "what the kitten said"),
    "ch0_base/metrics.jsonl": ("report", "frontier", "bands"),
    "ch0_base/model.pt": ("report", "model"),
    "half/run.json": ("going on",),
    "half/metrics.jsonl": ("going on",),
    "half/resume/seconds.json": ("going on",),
    "half/resume/once_before.json": ("going on",),
    "half/resume/train.pt": ("going on",),
    "enumerable/summary.json": ("enumerable",),
    "report_replies.json": ("report",),
}


def kept_bytes(runs: Path, damaged: str, content: bytes) -> bool:
    """Whether the damaged file is still somewhere, as it was: in place, or put aside whole."""
    name = Path(damaged).name
    places = [runs / damaged, *runs.glob(f"*.old*/**/{name}")]
    return any(place.is_file() and place.read_bytes() == content for place in places)


def met_by_report(damaged: str, number: int) -> bool:
    """The report is slow: with content `number` it meets one file, and each file some contents. A
    file that only the report reads meets them all."""
    read = [name for name in FILES if "report" in FILES[name]]
    return FILES[damaged] == ("report",) or damaged == read[number % len(read)]


def test_the_report_meets_every_content_and_every_file():
    """Were there fewer contents than files, some files would be left out."""
    read = [name for name in FILES if "report" in FILES[name]]
    for many in (len(CONTENTS), len(VALUES)):
        met = {(name, n) for name in read for n in range(many) if met_by_report(name, n)}
        assert {name for name, _ in met} == set(read) and {n for _, n in met} == set(range(many))


@pytest.mark.parametrize("kind", CONTENTS)
@pytest.mark.parametrize("damaged", FILES)
def test_any_content_of_any_file(runs, damaged, kind, capsys):
    content, number = CONTENTS[kind], list(CONTENTS).index(kind)
    if damaged.endswith(".jsonl"):
        content += b"\n"  # a line without an end is what a kill leaves, and is cut off
    (runs / damaged).write_bytes(content)
    actions = readers(runs)
    for name in FILES[damaged]:
        if name == "report" and not met_by_report(damaged, number):
            continue
        assert_one_line(actions[name], name)
        assert kept_bytes(runs, damaged, content), name


def with_value(value: object, text: str) -> list[str]:
    """JSON texts: each value of an object replaced in turn, then all of them at once."""
    assert isinstance(value, dict)
    mark = "*here*"
    texts = [json.dumps({**value, key: mark}) for key in value]
    for key, inner in value.items():
        if isinstance(inner, dict):
            texts += [json.dumps({**value, key: {**inner, k: mark}}) for k in inner]
        if isinstance(inner, list) and inner and isinstance(inner[0], dict):
            texts += [json.dumps({**value, key: [{**inner[0], k: mark}]}) for k in inner[0]]
    texts.append(json.dumps(dict.fromkeys(value, mark)))
    return [found.replace(json.dumps(mark), text) for found in texts]


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("damaged", [name for name in FILES if name.endswith(".json")])
def test_any_value_in_any_file(runs, damaged, kind, capsys):
    path, text = runs / damaged, VALUES[kind]
    if damaged == "report_replies.json":
        replies = [{"prompt": "p", "text": "t", "ended": True, "right": True, "score": 1.0}]
        stage = {"fingerprint": "f", "replies": replies}
        value = {"format": 1, "kittens": {"ch0_base": stage}, "mask": [["a", True]]}
    else:
        value = json.loads(path.read_text(encoding="utf-8"))
    value.pop("checksum", None)  # a checksum would hide all that comes after it
    slow = {"report"}
    texts = with_value(value, text)
    for number, found in enumerate(texts):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(found, encoding="utf-8")
        actions = readers(runs)
        for name in FILES[damaged]:
            if name in slow and number != len(texts) - 1:
                continue
            assert_one_line(actions[name], name)
            assert kept_bytes(runs, damaged, found.encode()), (name, found[:200])
            if not path.is_file():  # an unfinished run of other settings was put aside
                break


@pytest.mark.parametrize("text", VALUES.values(), ids=VALUES)
def test_any_value_in_a_line_of_metrics(runs, text, capsys):
    """A line that cannot be read is left out and stays in the file, also when the run goes on."""
    path = runs / "half" / "metrics.jsonl"
    good = path.read_bytes()
    for key in ("stage", "step", "loss"):
        entry = {"stage": "train", "step": 1, "loss": 0.5, key: "*"}
        line = json.dumps(entry).replace('"*"', text).encode() + b"\n"
        path.write_bytes(good + line)
        assert_one_line(readers(runs)["going on"], key)
        if read_metrics(path)[1]:
            assert path.read_bytes() == good + line


def preferences_line(step: int) -> dict:
    """A line of chapter 4 with a look at the watched pairs."""
    looked = {f"unseen_{what}": 0.5 for what in ("chosen", "rejected", "accuracy", "margin")}
    errors = {f"{key}_stderr": 0.1 for key in looked}
    return {"step": step, "accuracy": 0.5, "pairs": 4, "seconds": 0.5, **looked, **errors}


def rules_line(step: int) -> dict:
    """A line of chapter 5."""
    return {"step": step, **dict.fromkeys(reasoning.NEEDED, 0.5)}


def look_line(step: int) -> dict:
    """A line of PPO with a look at the held-out questions."""
    return {"step": step, "gold": 1.0, "proxy": 0.5, "kl_held_out": 0.1, "score": 0.5}


# stage -> (a line of its metrics.jsonl, who reads them)
LINES = {
    "dpo": (
        preferences_line,
        lambda run: (
            ch4_preferences.training_keys(run, "dpo", SimpleNamespace(seconds=0.0), DPOConfig()),
            preferences.draw_training(run, []),
        ),
    ),
    "grpo": (
        rules_line,
        lambda run: (
            reasoning.all_warnings(run.history("grpo", *reasoning.NEEDED)),
            reasoning.draw_training(run.folder / "a.png", run.history("grpo", *reasoning.NEEDED)),
        ),
    ),
    "ppo": (
        look_line,
        lambda run: (
            building.sample_curve(run.history("ppo"), "ppo", "gold"),
            overoptimisation.turning_point(
                [look_line(-1), *overoptimisation.looks_in(run.history("ppo"))], 2.0
            ),
        ),
    ),
    "train": (
        lambda step: {"step": step, "accuracy": 0.5, "held_out_accuracy": 0.5},
        lambda run: draw_judge(run, torch.ones(3), torch.zeros(3), JUDGED),
    ),
}
JUDGED = {"calibration_error": 0.1, "bayes_accuracy": 0.8}


@pytest.mark.parametrize("stage", LINES)
@pytest.mark.parametrize("value", ["missing", None, 0], ids=str)
def test_a_number_that_is_missing_in_lines_of_metrics(tmp_path, stage, value, monkeypatch, capsys):
    """In the last line, or in all: the others are used, or it is one line. Nothing is divided by
    a missing second either."""
    monkeypatch.setattr(plots, "save", lambda *arguments: None)  # drawing takes long
    monkeypatch.setattr(preferences, "METHODS", ("dpo",))
    line, read = LINES[stage]
    keys = [key for key in line(0) if key != "step"]
    for number, (key, all_lines) in enumerate(itertools.product(keys, (False, True))):
        run = Run(Common(runs=tmp_path / f"{number}"), "chapter", Steps())
        for step in range(7):
            entry = {"stage": stage, **line(step)}
            if all_lines or step == 6:
                entry |= {key: value}
            if value == "missing" and key in entry and (all_lines or step == 6):
                del entry[key]
            with open(run.folder / "metrics.jsonl", "a") as file:
                file.write(json.dumps(entry) + "\n")
        assert_one_line(functools.partial(read, run), f"{key} {all_lines}")
        run._lock_file.close()


def test_a_curve_of_a_check_leaves_out_lines_without_its_number(tmp_path):
    curve = curves.CURVES["dpo"]
    folder = tmp_path / curve.chapter
    folder.mkdir()
    lines = ({"step": 0, "margin": 0.5}, {"step": 1}, {"step": 2, "margin": None})
    text = "".join(json.dumps({"stage": "dpo", **line}) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    assert curves.read_curve(Common(runs=tmp_path), curve) == [0.5]


def test_the_reader_keeps_to_what_the_writer_writes():
    assert parse_json("[NaN, Infinity, 1e999, 1e99, 7]") == [None, None, None, 1e99, 7]
    assert parse_json("9" * 5000) is None
    with pytest.raises(ValueError, match="nested"):
        parse_json(DEEP)
    with pytest.raises(ValueError, match="nested"):
        parse_json(SIXTY)


def test_a_changed_summary_is_named(tmp_path):
    path = tmp_path / "summary.json"
    write_summary(path, {"gold_best": 2.5, "seconds": 1.0})
    assert read_summary(path)["gold_best"] == 2.5
    path.write_text(path.read_text().replace("2.5", '"2.5"'))
    with pytest.raises(ValueError, match="checksum"):
        read_summary(path)


def test_a_pipe_and_a_folder_are_no_files(tmp_path):
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "summary.json")  # opening it would wait for ever
        with pytest.raises(ValueError, match="not a file"):
            read_json(tmp_path / "summary.json")
        os.mkfifo(tmp_path / "model.pt")
        with pytest.raises(CheckpointError, match="not a file"):
            load_model(tmp_path / "model.pt")
    (tmp_path / "run.json").mkdir()
    with pytest.raises(ValueError, match="not a file"):
        read_json(tmp_path / "run.json")


@pytest.mark.parametrize("points", [None, 3, [1], [{"label": "a", "kl": "x", "gold": 1}]])
def test_points_of_a_frontier(tmp_path, points):
    with pytest.raises(ValueError, match="damaged"):
        checked_points(tmp_path / "summary.json", points)
    with pytest.raises(ValueError, match="damaged"):
        checked_paths(tmp_path / "summary.json", {"DPO": points} if points else points)


# ------------------------------------------------------------------------------- bands and models


@pytest.mark.parametrize("text", VALUES.values(), ids=VALUES)
def test_any_value_in_bands(tmp_path, text, capsys):
    path = tmp_path / "bands.json"
    curve = {"name": "n", "stage": "train", "key": "loss", "unit": "", "steps": [1]}
    curve |= {"low": [0.1], "high": [0.2]}
    numbers = {"val_nats_per_token": {"low": 0.1, "high": 0.9, "values": [0.5]}}
    band = {"seeds": [0], "config": {"steps": 2}, "numbers": numbers, "curves": [curve]}
    summary = {"quick": False, "size": "small", "config": {"steps": 2}, "val_nats_per_token": 0.6}
    found = with_value(band, text) + [
        json.dumps({**band, "numbers": {"val_nats_per_token": {**numbers, key: "*"}}}).replace(
            '"*"', text
        )
        for key in ("low", "high")
    ]
    for content in found:
        whole = f'{{"format": 1, "chapters": {{"ch0_base": {content}}}}}'
        path.write_text(whole, encoding="utf-8")

        def read():
            content = file.read_bands(path)
            verdicts.print_verdicts("ch0_base", summary, content)
            verdicts.curve_bands("ch0_base", content)

        assert_one_line(read, content)
        assert path.read_text(encoding="utf-8") == whole


def hostile_models(gpt: GPT) -> dict:
    """What is wrong -> a change of the payload of a model.pt."""
    weight = "layers.0.mlp.up_proj.weight"
    wide = {"vocab_size": 10**9}

    def config(**changed):
        return lambda payload: payload["config"].update(changed)

    def set_weight(make):
        return lambda payload: payload["weights"].update({weight: make(payload["weights"][weight])})

    def expanded(payload):
        """A billion rows that are one number."""
        payload["config"].update(wide)
        payload["weights"]["embed_tokens.weight"] = torch.zeros(1).expand(10**9, 16)

    def shared(payload):
        payload["weights"]["layers.0.mlp.gate_proj.weight"] = payload["weights"][weight]

    return {
        "no extra": lambda payload: payload.pop("extra"),
        "extra is a list": lambda payload: payload.update(extra=[1]),
        "chat is no bool": lambda payload: payload.update(extra={"chat": torch.ones(2)}),
        "a name that is no text": lambda payload: payload["weights"].update({7: torch.ones(1)}),
        "a name for another": lambda payload: payload["weights"].update(
            {7: payload["weights"].pop(weight)}
        ),
        "three million layers": config(layers=3_000_000),
        "a context of 10^9": config(context_length=10**9),
        "400 digits": config(channels=10**400),
        "NaN": config(norm_eps=float("nan")),
        "rope_base is inf": config(rope_base=float("inf")),
        "rope_base of 400 digits": config(rope_base=10**400),
        "rope_base near 0": config(rope_base=1e-300),
        "stop_ids is a number": config(stop_ids=3),
        "stop_ids is text": config(stop_ids=["a"]),
        "pad_id is half": config(pad_id=0.5),
        "layers is a tensor": config(layers=torch.ones(2)),
        "unknown field": config(colour="red"),
        "config is a list": lambda payload: payload.update(config=[1, 2]),
        "weights are a list": lambda payload: payload.update(weights=[1, 2]),
        "integers": set_weight(lambda old: old.long()),
        "complex": set_weight(lambda old: old.to(torch.complex64)),
        "another shape": set_weight(lambda old: old[:-1].clone()),
        "NaN inside": set_weight(lambda old: old.clone().fill_(float("nan"))),
        "no tensor": set_weight(lambda old: "meow"),
        "sparse": set_weight(lambda old: old.to_sparse()),
        "without numbers": set_weight(lambda old: old.to("meta")),
        "expanded": expanded,
        "shared": shared,
        "tokenizer is a number": lambda payload: payload.update(tokenizer=5),
        "tokens are numbers": lambda payload: payload["tokenizer"].update(tokens=[1, 2]),
        "a token of a million bytes": lambda payload: payload["tokenizer"]["tokens"].append(
            "61" * 10**6
        ),
        "version is true": lambda payload: payload.update(version=True),
        "version of 5,000 digits": lambda payload: payload.update(version=10**4999),
    }


HOSTILE_MODELS = list(hostile_models(None))


@pytest.mark.parametrize("what", HOSTILE_MODELS)
def test_a_hostile_model_is_one_line(tmp_path, gpt, tokenizer, what):
    path = tmp_path / "model.pt"
    save_model(path, gpt, tokenizer)
    payload = torch.load(path, weights_only=True)
    hostile_models(gpt)[what](payload)
    torch.save(payload, path)
    before = path.read_bytes()
    with pytest.raises(CheckpointError) as refusal:
        load_model(path)
    text = str(refusal.value)
    assert "model.pt" in text and text.isprintable() and len(text) < 1500
    assert path.read_bytes() == before


def test_shapes_are_those_that_a_gpt_has(gpt):
    """`layer_shapes` is compared with a file before a GPT is built; it must be what is built."""
    found = {name: tuple(w.shape) for name, w in gpt.state_dict().items() if "layers.0." in name}
    assert {f"layers.0.{name}": shape for name, shape in layer_shapes(gpt.config).items()} == found
    assert len(gpt.state_dict()) == 2 + gpt.config.layers * len(layer_shapes(gpt.config))


def test_a_bomb_is_not_unpacked(tmp_path):
    """300 MB in 300 kB; and many names for the same bytes."""
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(300 * 2**20 // 100))
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        load_model(path)


WEIGHT = torch.zeros(())


@pytest.mark.parametrize(
    "head",
    [
        "meow",
        None,
        torch.ones(16),
        {},
        {"head": torch.ones(16)},
        {"likelihood_weight": WEIGHT},
        {"head": torch.ones(16), "likelihood_weight": WEIGHT, "more": WEIGHT},
        {"head": torch.ones(16), "likelihood_weight": torch.zeros(1)},
        {"head": torch.ones(16), "likelihood_weight": torch.tensor(float("inf"))},
        {"head": torch.ones(3), "likelihood_weight": WEIGHT},
        {"head": torch.ones(16).long(), "likelihood_weight": WEIGHT},
        {"head": torch.full((16,), float("nan")), "likelihood_weight": WEIGHT},
    ],
)
def test_a_hostile_reward_head(tmp_path, gpt, tokenizer, head):
    save_model(tmp_path / "model.pt", gpt, tokenizer, extra={"reward_head": head})
    with pytest.raises(CheckpointError, match="model.pt: not a reward model"):
        load_reward_model(tmp_path / "model.pt", tokenizer)


@pytest.mark.parametrize("key", ["config", "tokenizer", "policy", "value_model", "rollout"])
@pytest.mark.parametrize("value", [None, 3, {}, {"a": 1}, [1]])
def test_a_hostile_snapshot(tmp_path, gpt, tokenizer, key, value):
    payload = {"kind": "token credit", "config": {**vars(gpt.config)}, "policy": gpt.state_dict()}
    payload |= {"tokenizer": tokenizer.to_state(), "value_model": {}, "rollout": {}, key: value}
    save_checkpoint(tmp_path / "credit.pt", payload)
    with pytest.raises(CheckpointError, match="credit.pt"):
        load_snapshot(tmp_path / "credit.pt")


@pytest.mark.parametrize("key", ["step", "done", "objects"])
@pytest.mark.parametrize("value", [None, -1, 99, "a", [], 1.5, float("nan")])
def test_a_hostile_state(runs, key, value):
    path = runs / "half" / "resume" / "train.pt"
    payload = load_checkpoint(path)
    objects = {"model": torch.nn.Linear(2, 2)}
    payload["objects"] = {"model": objects["model"].state_dict()}
    save_checkpoint(path, {**payload, key: value, **({"done": False} if key == "step" else {})})
    before = path.read_bytes()
    run = Run(Common(runs=runs), "half", Steps())
    with pytest.raises(CheckpointError, match="train.pt"):
        run.stage("train", total=2, objects=objects)
    assert path.read_bytes() == before


# -------------------------------------------------------------------------- what a person has made

CHOICES = [Choice(f"question {i}", (f"good {i}", f"bad {i}")) for i in range(3)]
FIRST, SECOND = [[1], [2]], [[2], [1]]  # the better reply


def test_a_second_session_under_one_name_is_refused(tmp_path):
    first = LabelFile(tmp_path / "rank" / "anna.jsonl")
    with pytest.raises(ValueError, match="another session.*--name"):
        LabelFile(tmp_path / "rank" / "anna.jsonl")
    LabelFile(tmp_path / "rank" / "ben.jsonl").close()
    first.close()
    LabelFile(tmp_path / "rank" / "anna.jsonl").close()


def test_a_pick_is_added_and_a_broken_line_stays(tmp_path, capsys):
    path = tmp_path / "anna.jsonl"
    broken = b'{"prompt": "half a label", "cho\n[[[[\n'
    path.write_bytes(
        json.dumps(CHOICES[0].records(FIRST)[0]).encode() + b"\n" + broken + b"no line end"
    )
    before = path.read_bytes()
    labels = LabelFile(path)
    ranking = Ranking(CHOICES, labels)
    assert ranking.labelled == 1
    ranking.rank(SECOND)
    after = path.read_bytes()
    assert after.startswith(before + b"\n") and after.count(b"\n") == before.count(b"\n") + 2
    assert ranking.undo()
    assert path.read_bytes() == before + b"\n"
    assert ranking.undo()  # the label of the earlier session; the lines around it stay
    assert path.read_bytes() == broken + b"no line end\n"
    labels.close()


def test_labels_of_a_session_are_read_back(tmp_path):
    path = tmp_path / "anna.jsonl"
    labels = LabelFile(path)
    ranking = Ranking(CHOICES, labels)
    order = (FIRST, SECOND, FIRST)
    for places in order:
        ranking.rank(places)
    labels.close()
    picked = zip(CHOICES, order, strict=True)
    assert read_labels(path) == [choice.records(places)[0] for choice, places in picked]
    assert rank.LabelFile is LabelFile


@pytest.mark.parametrize("flag", ["--write-to", "--file"])
def test_the_museum_never_writes_over_a_file(tmp_path, flag, capsys):
    path = tmp_path / "my_ppo.py"
    path.write_text("# three evenings of work\n")
    assert museum.main(["no-brake", flag, str(path)]) == 1
    message = capsys.readouterr().err
    assert "already there" in message and message.count("\n") == 1
    assert path.read_text() == "# three evenings of work\n"
