"""At the door: how people start a program of ours, and what they read if it cannot work.

Every case is a process of its own, as a shell would start it. None of them loads torch.
"""

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from chapters.common.runner import CHAPTERS, exit_code, find_chapter
from kittenllm import door
from kittenllm.settings import new_parser, parse_settings, read_common

ROOT = Path(__file__).parent.parent
SHIMS = sorted(
    path
    for folder in ("kittenllm", "chapters")
    for path in (ROOT / folder).rglob("*.py")
    if path.stem in ("kittenllm", "chapters")
)
OURS = ("kittenllm", "chapters")
needs_a_shell = pytest.mark.skipif(os.name == "nt", reason="uses a POSIX shell")


def python(*arguments, cwd=ROOT, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, encoding="utf-8", **options)


def refused(result: subprocess.CompletedProcess) -> str:
    """The one line of a program that ended with exit code 2."""
    assert result.returncode == 2, result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stdout == ""
    return result.stderr


# ------------------------------------------------------------------------------- a busy computer

# Runs each entrance until it loads torch, and prints what OpenMP will read.
UNTIL_TORCH = """
import os, runpy, sys

class Torch:
    def find_spec(name, path=None, target=None):
        if name == "torch":
            raise SystemExit("loads torch")

sys.meta_path.insert(0, Torch)
sys.path.insert(0, os.getcwd())
for entrance in sys.argv[1:]:
    os.environ.pop("GOMP_SPINCOUNT", None)
    for name in [name for name in sys.modules if name.split(".")[0] in ("kittenllm", "chapters")]:
        del sys.modules[name]
    sys.argv = [entrance, "--help"]
    try:
        if entrance.endswith(".py"):
            runpy.run_path(entrance, run_name="__main__")
        else:
            runpy.run_module(entrance, run_name="__main__")
    except SystemExit as end:
        print(f"{entrance}: {end} {os.environ.get('GOMP_SPINCOUNT')}", file=sys.stderr)
"""


def test_every_entrance_limits_the_spinning_before_torch_is_loaded():
    scripts = ["tests/conftest.py", "tests/grading.py", "tests/resume_program.py"]
    scripts += ["tests/museum_inspector.py"]
    benches = set(ROOT.glob("tests/bench/*.py")) - {ROOT / "tests/bench/bench_spinning.py"}
    scripts += [path.relative_to(ROOT).as_posix() for path in benches]  # that one sets it itself
    entrances = [*door.programs(), *sorted(scripts)]
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    result = python("-c", UNTIL_TORCH, *entrances, env=environment)
    assert result.returncode == 0, result.stderr
    seen = dict(line.split(": ") for line in result.stderr.splitlines())
    assert list(seen) == entrances
    assert {end.split()[-1] for end in seen.values()} == {"10000"}
    without = {name for name, end in seen.items() if not end.startswith("loads torch")}
    assert without <= {"chapters.check"}  # its worker loads it


@pytest.mark.parametrize(
    "own, spins",
    [
        ({}, "10000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, "None"),
    ],
)
def test_a_setting_of_your_own_wins(own, spins):
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {k: v for k, v in os.environ.items() if k not in names}
    code = "import kittenllm, os; print(os.environ.get('GOMP_SPINCOUNT'))"
    assert python("-c", code, env={**environment, **own}).stdout.strip() == spins


# ------------------------------------------------------------------------ started the wrong way


@pytest.mark.parametrize(
    "path, hint",
    [
        ("chapters/ch1_sft/story.py", "python -m chapters.ch1_sft"),
        ("chapters/check/__main__.py", "python -m chapters.check"),
        ("chapters", "python -m chapters"),
        ("kittenllm/kitten_town", "python -m kittenllm.kitten_town"),
        ("kittenllm/records.py", "It is a part that programs use. python -m chapters runs"),
    ],
)
def test_started_by_its_path(path, hint, tmp_path):
    line = refused(python(ROOT / path, cwd=tmp_path))
    assert hint in line and (str(ROOT) in line or "--list" in line)


@pytest.mark.parametrize("shim", SHIMS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_small_file_finds_the_door(shim):
    assert "is not a program" in refused(python(shim))


def test_every_folder_of_ours_can_be_met_by_path():
    """A program started by its path finds a shim for the first package of ours that it imports, and
    so does every file of the package and of the exercises."""
    for folder in ("kittenllm", "chapters"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ImportFrom):
                    first = node.module.split(".")[0]
                elif isinstance(node, ast.Import):
                    first = node.names[0].name.split(".")[0]
                else:
                    continue
                is_program = path.name in ("story.py", "__main__.py")
                if folder == "chapters" and path.parent.name != "exercises" and not is_program:
                    break
                if first in OURS and path.name != "__init__.py" and path not in SHIMS:
                    assert path.parent / f"{first}.py" in SHIMS, f"{path} needs {first}.py"
                    break


@pytest.mark.parametrize("folder", OURS)
def test_started_inside_of_a_package(folder):
    """`cd chapters`, then `python -m chapters.chat` or `import kittenllm`."""
    program = {"kittenllm": "kittenllm.kitten_town", "chapters": "chapters.chat"}[folder]
    for arguments in (["-m", program], ["-c", f"import {folder}"]):
        assert "Start it in the one above" in refused(python(*arguments, cwd=ROOT / folder))


@pytest.mark.parametrize(
    "module, hint",
    [
        ("kittenllm.ppo", "is not a program. It is a part that programs use"),
        ("kittenllm", "python -m chapters runs the journey"),
        ("chapters.common.runner", "It is a part that programs use"),
        ("chapters.ch1_stf", "Did you mean python -m chapters.ch1_sft?"),
        ("chapters.chta", "Did you mean python -m chapters.chat?"),
        ("chapters.exercises.ppo", "python -m chapters.check --list"),
    ],
)
def test_a_module_that_is_no_program(module, hint):
    assert hint in refused(python("-m", module))
    assert hint in refused(python(f"-Bm{module}", "--quick"))


def test_every_chapter_is_a_program():
    assert {f"chapters.{row.name}" for row in CHAPTERS} < set(door.programs())
    for name in ("chapters", "chapters.chat", "chapters.museum", "kittenllm.kitten_town"):
        assert name in door.programs()


def test_an_old_python_is_told_so():
    code = "import sys; sys.version_info = (3, 9, 18); import {}"
    for package in OURS:
        line = refused(python("-c", code.format(package)))
        assert "Python 3.10 or newer" in line
        first_file = (ROOT / package / "__init__.py").read_text(encoding="utf-8")
        ast.parse(first_file, feature_version=(3, 4))  # it must get that far
        assert 'f"' not in first_file


def test_missing_packages_are_named_with_the_install_line():
    """-S: Python without what pip has installed."""
    line = refused(python("-S", "-m", "chapters.chat"))
    assert "torch, numpy, tiktoken, tqdm, matplotlib" in line
    assert "pip install -r requirements.txt" in line


# ---------------------------------------------------------------------------------- wrong flags


@pytest.mark.parametrize(
    "words, hint",
    [
        ("--quik", "there is no --quik. Did you mean --quick?"),
        ("-quick", "Did you mean --quick?"),
        ("\u2014quick", "Did you mean --quick?"),  # as a word processor writes it
        ("--Sede=3", "Did you mean --seed?"),
        ("--devise cpu", "Did you mean --device?"),
        ("--zzz", "there is no --zzz (--help"),
    ],
)
def test_a_wrong_flag_gets_a_hint(words, hint, capsys):
    with pytest.raises(SystemExit) as stop:
        new_parser("", prog="chapters").parse_args(words.split())
    assert stop.value.code == 2
    shown = capsys.readouterr().err
    assert hint in shown and shown.count("\n") == 1


def test_every_program_reads_its_flags_this_way():
    free = {ROOT / "kittenllm" / "door.py", ROOT / "chapters" / "one_file.py"}  # imports no door
    for path in [*(ROOT / "kittenllm").rglob("*.py"), *(ROOT / "chapters").rglob("*.py")]:
        if path not in free:
            text = path.read_text(encoding="utf-8")
            assert "ArgumentParser(" not in text and "type=Path" not in text, path


@pytest.mark.parametrize("name", ["", "a\x1b[31mb", "a\nb", "a\x9b2Jb"])
def test_a_name_that_is_empty_or_commands_the_terminal_is_refused(name, capsys):
    parser = new_parser("", prog="chapters")
    with pytest.raises(SystemExit) as stop:
        read_common(parser, vars(parser.parse_args(["--runs", name])))
    assert stop.value.code == 2
    shown = capsys.readouterr().err
    assert "--runs" in shown and shown[:-1].isprintable()


def test_texts_of_a_chapter_may_be_empty_but_command_no_terminal(capsys):
    from chapters.ch0_base.story import Settings

    assert parse_settings(Settings, "", ["--text", ""])[0].text == ""
    assert parse_settings(Settings, "", ["--text", "K\u00e4tzchen \U0001f431.txt"])[0].text
    with pytest.raises(SystemExit):
        parse_settings(Settings, "", ["--text", "\x1b[2J.txt"])
    assert capsys.readouterr().err[:-1].isprintable()


def test_an_error_commands_no_terminal(capsys):
    def work():
        raise ValueError("a\x1b[31m.txt: no such file")

    assert exit_code(work) == 1
    assert capsys.readouterr().err == "error: a\\x1b[31m.txt: no such file\n"


@pytest.mark.parametrize(
    "name, meant",
    [
        ("ch7", None),
        ("ch6", "ch6_r1"),
        ("ch", None),
        ("", None),
        ("chapters", None),
        ("ch7_r1", "ch6_r1"),
        ("ch3", "ch3_ppo"),
        ("CH3", "ch3_ppo"),
        ("ppo", "ch3_ppo"),
        ("ch3_poo", "ch3_ppo"),
        ("ch3-ppo.py", "ch3_ppo"),
        ("ch3ppo", "ch3_ppo"),
        ("ch2_ppo", "ch2_reward_model"),
        ("ch7_ppo", "ch3_ppo"),
        ("ch4_dpo", "ch4_preferences"),
        ("ch4-ipo", "ch4_preferences"),
        ("dpo", "ch4_preferences"),
        ("grpo", "ch5_reasoning"),
        ("reward", "ch2_reward_model"),
        ("ch1", "ch1_sft or ch1_tools or ch1_language"),
        ("sft", "ch1_sft"),
        ("ch1_stf", "ch1_sft or ch1_tools or ch1_language"),
    ],
)
def test_near_misses_of_chapters(name, meant):
    with pytest.raises(ValueError) as refusal:
        find_chapter(name)
    hint = f"Did you mean {meant}?" if meant else "There are: ch0_base, ch1_sft,"
    assert hint in str(refusal.value)


# --------------------------------------------------------------------------- streams and signals


@needs_a_shell
@pytest.mark.parametrize("closed", [">&-", "<&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_traceback(closed, tmp_path):
    command = f"{sys.executable} -m chapters.check --list {closed}"
    result = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, encoding="utf-8")
    assert (result.returncode, result.stderr) == (0, "")
    assert ("gae" in result.stdout) == (closed in ("<&-", "2>&-"))
    # a file that is opened later must not get the number of a closed stream, and with it our output
    code = "import sys; from kittenllm.door import open_closed_streams; open_closed_streams();"
    code += f"file = open('{tmp_path}/f', 'w'); print('hello'); sys.exit(file.fileno() < 3)"
    command = f'{sys.executable} -c "{code}" {closed}'
    assert subprocess.run(command, shell=True, cwd=ROOT, capture_output=True).returncode == 0
    assert (tmp_path / "f").read_text() == ""


@needs_a_shell
def test_ctrl_c_while_torch_is_loaded_is_one_line(tmp_path):
    slow = "import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(60)"
    (tmp_path / "torch.py").write_text(slow)
    for module in ("chapters.chat", "kittenllm.kitten_town"):
        result = python("-m", module, env={**os.environ, "PYTHONPATH": str(tmp_path)})
        assert result.stderr == "\nstopped\n"
        assert result.returncode == -signal.SIGINT


def test_ctrl_c_works_where_the_shell_lets_it_be_ignored(capsys):
    """As in a script with `python -m chapters &`."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert exit_code(lambda: os.kill(os.getpid(), signal.SIGINT)) == 130
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert "stopped" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, capsys):
    from kittenllm.kitten_town.__main__ import main

    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "in"):
        with pytest.raises(SystemExit) as stop:
            main(["--out", str(out)])
        assert stop.value.code == 2
        assert "--out" in capsys.readouterr().err
