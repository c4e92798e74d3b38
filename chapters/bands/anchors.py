"""Line anchors: a link that names a function opens its file at the line where it is defined.

In the texts a link is [`gae`](../../kittenllm/ppo.py#L86). Lines move with every edit, so nobody
types the number: `python -m chapters.bands --docs` writes it, and a test holds it.

Used by docs.py. Left out: links whose words are no name of the code, such as [story.py](story.py).
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAMED_LINK = re.compile(r"\[`([\w.]+)`([^\]]*)\]\(([^)\s#]+\.py)(#L\d+)?\)")


def texts() -> list[Path]:
    """All Markdown files."""
    folders = (ROOT, ROOT / ".github", ROOT / "data")
    found = [path for folder in folders for path in folder.glob("*.md")]
    return sorted(found) + sorted((ROOT / "chapters").rglob("*.md"))


def lines_of(path: Path) -> dict[str, int]:
    """Name -> the line of its definition: functions, classes, methods (`GPT.hidden`), values."""
    lines: dict[str, int] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            lines[node.name] = node.lineno
        if isinstance(node, ast.ClassDef):
            for part in node.body:
                if isinstance(part, ast.FunctionDef):
                    lines[f"{node.name}.{part.name}"] = part.lineno
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    lines[target.id] = node.lineno
    return lines


def anchored(text: str, folder: Path) -> str:
    """A text of `folder` with the right line in every link that names something of the code.

    Raises: ValueError for a name that the file does not define.
    """

    def write(found: re.Match) -> str:
        name, more, target, _ = found.groups()
        if name.endswith(".py"):
            return found[0]
        lines = lines_of(folder / target)
        if name not in lines:
            raise ValueError(f"{target} defines no {name!r}: correct the link {found[0]}")
        return f"[`{name}`{more}]({target}#L{lines[name]})"

    return NAMED_LINK.sub(write, text)
