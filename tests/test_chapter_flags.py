"""The command line of every chapter: its flags, what they mean, and what they refuse.

tests/cases/flags.json holds each flag with its default and, if it has one, its value of --quick,
written down once more: a default that changes by mistake is seen.
"""

import dataclasses
import json
from pathlib import Path

import pytest

from chapters.ch0_base import story as ch0_base
from chapters.ch1_language import story as ch1_language
from chapters.ch1_sft import story as ch1_sft
from chapters.ch1_tools import story as ch1_tools
from chapters.ch2_reward_model import story as ch2_reward_model
from chapters.ch3_ppo import story as ch3_ppo
from chapters.ch4_preferences import story as ch4_preferences
from chapters.ch5_reasoning import story as ch5_reasoning
from chapters.ch6_r1 import story as ch6_r1
from chapters.enumerable import __main__ as enumerable
from chapters.rank import __main__ as rank
from kittenllm.config import limits_text
from kittenllm.runs.checkpoints import plain_numbers
from kittenllm.runs.run import Run
from kittenllm.settings import Common, asks_for_extras, flags_of, parse_settings

PROGRAMS = {
    "ch0_base": ch0_base,
    "ch1_sft": ch1_sft,
    "ch1_tools": ch1_tools,
    "ch1_language": ch1_language,
    "ch2_reward_model": ch2_reward_model,
    "ch3_ppo": ch3_ppo,
    "ch4_preferences": ch4_preferences,
    "ch5_reasoning": ch5_reasoning,
    "ch6_r1": ch6_r1,
    "rank": rank,
    "enumerable": enumerable,
}
WRITTEN_DOWN = json.loads(
    (Path(__file__).parent / "cases" / "flags.json").read_text(encoding="utf-8")
)


def parse(name: str, line: str = ""):
    module = PROGRAMS[name]
    return parse_settings(module.Settings, "", line.split(), quick=module.QUICK, prog=name)[0]


def values_of(settings) -> dict:
    return plain_numbers({name: flag.value for name, flag in flags_of(settings).items()})


@pytest.mark.parametrize("name", PROGRAMS)
def test_flags_defaults_and_quick_values_are_those_written_down(name):
    rows = WRITTEN_DOWN[name]
    assert values_of(parse(name)) == {flag: row[0] for flag, row in rows.items()}
    assert values_of(parse(name, "--quick")) == {flag: row[-1] for flag, row in rows.items()}


def another(value):
    """What to type for another value of the same kind."""
    if isinstance(value, int):
        return value + 1
    return value / 2 or 0.25 if isinstance(value, float) else "7"


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_flag_changes_its_own_value_and_no_other(name):
    usual = values_of(parse(name))
    for flag, value in usual.items():
        if isinstance(value, bool):
            line = ("--no-" if value else "--") + flag.replace("_", "-")
        elif value is None or (isinstance(value, (int, float)) and flag != "row_length"):
            line = f"--{flag.replace('_', '-')} {another(value)}"
        else:
            continue  # words, files and lists
        changed = values_of(parse(name, line))
        assert {key for key in usual if usual[key] != changed[key]} == {flag}, line


def wrong_values(field: dataclasses.Field) -> list[float]:
    """A value beyond each limit."""
    limits = field.metadata.get("limits") or dict.fromkeys(("low", "above", "high", "below"))
    wrong = [limits["above"], limits["below"]]
    wrong += [None if limits["low"] is None else limits["low"] - 1]
    wrong += [None if limits["high"] is None else limits["high"] + 1]
    return [value for value in wrong if value is not None]


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_value_beyond_a_limit_is_one_line_before_anything_runs(name, capsys):
    refused = 0
    for flag, place in flags_of(PROGRAMS[name].Settings()).items():
        for value in wrong_values(place.field):
            with pytest.raises(SystemExit) as stop:
                parse(name, f"--{flag.replace('_', '-')} {value}")
            screen = capsys.readouterr().err
            limits = limits_text(place.field.metadata["limits"])
            assert stop.value.code == 2 and screen.count("\n") == 1
            assert f"{flag} must be {limits}, got {value}" in screen
            refused += 1
    assert refused >= 2


@pytest.mark.parametrize("name", [name for name in PROGRAMS if name.startswith("ch")])
def test_no_hyper_parameter_is_written_twice(name):
    settings = PROGRAMS[name].Settings()
    values = [getattr(settings, field.name) for field in dataclasses.fields(settings)]
    plain = {field.name for field in dataclasses.fields(settings)}
    configs = [value for value in values if dataclasses.is_dataclass(value)]
    assert configs
    for config in configs:
        assert not plain & {field.name for field in dataclasses.fields(config)}


@pytest.mark.parametrize("name", [name for name in PROGRAMS if name.startswith("ch")])
def test_every_setting_has_its_help(name):
    for flag, place in flags_of(PROGRAMS[name].Settings()).items():
        assert place.field.metadata.get("help"), flag


@pytest.mark.parametrize(
    "name, line",
    [
        ("ch3_ppo", "--overoptimisation --few-pairs 7 --over-steps 9 --over-lr 0.1"),
        ("ch3_ppo", "--redraw"),
        ("ch4_preferences", "--frontier --frontier-betas 0.7 --frontier-weights 3"),
        ("ch5_reasoning", "--provenance --normalisations --votes"),
    ],
)
def test_an_extra_never_means_another_main_run(name, line, tmp_path):
    usual, asked = parse(name), parse(name, line)
    assert asks_for_extras(asked) and not asks_for_extras(usual)
    common = Common(runs=tmp_path)
    runs = [Run(common, name, settings, open_now=False) for settings in (usual, asked)]
    assert runs[0].fingerprint == runs[1].fingerprint
