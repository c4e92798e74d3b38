"""A training with GRPO for UniPO: the form that its docs/canonical_schema.json describes.

FORM is that description as types; what it calls required is required here. The run is a tiny one of
test_report_live.py.
"""

import json
import math

import pytest
from test_report_live import grpo_run

from chapters.export import __main__ as program
from chapters.export.unipo import token_objective, unipo
from kittenllm.runs.json_files import is_number

HEADER = {
    "task": str,
    "dataset": str,
    "reward_strategy": str,
    "algorithm": str,
    "totalSteps": int,
    "model_name": str,
    "reference_model_name": str,
    "hparams": dict,
}
RESPONSE = {
    "id": str,
    "reward": (int, float),
    "advantage": (int, float),
    "response_text": str,
    "response_length": int,
    "tokens": dict,
}
LISTS = ("ids", "strings", "log_probs", "old_log_probs", "advantages", "token_objective")
CONFIG = {"group_size": 4, "clip_eps": 0.2, "clip_eps_high": None, "kl_coef": 0.0}
CONFIG |= {"matrix_lr": 1e-2, "format_weight": 0.3}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, town_tokenizer):
    """A runs folder with four rounds of GRPO, and a line of another stage before them."""
    runs = tmp_path_factory.mktemp("unipo")
    folder = runs / "ch5_reasoning"
    folder.mkdir()
    history, _ = grpo_run(folder, town_tokenizer, True)
    lines = [{"stage": "warm_up", "step": 0, "loss": 9.0}]
    lines += [{"stage": "grpo", "step": step, **entry} for step, entry in enumerate(history)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "summary.json").write_text(json.dumps({"seed": 0, "config": CONFIG}))
    return runs


@pytest.fixture(scope="module")
def written(runs, tmp_path_factory) -> dict:
    """What the program writes."""
    path = tmp_path_factory.mktemp("out") / "run.json"
    assert program.main(["ch5_reasoning", "--unipo", str(path), "--runs", str(runs)]) == 0
    return json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))


def test_the_header_is_that_of_the_schema(written):
    assert set(written) == {"header", "entries"}
    header = written["header"]
    assert header.keys() == HEADER.keys()
    for key, kind in HEADER.items():
        assert type(header[key]) is kind, key
    assert header["algorithm"] == "grpo" and header["totalSteps"] == 4
    assert header["hparams"]["group_size"] == 4 and header["hparams"]["clip_eps"] == [0.2, 0.2]


def test_every_round_is_an_entry(written):
    assert [entry["step"] for entry in written["entries"]] == [0, 1, 2, 3]
    for entry in written["entries"]:
        assert entry["is_first_step_after_rollout_phase"] is True
        metrics = entry["metrics"]
        assert {"policy_objective", "reward"} <= metrics.keys()  # the required ones
        assert all(is_number(value) for value in metrics.values())
        assert metrics["policy_objective"] == -metrics["policy_loss"] != -9.0
        assert metrics["learning_rate"] <= CONFIG["matrix_lr"]
        assert len(entry["prompts"]) == 3


def test_every_reply_is_there_token_by_token(written):
    names = []
    for entry in written["entries"]:
        for prompt in entry["prompts"]:
            assert prompt.keys() == {"prompt", "responses"} and len(prompt["responses"]) == 4
            mean = sum(one["reward"] for one in prompt["responses"]) / 4
            for one in prompt["responses"]:
                names.append(one["id"])
                assert one.keys() == RESPONSE.keys()
                assert all(isinstance(one[key], kind) for key, kind in RESPONSE.items())
                assert one["advantage"] == pytest.approx(one["reward"] - mean, abs=2e-3)
                tokens = one["tokens"]
                assert set(tokens) == set(LISTS)
                assert {len(tokens[key]) for key in LISTS} == {one["response_length"]}
                assert one["response_text"] == "".join(tokens["strings"])
    assert len(names) == len(set(names)) == 4 * 3 * 4


def test_the_objective_is_what_unipo_computes_again(written):
    """Its page shows exp(log_probs - old_log_probs), clips it and multiplies by the advantage."""
    moved = 0
    for entry in written["entries"]:
        for one in (one for prompt in entry["prompts"] for one in prompt["responses"]):
            tokens = one["tokens"]
            rows = zip(*(tokens[key] for key in LISTS[2:]), strict=True)
            for new, old, advantage, objective in rows:
                ratio = math.exp(new - old)
                clipped = min(max(ratio, 0.8), 1.2)
                wanted = min(ratio * advantage, clipped * advantage)
                assert objective == pytest.approx(wanted, abs=1e-3) and old <= 0
                moved += new != old
    assert moved > 20


def test_the_objective_by_hand():
    assert token_objective(1.5, 1.0, 0.2, 0.2) == 1.2
    assert token_objective(1.5, 1.0, 0.2, 0.28) == 1.28
    assert token_objective(0.5, 1.0, 0.2, 0.2) == 0.5  # a good token that fell is pulled up again
    assert token_objective(0.5, -1.0, 0.2, 0.2) == -0.8


def test_with_a_price_of_kl_the_objective_is_left_out(runs):
    groups = json.loads((runs / "ch5_reasoning" / "groups.json").read_text())
    history = [{"step": 0, "reward": 1.0, "loss": 0.5}]
    content = unipo({"config": {**CONFIG, "kl_coef": 0.1}}, history, groups)
    tokens = content["entries"][0]["prompts"][0]["responses"][0]["tokens"]
    assert set(tokens) == set(LISTS) - {"token_objective"}


@pytest.mark.parametrize(
    "spoil, words",
    [
        (lambda folder: (folder / "summary.json").unlink(), "has not finished"),
        (lambda folder: (folder / "groups.json").unlink(), "no groups.json"),
        (lambda folder: (folder / "groups.json").write_text('{"rounds": [{"step": 0}]}'), "lacks"),
    ],
)
def test_what_is_missing_is_named(runs, tmp_path, capsys, spoil, words):
    folder = tmp_path / "ch5_reasoning"
    folder.mkdir()
    for file in (runs / "ch5_reasoning").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    spoil(folder)
    out = tmp_path / "run.json"
    arguments = ["ch5_reasoning", "--unipo", str(out), "--runs", str(tmp_path)]
    assert program.main(arguments) == 1
    assert words in capsys.readouterr().err and not out.exists()


def test_a_file_that_is_there_stays(runs, tmp_path, capsys):
    out = tmp_path / "run.json"
    out.write_text("mine")
    assert program.main(["ch5_reasoning", "--unipo", str(out), "--runs", str(runs)]) == 1
    assert out.read_text() == "mine" and "already" in capsys.readouterr().err


def test_only_chapter_5_is_such_a_training(tmp_path, capsys):
    with pytest.raises(SystemExit):
        program.main(["ch1_sft", "--unipo", str(tmp_path / "run.json")])
    assert "ch5_reasoning" in capsys.readouterr().err
