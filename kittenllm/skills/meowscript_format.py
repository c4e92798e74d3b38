"""Writing MeowScript neatly: a tree back as text, and a run as a diary.

One idea: once a program is a tree, its spaces and line breaks are gone, so it can be written in
*one* way. Two programs that differ only in layout then are the same text.

Read before: meowscript.py. Left out: comments (MeowScript has none), line lengths.
"""

from kittenllm.skills.meowscript import STRENGTH, Machine, Node, Token, parse


def format_program(source: str, *, one_line: bool = False) -> str:
    """The program in its one neat layout; a line for each statement, or all in one line.

    One line is for a kitten, to whom every space is one more token: it has as few as can be read.
    Raises: MeowError if it cannot be read.
    """
    lines = layout(parse(source), 0, space="" if one_line else " ")
    return " ".join(line.strip() for line in lines) if one_line else "\n".join(lines)


def layout(block: Node, depth: int, *, space: str) -> list[str]:
    """The lines of all statements of a block, two spaces further in for each block around it;
    `space` stands around = and comparisons, and before {."""
    indent = "  " * depth
    lines = []
    for word, parts in block.parts:
        value = calculation_text(parts[0], space=space)
        if word.kind == "let":
            lines.append(f"{indent}let {parts[1].token.text}{space}={space}{value};")
        elif word.kind == "purr":
            lines.append(f"{indent}purr {value};")
        else:
            lines += [f"{indent}{word.kind} {value}{space}{{"]
            lines += layout(parts[1], depth + 1, space=space)
            for otherwise in parts[2:]:
                lines += [f"{indent}}} else{space}{{"]
                lines += layout(otherwise, depth + 1, space=space)
            lines.append(f"{indent}}}")
    return lines


def calculation_text(node: Node, names: dict | None = None, *, space: str = "") -> str:
    """A calculation as text, with as few brackets as it can have; names that have a value in
    `names` are written as that value; `space` stands around comparisons."""
    if not node.parts:
        return str((names or {}).get(node.token.text, node.token.text))
    sign = node.token.kind
    left, right = (calculation_text(part, names, space=space) for part in node.parts)
    if strength(node.parts[0]) < STRENGTH[sign]:
        left = f"({left})"
    if strength(node.parts[1]) <= STRENGTH[sign]:  # a-(b-c) is not a-b-c
        right = f"({right})"
    around = space if STRENGTH[sign] == 1 else ""
    return f"{left}{around}{sign}{around}{right}"


def strength(node: Node) -> int:
    """How tightly the parts of a calculation hold together."""
    return STRENGTH[node.token.kind] if node.parts else len(STRENGTH)


def diary(source: str) -> list[str]:
    """Runs a program and notes each step: "x=4+3=7", "2 of 3" (a round), "7>5 yes",
    "else", "purr 7", and "purr x+1=6+1=7", where names are first written as they stand.

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
            notes.extend(["else"] if not value and parts[2:] else [])
        elif word.kind in ("let", "purr"):
            texts = [calculation_text(parts[0], names)]
            if parts[0].parts:
                texts.append(str(value))
            if word.kind == "let":
                texts.insert(0, parts[1].token.text)
            elif (text := calculation_text(parts[0])) != texts[0]:
                texts.insert(0, text)
            notes.append(("purr " if word.kind == "purr" else "") + "=".join(texts))

    Machine(watch).run(parse(source))
    return notes
