"""From a dataclass to flags and back; a wrong flag is one line on the terminal and exit code 2."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import torch

from kittenllm.config import check_options, nested, option
from kittenllm.runs.checkpoints import plain_numbers
from kittenllm.settings import (
    Common,
    asks_for_extras,
    main_values,
    new_generator,
    new_parser,
    new_random,
    parse_settings,
    pick_device,
    read_common,
    restore_settings,
    with_values,
)


@dataclass(frozen=True)
class Settings:
    steps: int = option(300, "optimizer steps")
    matrix_lr: float = option(3e-3, "learning rate, 100% of it")
    betas: tuple[float, ...] = option((0.1, 0.5), "strengths to try")
    methods: tuple[str, ...] = option(("dpo",), "which to run", choices=("dpo", "ipo"))
    loss: str = option("token", "normalisation", choices=("token", "reply"))
    text: Path | None = option(None, "a file of your own")
    limit: int | None = option(5, "at most")
    replay: bool = option(True, "replay old text")

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, not {self.steps}")


QUICK = {"steps": 3, "betas": (0.1,)}


def parse(line: str):
    return parse_settings(Settings, "A chapter.", line.split(), quick=QUICK, prog="chapter")


def test_without_flags_the_defaults_stand():
    settings, common = parse("")
    assert settings == Settings()
    assert common == Common(seed=0, runs=Path("runs"), quick=False, size="small")


@pytest.mark.parametrize(
    "line, field, value",
    [
        ("--steps 7", "steps", 7),
        ("--matrix-lr 1e-4", "matrix_lr", 1e-4),
        ("--betas 0.1,1", "betas", (0.1, 1.0)),
        ("--betas ,", "betas", ()),
        ("--methods ipo,dpo", "methods", ("ipo", "dpo")),
        ("--loss reply", "loss", "reply"),
        ("--text a/b.txt", "text", Path("a/b.txt")),
        ("--text none", "text", None),
        ("--limit none", "limit", None),
        ("--limit 9", "limit", 9),
        ("--no-replay", "replay", False),
        ("--replay", "replay", True),
    ],
)
def test_every_kind_of_flag(line, field, value):
    settings, _ = parse(line)
    assert getattr(settings, field) == value


def test_quick_values_replace_defaults_but_not_flags():
    assert parse("--quick")[0].steps == 3
    assert parse("--quick")[0].betas == (0.1,)
    assert parse("--quick --steps 9")[0].steps == 9
    assert parse("--steps 300 --quick")[0].steps == 300  # given by hand, although it is the default


def test_quick_runs_have_their_own_folder():
    assert parse("--runs here")[1].folder("ch1_sft") == Path("here/ch1_sft")
    assert parse("--runs here --quick")[1].folder("ch1_sft") == Path("here/quick/ch1_sft")


def test_common_flags():
    _, common = parse("--seed 4 --device cpu --runs elsewhere --size medium")
    assert common == Common(4, torch.device("cpu"), Path("elsewhere"), False, "medium")


@pytest.mark.parametrize(
    "line, message",
    [
        ("--steps 0", "steps must be at least 1, not 0"),
        ("--steps 1.5", "'1.5' is not a whole number"),
        ("--matrix-lr nan", "'nan' is not a number"),
        ("--matrix-lr inf", "'inf' is not a number"),
        ("--betas 0.1,x", "'x' is not a number"),
        ("--methods dpo,ppo", "'ppo' is not one of dpo, ipo"),
        ("--loss mean", "'mean' is not one of token, reply"),
        ("--seed -1", "--seed must be between 0 and 4294967295, not -1"),
        ("--seed " + "9" * 400, "--seed must be between"),
        ("--size huge", "huge"),
        ("--device abacus", "abacus"),
        ("--step 3", "--step"),  # no guessing what was meant
        ("--runs " + __file__, "not a folder"),
    ],
)
def test_wrong_flags_exit_with_one_message(capsys, line, message):
    with pytest.raises(SystemExit) as stop:
        parse(line)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_help_names_defaults_and_quick_values(capsys):
    with pytest.raises(SystemExit) as stop:
        parse("--help")
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "optimizer steps (default: 300; quick: 3)" in text
    assert "100% of it (default: 0.003)" in text
    assert "strengths to try (default: 0.1,0.5; quick: 0.1)" in text
    assert "a file of your own (default: none)" in text
    assert "replay old text (default: yes)" in text


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_device_that_is_absent_is_named(capsys, monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=f"--device {name}: this torch sees no .* GPU"):
        pick_device(name)
    with pytest.raises(SystemExit) as stop:
        parse(f"--device {name}")
    assert stop.value.code == 2
    assert "--device cpu" in capsys.readouterr().err


def test_auto_takes_cuda_where_present_and_never_mps(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == torch.device("cuda")
    with pytest.raises(ValueError, match="abacus"):
        pick_device("abacus")


def test_dice_depend_on_seed_and_salt_and_nothing_else(device):
    def roll(seed, *salt):
        return torch.rand(4, generator=new_generator(device, seed, *salt), device=device).tolist()

    assert roll(0, "shuffle") == roll(0, "shuffle")
    assert len({tuple(roll(*key)) for key in [(0, "a"), (1, "a"), (0, "b"), (0, "a", 1)]}) == 4
    assert new_random(0, "a").random() == new_random(0, "a").random()
    assert new_random(0, "a").random() != new_random(0, "b").random()


def test_known_dice():
    """The same numbers on every machine and in every Python: a hash, not Python's own `hash`."""
    assert new_generator("cpu", 0, "a").initial_seed() == 739273521946992771


def test_the_common_flags_alone():
    parser = new_parser("The journey.", prog="chapters")
    common = read_common(parser, vars(parser.parse_args(["--quick", "--seed", "2"])))
    assert common.quick and common.seed == 2


def test_settings_come_back_from_json():
    settings = Settings(steps=7, betas=(0.2,), text=Path("a/b.txt"), replay=False)
    config = json.loads(json.dumps(plain_numbers(asdict(settings))))
    assert restore_settings(Settings, config) == settings
    with pytest.raises(ValueError, match="steps"):
        restore_settings(Settings, {"steps": 0})
    with pytest.raises(TypeError, match="old_name"):
        restore_settings(Settings, {"old_name": 1})


def test_a_setting_of_an_unknown_kind_is_the_authors_mistake():
    @dataclass(frozen=True)
    class Odd:
        names: dict = option(None, "a dict")

    with pytest.raises(TypeError, match="dict"):
        parse_settings(Odd, "Odd.", [])


# ------------------------------------------------------------------------------ nested configs


@dataclass(frozen=True)
class Inner:
    steps: int = option(10, "rounds", low=1)
    beta: float = option(0.1, "price of a nat", above=0)
    longest: int = option(48, "longest reply", low=1)

    def __post_init__(self):
        check_options(self)


@dataclass(frozen=True)
class Experiment:
    rounds: int = option(30, "of the experiment", low=1)


@dataclass(frozen=True)
class Chapter:
    text: str = option("", "a file")
    dpo: Inner = nested(Inner(steps=55), hidden="longest")
    ipo: Inner = nested(Inner(steps=55, beta=0.3), prefix="ipo_", hidden="longest", steps="steps")
    explore: bool = option(False, "add the experiment", extra=True)
    experiment: Experiment = nested(Experiment(), extra=True)


def parse_chapter(line: str):
    quick = {"steps": 4, "ipo_beta": 0.7}
    return parse_settings(Chapter, "", line.split(), quick=quick, prog="chapter")[0]


def test_fields_of_nested_configs_are_flags():
    assert parse_chapter("") == Chapter()
    assert parse_chapter("--beta 2") == Chapter(dpo=Inner(steps=55, beta=2.0))
    assert parse_chapter("--ipo-beta 2") == Chapter(ipo=Inner(steps=55, beta=2.0))
    both = parse_chapter("--steps 7")  # one flag for two configs
    assert both == Chapter(dpo=Inner(steps=7), ipo=Inner(steps=7, beta=0.3))
    assert parse_chapter("--quick --steps 7") == Chapter(
        dpo=Inner(steps=7), ipo=Inner(steps=7, beta=0.7)
    )


@pytest.mark.parametrize(
    "line, message",
    [
        ("--steps 0", "steps must be at least 1, got 0"),
        ("--ipo-beta -1", "ipo_beta must be above 0, got -1.0"),  # as the user calls it
        ("--rounds 0", "rounds must be at least 1, got 0"),
        ("--longest 5", "there is no --longest"),
        ("--ipo-steps 5", "there is no --ipo-steps"),
    ],
)
def test_flags_of_nested_configs_are_refused_in_one_line(capsys, line, message):
    with pytest.raises(SystemExit):
        parse_chapter(line)
    screen = capsys.readouterr().err
    assert message in screen and screen.count("\n") == 1


def test_help_shows_default_quick_value_and_limits_of_nested_fields(capsys):
    with pytest.raises(SystemExit):
        parse_chapter("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert "--steps N rounds (default: 55; quick: 4; at least 1)" in text
    assert "--ipo-beta X price of a nat (default: 0.3; quick: 0.7; above 0)" in text


def test_extras_are_no_part_of_the_main_run():
    settings = with_values(Chapter(), {"explore": True, "rounds": 3, "ipo_beta": 0.9})
    assert settings.experiment == Experiment(rounds=3)
    plain = {"text": "", "steps": 55, "beta": 0.1, "ipo_beta": 0.9}
    assert main_values(settings) == plain
    assert restore_settings(Chapter, plain) == with_values(Chapter(), {"ipo_beta": 0.9})
    assert asks_for_extras(settings) and not asks_for_extras(Chapter())
    with pytest.raises(TypeError, match="old_name"):
        with_values(Chapter(), {"old_name": 1})
