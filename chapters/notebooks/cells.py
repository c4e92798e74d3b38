"""A lesson as a notebook: its text in cells to read, its examples in cells to run.

A notebook is plain JSON (nbformat 4.5). A `>>>` example of the lesson becomes a cell of code; what
it printed in the lesson becomes the cell's output, so the notebook can be read without running it.

`run_notebook` is a small runner of our own: it runs the cells in order in one namespace, as Jupyter
does, and compares what each one shows with the lesson. The runner is Python's doctest.

Read before: nothing. Left out: widgets, pictures that a cell draws.
"""

import ast
import doctest
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

RELATIVE = re.compile(r"\]\((?![a-z]+:|#)([^)\s]+)\)")  # a link to a file of the project
SETUP = """# This cell finds the package: in a folder above, or on Colab from its git address.
import importlib.util
import os
import subprocess
import sys

if importlib.util.find_spec("kittenllm") is None:
    for folder in ("..", "../..", "../../.."):
        if os.path.isdir(os.path.join(folder, "kittenllm")):
            sys.path.insert(0, os.path.abspath(folder))
            break
    else:
        address = os.environ.get("KITTENLLM_GIT", "")
        if not address:
            raise SystemExit("put this notebook into the project's folder, or set KITTENLLM_GIT")
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", "git+" + address], check=True)
"""


def notebook(title: str, lesson: str, link_from: Callable[[str], str] = str) -> dict:
    """The notebook of a lesson's Markdown. `link_from` turns a link of the lesson, as "story.py",
    into one that opens from where the notebook lies."""
    lesson = RELATIVE.sub(lambda found: f"]({link_from(found[1])})", lesson)
    cells = [code_cell(f"{title}-setup", SETUP, "")]
    for number, (kind, text, output) in enumerate(pieces(lesson)):
        name = f"{title}-{number}"
        cells.append(code_cell(name, text, output) if kind == "code" else markdown_cell(name, text))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {
        "cells": cells,
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def pieces(lesson: str) -> list[tuple[str, str, str]]:
    """("text", Markdown, "") and ("code", source, output), in the order of the lesson.

    A fenced block with examples is taken apart; the examples of one block that show nothing are put
    together with the next one that does.
    """
    found: list[tuple[str, str, str]] = []
    for block in re.split(r"^(```(?:pycon|python)?\n.*?^```$)", lesson, flags=re.M | re.S):
        if block.startswith("```") and ">>> " in block:
            inside = block.split("\n", 1)[1].removesuffix("```")
            source = ""
            for example in doctest.DocTestParser().get_examples(inside):
                source += example.source
                if example.want:
                    found.append(("code", source.rstrip("\n"), example.want))
                    source = ""
            if source:
                found.append(("code", source.rstrip("\n"), ""))
        elif block.strip():
            found.append(("text", block.strip(), ""))
    return found


def markdown_cell(name: str, text: str) -> dict:
    return {"cell_type": "markdown", "id": cell_id(name), "metadata": {}, "source": lines(text)}


def code_cell(name: str, source: str, output: str) -> dict:
    """A cell of code with the output that the lesson shows."""
    outputs, tags = [], {}
    if output.startswith("Traceback"):
        tags = {"tags": ["raises-exception"]}  # shown on purpose: the cells after it still run
    if output:
        outputs = [{"output_type": "stream", "name": "stdout", "text": lines(output)}]
    return {
        "cell_type": "code",
        "id": cell_id(name),
        "metadata": tags,
        "execution_count": None,
        "source": lines(source),
        "outputs": outputs,
    }


def cell_id(name: str) -> str:
    """The same on every writing, so that a notebook only changes with its lesson."""
    return hashlib.sha256(name.encode()).hexdigest()[:12]


def lines(text: str) -> list[str]:
    """Text as nbformat keeps it: a list of lines with their ends."""
    return text.splitlines(keepends=True)


# ----------------------------------------------------------------------------------- the runner


def run_notebook(path: Path) -> tuple[int, str]:
    """Run the code of a notebook from top to bottom in one namespace -> (failures, their report).

    Raises: ValueError for a file that is no notebook.
    """
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: this is no notebook ({error})") from error
    examples = []
    for cell in cells:
        if cell["cell_type"] == "code":
            want = "".join("".join(output["text"]) for output in cell["outputs"])
            examples += examples_of("".join(cell["source"]), want)
    test = doctest.DocTest(examples, {"__name__": "__main__"}, path.name, str(path), 0, None)
    report: list[str] = []
    result = doctest.DocTestRunner(verbose=False).run(test, out=report.append)
    return result.failed, "".join(report)


def examples_of(source: str, want: str) -> list[doctest.Example]:
    """A cell as doctest runs it: statement by statement, and only the last one shows something."""
    rows, prompted = source.splitlines(), []
    for statement in ast.parse(source).body:
        decorators = getattr(statement, "decorator_list", [])
        first = min([statement.lineno, *(one.lineno for one in decorators)])
        before, *after = rows[first - 1 : statement.end_lineno]
        prompted += [f">>> {before}", *(f"... {row}".rstrip() for row in after)]
    return doctest.DocTestParser().get_examples("\n".join(prompted) + "\n" + want)
