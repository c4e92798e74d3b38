"""MeowScript: what programs mean, where mistakes are, and that nothing a program does can hurt."""

import random
import time

import pytest

from kittenllm.skills.meowscript import (
    MOST_DIGITS,
    MOST_STEPS,
    MOST_TOKENS,
    MeowError,
    parse,
    run,
    tokens_of,
)
from kittenllm.skills.meowscript_format import diary, format_program

# ---------------------------------------------------------------------------------- what it means


@pytest.mark.parametrize(
    "program, printed",
    [
        ("", []),
        ("purr 7;", ["7"]),
        ('purr "meow";', ["meow"]),
        ('purr "";', [""]),
        ("purr 007;", ["7"]),
        ("let x = 4; purr x;", ["4"]),
        ("let x = 4; let x = x+3; purr x;", ["7"]),
        ("let end = 1; let name = end; purr name;", ["1"]),
        ("purr 2+3*4;", ["14"]),
        ("purr (2+3)*4;", ["20"]),
        ("purr 9-3-2;", ["4"]),  # from left to right
        ("purr 9-(3-2);", ["8"]),
        ("purr 2-5;", ["-3"]),
        ("purr 3 > 2; purr 2 > 3; purr 3 == 3; purr 1+1 < 3;", ["1", "0", "1", "1"]),
        ("repeat 3 { purr 1; }", ["1", "1", "1"]),
        ("repeat 0 { purr 1; }", []),
        ("repeat 1-3 { purr 1; }", []),
        ("let x = 2; repeat 3 { let x = x*2; } purr x;", ["16"]),
        ("let n = 2; repeat n { let n = 9; purr n; }", ["9", "9"]),  # counted once, at the start
        ("repeat 2 { repeat 2 { purr 5; } }", ["5"] * 4),
        ("if 5 > 3 { purr 1; } else { purr 0; }", ["1"]),
        ("if 5 < 3 { purr 1; } else { purr 0; }", ["0"]),
        ("if 5 < 3 { purr 1; }", []),
        ("if 2 { purr 1; } if 0 { purr 2; }", ["1"]),
        ("let lets = 1; purr lets;", ["1"]),  # a name may begin like a keyword
        ("let\n x\t=\r\n4\n;\npurr\nx;", ["4"]),
    ],
)
def test_what_programs_print(program, printed):
    assert run(program) == printed


@pytest.mark.parametrize(
    "program, message",
    [
        ("purr x;", "line 1, column 6: x has no value yet"),
        ("let x = x+1;", "line 1, column 9: x has no value yet"),
        ("let x = 4 purr x;", "line 1, column 10: expected ;, found purr"),
        ("let x = 4;\nlet y = x+1\npurr y;", "line 2, column 12: expected ;, found purr"),
        ("let x 4;", "line 1, column 6: expected =, found 4"),
        ("let x == 4;", "line 1, column 6: expected =, found ==, do you mean =?"),
        ("let = 4;", "line 1, column 5: expected name, found ="),
        ("let let = 4;", "line 1, column 5: expected name, found let"),
        ("let 3 = 4;", "line 1, column 5: expected name, found 3"),
        (
            "let x = 1;\n  prr x;",
            "line 2, column 3: expected let or purr or repeat or if, found prr, do you mean purr?",
        ),
        ("else { }", "line 1, column 1: expected let or purr or repeat or if, found else"),
        ("}", "line 1, column 1: expected let or purr or repeat or if, found }"),
        ("repeat 3 purr 1;", "line 1, column 9: expected {, found purr"),
        ("repeat 3 { purr 1;", "line 1, column 19: expected }, found the end"),
        ("purr (1+2;", "line 1, column 10: expected ), found ;"),
        ("purr 1+;", "line 1, column 8: expected number or name, found ;"),
        ("purr -1;", "line 1, column 6: expected number or name, found -"),
        ('let x = "meow";', 'line 1, column 9: expected number or name, found "meow"'),
        ("purr", "line 1, column 5: expected number or name, found the end"),
        ('purr "meow', "line 1, column 6: cannot read '\"meow'"),
        ('purr "me\now";', "line 1, column 6: cannot read '\"me'"),
        ("purr 4 & 5;", "line 1, column 8: cannot read '&'"),
        ("purr 4/2;", "line 1, column 7: cannot read '/'"),
        ("purr \u0664;", "line 1, column 6: cannot read '\u0664'"),  # an Arabic 4 is no digit here
        ("purr 999999999*2;", "line 1, column 15: the result has more than 9 digits"),
        ("purr 0-999999999-1;", "line 1, column 17: the result has more than 9 digits"),
        ("repeat 5 { purr x; }", "line 1, column 17: x has no value yet"),
    ],
)
def test_where_mistakes_are(program, message):
    with pytest.raises(MeowError) as error:
        run(program)
    assert str(error.value) == message
    line, column = message.split(":")[0].split(", ")
    assert error.value.line == int(line.removeprefix("line "))
    assert error.value.column == int(column.removeprefix("column "))


# ------------------------------------------------------------------------- what it may use up


@pytest.mark.parametrize(
    "program, message",
    [
        ("repeat 999999999 { }", f"stopped after {MOST_STEPS} steps"),
        ("repeat 99999 { repeat 99999 { repeat 99999 { } } }", f"after {MOST_STEPS} steps"),
        ("let x = 1; repeat 99 { let x = x*9; }", f"more than {MOST_DIGITS} digits"),
        ("purr " + "9" * 5000 + ";", f"or {MOST_DIGITS} digits"),
        ("purr 1; " * 1000, f"more than {MOST_TOKENS} tokens"),
        ("purr " + "(" * 9999, f"more than {MOST_TOKENS} tokens"),
    ],
)
def test_every_program_ends(program, message):
    with pytest.raises(MeowError, match=message):
        run(program)


@pytest.mark.parametrize(
    "program",
    [
        "purr " + "(" * 147 + "1" + ")" * 147 + ";",
        "purr " + "1+" * 148 + "1;",
        "purr " + "1-(" * 73 + "1" + ")" * 73 + ";",
        "repeat 1 {" * 70 + "purr 1;" + "}" * 70,
        "if 1 {" * 70 + "purr 1;" + "}" * 70,
        "purr " + "(" * 290,
        "repeat 1 {" * 95,
    ],
)
def test_the_deepest_programs_do_not_overflow_the_stack(program):
    """Python gives up at 1,000 calls inside each other; here 300 tokens are far from that."""
    try:
        assert run(program)
        assert run(format_program(program)) == run(program)
        assert diary(program)
    except MeowError as error:
        assert "the end" in str(error)


def test_the_slowest_program_is_quick():
    """The longest calculation that fits, as often as steps allow."""
    program = "repeat 9999 { let x = " + "1+" * 140 + "1; }"
    started = time.perf_counter()
    with pytest.raises(MeowError, match="stopped"):
        run(program)
    assert time.perf_counter() - started < 20  # a second or less; a busy machine gets more


def test_a_huge_file_is_refused_at_once():
    for text in ("a" * 5_000_000, '"' * 3_000_001, " " * 5_000_000 + "&", "purr 1;" * 500_000):
        started = time.perf_counter()
        with pytest.raises(MeowError) as error:
            run(text)
        assert len(str(error.value)) < 200
        assert time.perf_counter() - started < 20


# ----------------------------------------------------------------------------- random programs

SCRAPS = (
    *("let", "purr", "repeat", "if", "else", "x", "y", "abc", "let", "x", "=", "1", ";"),
    *"+-*=<>;{}()",
    *("==", '"meow"', '"', "0", "1", "7", "99", "999999999", "1234567890", " ", "\n", "\t", "\r\n"),
    *("let x = 3;", "purr x;", "repeat 3 {", "if x > 2 {", "} else {", "}", "(x+1)*2"),
    *("prr", "é", "\u0664", "🐈", "\x00", "\\", "'", "#", "\ud800"),
)


def random_text(rng: random.Random) -> str:
    """Scraps of programs in any order."""
    return rng.choice(("", " ")).join(rng.choices(SCRAPS, k=rng.randint(0, 40)))


def random_program(rng: random.Random, depth: int = 0) -> str:
    """Statements that can be read, but may do anything."""

    def calculation(depth: int) -> str:
        if depth == 0 or rng.random() < 0.4:
            return rng.choice(("x", "y", "z", str(rng.randint(0, 99)), str(rng.randint(0, 10**9))))
        left, right = calculation(depth - 1), calculation(depth - 1)
        text = f"{left} {rng.choice(('+', '-', '*', '<', '>', '=='))} {right}"
        return f"({text})" if rng.random() < 0.4 else text

    statements = []
    for _ in range(rng.randint(0 if depth else 1, 4)):
        kind = rng.choice(("let", "let", "purr", "text", "repeat", "if") if depth < 3 else ("let",))
        value = calculation(2)
        inside = random_program(rng, depth + 1) if kind in ("repeat", "if") else ""
        statements.append(
            {
                "let": f"let {rng.choice('xyz')} = {value};",
                "purr": f"purr {value};",
                "text": 'purr "meow";',
                "repeat": f"repeat {value} {{ {inside} }}",
                "if": f"if {value} {{ {inside} }} else {{ {inside} }}",
            }[kind]
        )
    return " ".join(statements)


def broken(program: str, rng: random.Random) -> str:
    """A few letters lost, doubled or changed."""
    letters = list(program)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(letters))
        letters[place] = rng.choice(("", letters[place] * 2, rng.choice(SCRAPS)))
    return "".join(letters)


@pytest.mark.parametrize("sort", ["scraps", "programs", "broken"])
def test_ten_thousand_random_programs(sort):
    """A result or a clear error with a place in the text, and nothing else."""
    rng = random.Random(f"meow {sort}")
    outcomes = {"result": 0, "error": 0}
    for _ in range(4_000):
        known = "let x = 1; let y = 2; let z = 3; "
        program = random_text(rng) if sort == "scraps" else known + random_program(rng)
        if sort == "broken":
            program = broken(program, rng)
        try:
            printed = run(program)
            assert all(isinstance(text, str) for text in printed)
            assert len(printed) <= MOST_STEPS
            outcomes["result"] += 1
        except MeowError as error:
            lines = program.split("\n")
            assert 1 <= error.line <= len(lines)
            assert 1 <= error.column <= len(lines[error.line - 1]) + 1
            assert "\n" not in str(error)
            outcomes["error"] += 1
    assert min(outcomes.values()) > 100, outcomes


# ------------------------------------------------------------------------------- writing it neatly


def test_the_neat_layout():
    program = 'let x=4;repeat x+1{if x>2{purr x;}else{purr"no";}}purr (x+1)*2-(3-1);'
    assert format_program(program) == (
        "let x = 4;\n"
        "repeat x+1 {\n"
        "  if x > 2 {\n"
        "    purr x;\n"
        "  } else {\n"
        '    purr "no";\n'
        "  }\n"
        "}\n"
        "purr (x+1)*2-(3-1);"
    )
    assert format_program(program, one_line=True) == (
        'let x=4; repeat x+1{ if x>2{ purr x; } else{ purr "no"; } } purr (x+1)*2-(3-1);'
    )


def test_texts_keep_their_spaces_in_one_line():
    program = 'purr "a = b { c";'
    assert format_program(program, one_line=True) == program


@pytest.mark.parametrize(
    "calculation, neat",
    [
        ("((1))", "1"),
        ("(1+2)+3", "1+2+3"),
        ("1+(2+3)", "1+(2+3)"),
        ("(1*2)+3", "1*2+3"),
        ("1*(2+3)", "1*(2+3)"),
        ("1-(2-3)", "1-(2-3)"),
        ("2*(3*4)", "2*(3*4)"),
        ("(1<2)==1", "1 < 2 == 1"),
        ("1<(2==1)", "1 < (2 == 1)"),
        ("(1<2)+1", "(1 < 2)+1"),
    ],
)
def test_brackets_stay_where_they_matter(calculation, neat):
    assert format_program(f"purr {calculation};") == f"purr {neat};"
    assert run(f"purr {neat};") == run(f"purr {calculation};")


def shape(node):
    """A tree without the places in the text."""
    return node.token.text, tuple(shape(part) for part in node.parts)


def test_formatting_changes_the_layout_and_nothing_else():
    rng = random.Random(3)
    for _ in range(500):
        program = random_program(rng, depth=2)  # the shorter ones: none is above the limits
        for one_line in (False, True):
            neat = format_program(program, one_line=one_line)
            assert shape(parse(neat)) == shape(parse(program))
            assert format_program(neat, one_line=one_line) == neat
        assert neat == format_program(format_program(program), one_line=True)


def test_the_formatter_reports_mistakes_too():
    with pytest.raises(MeowError, match="line 2, column 6"):
        format_program("purr 1;\nlet x 2;")


def test_the_diary_of_a_run():
    program = 'let x = 4; repeat 2 { let x = x+3; if x > 8 { purr "big"; } else { purr x; } }'
    assert diary(program) == [
        "x=4",
        "1 of 2",
        "x=4+3=7",
        "7>8 no",
        "else",
        "purr x=7",
        "2 of 2",
        "x=7+3=10",
        "10>8 yes",
        'purr "big"',
    ]
    assert diary("let a = 2; purr a; purr a-1; if a == 2 { purr 5; }") == [
        "a=2",
        "purr a=2",
        "purr a-1=2-1=1",
        "2==2 yes",
        "purr 5",
    ]
    assert diary("repeat 2 { repeat 1 { } } purr 2*3;") == [
        "1 of 2",
        "1 of 1",
        "2 of 2",
        "1 of 1",
        "purr 2*3=6",
    ]


def test_tokens_know_where_they_are():
    tokens = tokens_of('let x = 4;\n  purr "a b";')
    places = [(token.text, token.line, token.column) for token in tokens]
    assert places == [
        ("start", 1, 1),
        ("let", 1, 1),
        ("x", 1, 5),
        ("=", 1, 7),
        ("4", 1, 9),
        (";", 1, 10),
        ("purr", 2, 3),
        ('"a b"', 2, 8),
        (";", 2, 13),
        ("the end", 2, 14),
    ]
