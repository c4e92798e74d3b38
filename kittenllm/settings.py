"""A chapter's settings: one dataclass gives the defaults, the command line flags and the help page.

Each field is written once, with its help text and limits (`option` in config.py). A chapter nests
the configs of its algorithms with the values that it wants, and the fields of these are flags as
well: `ppo: PPOConfig = PPOConfig(steps=55)` gives --steps and all the others. A value that a
chapter cannot use ends as one line on the terminal, before anything was trained.

Read before: config.py. Left out: configuration files; flags that only some chapters would have.
"""

import argparse
import dataclasses
import hashlib
import math
import random
import shlex
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from kittenllm.config import check_option, limits_text
from kittenllm.distributed import world
from kittenllm.door import Parser, path_argument, plain_text
from kittenllm.gpt import SIZES

DEVICES = ("auto", "cpu", "cuda", "mps")
MAX_SEED = 2**32 - 1


@dataclass(frozen=True)
class Common:
    """What every chapter is told: the same for a chapter and the chapters it stands on."""

    seed: int = 0
    device: torch.device = torch.device("cpu")
    runs: Path = Path("runs")
    quick: bool = False
    size: str = "small"  # "small" is 0.7 M parameters, "medium" about 10 M
    # Called with the name and the summary of every chapter that has been trained.
    after_chapter: Callable[[str, dict], None] | None = dataclasses.field(
        default=None, compare=False, repr=False
    )

    def folder(self, chapter: str) -> Path:
        """Where a chapter keeps its files; quick runs never mix with full ones."""
        return (self.runs / "quick" if self.quick else self.runs) / chapter

    def command(self, program: str) -> str:
        """What to type for a program with these settings: "python -m chapters.rank --quick"."""
        usual, flags = Common(), []
        if self.quick:
            flags.append("--quick")
        for name in ("seed", "runs", "size"):
            if getattr(self, name) != getattr(usual, name):
                flags += [f"--{name}", shlex.quote(str(getattr(self, name)))]
        return " ".join(["python -m", program, *flags])


@dataclass(frozen=True)
class Flag:
    """One flag: where its value lives in the settings, and what is known about it."""

    field: dataclasses.Field
    value: object
    extra: bool  # decides nothing in the main run
    places: tuple[tuple[str, ...], ...]  # ("text",) or ("ppo", "steps"); several with one value


def flags_of(settings) -> dict[str, Flag]:
    """Name -> Flag for every field of a settings object, those of nested configs included.

    The name of a flag is also the name of its value in run.json and summary.json.
    """
    flags: dict[str, Flag] = {}
    for outer in dataclasses.fields(settings):
        value = getattr(settings, outer.name)
        extra = outer.metadata.get("extra", False)
        if not dataclasses.is_dataclass(value):
            flags[outer.name] = Flag(outer, value, extra, ((outer.name,),))
            continue
        for inner in dataclasses.fields(value):
            if inner.name in outer.metadata.get("hidden", ()):
                continue
            prefixed = outer.metadata.get("prefix", "") + inner.name
            name = outer.metadata.get("flags", {}).get(inner.name, prefixed)
            first = flags.get(name)
            if first and first.value != getattr(value, inner.name):
                mine = getattr(value, inner.name)
                raise ValueError(f"{name} has two values, {first.value} and {mine}")
            places = (*(first.places if first else ()), (outer.name, inner.name))
            flags[name] = Flag(inner, getattr(value, inner.name), extra, places)
    return flags


def with_values(settings, values: dict):
    """The same settings with other values; the keys are names of flags.

    Raises: ValueError for a value outside its limits, TypeError for a name that is no flag.
    """
    flags = flags_of(settings)
    changes: dict[str, object] = {}
    inside: dict[str, dict] = {}
    for name, value in values.items():
        if name not in flags:
            raise TypeError(f"{type(settings).__name__} has no setting {name}")
        for outer, *inner in flags[name].places:
            if inner:
                inside.setdefault(outer, {})[inner[0]] = value
            else:
                changes[outer] = value
    for outer, inner_changes in inside.items():
        changes[outer] = dataclasses.replace(getattr(settings, outer), **inner_changes)
    return dataclasses.replace(settings, **changes)


def main_values(settings) -> dict:
    """Name of the flag -> value, for all that decides the main run: no extras."""
    return {name: flag.value for name, flag in flags_of(settings).items() if not flag.extra}


def asks_for_extras(settings) -> bool:
    """Is something wanted on top of the main run?"""
    return any(flag.extra and flag.value is True for flag in flags_of(settings).values())


def parse_settings(
    settings_class, description: str, argv=None, quick: dict | None = None, prog=None
):
    """Read the command line -> (an instance of `settings_class`, Common).

    `quick` holds the values that --quick puts in place of the defaults, by the names of their
    flags; a flag given by hand wins over both.
    Raises: SystemExit(2) after a one-line message for anything wrong, SystemExit(0) after --help.
    """
    quick = quick or {}
    parser = new_parser(description, prog)
    default = settings_class()
    flags = flags_of(default)
    groups: dict[str, argparse._ArgumentGroup] = {}
    for name, flag in flags.items():
        config = flag.places[0][0] if len(flag.places[0]) == 2 else "this chapter"
        if config not in groups:
            title = f"settings of {config.replace('_', ' ')}"
            groups[config] = parser.add_argument_group(title)
        _add_flag(groups[config], name, flag, quick)
    arguments = vars(parser.parse_args(argv))
    common = read_common(parser, arguments)
    given = {name: arguments[name] for name in flags if name in arguments}
    try:
        for name, value in given.items():  # under the name that the user typed
            if "limits" in flags[name].field.metadata:
                check_option(name, value, flags[name].field)
        return with_values(default, {**(quick if common.quick else {}), **given}), common
    except ValueError as error:
        parser.error(str(error))


def new_parser(description: str, prog=None) -> argparse.ArgumentParser:
    """A parser with the flags that every chapter has; `description` is usually the module's
    docstring."""
    parser = Parser(
        prog=prog,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    group = parser.add_argument_group("settings of every chapter")
    group.add_argument(
        "--quick",
        action="store_true",
        help="the whole path on tiny settings, in <runs>/quick: for a first look",
    )
    group.add_argument(
        "--seed", type=_number(int), default=0, metavar="N", help="same seed, same run (default: 0)"
    )
    group.add_argument(
        "--device",
        choices=DEVICES,
        default="auto",
        help="auto takes cuda where it is present, else cpu (default: auto)",
    )
    group.add_argument(
        "--runs",
        type=path_argument,
        default=Path("runs"),
        metavar="DIR",
        help="folder for models, numbers and pictures (default: runs)",
    )
    group.add_argument(
        "--size",
        choices=tuple(SIZES),
        default="small",
        help="small: 0.7 M parameters; medium: about 10 M, for a GPU (default: small)",
    )
    group.add_argument(
        "--shard",
        action="store_true",
        help="under torchrun: each process keeps a part of the model only, for large ones",
    )
    return parser


def read_common(parser: argparse.ArgumentParser, arguments: dict) -> Common:
    """The flags of `new_parser` as a Common; a device that is not there ends the program with a
    message."""
    if not 0 <= arguments["seed"] <= MAX_SEED:
        parser.error(f"--seed must be between 0 and {MAX_SEED}, not {arguments['seed']}")
    if arguments["runs"].exists() and not arguments["runs"].is_dir():
        parser.error(f"--runs {arguments['runs']}: that is a file, not a folder")
    if arguments["shard"] and world().size == 1:
        parser.error("--shard needs several processes: start the program with torchrun")
    world().sharded = arguments["shard"]
    try:
        device = pick_device(arguments["device"])
    except ValueError as error:
        parser.error(str(error))
    return Common(
        seed=arguments["seed"],
        device=device,
        runs=arguments["runs"],
        quick=arguments["quick"],
        size=arguments["size"],
    )


def restore_settings(settings_class, config: dict):
    """Settings from the `config` of a summary.json, where tuples had become lists and paths text.

    Values that are not there keep their defaults.
    Raises: ValueError or TypeError if the class has other fields by now.
    """
    default = settings_class()
    flags = flags_of(default)
    values = {}
    for name, value in config.items():
        kind = flags[name].field.type if name in flags else None
        if isinstance(value, list):
            value = tuple(value)
        elif isinstance(value, str) and (kind is Path or Path in typing.get_args(kind)):
            value = Path(value)
        values[name] = value
    return with_values(default, values)


def pick_device(name: str) -> torch.device:
    """ "auto" | "cpu" | "cuda" | "mps" -> the device.

    "auto" is cuda where present, else the cpu. An Apple GPU (mps) is used only when asked for: a
    model this small spends its time on starting kernels, and the numbers of the lessons were not
    measured there.
    Raises: ValueError for an unknown name or a device that is not there.
    """
    if name not in DEVICES:
        raise ValueError(f"device must be one of {', '.join(DEVICES)}, not {name!r}")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "--device cuda: this torch sees no CUDA GPU. "
            "Use --device cpu, or install a GPU build of torch."
        )
    if name == "cuda" and world().size > 1 and world().device.type != "cuda":
        raise ValueError(
            f"--device cuda: more processes than the {torch.cuda.device_count()} GPUs here. "
            "Start one for each GPU, or use --device cpu."
        )
    if name == "mps" and world().size > 1:
        raise ValueError("--device mps: one process only. Start it without torchrun.")
    if name == "mps" and not torch.backends.mps.is_available():
        raise ValueError("--device mps: this torch sees no Apple GPU. Use --device cpu.")
    return torch.device(name)


def new_generator(device, seed: int, *salt) -> torch.Generator:
    """A torch.Generator on `device`, seeded from a hash of the seed and the salt.

    The salt says what the generator is for ("shuffle", "rollout", ...): each use gets dice of its
    own, so a change in one place does not move the random numbers of another.
    """
    return torch.Generator(device=device).manual_seed(_hashed_seed(seed, salt))


def new_random(seed: int, *salt) -> random.Random:
    """Like `new_generator`, for Python's own random numbers."""
    return random.Random(_hashed_seed(seed, salt))


def _hashed_seed(seed: int, salt: tuple) -> int:
    digest = hashlib.sha256(repr((int(seed), *salt)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1  # 63 bits: every device takes that


def _add_flag(group, name: str, flag: Flag, quick: dict) -> None:
    """Add the flag (or the pair --flag/--no-flag) for one field."""
    metadata, kind = flag.field.metadata, flag.field.type
    facts = [f"default: {_shown(flag.value)}"]
    if name in quick:
        facts.append(f"quick: {_shown(quick[name])}")
    if "limits" in metadata and (limits := limits_text(metadata["limits"])):
        facts.append(limits)
    help_text = f"{metadata.get('help', '')} ({'; '.join(facts)})".strip().replace("%", "%%")
    options = {"dest": name, "default": argparse.SUPPRESS, "help": help_text}
    option_string = "--" + name.replace("_", "-")
    if kind is bool:
        group.add_argument(option_string, action=argparse.BooleanOptionalAction, **options)
        return
    convert, metavar = _converter(kind, metadata.get("choices"))
    group.add_argument(option_string, type=convert, metavar=metavar, **options)


def _converter(kind, choices):
    """A type from the dataclass -> (text to value function for argparse, name for the help
    page)."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        inner = [item for item in arguments if item is not type(None)]
        if len(inner) != 1 or len(arguments) != 2:
            raise TypeError(f"a setting can be one type or None, not {kind}")
        convert, metavar = _converter(inner[0], choices)
        return (lambda text: None if text.lower() == "none" else convert(text)), metavar
    if origin is tuple:
        convert, metavar = _converter(arguments[0], choices)

        def convert_list(text):
            return tuple(convert(part.strip()) for part in text.split(",") if part.strip())

        return convert_list, f"{metavar},..."
    if choices:
        return _choice(choices), "{" + ",".join(choices) + "}"
    if kind in (int, float):
        return _number(kind), "N" if kind is int else "X"
    if kind is str:
        return plain_text, "TEXT"
    if kind is Path:
        return path_argument, "FILE"
    raise TypeError(f"a setting can be bool, int, float, str, Path, or a tuple of them, not {kind}")


def _number(kind):
    def convert(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if isinstance(value, float) and not math.isfinite(value):
            wanted = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
        return value

    return convert


def _choice(choices):
    def convert(text):
        if text not in choices:
            raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(choices)}")
        return text

    return convert


def _shown(value) -> str:
    """A default as one would type it."""
    if isinstance(value, tuple):
        return ",".join(_shown(item) for item in value) or "empty"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)
