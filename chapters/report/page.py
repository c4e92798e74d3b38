"""The report: one HTML page that tells the kitten's life, made of what is in the runs folder.

It needs no network, no server and no script: open report.html with a double click. The journey
(python -m chapters) writes it at its end; this program writes it again from what is there now.
A stage that has not run is said so, and a file that cannot be read is a sentence on the page.
"""

import argparse
import base64
import hashlib
import time
from pathlib import Path

from chapters.common.runner import CHAPTERS, exit_code
from chapters.report.charts import bar
from chapters.report.data import Stage, read_stage
from chapters.report.html import Markup, fold, is_number, join, minutes, note, shown, table, tag
from chapters.report.life import KITTENS, PUZZLES, ask_everyone
from chapters.report.numbers import bands_view
from chapters.report.stages import SECTIONS, other_section
from chapters.report.views import life_table, samples_fold
from chapters.report.words import CONDITION, HEADLINES, SHORT, STORIES, words
from kittenllm.door import Parser, path_argument
from kittenllm.runs.checkpoints import CheckpointError, write_text_atomic
from kittenllm.settings import Common

HERE = Path(__file__).resolve().parent
FILE = "report.html"


def write_report(folder: Path) -> Path:
    """Ask the kittens that were not asked yet, and write report.html into a runs folder.

    Raises: CheckpointError if the page cannot be written.
    """
    stages = {row.name: read_stage(row.name, row.title, folder / row.name) for row in CHAPTERS}
    optional = {row.name for row in CHAPTERS if not row.in_journey}
    stages = {
        name: stage
        for name, stage in stages.items()
        if not (name in optional and stage.state == "missing")
    }
    try:
        life, notes = ask_everyone(folder, stages)
    except CheckpointError as error:
        life, notes = {"kittens": {}, "mask": None}, [str(error)]
    path = folder / FILE
    write_text_atomic(path, page(stages, life, notes))
    return path


def page(stages: dict[str, Stage], life: dict, notes: list[str]) -> Markup:
    """The whole page."""
    style = (HERE / "page.css").read_text(encoding="utf-8")
    script = (HERE / "page.js").read_text(encoding="utf-8")
    body = [
        top(stages),
        navigation(stages),
        tag(
            "main",
            guarded("the same questions", lambda: life_section(life, notes)),
            *(chapter_section(stage, life) for stage in stages.values()),
            guarded("time and memory", lambda: cost_section(stages)),
            words_section(),
        ),
        tag("footer", "Made by python -m chapters.report. Every number was measured in this run."),
        tag("script", Markup(script)),
    ]
    policy = (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{digest(style)}'; script-src '{digest(script)}'"
    )
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=Markup(policy)),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", "The life of a kitten"),
        tag("style", Markup(style)),
    ]
    document = tag("html", tag("head", *head), tag("body", *body), lang="en")
    return Markup(f"<!DOCTYPE html>\n{document}\n")


def digest(content: str) -> str:
    """How a Content-Security-Policy names the one script, or style, that may run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def guarded(name: str, make) -> Markup:
    """`make()`; if numbers are so broken that it fails, a sentence instead of a traceback."""
    try:
        return make()
    except Exception as error:  # noqa: BLE001 (one broken file must not cost the whole page)
        text = f"{name}: this part could not be drawn ({type(error).__name__}: {error})"
        return tag("section", note(text, "warning"))


# ------------------------------------------------------------------------------------------ the top


def top(stages: dict[str, Stage]) -> Markup:
    """Title, what this is, and the life in five numbers."""
    finished = [stage for stage in stages.values() if stage.state == "finished"]
    tiles = []
    for name, before_key, after_key, kind, label in HEADLINES:
        stage = stages.get(name)
        if stage is None or not is_number(stage.value(after_key)):
            continue
        after = shown(stage.value(after_key), kind)
        before = stage.value(before_key) if before_key else None
        start = [shown(before, kind).removesuffix(" %"), " \u2192 "] if is_number(before) else []
        tiles.append(tag("div", tag("b", *start, after), tag("span", label), class_="tile"))
    condition = tag("p", CONDITION, class_="small") if tiles else None
    seconds = [s.value("seconds") for s in finished if is_number(s.value("seconds"))]
    memory = [s.value("peak_rss_mb") for s in finished if is_number(s.value("peak_rss_mb"))]
    if seconds:
        label = f"for {len(seconds)} stages, from random weights"
        label += f"; at most {max(memory):,.0f} MB of memory" if memory else ""
        tiles.append(tag("div", tag("b", minutes(sum(seconds))), tag("span", label), class_="tile"))
    quick = any(stage.value("quick") is True for stage in finished)
    warning = (
        "This was a --quick run: the whole path on tiny settings. The kittens below only babble; "
        "python -m chapters trains real ones."
    )
    return tag(
        "header",
        kitten_face(),
        tag("h1", "The life of a kitten"),
        tag(
            "p",
            "From random weights to a kitten that chats, is kind, and thinks before it answers. "
            "Every word and every number on this page comes from one run on one computer.",
            class_="lead",
        ),
        tag("p", facts(finished), class_="small"),
        note(warning, "warning") if quick else None,
        tag("div", *tiles, class_="tiles") if tiles else None,
        condition,
    )


def facts(finished: list[Stage]) -> str:
    """Seed, size, device and version in a line; all of them where stages differ."""
    parts = []
    for key, name in (
        ("seed", "seed"),
        ("size", "size"),
        ("device", "device"),
        ("version", "version"),
    ):
        found = dict.fromkeys(str(s.value(key)) for s in finished if s.value(key) is not None)
        if found:
            parts.append(f"{name} {' and '.join(found)}")
    return ", ".join(parts) if parts else "No stage has finished yet."


def kitten_face() -> Markup:
    """A kitten, drawn with six strokes."""
    head = "M14 30 L16 8 L30 18 Q40 14 50 18 L64 8 L66 30 Q72 62 40 66 Q8 62 14 30 Z"
    strokes = "M40 46 L40 50 M40 50 Q34 56 29 52 M40 50 Q46 56 51 52 M4 44 L20 46 M4 54 L20 51 "
    strokes += "M76 44 L60 46 M76 54 L60 51"
    return tag(
        "svg",
        tag("path", d=head, class_="fur"),
        tag("circle", cx=29, cy=36, r=3.4, class_="eye"),
        tag("circle", cx=51, cy=36, r=3.4, class_="eye"),
        tag("path", d="M36 43 L44 43 L40 47 Z", class_="nose"),
        tag("path", d=strokes, class_="stroke"),
        viewBox="0 0 80 72",
        class_="face",
        aria_hidden="true",
    )


def navigation(stages: dict[str, Stage]) -> Markup:
    """Links that stay at the top; stages that are not there are grey."""
    links = [tag("a", "thirteen questions", href="#life")]
    for name, stage in stages.items():
        label = f"{name[2]} {SHORT.get(name, name)}"
        grey = None if stage.state == "finished" else "absent"
        links.append(tag("a", label, href=f"#{name}", class_=grey))
    links += [tag("a", "time", href="#cost"), tag("a", "words", href="#words")]
    return tag("nav", *links, aria_label="parts of the report")


# --------------------------------------------------------------------------------------- the parts


def life_section(life: dict, notes: list[str]) -> Markup:
    """The same prompts after every stage."""
    grid = life_table(life)
    bare = " and ".join(kitten.name for kitten in KITTENS if kitten.bare)
    about = (
        f"The last {PUZZLES} rows are number puzzles: use each number once and reach the target. "
        "All kittens answer greedily, without dice. The judge of Kitten Town marks every answer "
        "and reads all of it: a kitten that does not stop talks itself into trouble. The kittens "
        f"named {bare} never learnt to chat: they get the bare question and go on with the text. "
        "The others get the chat template. And the reasoner has practised nothing but puzzles "
        "since it was a base kitten: ask it where Nori lives, and it may well calculate."
    )
    nobody = "No kitten can be asked yet: no stage has finished, or its model.pt is missing."
    return tag(
        "section",
        tag("h2", "The same thirteen questions after every stage"),
        tag("p", "Nothing is picked: the questions were fixed before any kitten was born."),
        grid if grid is not None else note(nobody),
        tag("p", about, class_="small"),
        *(note(text, "warning") for text in notes),
        id="life",
    )


def chapter_section(stage: Stage, life: dict) -> Markup:
    """One chapter: story, numbers, curves, samples, cost."""
    number, title = stage.name[2], stage.title[:1].upper() + stage.title[1:]
    heading = tag("h2", tag("span", number, class_="number"), title)
    story = tag("p", STORIES[stage.name]) if stage.name in STORIES else None
    parts: list[Markup | None] = []
    if stage.state == "finished":
        make = SECTIONS.get(stage.name, other_section)
        inner = guarded(stage.name, lambda: join(*make(stage, life)))
        parts += [inner, bands_view(stage), guarded("samples", lambda: join(samples_fold(stage)))]
        parts.append(guarded("cost", lambda: cost_line(stage)))
    else:
        parts.append(note(state_in_words(stage), "warning"))
    parts += [note(text, "warning") for text in stage.notes]
    return tag("section", heading, story, *parts, id=stage.name)


def state_in_words(stage: Stage) -> str:
    command = f"python -m chapters.{stage.name}"
    return {
        "missing": f"This stage has not run yet. {command} runs it.",
        "unfinished": f"This stage was started and has not finished. {command} goes on with it.",
        "broken": f"summary.json of this stage cannot be read. {command} runs it again.",
    }[stage.state]


def cost_line(stage: Stage) -> Markup:
    """Time, memory, and the settings behind a fold."""
    parts = [f"{minutes(stage.value('seconds'))} in all"]
    for key, name in (("train_seconds", "training"), ("eval_seconds", "being examined")):
        if is_number(stage.value(key)):
            parts.append(f"{minutes(stage.value(key))} {name}")
    if is_number(stage.value("peak_rss_mb")):
        parts.append(f"at most {stage.value('peak_rss_mb'):,.0f} MB of memory")
    config = stage.value("config")
    rows = [[key, str(value)] for key, value in config.items()] if isinstance(config, dict) else []
    settings = fold("The settings of this run", table(["", ""], rows, class_="numbers settings"))
    lesson = f"Read on in chapters/{stage.name}.md; its files are in {stage.folder.name}/."
    return join(
        settings if rows else None,
        tag("p", ", ".join(parts) + ". ", lesson, class_="small"),
    )


def cost_section(stages: dict[str, Stage]) -> Markup:
    """Where the minutes went."""
    finished = [s for s in stages.values() if is_number(s.value("seconds"))]
    longest = max((s.value("seconds") for s in finished), default=0) or 1
    rows = []
    for stage in finished:
        seconds, memory = stage.value("seconds"), stage.value("peak_rss_mb")
        memory_text = f"{memory:,.0f} MB" if is_number(memory) else shown(None)
        rows.append([stage.name, minutes(seconds), bar(seconds / longest), memory_text])
    total = sum(s.value("seconds") for s in finished)
    rows.append(["all", minutes(total), "", ""])
    grid = table(["stage", "time", "", "memory"], rows, class_="numbers")
    return tag("section", tag("h2", "Time and memory"), grid, id="cost")


def words_section() -> Markup:
    """The few words one needs."""
    items = [join(tag("dt", word), tag("dd", meaning)) for word, meaning in words().items()]
    return tag("section", tag("h2", "Words"), tag("dl", *items, class_="meanings"), id="words")


# -------------------------------------------------------------------------------------- the program


def main(argv=None) -> int:
    parser = Parser(
        prog="chapters.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--runs", type=path_argument, default=Path("runs"), metavar="DIR")
    parser.add_argument("--quick", action="store_true", help="of the runs in <runs>/quick")
    arguments = parser.parse_args(argv)

    def work() -> None:
        common = Common(runs=arguments.runs, quick=arguments.quick)
        folder, remedy = common.folder("x").parent, f"Run {common.command('chapters')} first."
        if not folder.is_dir():
            raise CheckpointError(f"there is no folder {folder}. {remedy}")
        if not any((folder / row.name / "summary.json").is_file() for row in CHAPTERS):
            raise CheckpointError(f"no chapter has finished in {folder}, so no page. {remedy}")
        started = time.monotonic()
        path = write_report(folder)
        size = path.stat().st_size / 1e6
        print(f"{path}: {size:.1f} MB, written in {time.monotonic() - started:.1f} s")

    return exit_code(work)
