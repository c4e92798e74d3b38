"""Writing MeowScript neatly: a tree back as text, and a run as a diary.

One idea: once a program is a tree, its spaces and line breaks are gone, so it can be written in
*one* way. Two programs that differ only in layout then are the same text.

Read before: meowscript.py. Left out: comments (MeowScript has none), line lengths.
"""

from kittenllm.meowscript import STRENGTH, Machine, Node, Token, parse


def format_program(source: str, *, one_line: bool = False) -> str:
    """The program in its one neat layout; a line for each statement, or all in one line.

    Raises: MeowError if it cannot be read.
    """
    lines = layout(parse(source), 0)
    return " ".join(line.strip() for line in lines) if one_line else "\n".join(lines)


def layout(block: Node, depth: int) -> list[str]:
    """The lines of all statements of a block, two spaces further in for each block around it."""
    indent = "  " * depth
    lines = []
    for word, parts in block.parts:
        value = calculation_text(parts[0])
        if word.kind == "let":
            lines.append(f"{indent}let {parts[1].token.text} = {value};")
        elif word.kind == "purr":
            lines.append(f"{indent}purr {value};")
        else:
            lines += [f"{indent}{word.kind} {value} {{", *layout(parts[1], depth + 1)]
            for otherwise in parts[2:]:
                lines += [f"{indent}}} else {{", *layout(otherwise, depth + 1)]
            lines.append(f"{indent}}}")
    return lines


def calculation_text(node: Node, names: dict | None = None) -> str:
    """A calculation as text, with as few brackets as it can have; names that have a value in
    `names` are written as that value."""
    if not node.parts:
        return str((names or {}).get(node.token.text, node.token.text))
    sign = node.token.kind
    left, right = (calculation_text(part, names) for part in node.parts)
    if strength(node.parts[0]) < STRENGTH[sign]:
        left = f"({left})"
    if strength(node.parts[1]) <= STRENGTH[sign]:  # a-(b-c) is not a-b-c
        right = f"({right})"
    return f"{left} {sign} {right}" if STRENGTH[sign] == 1 else f"{left}{sign}{right}"


def strength(node: Node) -> int:
    """How tightly the parts of a calculation hold together."""
    return STRENGTH[node.token.kind] if node.parts else len(STRENGTH)


def diary(source: str) -> list[str]:
    """Runs a program and notes each step: "x=4+3=7", "2 of 3" (a round), "7 > 5 yes", "purr 7".

    Raises: MeowError if the program cannot be read, or fails on the way.
    """
    notes: list[str] = []
    rounds: dict[Token, list[int]] = {}  # block of a repeat -> [this round, of how many]

    def watch(node: Node, value, names: dict[str, int]) -> None:
        word, parts = node
        if word in rounds:
            rounds[word][0] += 1
            notes.append("{} of {}".format(*rounds[word]))
        elif word.kind == "repeat":
            rounds[parts[1].token] = [0, value]
        elif word.kind == "if":
            notes.append(f"{calculation_text(parts[0], names)} {'yes' if value else 'no'}")
        elif word.kind in ("let", "purr"):
            result = f"={value}" if parts[0].parts else ""
            beginning = f"{parts[1].token.text}=" if word.kind == "let" else "purr "
            notes.append(beginning + calculation_text(parts[0], names) + result)

    Machine(watch).run(parse(source))
    return notes
