"""The parts of the report that are more than tables and curves.

Same questions side by side, the mask of supervised fine-tuning, the credit of every token, thoughts
unfolded attempt by attempt. All of them are spans with a class for their colour, and all of their
text is escaped by `tag`.

Used by page.py and stages.py.
"""

import re

from chapters.report.data import Stage
from chapters.report.html import Markup, fold, is_number, join, note, scroll_box, shown, tag
from chapters.report.languages import Both, both, listed, read_back
from chapters.report.life import KITTENS

LONG_REPLY = 170  # characters; longer ones are folded
ENDLESS_REPLY = 70  # characters of one that never stopped; it repeats itself
SPACE = "\u00b7"  # a space that can be seen
RIGHT_AFTER = ("wrong before, right after", "right before and after")
WRONG_AFTER = ("wrong before and after", "right before, wrong after")
MEASURES = {  # rows of token_credit.json -> (short name, what it says)
    "reward at the end": ("reward", "the reward model's score; it comes with the last token only"),
    "KL penalty": ("KL", "the price of leaving the chat kitten: -kl_coef times log p - log p_ref"),
    "TD error": ("TD error", "the surprise: how much better things look after this token"),
    "GAE advantage": ("advantage", "this surprise and the discounted later ones: what PPO uses"),
    "change of log-prob": ("log p change", "what one real update then did to the token"),
}


# ------------------------------------------------------------------------------- the same questions


def life_table(content: dict, what: str) -> Markup | None:
    """Thirteen questions, or two puzzles (`what`), a column for each kitten that they are for;
    cards on a narrow screen."""
    answers = {}  # kitten's name -> its replies
    for kitten in KITTENS:
        entry = content.get("kittens", {}).get(kitten.stage)
        replies = entry.get("replies") if isinstance(entry, dict) else None
        if isinstance(replies, list) and kitten.is_for(what):
            replies = [reply for reply in replies if isinstance(reply, dict)]
            answers[kitten.name] = [r for r in replies if is_puzzle(r) == (what == "puzzles")]
    answers = {name: replies for name, replies in answers.items() if replies}
    if not answers:
        return None
    prompts = list(
        dict.fromkeys(str(r.get("prompt")) for replies in answers.values() for r in replies)
    )
    heads = [tag("th", both("asked"), scope="col")]
    heads += [tag("th", both(name), scope="col") for name in answers]
    rows = []
    for prompt in prompts:
        cells = [tag("th", prompt, scope="row", translate="no")]
        for name, replies in answers.items():
            reply = next((r for r in replies if str(r.get("prompt")) == prompt), {})
            cells.append(tag("td", reply_cell(reply), data_kitten=both(name)))
        rows.append(tag("tr", *cells))
    head = tag("thead", tag("tr", *heads))
    return scroll_box(tag("table", head, tag("tbody", *rows), class_="life"))


def is_puzzle(reply: dict) -> bool:
    """A question has a gold score, a puzzle has none."""
    return "score" not in reply


def reply_cell(reply: dict) -> Markup:
    """What one kitten said, and what the judge thinks of it."""
    text = str(reply.get("text", "")).strip("\n") or both("(nothing)")
    marks = []
    runs_on = reply.get("ended") is False
    if isinstance(reply.get("right"), bool):
        right = reply["right"] or (runs_on and reply.get("right_at_first") is True)
        word = both("right" if right else "wrong")
        marks.append(tag("span", word, class_="good" if right else "bad"))
    if reply.get("tone") in ("friendly", "grumpy"):
        look = "good" if reply["tone"] == "friendly" else "bad"
        marks.append(tag("span", both(reply["tone"]), class_=look))
    if runs_on:
        marks.append(tag("span", both("and runs on"), class_="bad"))
    if is_number(reply.get("score")):
        marks.append(tag("span", both("gold {n}", n=f"{reply['score']:+.2f}")))
    shown_text = long_text(text, ENDLESS_REPLY if runs_on else LONG_REPLY)
    return join(shown_text, tag("p", *marks, class_="marks"))


def long_text(text: str, most: int = LONG_REPLY) -> Markup:
    """A reply; the rest of a long one is behind a fold."""
    if len(text) <= most:
        return tag("p", text, class_="said", translate="no")
    cut = text.rfind(" ", 0, most) if " " in text[most // 2 : most] else most
    start, rest = (
        tag("p", part, class_="said", translate="no")
        for part in (text[:cut] + " \u2026", text[cut:])
    )
    return join(start, fold(both("{n} more letters", n=len(text) - cut), rest, class_="more"))


def samples_fold(stage: Stage) -> Markup | None:
    """The chapter's own samples, drawn at temperature 1, before and after."""
    samples = stage.samples.get("samples")
    if not samples:
        return None
    titles = stage.samples["before_title"], stage.samples["after_title"]
    heads = [both(head) for head in ("asked", *titles)]
    head = tag("thead", tag("tr", *(tag("th", h, scope="col") for h in heads)))
    rows = []
    for sample in samples:
        cells = [tag("th", sample["prompt"], scope="row", translate="no")]
        for name, key in zip(heads[1:], ("before", "after"), strict=True):
            cells.append(tag("td", long_text(sample[key].strip("\n")), data_kitten=name))
        rows.append(tag("tr", *cells))
    box = scroll_box(tag("table", head, tag("tbody", *rows), class_="life"))
    title = both(
        "The chapter's own samples: {before} and {after}, with dice (temperature 1)",
        before=heads[1],
        after=heads[2],
    )
    return fold(title, tag("p", read_back(stage.samples["how"]), class_="small"), box)


# ------------------------------------------------------------------------------------------ tokens


def visible(piece: str) -> str:
    """A token's text: its first space and its line breaks can be seen."""
    shown_piece = piece.replace("\n", "\u21b5")
    return SPACE + shown_piece[1:] if shown_piece.startswith(" ") else shown_piece


def mask_view(pieces: object) -> Markup | None:
    """A conversation as coloured tokens: green is trained, grey is only read."""
    if not isinstance(pieces, list) or not pieces:
        return None
    turns: list[list[Markup]] = [[]]
    trained_count = 0
    for entry in pieces:
        if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)):
            return note(both("the conversation in report_replies.json cannot be read"))
        piece, trained = entry[0], entry[1] is True
        if piece == "<|im_start|>" and turns[-1]:
            turns.append([])
        trained_count += trained
        look = ("trained" if trained else "read") + (" special" if piece[:1] == "<" else "")
        turns[-1].append(tag("span", visible(piece), class_=f"token {look}"))
    said = both("{n} of {all} tokens are trained", n=trained_count, all=len(pieces))
    key = tag(
        "p",
        tag("span", both("trained"), class_="token trained"),
        both(" the assistant's words and the mark that ends its turn. "),
        tag("span", both("only read"), class_="token read"),
        both(" everything else. Here {said}.", said=said),
        class_="small",
    )
    lines = (tag("p", *turn) for turn in turns)
    return join(tag("div", *lines, class_="tokens", translate="no"), key)


def credit_view(content: dict) -> Markup | None:
    """Replies in the middle of PPO; every token tells its reward, KL, TD error and advantage."""
    replies = content.get("replies")
    views = [credit_of_reply(reply) for reply in replies] if isinstance(replies, list) else []
    views = [view for view in views if view is not None]
    if not views:
        return None
    first, others = views[0], views[1:]
    more = [fold(both("More replies of the same moment"), *others)] if others else []
    settings = listed(map(read_back, str(content.get("note", "unknown settings")).split(";\n")))
    drawn = both("Drawn with {settings}.", settings=settings)
    return join(first, *more, tag("p", drawn, class_="small"))


def value_of(name: str, value: str) -> Both:
    """A measure and its number, as in "advantage +0.500"."""
    return both("{name} {value}", name=both(name), value=value)


def credit_of_reply(reply: object) -> Markup | None:
    """One reply: coloured tokens to point at, and all numbers in a table below."""
    if not isinstance(reply, dict) or not isinstance(reply.get("tokens"), list):
        return None
    tokens = [str(token) for token in reply["tokens"]]
    rows = reply.get("rows") if isinstance(reply.get("rows"), dict) else {}
    rows = {
        name: [value if is_number(value) else 0.0 for value in rows[name]]
        for name in MEASURES
        if isinstance(rows.get(name), list) and len(rows[name]) == len(tokens)
    }
    if not tokens or not rows:
        return None
    coloured = "GAE advantage" if "GAE advantage" in rows else next(iter(rows))
    looks = {name: heats(values) for name, values in rows.items()}
    buttons = []
    for t, token in enumerate(tokens):
        numbers = {MEASURES[name][0]: f"{rows[name][t]:+.3f}" for name in rows}
        title = listed((value_of(name, value) for name, value in numbers.items()), "\n", "\n")
        heat = " ".join(looks[name][t] for name in rows)
        look = f"token credit {looks[coloured][t]}"
        shown_token = visible(token)
        buttons.append(
            tag("button", shown_token, type="button", class_=look, title=title, data_heat=heat)
        )
    names = listed((both(MEASURES[name][0]) for name in rows), "|", "|")
    chosen = list(rows).index(coloured)
    question = tag("span", str(reply.get("question", "")), translate="no")
    score = both("score {n}", n=shown(reply.get("score")))
    row_box = tag(
        "div", *buttons, class_="tokens", data_names=names, data_chosen=chosen, translate="no"
    )
    panel = tag("p", both("point at a token, or tap it"), class_="readout")
    numbers = fold(both("All numbers as a table"), credit_numbers(tokens, rows, looks))
    asked = tag("p", question, "   ", score, class_="asked")
    return tag("div", asked, row_box, panel, numbers, class_="creditbox")


def credit_numbers(tokens: list[str], rows: dict, looks: dict[str, list[str]]) -> Markup:
    """A row for each token, a column for each number, each column with its own colours."""
    heads = [tag("th", both("token"), scope="col")]
    for name, meaning in (MEASURES[row] for row in rows):
        heads.append(tag("th", both(name), title=both(meaning), scope="col"))
    lines = []
    for t, token in enumerate(tokens):
        cells = [tag("td", f"{rows[name][t]:+.3f}", class_=looks[name][t] or None) for name in rows]
        lines.append(tag("tr", tag("th", visible(token), scope="row", translate="no"), *cells))
    head = tag("thead", tag("tr", *heads))
    return scroll_box(tag("table", head, tag("tbody", *lines), class_="numbers"))


def heats(values: list[float]) -> list[str]:
    """A class of the style sheet for every value: n5 ... n1, nothing, p1 ... p5."""
    largest = max(map(abs, values), default=0.0) or 1.0
    levels = [round(5 * value / largest) for value in values]
    return ["" if level == 0 else f"{'p' if level > 0 else 'n'}{abs(level)}" for level in levels]


def measures_list() -> Markup:
    """What each number of the credit picture says."""
    items = [join(tag("dt", both(name)), tag("dd", both(text))) for name, text in MEASURES.values()]
    return tag("dl", *items, class_="meanings")


# ---------------------------------------------------------------------------------------- thinking


def thinking_view(stage: Stage) -> Markup | None:
    """Two problems with all that was thought about them, before and after."""
    samples = stage.samples.get("samples") or []
    chosen = two_problems(samples)
    if not chosen:
        return None
    titles = stage.samples["before_title"], stage.samples["after_title"]
    boxes = []
    for sample, why in chosen:
        sides = []
        for title, key in zip(titles, ("before", "after"), strict=True):
            sides.append(tag("div", tag("h5", both(title)), thought(sample[key]), class_="side"))
        inside = tag("div", *sides, class_="sides")
        prompt = tag("span", sample["prompt"], translate="no")
        title = join(prompt, both(" ({why})", why=both(why)))
        boxes.append(fold(title, inside, open_=True, class_="fold problem"))
    return join(*boxes)


def two_problems(samples: list[dict]) -> list[tuple[dict, str]]:
    """One problem that was learnt and one that is wrong after, or else whatever is there."""
    tries = lambda sample: sample["after"].count("wait")  # noqa: E731
    found: list[tuple[dict, str]] = []
    for ends_in in (("wrong before, right after",), WRONG_AFTER, RIGHT_AFTER, WRONG_AFTER):
        fresh = [
            (sample, verdicts(sample))
            for sample in samples
            if verdicts(sample) in ends_in and all(sample is not other for other, _ in found)
        ]
        if fresh and len(found) < 2:
            found.append(max(fresh, key=lambda entry: tries(entry[0])))
    return found


def verdicts(sample: dict) -> str:
    """What became of a problem, in words: "wrong before, right after"."""
    before, after = (
        "right" if sample[key].rstrip().endswith("(right)") else "wrong"
        for key in ("before", "after")
    )
    if before == after:
        return f"{before} before and after"
    return f"{before} before, {after} after"


def thought(text: str) -> Markup:
    """A reply of the reasoning chapter, one line for each attempt; other texts as they are."""
    match = re.fullmatch(r"<think>(.*?)(?:</think>(.*?))?\n?\((right|wrong)\)\s*", text, re.DOTALL)
    if match is None:
        return tag("p", text, class_="said", translate="no")
    attempts = re.split(r" wait ", match[1])
    items = []
    for attempt in attempts:
        verdict = {" no": "bad", "yes": "good"}.get(attempt[-3:])
        if verdict is None:
            items.append(tag("li", attempt))
        else:
            word = attempt.split()[-1]
            start = attempt[: -len(word)]
            items.append(tag("li", start, tag("b", word, class_=verdict)))
    many = both("{n} attempt" if len(attempts) == 1 else "{n} attempts", n=len(attempts))
    answer = (match[2] or "").replace("<answer>", "").replace("</answer>", "").strip()
    look = "good" if match[3] == "right" else "bad"
    end = [both("cut off, no answer")]
    if answer:
        end = [tag("b", both("answer ")), tag("span", answer, translate="no")]
    last = tag("p", *end, " ", tag("span", both(match[3]), class_=look), class_="marks answer")
    lines = tag("ol", *items, class_="attempts", translate="no")
    return join(tag("p", many, class_="small"), lines, last)
