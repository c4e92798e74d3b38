"""The walk through one tiny batch: what is printed is what ran, and every name has its words."""

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from chapters.trace import __main__ as trace
from chapters.trace.__main__ import TOPICS, B, T, V
from chapters.trace.page import METRICS, cell
from chapters.trace.terms import TERMS
from chapters.trace.tracer import record
from kittenllm.dpo import dpo_loss
from kittenllm.logprobs import token_logprobs
from kittenllm.ppo import gae, kl_shaped_rewards, ppo_policy_loss, ppo_value_loss

ROOT = Path(__file__).parent.parent
FUNCTIONS = {
    "sft": ["token_logprobs", "sft_loss"],
    "reward": ["RewardModel.forward", "bradley_terry_loss"],
    "ppo": ["kl_shaped_rewards", "gae", "ppo_policy_loss", "ppo_value_loss"],
    "dpo": ["sequence_logprobs", "preference_metrics", "dpo_loss"],
    "ipo": ["sequence_logprobs", "preference_metrics", "ipo_loss"],
    "orpo": ["sequence_logprobs", "log_odds", "orpo_loss"],
    "grpo": ["group_advantages", "grpo_loss"],
}


def page(topic: str, seed: int = 0, width: int = 80, colour: bool = False) -> str:
    return trace.page(topic, seed, width=width, colour=colour)


# ------------------------------------------------------------------------------------ the recorder


def twice_and_in_place(x: torch.Tensor, share: float):
    """A function with everything that the recorder must see."""
    doubled = 2 * x
    x = doubled + 1  # a new tensor under an old name
    doubled[0] = 0.0  # the same tensor, changed
    words = "not a number"
    for t in (1, 0):
        step = doubled * t
    flag = True
    if flag and words:
        total = (
            x.sum()  # a statement over several lines
            + share
        )
    return total, {"step": step.sum()}


def test_the_recorder_by_hand():
    seen = record(twice_and_in_place, torch.tensor([1.0, 2.0]), share=0.5)
    assert seen.tensor_names == {"x", "doubled", "step", "total"}
    assert seen.names == seen.tensor_names | {"share", "t"}  # no text, no truth values
    values = [
        (turns[0].name, [turn.value.tolist() for turn in turns])
        for turns in seen.in_order()
        if isinstance(turns[0].value, torch.Tensor)
    ]
    assert values == [
        ("x", [[1.0, 2.0]]),
        ("doubled", [[2.0, 4.0]]),
        ("x", [[3.0, 5.0]]),
        ("doubled", [[0.0, 4.0]]),
        ("step", [[0.0, 4.0], [0.0, 0.0]]),  # the turns of the loop stand together
        ("total", [8.5]),
    ]
    assert seen.result[0] == 8.5 and seen.last("share") == 0.5 and seen.last("nothing") is None
    line = next(a.line for a in seen.assignments if a.name == "total")
    assert seen.statements[line] == "total = x.sum() + share"
    turns = [a.turn for a in seen.assignments if a.name == "step"]
    assert turns == [1, 0]


def test_copies_are_taken_at_once():
    """What is changed in place later keeps its first value in the list."""
    seen = record(twice_and_in_place, torch.ones(2), share=0.0)
    first = next(a.value for a in seen.assignments if a.name == "doubled")
    assert first.tolist() == [2.0, 2.0]


def test_an_error_passes_and_the_tracing_ends():
    def earlier(frame, event, argument):
        return None

    before = sys.gettrace()
    sys.settrace(earlier)
    try:
        with pytest.raises(ValueError, match="clip_eps"):
            frame = torch.zeros(1, 2)
            mask = torch.ones(1, 2, dtype=torch.bool)
            record(ppo_policy_loss, frame, frame, frame, mask, clip_eps=-1.0)
        assert sys.gettrace() is earlier  # a debugger gets its own tracing back
    finally:
        sys.settrace(before)


def test_only_the_function_itself_is_watched():
    seen = record(token_logprobs, torch.zeros(1, 3, 4), torch.tensor([[0, 1, 2]]))
    assert "all_logprobs" not in seen.names  # a name inside pick_logprobs
    assert torch.equal(seen.result, torch.full((1, 2), -math.log(4)))


def test_gradients_flow_as_without_watching():
    chosen = torch.tensor([-1.0, -2.0], requires_grad=True)
    others = torch.tensor([-2.0, -1.5])
    plain, _ = dpo_loss(chosen, others, others, others, beta=0.3)
    (expected,) = torch.autograd.grad(plain, chosen)
    watched, _ = record(dpo_loss, chosen, others, others, others, beta=0.3).result
    watched.backward()
    assert torch.equal(watched, plain) and torch.equal(chosen.grad, expected)


# --------------------------------------------------------------------------------------- the table


@pytest.mark.parametrize("topic", TOPICS)
def test_the_table_names_every_local_tensor_and_no_other_name(topic):
    """A new intermediate in a loss needs a line in trace_terms.py, an old one takes its away."""
    for recording in TOPICS[topic](0).recordings:
        table = set(TERMS[recording.function].terms)
        missing = recording.tensor_names - table
        assert not missing, f"{recording.function} has {missing}, trace_terms.py does not"
        code = recording.file.read_text(encoding="utf-8")
        sometimes = {name for name in table - recording.names if f"{name} = " in code}
        gone = table - recording.names - sometimes
        assert not gone, f"trace_terms.py names {gone}, {recording.function} has no such variable"
        assert all(TERMS[recording.function].terms[name].hidden for name in sometimes)


def test_every_function_of_the_table_is_walked():
    assert {name for names in FUNCTIONS.values() for name in names} == set(TERMS)


@pytest.mark.parametrize("topic", TOPICS)
def test_the_functions_come_in_order(topic):
    assert [r.function for r in TOPICS[topic](0).recordings] == FUNCTIONS[topic]


def test_every_metric_has_its_words():
    for topic in TOPICS:
        for recording in TOPICS[topic](0).recordings:
            if isinstance(recording.result, tuple) and isinstance(recording.result[1], dict):
                assert set(recording.result[1]) <= set(METRICS)


# ------------------------------------------------------------------------------ what really happens


def test_the_batch_has_the_promised_shape():
    assert (B, T, V) == (2, 6, 11)
    for topic in TOPICS:
        walk = TOPICS[topic](3)
        assert walk.tokens.shape in ((2, 6), (4, 6))  # of pairs there are two rows each
        assert walk.mask.shape == (len(walk.tokens), 5)
        assert walk.tokens.min() >= 0 and walk.tokens.max() < V


@pytest.mark.parametrize("seed", [0, 1, 2, 17])
def test_ppo_is_what_the_package_computes(seed):
    """The numbers of the walk, made again without any watching."""
    shaping, credit, policy, value = TOPICS["ppo"](seed).recordings
    mask = credit.last("mask")
    rewards = kl_shaped_rewards(
        *(shaping.assignments[i].value for i in range(4)), kl_coef=shaping.last("kl_coef")
    )
    assert torch.equal(rewards, shaping.result)
    old_values = credit.assignments[1].value
    advantages, returns = gae(rewards, old_values, mask, gamma=1.0, lam=0.95)
    assert torch.equal(advantages, credit.result[0])
    loss, metrics = ppo_policy_loss(
        policy.assignments[0].value, policy.assignments[1].value, advantages, mask, clip_eps=0.2
    )
    assert torch.equal(loss, policy.result[0]) and loss.isfinite()
    assert torch.equal(metrics["clip_fraction"], policy.result[1]["clip_fraction"])
    value_loss, _ = ppo_value_loss(
        value.assignments[0].value, old_values, returns, mask, clip_eps=0.2
    )
    assert torch.equal(value_loss, value.result[0])


@pytest.mark.parametrize("topic", TOPICS)
@pytest.mark.parametrize("seed", [0, 5])
def test_every_loss_is_a_number(topic, seed):
    """Masked places hold NaN in the inputs; none of it may reach a loss."""
    loss, metrics = TOPICS[topic](seed).recordings[-1].result
    assert loss.isfinite() and all(value.isfinite() for value in metrics.values())


def test_siblings_answer_one_prompt():
    tokens = TOPICS["grpo"](0).tokens
    assert tokens[0, :2].tolist() == tokens[1, :2].tolist() and not torch.equal(
        tokens[0], tokens[1]
    )


def test_another_seed_is_another_batch():
    assert page("dpo", seed=0) == page("dpo", seed=0) != page("dpo", seed=1)


# ----------------------------------------------------------------------------------- what it prints


@pytest.mark.parametrize("topic", TOPICS)
@pytest.mark.parametrize("width", [60, 80])
def test_pages_fit_the_terminal(topic, width):
    text = page(topic, width=width)
    assert max(map(len, text.splitlines())) <= width
    assert "nan" not in text and "\x1b" not in text


@pytest.mark.parametrize("topic", TOPICS)
def test_every_name_is_printed_with_its_shape_and_its_term(topic):
    text = page(topic)
    for recording in TOPICS[topic](0).recordings:
        for name, term in TERMS[recording.function].terms.items():
            value = recording.last(name)
            if term.hidden or value is None:
                continue
            if isinstance(value, torch.Tensor):
                shape = str(tuple(value.shape)) if value.dim() else "(one number)"
                assert f"\n{name} {shape}" in text
            else:
                assert f"\n{name} = {value:g}" in text
            assert " ".join(term.term.split()) in " ".join(text.split())


def test_the_readme_shows_what_is_printed():
    """With today's line of ppo.py and its number."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.search(r"```text\n(ratio \(2, 5\).*?)```", readme, re.DOTALL)[1]
    assert shown in page("ppo")


def test_a_masked_place_is_a_dot():
    lines = page("ppo").splitlines()
    start = lines.index("ratio (2, 5)  =  ratio_t = p_t / p_old_t")
    rows = [line.split() for line in lines[start : start + 6] if line.startswith(" b=")]
    assert [[text == "." for text in row[1:]] for row in rows] == [
        [True, False, False, False, False],
        [True, False, False, False, True],
    ]
    ratios = TOPICS["ppo"](0).recordings[2].last("ratio")
    assert rows[0][2:] == [f"{ratio:.3f}" for ratio in ratios[0, 1:].tolist()]


def test_the_end_is_the_loss_and_the_metrics():
    policy, value = (r.result for r in TOPICS["ppo"](0).recordings[2:])
    ending = page("ppo").split("== The loss, and what to watch beside it ==")[1]
    assert f"ppo_policy_loss: loss {policy[0].item():.4f}" in ending
    assert f"ppo_value_loss: loss {value[0].item():.4f}" in ending
    assert f"approx_kl          {policy[1]['approx_kl'].item():.4f}" in ending


def test_the_loop_of_gae_stands_in_columns():
    text = page("ppo")
    assert "t=4      t=3      t=2      t=1      t=0" in text
    assert "line " in text and "delta = rewards[:, t] + gamma * next_value - values[:, t]" in text


def test_colours_only_where_asked():
    assert "\x1b[1m" in page("sft", colour=True)
    plain = page("sft", colour=True).replace("\x1b[1m", "").replace("\x1b[2m", "")
    assert plain.replace("\x1b[0m", "") == page("sft")


@pytest.mark.parametrize(
    "number, width, text",
    [
        (0.12345, 9, "0.123"),
        (-12.345, 7, "-12.35"),
        (-0.0001, 9, "0.000"),  # no minus before a zero
        (123456.0, 6, "1e+05"),
        (True, 5, "1"),
        (7, 5, "7"),
    ],
)
def test_cells(number, width, text):
    assert cell(number, width) == text


# ------------------------------------------------------------------------------------- the program


def test_the_list(capsys):
    assert trace.main(["--list"]) == trace.main([]) == 0
    screen = capsys.readouterr().out
    assert all(f"  {topic} " in screen for topic in TOPICS)
    assert max(map(len, screen.splitlines())) <= 80


def test_a_misspelt_name(capsys):
    with pytest.raises(SystemExit) as stop:
        trace.main(["pop"])
    assert stop.value.code == 2
    assert "did you mean ppo?" in capsys.readouterr().err


def test_a_pipe_gets_no_colours_and_keeps_the_width():
    command = [sys.executable, "-m", "chapters.trace", "grpo", "--seed", "4"]
    environment = {**os.environ, "COLUMNS": "60"}
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, encoding="utf-8", env=environment
    )
    assert result.returncode == 0 and result.stderr == ""
    assert result.stdout.rstrip("\n") == page("grpo", seed=4, width=60)
