"""The same fixed prompts before and after: what a reader looks at first.

A chapter calls `write_samples` once; it writes samples.md to read and samples.json. From that file
`before_and_after` prints three questions when the chapter is done, and the journey puts the stages
side by side.
"""

from collections.abc import Sequence
from pathlib import Path

from chapters.common.terminal import safe_text, wrap
from kittenllm.evaluation import Reply
from kittenllm.runs.checkpoints import write_json_atomic, write_text_atomic
from kittenllm.runs.json_files import read_json_if_possible

LABEL_COLUMNS = 16
SHOWN_START, SHOWN_END = 150, 90  # letters of a long reply that `before_and_after` shows
DRAWN = 9  # replies to a fixed question, of which the typical one is shown
TYPICAL = (
    "Each reply is the typical one of {drawn}: they are drawn at temperature 1, and the one in the "
    "middle of their gold scores is shown."
)


def typical_replies(replies: Sequence[Reply], drawn: int = DRAWN) -> list[str]:
    """Of the `drawn` replies to each question, which stand side by side, the one in the middle.

    One reply drawn alone may be a rare one. The order is that of the gold scores; an even number
    has two in the middle, and the better one is taken.
    """
    shown = []
    for start in range(0, len(replies), drawn):
        of_question = sorted(replies[start : start + drawn], key=lambda reply: reply.verdict.score)
        shown.append(of_question[len(of_question) // 2].text)
    return shown


def write_samples(
    folder: Path,
    prompts: list[str],
    before: list[str],
    after: list[str],
    *,
    before_title: str,
    after_title: str,
    how: str = "",
) -> None:
    """Write <folder>/samples.md and samples.json: `before[i]` and `after[i]` answer `prompts[i]`.

    The titles name the kittens in a word or two: "base", "chat", "after PPO". `how` is a sentence
    that says how the replies were drawn.
    Raises: ValueError for lists of different lengths, CheckpointError if a file cannot be written.
    """
    if not len(prompts) == len(before) == len(after):
        raise ValueError(
            f"{len(prompts)} prompts, {len(before)} replies before and {len(after)} after"
        )
    samples = [
        {"prompt": prompt, "before": old, "after": new}
        for prompt, old, new in zip(prompts, before, after, strict=True)
    ]
    content = {"before_title": before_title, "after_title": after_title}
    content |= {"how": how, "samples": samples}
    lines = [
        f"# The same prompts: {before_title} and {after_title}",
        "",
        *([how, ""] if how else []),
    ]
    for sample in samples:
        lines += ["## " + _heading(sample["prompt"]), ""]
        lines += [f"**{before_title}**", "", _block(sample["before"]), ""]
        lines += [f"**{after_title}**", "", _block(sample["after"]), ""]
    write_text_atomic(folder / "samples.md", "\n".join(lines))
    write_json_atomic(folder / "samples.json", content)


def side_by_side(folders: list[Path], width: int = 80) -> str:
    """The fixed prompts, and under each what the kitten said at every stage, in `width` columns.

    `folders` are run folders in the order of the stages; those without samples are skipped.
    """
    replies: dict[str, dict[str, str]] = {}  # prompt -> stage -> reply
    for folder in folders:
        content = read_samples(folder)
        for sample in content.get("samples", ()):
            stages = replies.setdefault(sample["prompt"], {})
            stages.setdefault(content["before_title"], sample["before"])
            stages.setdefault(content["after_title"], sample["after"])
    return "\n\n".join(_said(prompt, stages, width) for prompt, stages in replies.items())


def before_and_after(folder: Path, width: int = 80) -> str:
    """Three prompts of a chapter, the first, the middle and the last one, each answered before and
    after its training; "" without samples.

    They are read from samples.json, so nothing is drawn anew. A long reply loses its middle.
    """
    content = read_samples(folder)
    samples = content.get("samples", [])
    places = sorted({0, len(samples) // 2, len(samples) - 1}) if samples else []
    blocks = []
    for place in places:
        sample = samples[place]
        stages = {content[f"{when}_title"]: _short(sample[when]) for when in ("before", "after")}
        blocks.append(_said(sample["prompt"], stages, width))
    return "\n\n".join(blocks)


def _said(prompt: str, stages: dict[str, str], width: int) -> str:
    """A prompt, and under it the reply of each stage, in `width` columns."""
    lines = [wrap(f"> {safe_text(prompt)}", width, indent="  ", first="")]
    for title, reply in stages.items():
        label = f"  {safe_text(title)[: LABEL_COLUMNS - 4]:<{LABEL_COLUMNS - 4}}  "
        text = safe_text(" ".join(reply.split())) or "(nothing)"
        lines.append(wrap(text, width, indent=" " * LABEL_COLUMNS, first=label))
    return "\n".join(lines)


def _short(text: str) -> str:
    """The beginning and the end of a long text: a solved puzzle ends in its answer."""
    if len(text) <= SHOWN_START + SHOWN_END:
        return text
    return f"{text[:SHOWN_START]} ... {text[-SHOWN_END:]}"


def read_samples(folder: Path) -> dict:
    """What `write_samples` wrote: both titles, and the samples that are three texts each; {} if
    there is nothing of that kind."""
    content = read_json_if_possible(folder / "samples.json")
    found = content.get("samples")
    good = [
        sample
        for sample in (found if isinstance(found, list) else [])
        if isinstance(sample, dict)
        and all(isinstance(sample.get(key), str) for key in ("prompt", "before", "after"))
    ]
    titles = {key: str(content.get(key, key[:-6])) for key in ("before_title", "after_title")}
    titles["how"] = str(content.get("how", ""))
    return {**titles, "samples": good} if good else {}


def _heading(text: str) -> str:
    """A prompt as a Markdown heading: one line, and nothing in it is markup."""
    escaped = "".join("\\" + c if c in "\\`*_{}[]()#+-.!|<>~$&" else c for c in text)
    return safe_text(" ".join(escaped.split()))


def _block(text: str) -> str:
    """A reply as a Markdown code block, whose fence is longer than any in the text."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}text\n{safe_text(text, keep=chr(10))}\n{fence}"
