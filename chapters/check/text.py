"""What `python -m chapters.check` says: for a beginner, in 60 columns, without a traceback."""

import json
import re
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

from chapters.check.hints import HINTS
from chapters.check.hints_zh import HINTS_ZH
from chapters.check.table import EXERCISES, ROOT, Exercise
from chapters.common.terminal import fold, one_line, safe_text, use_colour, wrap

WIDTH = 60
COLOURS = {"passed": "\x1b[32m", "failed": "\x1b[31m"}

REFUSED = (
    "This case hands over something wrong on purpose and expects a ValueError with the value in "
    "it. The checks at the top of the stub do that: keep them."
)
MASKED = (
    "What stands where the mask is False must not matter, not even NaN. Put torch.where(mask, x, "
    "0.0) before exp, log_softmax and sums: NaN * 0 is NaN."
)
EMPTY = "An empty mask gives 0 and not NaN: divide by mask.sum().clamp(min=1)."
DTYPE = (
    "The digits get lost, or it fails, with another float type than float32. Make new tensors "
    "with zeros_like or new_zeros, and add up half floats in float32."
)
CHANGED = (
    "An input was changed. Look for x += 1, x[...] = 0 or a function that ends in _ and write the "
    "result into a new tensor."
)
METRICS = (
    "Look at the metrics: their names, means over counted places only, each a 0-d tensor without "
    "gradient (.detach() or torch.no_grad())."
)
DETACH = (
    "A gradient flows where none should. Old, reference, reward and advantage inputs are fixed "
    "numbers: .detach() them."
)
LOST_GRADIENT = (
    "No gradient flows through the result: there is a .detach(), .item(), torch.no_grad() or "
    "torch.tensor(...) on the way."
)

# What to say about a failing case of this very name, if no typical mistake was found.
CASE_HINTS = {
    "test_values_at_masked_out_places_never_matter": MASKED,
    "test_padding_columns_never_matter": MASKED,
    "test_helpers_ignore_what_is_masked_out_and_change_nothing": MASKED,
    "test_nothing_counted_is_zero_and_not_nan": EMPTY,
    "test_nothing_trained_is_zero_and_not_nan": EMPTY,
    "test_one_empty_row_makes_no_nan_in_the_mean_of_rows": EMPTY,
    "test_the_values_are_right_in_every_dtype": DTYPE,
    "test_token_logprobs_dtypes": DTYPE,
    "test_inputs_are_never_changed": CHANGED,
    "test_metrics_are_detached_single_numbers": METRICS,
    "test_only_what_is_learnt_gets_a_gradient": DETACH,
    "test_old_logprobs_and_advantages_get_no_gradient": DETACH,
    "test_the_reference_gets_no_gradient": DETACH,
    "test_only_the_policy_gets_a_gradient": DETACH,
    "test_rewards_are_numbers_without_gradient": DETACH,
}

# What to say about a message of Python, PyTorch or pytest, by its beginning or a part of it.
MESSAGE_HINTS = (
    ("DID NOT RAISE", REFUSED),
    ("Regex pattern did not match", REFUSED),
    ("does not require grad", LOST_GRADIENT),
    ("in-place operation", CHANGED),
    ("an inplace operation", CHANGED),
    ("expected scalar type", DTYPE),
    ("same dtype", DTYPE),
)

KINDS = {  # a failure that is no comparison of numbers
    "exit": "your file ended the program here (sys.exit, os._exit, quit)",
    "crash": "Python itself crashed here",
    "stuck": "this did not come to an end: is there a loop that never stops?",
    "memory": "this asked for far too much memory",
    "NotImplementedError": "this part is still to be written",
}


@dataclass
class Grade:
    """What happened to one exercise."""

    exercise: Exercise
    file: Path
    state: str = "broken"  # passed, failed, unwritten, unusable (the file), broken (not its fault)
    message: str = ""
    tests: int = 0
    passed: int = 0
    cut_short: bool = False  # it did not come to its end
    failures: list[dict] = field(default_factory=list)
    stories: dict[str, tuple[str, list[dict]]] = field(default_factory=dict)  # "training": ...
    seconds: float = 0.0
    language: str = "en"  # of the hint

    def judge(self) -> None:
        """The report is complete: passed or failed?"""
        outcomes = [outcome for _, of_story in self.stories.values() for outcome in of_story]
        if self.failures or not all(outcome["reached"] for outcome in outcomes):
            self.state = "failed"
        elif self.tests and self.passed == self.tests and outcomes:
            self.state = "passed"
        else:
            self.message = "the tests did not run to their end"


# ------------------------------------------------------------------------------ small pieces


def paragraph(text: str, *, first: str = "", indent: str = "  ") -> str:
    """Wrapped to the width, with control characters of foreign text spelled out."""
    clean = safe_text(" ".join(text.split()))
    return wrap(clean, WIDTH, indent=indent, first=first or indent)


def field_line(name: str, text: str) -> str:
    """`  expected  0.693`, further lines under the value."""
    first = f"  {name:<10}"
    return wrap(safe_text(text), WIDTH, indent=" " * len(first), first=first)


def marked(text: str, state: str) -> str:
    return f"{COLOURS[state]}{text}\x1b[0m" if use_colour() else text


def short_path(path: Path) -> str:
    """Inside the project from its top, elsewhere the name alone."""
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name


def number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def case_title(name: str) -> str:
    """tests/test_ppo.py::test_the_clip_by_hand[a-b] -> the clip by hand (a-b)"""
    words = name.split("::")[-1].removeprefix("test_")
    plain, _, settings = words.partition("[")
    return plain.replace("_", " ") + (f" ({settings.rstrip(']')})" if settings else "")


# ---------------------------------------------------------------------------------- the report


def report_text(grade: Grade) -> str:
    """The whole story of one exercise."""
    exercise = grade.exercise
    lines = [paragraph(exercise.title, first=f"{exercise.name} - ")]
    lines += [paragraph(f"{exercise.function} in {short_path(grade.file)}"), ""]
    if grade.state == "unwritten":
        lines.append(paragraph(f"{exercise.function} is still to be written."))
        lines.append(paragraph("Open the file, read what it says there, and replace the line"))
        lines += ["", "    raise NotImplementedError", "", more_hints(exercise)]
        return "\n".join(lines)
    if grade.state == "unusable":
        lines += [paragraph("The file cannot be used:"), paragraph(grade.message, indent="    ")]
        return "\n".join([*lines, "", marked("NOT PASSED", "failed")])
    if grade.state == "broken":
        lines.append(paragraph("The check itself did not work; this is not your fault:"))
        message = grade.message.splitlines()[-1] if grade.message else "no message"
        if "No module named 'pytest'" in grade.message:
            message = "pytest is missing; install it with: python -m pip install pytest"
        if grade.tests and grade.passed == grade.tests:
            lines.insert(2, field_line("tests", f"{grade.passed} of {grade.tests} passed"))
        return "\n".join([*lines, paragraph(message, indent="    ")])
    rest = "; the others did not run" if grade.cut_short else ""
    lines.append(field_line("tests", f"{grade.passed} of {grade.tests} passed{rest}"))
    if grade.failures:
        lines += ["", *failure_lines(grade, grade.failures[0])]
    for name, (story, outcomes) in grade.stories.items():
        lines += ["", field_line(name, story), *map(outcome_line, outcomes)]
    lines.append("")
    if grade.state == "passed":
        lines.append(marked("PASSED", "passed") + f"  ({grade.seconds:.0f} s)")
    else:
        lines += [*advice_lines(grade), "", marked("NOT PASSED", "failed")]
    return "\n".join(lines)


def failure_lines(grade: Grade, failure: dict) -> list[str]:
    """The first failing case: its name, what it is about, and the numbers."""
    lines = [paragraph(case_title(failure["name"]), first="First case that fails: ")]
    about = (failure.get("about") or "").split("\n\n")[0]
    if about:
        lines.append(paragraph(about))
    kind = failure["kind"]
    if kind in KINDS:
        lines.append(paragraph(KINDS[kind]))
    elif failure.get("line"):
        lines.append(paragraph(f"{kind}: {failure['message']}"))
    if failure.get("line"):
        lines.append(field_line("line", f"{failure['line']} of {grade.file.name}"))
        if failure.get("code"):
            lines.append(field_line("", failure["code"]))
        return lines + printed_lines(failure)
    for name in ("at", "expected", "got"):
        if name in failure:
            lines.append(field_line(name, failure[name]))
    if kind not in KINDS and "got" not in failure:
        message = failure.get("message", "").split("\n")[0]
        if message and not message.startswith("assert "):
            lines.append(paragraph(message))
        if failure.get("code"):
            lines.append(field_line("test says", failure["code"]))
    settings = failure.get("with") or {}
    if settings:
        lines.append(field_line("with", ", ".join(f"{k} = {v}" for k, v in settings.items())))
    if failure.get("test"):
        lines.append(field_line("look at", failure["test"]))
    return lines + printed_lines(failure)


def printed_lines(failure: dict) -> list[str]:
    """What the student's own print() said in the failing case, its last lines."""
    printed = (failure.get("printed") or "").strip().splitlines()[-6:]
    return [field_line("printed" if i == 0 else "", line) for i, line in enumerate(printed)]


def outcome_line(outcome: dict) -> str:
    """`   ok  loss 0.69 -> 0.31 (at most 0.5)`"""
    mark = "ok" if outcome["reached"] else "NO"
    limit = "at least" if outcome["at_least"] else "at most"
    before = "" if outcome["before"] is None else f"{number(outcome['before'])} -> "
    numbers = f"{before}{number(outcome['after'])} ({limit} {number(outcome['goal'])})"
    return wrap(f"{outcome['what']} {numbers}", WIDTH, indent=" " * 6, first=f"  {mark:<4}")


def advice_lines(grade: Grade) -> list[str]:
    """A hint that fits to the failing case, and the way to the next one."""
    exercise = grade.exercise
    failure = grade.failures[0] if grade.failures else {}
    if failure.get("kind") in KINDS:
        return [more_hints(exercise)]
    hints = HINTS_ZH if grade.language == "zh" else HINTS
    advice = fitting_hint(failure)
    told = in_language(advice, grade.language) if advice else one_line(hints[exercise.name][0])
    return [fold(told, WIDTH, first="Hint: ", indent="  "), "", more_hints(exercise)]


def in_language(advice: str, language: str) -> str:
    """What is said about a mistake, in the reader's language; English where there is no other.

    advice_zh.json holds the Chinese of every sentence above, of tests/mistakes.py and of
    tests/advice.py. A {} in a sentence stands for a name, a type or a shape.
    """
    if language == "en":
        return advice
    known = json.loads((ROOT / "chapters" / "check" / "advice_zh.json").read_text("utf-8"))
    if advice in known:
        return known[advice]
    for english, chinese in known.items():
        pattern = "(.+?)".join(map(re.escape, english.split("{}")))
        if "{}" in english and (found := re.fullmatch(pattern, advice)):
            return chinese.format(*found.groups())
    return advice


def fitting_hint(failure: dict) -> str | None:
    """The typical mistake that was found, or what the message says, or what the case is about."""
    if failure.get("advice"):
        return failure["advice"]
    message = failure.get("message", "")
    said = [text for words, text in MESSAGE_HINTS if words in message]
    if said:
        return said[0]
    if failure.get("line"):  # an error inside the function: the case may be about anything
        return None
    case = failure.get("name", "").split("::")[-1].partition("[")[0]
    return CASE_HINTS.get(case)


def more_hints(exercise: Exercise) -> str:
    return f"  python -m chapters.check {exercise.name} --hint"


def summary_text(grade: Grade) -> str:
    """One line of `check all`."""
    states = {"unwritten": "to be written", "failed": "NOT PASSED", "unusable": "cannot be used"}
    states["broken"] = "not graded"
    state = states.get(grade.state, grade.state)
    count = f"{grade.passed}/{grade.tests} tests" if grade.tests else ""
    seconds = f"{grade.seconds:.1f} s" if grade.seconds else ""
    return f"{grade.exercise.name:<18}{state:<15}{count:<15}{seconds:>7}".rstrip()


# ------------------------------------------------------------------------------ list and hints


def list_text(written: dict[str, bool]) -> str:
    """The exercises with their files; a star where something is written."""
    lines = []
    for name, exercise in EXERCISES.items():
        mark = "*" if written[name] else " "
        lines.append(f"{mark} {name:<18}{exercise.function} in {exercise.file}")
        lines.append(paragraph(exercise.title, indent="    "))
    lines += ["", "The files are in chapters/exercises/; * is written."]
    return "\n".join([*lines, "Grade one with: python -m chapters.check NAME"])


SAID_WITH_A_HINT = {
    "en": ("{}, hint {} of 3", "That was the last one. Still stuck? Read {}."),
    "zh": ("{}，第 {} 个提示，共 3 个", "这是最后一个。还卡住？请读 {}。"),
}


def hint_text(exercise: Exercise, number: int, language: str = "en") -> str:
    """Hint 1, 2 or 3 of an exercise; the third is almost code and keeps its lines."""
    hint = (HINTS_ZH if language == "zh" else HINTS)[exercise.name][number - 1]
    title, last = SAID_WITH_A_HINT[language]
    lines = [title.format(exercise.name, number), ""]
    if number < 3:
        lines.append(folded(hint))
    else:
        lines.append(textwrap.indent(textwrap.dedent(" " * 8 + hint), "  "))
        lines += ["", folded(last.format(short_path(exercise.solution)))]
    return "\n".join(lines)


def folded(text: str) -> str:
    """A paragraph in any language."""
    return fold(one_line(text), WIDTH, first="  ", indent="  ")
