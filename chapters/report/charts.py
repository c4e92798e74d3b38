"""Curves as SVG: drawn by three small functions, read by hovering, tapping or the caption below.

One idea: a picture that is text. Every chart is cut into upright strips; each strip knows its
values as a <title>, which browsers show by themselves, and which the page's script shows below the
chart at once. Colours and dashes are classes of the style sheet, so they follow light and dark.

Used by page.py's parts. Left out: zooming, logarithmic axes.
"""

import math
from dataclasses import dataclass, field

from chapters.report.html import Markup, is_number, join, note, shown, tag
from chapters.report.languages import Both, both, listed

WIDTH, HEIGHT = 360, 200
WIDE = (640, 340)  # the frontier
LEFT, RIGHT, TOP, BOTTOM = 68, 10, 10, 40  # margins of the drawing area
MOST_POINTS = 120  # of a line; more are averaged
MOST_STRIPS = 60
LOOKS = 7  # colours and dashes in the style sheet
Shade = tuple[list[float], list[float], list[float]]  # places, lowest values, highest values


@dataclass(frozen=True)
class Chart:
    """One small picture. lines: name -> (xs, ys); levels: name -> height of a dotted line.

    band_of: "train loss" asks for the band of the reference runs behind the lines.
    """

    title: str
    lines: dict[str, tuple[list[float], list[float]]]
    y_label: str = ""
    x_label: str = "step"
    levels: dict[str, object] = field(default_factory=dict)
    band_of: str = ""


@dataclass(frozen=True)
class Frame:
    """From numbers to places in the picture."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    height: int = HEIGHT
    width: int = WIDTH

    def x(self, value: float) -> float:
        share = (value - self.x_low) / ((self.x_high - self.x_low) or 1)
        return round(LEFT + share * (self.width - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        share = (value - self.y_low) / ((self.y_high - self.y_low) or 1)
        return round(self.height - BOTTOM - share * (self.height - TOP - BOTTOM), 1)


def charts(found: list[Chart], shades: dict[str, Shade] | None = None) -> Markup:
    """Small multiples side by side; `shades` are bands of reference runs, by Chart.band_of."""
    drawn = [line_chart(chart, (shades or {}).get(chart.band_of)) for chart in found]
    return tag("div", *drawn, class_="charts")


def line_chart(chart: Chart, shade: Shade | None = None) -> Markup:
    """One chart with its legend and, below it, its last values."""
    lines = {name: thinned(*line) for name, line in chart.lines.items()}
    lines = {name: line for name, line in lines.items() if line[0]}
    title = tag("h4", both(chart.title))
    if not lines:
        return tag("figure", title, note(both("nothing was measured here")), class_="chart")
    levels = {name: value for name, value in chart.levels.items() if is_number(value)}
    heights = [*levels.values(), *(shade[1] + shade[2] if shade else [])]
    frame = frame_of(list(lines.values()), heights)
    parts = [shaded(frame, shade), axes(frame, chart.x_label, chart.y_label)]
    parts += level_lines(frame, levels)
    looks = {name: f"s{number % LOOKS}" for number, name in enumerate(lines)}
    for name, (xs, ys) in lines.items():
        points = [(frame.x(x), frame.y(y)) for x, y in zip(xs, ys, strict=True)]
        parts.append(drawn_line(points, looks[name]))
    parts.append(strips(chart.x_label, frame, lines))
    last = both(
        "at the end: {values}", values=listed(value_of(n, ys[-1]) for n, (_, ys) in lines.items())
    )
    picture = svg(listed([both(chart.title), last], "; ", "；"), *parts)
    caption = tag("p", last, class_="readout")
    return tag("figure", title, picture, legend(looks, levels, shade), caption, class_="chart")


def frontier(
    groups: dict[str, list[tuple[float, float, str]]],
    x_label: str,
    y_label: str,
    levels: dict[str, object],
) -> Markup:
    """Paths of points (x, y, label), one for each method; every point tells its numbers."""
    levels = {name: value for name, value in levels.items() if is_number(value)}
    as_lines = [([p[0] for p in points], [p[1] for p in points]) for points in groups.values()]
    frame = frame_of(as_lines, list(levels.values()), WIDE)
    parts = [axes(frame, x_label, y_label)]
    parts += level_lines(frame, levels)
    looks = {name: f"s{number % LOOKS}" for number, name in enumerate(groups)}
    for name, points in groups.items():
        placed = [(frame.x(x), frame.y(y)) for x, y, _ in points]
        parts.append(drawn_line(placed, looks[name], dots=False))
        for (x, y), point in zip(placed, points, strict=True):
            values = listed([value_of(x_label, point[0]), value_of(y_label, point[1])])
            text = both("{place}: {values}", place=f"{name} {point[2]}", values=values)
            dot = tag("circle", cx=x, cy=y, r=4, class_=f"dot {looks[name]}")
            parts.append(tag("g", tag("title", text), dot, class_="hit point"))
    rest = both("point at a dot, or tap it, to see whose it is")
    description = both("{y} against {x}", y=both(y_label), x=both(x_label))
    picture = svg(description, *parts, size=WIDE)
    caption = tag("p", rest, class_="readout")
    return tag("figure", picture, legend(looks, levels), caption, class_="chart wide")


def value_of(name: str, value: float) -> Both:
    """A name and its number, as in "loss 0.35"."""
    return both("{name} {value}", name=both(name), value=shown(value))


def thinned(xs: list, ys: list) -> tuple[list[float], list[float]]:
    """At most MOST_POINTS points: neighbours are averaged."""
    pairs = [(x, y) for x, y in zip(xs, ys, strict=False) if is_number(x) and is_number(y)]
    size = math.ceil(len(pairs) / MOST_POINTS) or 1
    bins = [pairs[first : first + size] for first in range(0, len(pairs), size)]
    means = [
        tuple(math.fsum(part) / len(group) for part in zip(*group, strict=True)) for group in bins
    ]
    return [x for x, _ in means], [y for _, y in means]


def frame_of(lines: list[tuple[list, list]], levels: list[float], size=(WIDTH, HEIGHT)) -> Frame:
    """The axes that everything fits into."""
    xs = [x for line in lines for x in line[0]]
    ys = [y for line in lines for y in line[1]] + levels
    low, high = min(ys), max(ys)
    space = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    y_low = low if low == 0 else low - space  # a rate that starts at 0 stands on the ground
    return Frame(min(xs), max(xs), y_low, high + space, size[1], size[0])


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers between two values."""
    rough = (high - low) / count
    if not rough > 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= 0.7 * rough)
    first = math.ceil(low / step)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def tick_text(value: float) -> str:
    """A number beside an axis: short, and as people write it.

    >>> [tick_text(value) for value in (0.0, 0.30000000000000004, 20000.0, 0.0005, 1500000.0)]
    ['0', '0.3', '20k', '0.0005', '1.5M']
    """
    if abs(value) >= 1e6:
        return f"{value / 1e6:.4g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:.4g}k"
    text = f"{value:.6f}".rstrip("0").rstrip(".")
    too_small = value != 0 and float(text) == 0
    return f"{value:.1e}" if too_small else text


def axes(frame: Frame, x_label: str, y_label: str) -> Markup:
    """Grid lines, their numbers, and the two labels."""
    parts = []
    bottom = frame.height - BOTTOM
    for value in ticks(frame.y_low, frame.y_high, 4):
        y = frame.y(value)
        parts.append(tag("line", x1=LEFT, x2=frame.width - RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(tag("text", tick_text(value), x=LEFT - 6, y=y + 4, class_="tick end"))
    for value in ticks(frame.x_low, frame.x_high, 4):
        x = frame.x(value)
        parts.append(tag("text", tick_text(value), x=x, y=bottom + 16, class_="tick middle"))
    middle = (LEFT + frame.width - RIGHT) / 2
    parts.append(tag("text", both(x_label), x=middle, y=frame.height - 5, class_="tick middle"))
    if y_label:
        centre = (TOP + bottom) / 2
        turn = f"rotate(-90 10 {centre})"
        parts.append(
            tag("text", both(y_label), x=10, y=centre, transform=turn, class_="tick middle")
        )
    return join(*parts)


def level_lines(frame: Frame, levels: dict[str, float]) -> list[Markup]:
    """Dotted lines at heights that are worth knowing."""
    right = frame.width - RIGHT
    heights = [frame.y(value) for value in levels.values()]
    return [tag("line", x1=LEFT, x2=right, y1=y, y2=y, class_="level") for y in heights]


def shaded(frame: Frame, shade: Shade | None) -> Markup | None:
    """The band between the lowest and the highest of the reference runs."""
    if shade is None:
        return None
    xs, lows, highs = shade
    edge = [*zip(xs, highs, strict=True), *reversed(list(zip(xs, lows, strict=True)))]
    inside = [(min(max(x, frame.x_low), frame.x_high), y) for x, y in edge]
    path = " ".join(f"{frame.x(x)},{frame.y(y)}" for x, y in inside)
    return tag("polygon", points=path, class_="shade")


def drawn_line(points: list[tuple[float, float]], look: str, *, dots: bool = True) -> Markup:
    """The line itself; few points also get dots."""
    path = " ".join(f"{x},{y}" for x, y in points)
    line = tag("polyline", points=path, class_=f"line {look}")
    if not dots or len(points) > 25:
        return line
    return join(line, *(tag("circle", cx=x, cy=y, r=2.2, class_=f"dot {look}") for x, y in points))


def strips(x_label: str, frame: Frame, lines: dict[str, tuple[list, list]]) -> Markup:
    """Invisible upright strips; each has the values at its place as a title."""
    places = sorted({x for xs, _ in lines.values() for x in xs})
    every = math.ceil(len(places) / MOST_STRIPS)
    places = places[::every]
    middles = [(frame.x(a) + frame.x(b)) / 2 for a, b in zip(places, places[1:], strict=False)]
    edges = [float(LEFT), *middles, float(frame.width - RIGHT)]
    found = []
    for place, left, right in zip(places, edges, edges[1:], strict=False):
        values = []
        for name, (xs, ys) in lines.items():
            nearest = min(range(len(xs)), key=lambda i, xs=xs: abs(xs[i] - place))
            values.append(value_of(name, ys[nearest]))
        at = both("{name} {value}", name=both(x_label), value=f"{place:.0f}")
        text = both("{place}: {values}", place=at, values=listed(values))
        width = round(max(right - left, 0.5), 1)
        box = tag(
            "rect",
            x=round(left, 1),
            y=TOP,
            width=width,
            height=frame.height - TOP - BOTTOM,
            data_x=frame.x(place),
        )
        found.append(tag("g", tag("title", text), box, class_="hit"))
    rule = tag("line", x1=LEFT, x2=LEFT, y1=TOP, y2=frame.height - BOTTOM, class_="rule")
    return join(rule, *found)


def legend(
    looks: dict[str, str], levels: dict[str, float], shade: Shade | None = None
) -> Markup | None:
    """Which line is which; a single line needs none."""
    if len(looks) + len(levels) + (shade is not None) < 2:
        return None
    entries = [(both(name), f"line {look}") for name, look in looks.items()]
    entries += [
        (both("{name} ({value})", name=both(name), value=shown(value)), "level")
        for name, value in levels.items()
    ]
    entries += [(both("reference runs"), "band")] if shade else []
    items = []
    for name, look in entries:
        swatch = tag("line", x1=0, x2=26, y1=5, y2=5, class_=look)
        key = tag("svg", swatch, viewBox="0 0 26 10", class_="key", aria_hidden="true")
        items.append(tag("li", key, name))
    return tag("ul", *items, class_="legend")


def svg(description: str, *parts: Markup, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Markup:
    box = f"0 0 {size[0]} {size[1]}"
    return tag("svg", *parts, viewBox=box, role="img", aria_label=description)


def bar(share: float, look: str = "s0") -> Markup:
    """A bar from 0 to 1, for a cell of a table."""
    length = round(100 * min(1.0, max(0.0, share)), 1)
    filled = tag("rect", x=0, y=1, width=length, height=8, rx=2, class_=f"filled {look}")
    ground = tag("rect", x=0, y=1, width=100, height=8, rx=2, class_="ground")
    return tag("svg", ground, filled, viewBox="0 0 100 10", class_="bar", aria_hidden="true")


def way(before: object, after: object) -> Markup | None:
    """A rate on its way from before to after, between 0 and 1."""
    if not is_number(after):
        return None
    places = [4 + 92 * min(1.0, max(0.0, v)) for v in (before, after) if is_number(v)]
    ground = tag("line", x1=4, x2=96, y1=7, y2=7, class_="grid")
    parts = [ground]
    if len(places) == 2:
        parts.append(tag("line", x1=places[0], x2=places[1], y1=7, y2=7, class_="line s0"))
        parts.append(tag("circle", cx=places[0], cy=7, r=3, class_="hollow"))
    parts.append(tag("circle", cx=places[-1], cy=7, r=4, class_="dot s0"))
    return tag("svg", *parts, viewBox="0 0 100 14", class_="bar", aria_hidden="true")


def band_strip(low: float, high: float, value: float, inside: bool) -> Markup:
    """A reference band as a bar, and where the value of this run stands."""
    space = (high - low) or abs(high) or 1.0
    left, right = min(low - space / 2, value), max(high + space / 2, value)
    place = lambda number: round(5 + 90 * (number - left) / (right - left), 1)  # noqa: E731
    ground = tag("line", x1=0, x2=100, y1=7, y2=7, class_="grid")
    strip = tag("rect", x=place(low), y=3, width=max(place(high) - place(low), 1), height=8, rx=2)
    dot = tag("circle", cx=place(value), cy=7, r=4, class_="dot good" if inside else "dot bad")
    strip = tag("g", strip, class_="strip")
    return tag("svg", ground, strip, dot, viewBox="0 0 100 14", class_="bar", aria_hidden="true")
