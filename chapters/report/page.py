"""The report: one HTML page that tells the kitten's life, made of what is in the runs folder.

It needs no network and no server: open report.html with a double click. With JavaScript the
kittens of all stages answer in it; all else works without. The journey (python -m chapters) writes
it at its end; this program writes it again from what is there now. If a stage has not run, the page
says so, and a file that cannot be read is a sentence on the page.
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
from chapters.report.languages import Both, both, listed, reported
from chapters.report.life import KITTENS, ask_everyone
from chapters.report.live import Live, data_blocks, live_kittens
from chapters.report.numbers import bands_view
from chapters.report.sentences import (
    LIFE_ABOUT,
    NO_SCRIPT,
    NOBODY,
    PIECES_ABOUT,
    STORIES,
    TALK_ABOUT,
    TITLE,
)
from chapters.report.stages import SECTIONS, other_section
from chapters.report.top import navigation, start_section, top, with_terms, words_section
from chapters.report.views import life_table, samples_fold
from kittenllm.door import Parser, path_argument
from kittenllm.runs.checkpoints import CheckpointError, write_text_atomic
from kittenllm.settings import Common

HERE = Path(__file__).resolve().parent
FILE = "report.html"
STYLES = ("page.css", "live.css")
SCRIPTS = ("gpt", "dom", "talk", "pieces", "credit", "groups", "page", "language", "selftest")


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
        life, notes = {"kittens": {}, "mask": None}, [reported(error)]
    path = folder / FILE
    live = live_kittens(stages, life)
    write_text_atomic(path, page(stages, life, notes, live))
    return path


def page(
    stages: dict[str, Stage], life: dict, notes: list[str], live: Live | None = None
) -> Markup:
    """The whole page; without `live` kittens there is nobody to talk to."""
    live = live or Live()
    style = "\n".join((HERE / name).read_text(encoding="utf-8") for name in STYLES)
    scripts = {name: (HERE / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS}
    body = [
        top(stages),
        navigation(stages),
        tag(
            "main",
            start_section(stages),
            talk_section(live),
            guarded("the same questions", lambda: life_section(life, notes)),
            pieces_section(live),
            *(chapter_section(stage, life) for stage in stages.values()),
            guarded("time and memory", lambda: cost_section(stages)),
            words_section(),
        ),
        tag(
            "footer",
            both("Made by python -m chapters.report. Every number was measured in this run."),
        ),
        data_blocks(stages, live),
        tag("script", worker_source(), type="text/plain", id="worker.js"),
        *(tag("script", Markup(script), id=f"{name}.js") for name, script in scripts.items()),
    ]
    allowed = " ".join(f"'{digest(script)}'" for script in scripts.values())
    policy = (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; worker-src blob:; "
        f"style-src '{digest(style)}'; script-src {allowed}"
    )
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=Markup(policy)),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", both(TITLE)),
        tag("style", Markup(style)),
    ]
    document = tag("html", tag("head", *head), tag("body", *body), lang="en")
    return Markup(f"<!DOCTYPE html>\n{document}\n")


def worker_source() -> Markup:
    """What runs behind gpt.js in the worker of each kitten; here it is only text."""
    return Markup((HERE / "worker.js").read_text(encoding="utf-8"))


def digest(content: str) -> str:
    """How a Content-Security-Policy names the one script, or style, that may run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def guarded(name: str, make) -> Markup:
    """`make()`; if numbers are so broken that it fails, a sentence instead of a traceback."""
    try:
        return make()
    except Exception as error:  # noqa: BLE001 (one broken file must not cost the whole page)
        text = both(
            "{name}: this part could not be drawn ({error})",
            name=name,
            error=f"{type(error).__name__}: {error}",
        )
        return tag("section", note(text, "warning"))


# --------------------------------------------------------------------------------------- the parts


def talk_section(live: Live) -> Markup:
    """The box in which all kittens answer; a script fills it."""
    return tag(
        "section",
        tag("h2", both("Talk to them")),
        tag("div", note(both(NO_SCRIPT if live.kittens else NOBODY)), id="talk-box"),
        tag("p", with_terms(TALK_ABOUT), class_="small"),
        *(note(text, "warning") for text in live.notes),
        id="talk",
    )


def pieces_section(live: Live) -> Markup:
    """How text becomes tokens; a script fills the box."""
    return tag(
        "section",
        tag("h2", both("How text becomes tokens")),
        tag("p", with_terms(PIECES_ABOUT)),
        tag("div", note(both(NO_SCRIPT)) if live.kittens else None, id="pieces-box"),
        id="pieces",
    )


def life_section(life: dict, notes: list[str]) -> Markup:
    """The same prompts after every stage, each to the kittens that it is for."""
    questions, puzzles = life_table(life, "questions"), life_table(life, "puzzles")
    bare = listed((both(kitten.name) for kitten in KITTENS if kitten.bare), " and ", "和 ")
    riddles = both("Two number puzzles: use each number once and reach the target")
    return tag(
        "section",
        tag("h2", both("The same thirteen questions after every stage")),
        tag("p", both("Nothing is picked: the questions were fixed before any kitten was born.")),
        questions if questions is not None else (note(both(NOBODY)) if puzzles is None else None),
        tag("h4", riddles) if puzzles is not None else None,
        puzzles,
        tag("p", both(LIFE_ABOUT, bare=bare), class_="small"),
        *(note(text, "warning") for text in notes),
        id="life",
    )


def chapter_section(stage: Stage, life: dict) -> Markup:
    """One chapter: story, numbers, curves, samples, cost."""
    number, title = stage.name[2], stage.title[:1].upper() + stage.title[1:]
    heading = tag("h2", tag("span", number, class_="number"), both(title))
    story = tag("p", with_terms(STORIES[stage.name])) if stage.name in STORIES else None
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


def state_in_words(stage: Stage) -> Both:
    sentence = {
        "missing": "This stage has not run yet. {command} runs it.",
        "unfinished": "This stage was started and has not finished. {command} goes on with it.",
        "broken": "summary.json of this stage cannot be read. {command} runs it again.",
    }[stage.state]
    return both(sentence, command=f"python -m chapters.{stage.name}")


def cost_line(stage: Stage) -> Markup:
    """Time, memory, and the settings behind a fold."""
    parts = [both("{time} in all", time=minutes(stage.value("seconds")))]
    for key, words in (
        ("train_seconds", "{time} training"),
        ("eval_seconds", "{time} being examined"),
    ):
        if is_number(stage.value(key)):
            parts.append(both(words, time=minutes(stage.value(key))))
    if is_number(stage.value("peak_rss_mb")):
        parts.append(both("at most {n} MB of memory", n=f"{stage.value('peak_rss_mb'):,.0f}"))
    config = stage.value("config")
    rows = [[key, str(value)] for key, value in config.items()] if isinstance(config, dict) else []
    grid = tag("div", table(["", ""], rows, class_="numbers settings"), translate="no")
    lesson = both(
        "Read on in chapters/{name}/lesson.md; its files are in {folder}/.",
        name=stage.name,
        folder=stage.folder.name,
    )
    return join(
        fold(both("The settings of this run"), grid) if rows else None,
        tag("p", both("{costs}. ", costs=listed(parts)), lesson, class_="small"),
    )


def cost_section(stages: dict[str, Stage]) -> Markup:
    """Where the minutes went."""
    finished = [s for s in stages.values() if is_number(s.value("seconds"))]
    longest = max((s.value("seconds") for s in finished), default=0) or 1
    rows = []
    for stage in finished:
        seconds, memory = stage.value("seconds"), stage.value("peak_rss_mb")
        memory_text = f"{memory:,.0f} MB" if is_number(memory) else shown(None)
        name = tag("span", stage.name, translate="no")
        rows.append([name, minutes(seconds), bar(seconds / longest), memory_text])
    total = sum(s.value("seconds") for s in finished)
    rows.append([both("all"), minutes(total), "", ""])
    grid = table([both("stage"), both("time"), "", both("memory")], rows, class_="numbers")
    return tag("section", tag("h2", both("Time and memory")), grid, id="cost")


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
