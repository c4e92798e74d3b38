"""The rooms of the house: what lies at the door, who may look into whose room, and that every file
and program that a text names is there."""

import ast
import json
import re
import subprocess

import pytest
from test_imports import CHAPTER_FILES, OURS, PACKAGE_FILES, ROOT, imported, room, short_name

from chapters.bands.anchors import anchored
from chapters.bands.anchors import texts as anchored_texts
from chapters.common.runner import CHAPTERS
from kittenllm import door
from kittenllm.chat import show

TOP = {"README.md", "README.zh.md", "requirements.txt", "pyproject.toml", "LICENSE", "AGENTS.md"}
TOP |= {"kittenllm", "chapters", "tests", "data"}
ROOMS = {row.name for row in CHAPTERS} | {"common", "exercises"}
ROOMS |= {"check", "report", "trace", "museum", "bands", "chat", "rank", "enumerable", "export"}
ROOMS |= {"quiz", "sheets", "notebooks"}
DOOR = {"__init__.py", "__main__.py", "chapters.py", "one_file.py", "real_models.md"}
DOOR |= {"TEACHING.md", "TEACHING.zh.md", "real_models.zh.md"}
TEXTS = [*ROOT.glob("*.md"), ROOT / ".github" / "CONTRIBUTING.md", ROOT / "data" / "README.md"]
TEXTS += sorted((ROOT / "chapters").rglob("*.md"))


def tracked() -> set[str]:
    result = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, encoding="utf-8")
    if result.returncode != 0:
        pytest.skip("needs a git checkout")
    return {line for line in result.stdout.splitlines() if (ROOT / line).exists()}


def test_the_top_level_holds_this_and_nothing_else():
    top = {line.split("/")[0] for line in tracked()}
    assert {name for name in top if not name.startswith(".")} <= TOP
    assert {"README.md", "AGENTS.md", "kittenllm", "chapters", "tests", "data"} <= top


def tree_of_the_readme() -> set[str]:
    """The paths in README's drawing of the folders. Each line says what its names are."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    drawing = readme.partition("## How to read the code")[2].split("```")[1]
    paths, folder = set(), ""
    for line in drawing.removeprefix("text\n").splitlines():
        if line.startswith("   "):
            continue  # the line before goes on
        names, *says = re.split(r"  +", line.strip(), maxsplit=1)
        assert says, f"what is it? {line}"
        if not line.startswith(" "):
            folder = names if names in ("chapters/", "kittenllm/") else ""
            paths |= set(names.split())
        else:
            paths |= {folder + name for name in names.split()}
    return paths


def test_the_tree_of_the_readme_names_each_file_and_folder_of_the_door():
    """The top level, and what lies directly in kittenllm/ and chapters/."""
    there = set()
    for file in tracked():
        first, *others = file.split("/")
        there.add(f"{first}/" if others else first)
        if first in ("chapters", "kittenllm"):
            there.add(f"{first}/{others[0]}" + "/" * (len(others) > 1))
    assert tree_of_the_readme() == there


def test_the_rooms_of_the_chapters():
    folders = {path for path in (ROOT / "chapters").iterdir() if path.is_dir()}
    assert {path.name for path in folders} - {"__pycache__"} == ROOMS
    at_the_door = {path.name for path in (ROOT / "chapters").iterdir() if path.is_file()}
    assert at_the_door <= DOOR
    assert len([name for name in at_the_door if name.endswith(".py")]) <= 5
    assert len(list((ROOT / "chapters" / "common").glob("*.py"))) <= 10
    for row in CHAPTERS:
        files = {path.name for path in (ROOT / "chapters" / row.name).iterdir()}
        assert {"story.py", "lesson.md", "__main__.py"} <= files


def arrows() -> dict[str, set[str]]:
    """Room -> the other rooms that its files import."""
    found: dict[str, set[str]] = {}
    for path in CHAPTER_FILES:
        others = {name.split(".")[1] for name in imported(path) if name.startswith("chapters.")}
        found.setdefault(room(path), set()).update(others - {room(path)})
    return found


def test_no_circle_of_rooms():
    left = arrows()
    while left:
        free = {name for name, others in left.items() if not others & set(left)}
        assert free, f"these rooms import each other: {sorted(left)}"
        left = {name: others for name, others in left.items() if name not in free}


def test_stories_stand_on_the_common_room_and_print_verdicts_only():
    for name, others in arrows().items():
        if re.match(r"ch\d", name):
            assert others <= {"common", "bands"}, name
    for path in CHAPTER_FILES:
        if path.name == "story.py":
            rooms = {n.split(".")[1] for n in imported(path) if n.startswith("chapters.")}
            assert rooms <= {"common", room(path)}, short_name(path)


def file_arrows() -> dict[str, set[str]]:
    """Every file of ours -> the files of ours that it imports, as dotted names."""
    files = [*PACKAGE_FILES, *CHAPTER_FILES]
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in files}
    found = {}
    for name, path in names.items():
        wanted = {n for n in imported(path) if n.split(".")[0] in OURS}
        parents = {n.rsplit(".", 1)[0] for n in wanted}
        found[name] = ((wanted | parents) & set(names)) - {name}
    return found


def test_no_circle_of_files():
    left = file_arrows()
    while left:
        free = {name for name, others in left.items() if not others & set(left)}
        assert free, f"these files import each other: {sorted(left)}"
        left = {name: others for name, others in left.items() if name not in free}


@pytest.mark.parametrize("path", PACKAGE_FILES + CHAPTER_FILES, ids=short_name)
def test_a_file_that_a_docstring_names_is_there(path):
    """ "Read before: gpt.py" names a file of the same room, of kittenllm/, or by its path."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    for name in re.findall(r"(?<![\w/*.<-])([\w/]+\.py)\b", docstring):
        places = (path.parent, path.parent.parent, ROOT / "kittenllm", ROOT / "chapters", ROOT)
        there = any((place / name).is_file() for place in places)
        assert there or name in ("story.py", "__main__.py"), f"{short_name(path)}: {name}"


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_and_every_program_of_a_text_is_there(path):
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:", target):
            file, _, anchor = target.partition("#")
            page = path.parent / file if file else path
            assert page.exists(), f"{path}: {target}"
            if anchor and page.suffix == ".md":
                heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
                slugs = {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}
                assert anchor in slugs, f"{path}: {target}"
            elif anchor:
                assert re.fullmatch(r"L\d+", anchor) and page.suffix == ".py", f"{path}: {target}"
    for module in re.findall(r"python -m ((?:chapters|kittenllm)[\w.]*)", text):
        assert module in door.programs() or module.endswith("NAME"), f"{path}: {module}"


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_link_that_names_a_function_opens_the_line_of_its_definition(path):
    """If not: python -m chapters.bands --docs."""
    text = path.read_text(encoding="utf-8")
    assert anchored(text, path.parent) == text
    for name, file, line in re.findall(r"\[`([\w.]+)`[^\]]*\]\(([^)\s]+\.py)#L(\d+)\)", text):
        code = (path.parent / file).read_text(encoding="utf-8").splitlines()[int(line) - 1]
        assert re.match(rf"\s*(def |class |){name.split('.')[-1]}\b", code), f"{name}: {code}"


def test_lines_of_links_by_hand(tmp_path):
    (tmp_path / "a.py").write_text(
        "x = 1\n\n\n@cached\ndef f():\n    pass\n\n\nclass C:\n    def g(self):\n        f = 2\n"
    )
    text = "[`f`](a.py) [`C`, a class](a.py#L3) [`C.g`](a.py) [`x`](a.py) [`a.py`](a.py) [f](a.py)"
    assert anchored(text, tmp_path) == (
        "[`f`](a.py#L5) [`C`, a class](a.py#L9) [`C.g`](a.py#L10) [`x`](a.py#L1) [`a.py`](a.py) "
        "[f](a.py)"
    )
    with pytest.raises(ValueError, match="a.py defines no 'h': correct the link"):
        anchored("[`h`](a.py)", tmp_path)
    assert sorted(anchored_texts()) == sorted(TEXTS)


def test_the_launch_file_names_programs_and_steps_over_the_checks():
    launch = json.loads((ROOT / ".vscode" / "launch.json").read_text(encoding="utf-8"))
    modules = {entry["module"] for entry in launch["configurations"]}
    assert {f"chapters.{row.name}" for row in CHAPTERS} | {"chapters", "pytest"} == modules
    for entry in launch["configurations"]:
        assert {"path": "**/kittenllm/checks.py", "include": False} in entry["rules"]
    assert (ROOT / "kittenllm" / "checks.py").is_file()


def test_words_of_a_loss_frame(town_tokenizer, capsys):
    import torch

    ids = town_tokenizer.encode("the cat")
    tokens = torch.tensor([ids, ids])
    mask = torch.zeros(2, len(ids), dtype=torch.bool)
    mask[0, -1] = True
    show(tokens, mask, town_tokenizer)
    whole = capsys.readouterr().out
    assert len(whole.splitlines()) == 2 and whole.count("[") == 1
    show(tokens, mask[:, 1:], town_tokenizer)  # the action frame says the same
    assert capsys.readouterr().out == whole
    with pytest.raises(ValueError, match="the mask"):
        show(tokens, mask[:, 2:], town_tokenizer)


def test_the_tools_of_the_gate_have_one_version():
    """What a contributor installs, and what the gate does."""
    pins = [
        sorted(re.findall(r"(?:ruff|mypy)==[0-9.]+", (ROOT / name).read_text(encoding="utf-8")))
        for name in (".ci/run", ".github/CONTRIBUTING.md")
    ]
    assert pins[0] == pins[1] and len(pins[0]) == 2


def test_an_ignored_type_error_has_its_name_and_its_reason():
    for path in PACKAGE_FILES:
        for line in path.read_text(encoding="utf-8").splitlines():
            if "type: ignore" in line:
                assert re.search(r"# type: ignore\[[a-z-]+\]  # \w+", line), line
