"""Lessons as notebooks: plain JSON, whole, and they run from top to bottom."""

import json

import pytest

from chapters.common.runner import CHAPTERS
from chapters.notebooks import __main__ as program
from chapters.notebooks.cells import notebook, pieces, run_notebook

LESSON = """# A lesson

Read [the story](story.py#L3) and [this](https://example.org).

```pycon
>>> x = 20
>>> def twice(y):
...     return 2 * y
>>> twice(x)
40
>>> 1 / 0
Traceback (most recent call last):
    ...
ZeroDivisionError: division by zero

```

The end. `>>> x` is no example.

```bash
python -m chapters
```
"""


def written(tmp_path, lesson: str):
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps(notebook("a", lesson)), encoding="utf-8")
    return path


def test_a_lesson_in_pieces():
    kinds = [kind for kind, _, _ in pieces(LESSON)]
    assert kinds == ["text", "code", "code", "text"]
    _, source, output = pieces(LESSON)[1]
    assert source == "x = 20\ndef twice(y):\n    return 2 * y\ntwice(x)" and output == "40\n"
    assert "python -m chapters" in pieces(LESSON)[3][1]


def test_a_notebook_has_the_form_of_nbformat_4_5():
    made = notebook("a", LESSON, lambda link: f"../{link}")
    assert (made["nbformat"], made["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in made["cells"]]
    assert len(set(ids)) == len(ids) == 5
    for cell in made["cells"]:
        assert cell["cell_type"] in ("code", "markdown") and isinstance(cell["source"], list)
        assert ("outputs" in cell) == ("execution_count" in cell) == (cell["cell_type"] == "code")
    text = "".join(made["cells"][1]["source"])
    assert "(../story.py#L3)" in text and "(https://example.org)" in text
    assert [cell["metadata"] for cell in made["cells"]][3] == {"tags": ["raises-exception"]}
    assert notebook("a", LESSON) == notebook("a", LESSON)  # written again: no change


def test_the_runner_runs_in_order_in_one_namespace(tmp_path):
    assert run_notebook(written(tmp_path, LESSON)) == (0, "")
    failures, report = run_notebook(written(tmp_path, LESSON.replace("40", "41")))
    assert failures == 1 and "Expected:\n    41\nGot:\n    40" in report
    swapped = "```pycon\n>>> x\n20\n>>> x = 20\n```\n"
    assert run_notebook(written(tmp_path, swapped))[0] == 1


def test_a_file_that_is_no_notebook_is_named(tmp_path):
    for content in ("{", "[]", "{}"):
        path = tmp_path / "a.ipynb"
        path.write_text(content)
        with pytest.raises(ValueError, match="a.ipynb: this is no notebook"):
            run_notebook(path)


def test_every_lesson_becomes_a_notebook_that_runs(tmp_path, capsys):
    assert program.main(["--to", str(tmp_path), "--run"]) == 0
    assert {path.stem for path in tmp_path.glob("*.ipynb")} == {row.name for row in CHAPTERS}
    assert capsys.readouterr().out.count(".ipynb") == len(CHAPTERS)
    for path in tmp_path.glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        lesson = (program.ROOM / path.stem / "lesson.md").read_text(encoding="utf-8")
        shown = "".join("".join(cell["source"]) for cell in cells[1:])
        assert sum(cell["cell_type"] == "code" for cell in cells) >= 1 + (">>> " in lesson)
        assert lesson.splitlines()[0] in shown


def test_a_notebook_that_does_not_run_is_named(tmp_path, monkeypatch, capsys):
    room = tmp_path / "chapters"
    (room / "ch0_base").mkdir(parents=True)
    (room / "ch0_base" / "lesson.md").write_text("```pycon\n>>> 1 + 1\n3\n```\n")
    monkeypatch.setattr(program, "ROOM", room)
    assert program.main(["--to", str(tmp_path), "--run"]) == 1
    assert "these notebooks do not run: ch0_base.ipynb" in capsys.readouterr().err
    monkeypatch.setattr(program, "ROOM", tmp_path / "nothing")
    assert program.main(["--to", str(tmp_path)]) == 1
    assert "there is no lesson" in capsys.readouterr().err
