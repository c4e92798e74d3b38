"""The shape of the code: who may import whom, how long a file may be, and what no file may hold.

Imports only point down. Read `LAYERS` from top to bottom and every file only needs what came
before it.
"""

import ast
import functools
import re
import sys
import tokenize
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALGORITHMS = ("sft", "reward_model", "ppo", "dpo", "orpo", "grpo")

# A file imports only from layers above its own, and from no other file of its own layer.
LAYERS = (
    ("the door", "door"),
    ("options", "config"),
    (
        "ground",
        "kittenllm distributed checks runs.json_files runs.locks tokenizer runs.memory "
        "skills.meowscript data_file",
    ),
    ("the language", "skills.meowscript_format"),
    ("the town", "kitten_town"),  # the world knows nothing about models
    ("the model", "gpt chat"),
    ("the forms of records", "record_forms"),
    ("arithmetic", "logprobs"),
    (
        "tools",
        "settings batches forward optim sampling runs.checkpoints runs.progress records "
        "skills.search skills.calculator",
    ),
    (
        "helpers",
        "training rewards calibration cleaning plot_style runs.stages runs.summaries "
        "skills.agent lora start",
    ),
    ("parts of a model folder", "chat_template safetensors_file tokenizer_json"),
    ("a model folder", "huggingface"),
    ("pairs", "pairs"),
    ("algorithms", " ".join(("pretrain", *ALGORITHMS))),  # they never import each other
    (
        "around the algorithms",
        "evaluation plots runs.run scorer skills.toolbox",
    ),  # chapters need these
)
LAYER_OF = {name: place for place, (_, names) in enumerate(LAYERS) for name in names.split()}
# Forbidden though the layers would allow it.
NEVER = {
    **dict.fromkeys(
        ("pretrain", *ALGORITHMS),
        {"kitten_town", "settings", "runs.checkpoints", "records", "data_file"},
    ),
    **dict.fromkeys(("evaluation", "plots", "runs.run"), {"pretrain", *ALGORITHMS}),
}
# The one exception: the program that writes data/ saves as carefully as everybody else.
EXCEPTIONS = {("kitten_town/__main__.py", "runs.checkpoints")}

PACKAGES = {"torch", "numpy", "tiktoken", "tqdm", "matplotlib"}  # and no other at run time
OURS = {"kittenllm", "chapters"}

PACKAGE_FILES = sorted((ROOT / "kittenllm").rglob("*.py"))
CHAPTER_FILES = sorted((ROOT / "chapters").rglob("*.py"))
TEST_FILES = sorted((ROOT / "tests").rglob("*.py"))
TEXT_FILES = [
    *PACKAGE_FILES,
    *CHAPTER_FILES,
    *TEST_FILES,
    *sorted((ROOT / "chapters").rglob("*.md")),
    *sorted(ROOT.glob("README*.md")),
    *(ROOT / name for name in ("pyproject.toml", "requirements.txt", ".ci/run")),
    ROOT / "data" / "README.md",
]

FILE_LINES, ALGORITHM_LINES, FUNCTION_LINES = 300, 200, 60


def short_name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@functools.cache
def imported(path: Path) -> set[str]:
    """Full names of the modules that a file imports, inside of functions too."""
    names = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{short_name(path)}: write imports out in full"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def part(path: Path) -> str:
    """kittenllm/gpt.py is "gpt", kittenllm/runs/stages.py is "runs.stages", and
    kittenllm/kitten_town/facts.py is "kitten_town"."""
    return _part(path.relative_to(ROOT / "kittenllm").with_suffix("").parts)


def _part(names: Sequence[str]) -> str:
    if names[-1] == "kittenllm":  # the small files at the door of every folder
        return "kittenllm"
    return ".".join(names[:2]) if names[0] in ("runs", "skills") else names[0]


def own_parts(path: Path) -> set[str]:
    """The parts of kittenllm that a file imports: "kittenllm.gpt.GPT" is "gpt"."""
    names = [name.split(".")[1:] for name in imported(path) if name.startswith("kittenllm.")]
    return {_part(parts) for parts in names} - {"__version__"}


@pytest.mark.parametrize("path", PACKAGE_FILES, ids=short_name)
def test_imports_point_down(path):
    if path.parent.name in ("runs", "skills") and path.stem == "__init__":
        assert not imported(path)
        return
    if path == ROOT / "kittenllm" / "__init__.py":
        assert imported(path) == {"os", "sys", "kittenllm.door.enter"}
        return
    mine = part(path)
    assert mine in LAYER_OF, f"{mine} is new: give it a place in LAYERS"
    for other in own_parts(path) - {mine}:
        if (path.relative_to(ROOT / "kittenllm").as_posix(), other) in EXCEPTIONS:
            continue
        assert LAYER_OF[other] < LAYER_OF[mine], f"{mine} must not import {other}"
        assert other not in NEVER.get(mine, set()), f"{mine} must not import {other}"
    assert not {name for name in imported(path) if name.split(".")[0] == "chapters"}


def room(path: Path) -> str:
    """chapters/ch3_ppo/story.py is in "ch3_ppo", chapters/__main__.py in ""."""
    return path.relative_to(ROOT / "chapters").parts[0] if path.parent.name != "chapters" else ""


def test_no_chapter_imports_another():
    rooms = {room(path) for path in CHAPTER_FILES}
    for path in CHAPTER_FILES:
        others = {n.split(".")[1] for n in imported(path) if n.startswith("chapters.")}
        assert others <= rooms
        for other in others - {room(path)}:
            assert not re.match(r"ch\d", other), f"{short_name(path)} imports {other}"


@pytest.mark.parametrize("folder", ["kittenllm", "chapters"])
def test_five_packages_and_no_other(folder):
    known = PACKAGES | OURS | set(sys.stdlib_module_names)
    for path in sorted((ROOT / folder).rglob("*.py")):
        foreign = {name.split(".")[0] for name in imported(path)} - known
        assert not foreign, f"{short_name(path)} imports {foreign}"


def test_requirements_are_those_packages():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    required = {re.match(r"[a-z]+", line)[0] for line in lines if line}
    assert required == PACKAGES | {"pytest"}
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r"^dependencies = \[(.*)\]$", project, re.MULTILINE)[1]
    assert {re.match(r"[a-z]+", name)[0] for name in re.findall(r'"([^"]+)"', listed)} == PACKAGES
    torch_line = next(line for line in lines if line.startswith("torch"))
    assert f'"{torch_line}"' in listed


def code_lines(path: Path) -> set[int]:
    """Numbers of the lines with code: blank lines, comments and docstrings do not count."""
    lines: set[int] = set()
    empty = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENCODING}
    empty |= {tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    with open(path, "rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type not in empty:
                lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree_of(path)):
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            docstring = node.body[0]
            lines -= set(range(docstring.lineno, docstring.end_lineno + 1))
    return lines


def test_lines_of_code_by_hand(tmp_path):
    path = tmp_path / "example.py"
    path.write_text(
        '"""Doc\nstring."""\n\n# a comment\nx = [\n    1,  # one\n]\n\n\ny = """a\nb"""\n'
    )
    assert code_lines(path) == {5, 6, 7, 10, 11}


@pytest.mark.parametrize("path", PACKAGE_FILES + CHAPTER_FILES, ids=short_name)
def test_files_and_functions_are_short(path):
    lines = code_lines(path)
    algorithm = path.parent == ROOT / "kittenllm" and path.stem in ALGORITHMS
    limit = ALGORITHM_LINES if algorithm else FILE_LINES
    assert len(lines) <= limit, f"{short_name(path)} has {len(lines)} lines of code, of {limit}"
    for node in ast.walk(tree_of(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            inside = [line for line in lines if node.lineno <= line <= node.end_lineno]
            assert len(inside) <= FUNCTION_LINES, f"{node.name} has {len(inside)} lines of code"


@pytest.mark.parametrize("path", PACKAGE_FILES + CHAPTER_FILES + TEST_FILES, ids=short_name)
def test_no_text_is_ever_run_as_code(path):
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("eval", "exec", "compile", "__import__")


@pytest.mark.parametrize("path", TEXT_FILES, ids=short_name)
def test_no_file_knows_one_machine(path):
    text = path.read_text(encoding="utf-8")
    folders = re.findall(r"(?<![\w.<}-])/(?:home|Users|root|tmp|work|mnt|opt|private)\b.*", text)
    assert not folders
    assert not re.findall(r"\b[A-Z]:\\\\?Users.*", text)
    assert not re.findall(r"index[-]url|find[-]links|pypi[.]", text)


@pytest.mark.parametrize("path", PACKAGE_FILES + CHAPTER_FILES, ids=short_name)
def test_every_file_says_what_it_is(path):
    if path.read_text(encoding="utf-8").strip():
        assert ast.get_docstring(tree_of(path))
