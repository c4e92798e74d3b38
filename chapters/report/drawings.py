"""Two pictures for somebody who got the page by mail: the path of a kitten, and the RLHF loop.

One idea: a picture is a list of boxes and a list of arrows between them. A box of the path leads to
the part of the page about that stage; a stage that has not run is drawn with a dashed edge.

Used by top.py.
"""

import math
from dataclasses import dataclass

from chapters.report.data import Stage
from chapters.report.html import Markup, join, tag
from chapters.report.languages import both, listed

WIDTH = 400
BOX_WIDTH, BOX_HEIGHT = 126, 46


@dataclass(frozen=True)
class Box:
    """A box by its middle; `stage`: the part of the page that it leads to."""

    x: int
    y: int
    title: str
    text: str
    stage: str = ""
    width: int = BOX_WIDTH


PATH = {
    "random": Box(200, 30, "random weights", "knows nothing"),
    "base": Box(200, 105, "base", "reads all books", "ch0_base"),
    "sft": Box(129, 180, "SFT", "copies people", "ch1_sft"),
    "reward": Box(67, 255, "reward model", "learns their taste", "ch2_reward_model"),
    "dpo": Box(200, 255, "DPO", "from choices alone", "ch4_preferences"),
    "ppo": Box(67, 330, "PPO", "learns from scores", "ch3_ppo"),
    "zero": Box(333, 255, "Zero", "thinks; rules judge", "ch5_reasoning"),
    "r1": Box(200, 405, "R1", "is kind and thinks", "ch6_r1"),
}
PATH_ARROWS = (
    ("random", "base", ""),
    ("base", "sft", ""),
    ("base", "zero", ""),
    ("sft", "reward", ""),
    ("sft", "dpo", ""),
    ("reward", "ppo", ""),
    ("ppo", "r1", ""),
    ("zero", "r1", ""),
)
LOOP = {
    "policy": Box(80, 45, "policy", "the kitten that learns", width=148),
    "reward": Box(320, 45, "reward model", "one score per reply", width=148),
    "reference": Box(320, 135, "reference", "the kitten it was", width=148),
    "value": Box(320, 225, "value model", "what is still to come?", width=148),
    "credit": Box(80, 225, "advantages", "a credit per token", width=148),
}
LOOP_ARROWS = (
    ("policy", "reward", "1 a reply"),
    ("policy", "reference", ""),
    ("reward", "credit", "2 score"),
    ("reference", "credit", "KL price"),
    ("value", "credit", "guesses"),
    ("credit", "policy", "3 update"),
)


def path_picture(stages: dict[str, Stage]) -> Markup:
    """From random weights to R1; boxes of stages on the page are links."""
    boxes = [drawn_box(box, there=box.stage in stages or not box.stage) for box in PATH.values()]
    arrows = [drawn_arrow(PATH[a], PATH[b], text) for a, b, text in PATH_ARROWS]
    named = [
        both("{name} ({value})", name=both(b.title), value=both(b.text)) for b in PATH.values()
    ]
    return drawing(both("the path: {boxes}", boxes=listed(named)), 435, *arrows, *boxes)


def loop_picture() -> Markup:
    """Generate, score, update: the four models of PPO and what flows between them."""
    boxes = [drawn_box(box) for box in LOOP.values()]
    arrows = [drawn_arrow(LOOP[a], LOOP[b], text) for a, b, text in LOOP_ARROWS]
    words = (
        "the policy writes a reply; the reward model gives one score, the reference a price for "
        "leaving it, the value model its guesses; together they are the advantage of every token, "
        "and the policy is updated"
    )
    return drawing(both(words), 260, *arrows, *boxes)


def drawing(description: str, height: int, *parts: Markup) -> Markup:
    box = f"0 0 {WIDTH} {height}"
    return tag("svg", *parts, viewBox=box, class_="drawing", role="img", aria_label=description)


def drawn_box(box: Box, *, there: bool = True) -> Markup:
    """A box with its title and a line of text; a link if its stage is on the page."""
    left, top = box.x - box.width / 2, box.y - BOX_HEIGHT / 2
    look = "box" if there else "box absent"
    parts = (
        tag("rect", x=left, y=top, width=box.width, height=BOX_HEIGHT, rx=9, class_=look),
        tag("text", both(box.title), x=box.x, y=box.y - 3, class_="box-title"),
        tag("text", both(box.text), x=box.x, y=box.y + 13, class_="box-text"),
    )
    return tag("a", *parts, href=f"#{box.stage}") if box.stage and there else tag("g", *parts)


def drawn_arrow(start: Box, end: Box, text: str) -> Markup:
    """A straight arrow from edge to edge, with a word in its middle."""
    (x1, y1), (x2, y2) = edge_towards(start, end), edge_towards(end, start)
    length = math.hypot(x2 - x1, y2 - y1) or 1.0
    along = ((x2 - x1) / length, (y2 - y1) / length)
    foot = (x2 - 9 * along[0], y2 - 9 * along[1])
    side = (4 * along[1], -4 * along[0])
    corners = ((x2, y2), (foot[0] + side[0], foot[1] + side[1]))
    corners += ((foot[0] - side[0], foot[1] - side[1]),)
    head = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
    parts = [
        tag("line", x1=x1, y1=y1, x2=f"{foot[0]:.1f}", y2=f"{foot[1]:.1f}", class_="arrow"),
        tag("polygon", points=head, class_="arrowhead"),
    ]
    if text:
        x, y = round((x1 + x2) / 2), round((y1 + y2) / 2) - 5
        parts.append(tag("text", both(text), x=x, y=y, class_="arrow-text"))
    return join(*parts)


def edge_towards(box: Box, other: Box) -> tuple[float, float]:
    """Where a line from the middle of a box to another one leaves the box."""
    dx, dy = other.x - box.x, other.y - box.y
    shares = [half / abs(d) for half, d in ((box.width / 2 + 3, dx), (BOX_HEIGHT / 2 + 3, dy)) if d]
    share = min(shares)
    return round(box.x + share * dx, 1), round(box.y + share * dy, 1)
