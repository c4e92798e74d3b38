"""The table of minutes in TEACHING.md and TEACHING.zh.md, written by `chapters.sheets --minutes`.

Words and keys are counted in the page as it is. The seconds of the commands were measured once by
`--rehearse --minutes`, and are kept in seconds.json. They are those of the processor, which other
programs on the same machine do not lengthen.

Read before: rehearsal.py.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from chapters.sheets.lessons import EDITIONS, lessons
from chapters.sheets.rehearsal import KEYS_A_MINUTE, SPOKEN_A_MINUTE, Timing, rehearse
from kittenllm.runs.checkpoints import write_json_atomic, write_text_atomic

FILE = Path(__file__).with_name("seconds.json")
BLOCK = re.compile(r"(<!-- numbers: rehearsal -->\n)(.*?)(<!-- end -->)", re.DOTALL)
WORDS = {
    "en": (
        "Minutes, with {spoken} words read and {keys} keys typed a minute. Of the commands the "
        "processor's time is counted.",
        ("lesson", "read", "type", "wait", "in all", "the class is together")
        + ("the machine, meanwhile", "the pupils work"),
    ),
    "zh": (
        "单位是分钟：朗读每分钟 {spoken} 字，打字每分钟 {keys} 键。命令按处理器时间计算。",
        ("课", "朗读", "打字", "等待", "合计", "全班在一起") + ("学生做时电脑用", "学生自己做"),
    ),
}


def read_seconds() -> dict[str, float]:
    """Command -> its measured seconds."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def note_seconds(measured: Mapping[str, float]) -> None:
    """Keep the seconds of commands that went well; of others the earlier ones stay."""
    known = read_seconds() | {command: round(seconds, 1) for command, seconds in measured.items()}
    commands = [command for lesson in lessons() for command in lesson.commands]
    write_json_atomic(FILE, {command: known[command] for command in commands if command in known})


def timings(language: str, seconds: Mapping[str, float]) -> list[Timing]:
    """Every lesson with measured seconds.  Raises: KeyError for a command that has none."""
    return [rehearse(lesson, lambda c: (seconds[c], True)) for lesson in lessons(language)]


def table(rows: Sequence[Timing], language: str) -> str:
    """A sentence about the paces, and a row for each lesson."""
    sentence, head = WORDS[language]
    said = sentence.format(spoken=SPOKEN_A_MINUTE[language], keys=KEYS_A_MINUTE)
    lines = [said, "", "| " + " | ".join(head) + " |", "|" + "---:|" * len(head)]
    for one in rows:
        minutes = (one.aloud, one.typing, one.waiting, one.needed)
        cells = [str(one.number), *(f"{value:.1f}" for value in minutes), str(one.together)]
        cells += [f"{one.meanwhile:.1f}", str(one.alone)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def with_minutes(page: str, language: str, seconds: Mapping[str, float]) -> str:
    """A teacher's page with its table written anew."""
    inside = table(timings(language, seconds), language)
    return BLOCK.sub(lambda found: f"{found[1]}{inside}\n{found[3]}", page)


def write_minutes() -> list[Path]:
    """Write the table into both pages -> the pages that changed."""
    changed = []
    for language, edition in EDITIONS.items():
        new = with_minutes(edition.text, language, read_seconds())
        if new != edition.text:
            write_text_atomic(edition.page, new)
            changed.append(edition.page)
    return changed
