"""The language chapter: exercises with known answers, an honest grade, and one quick run."""

import json
import random

import pytest
import torch

from chapters.ch1_language import exam as language_exam
from chapters.ch1_language.story import KIND_SHARES, METHODS, Settings, cost, rank_of
from chapters.common.runner import chapter_main
from kittenllm.gpt import GPT
from kittenllm.kitten_town import meow_tasks
from kittenllm.kitten_town.meow_tasks import (
    KINDS,
    Task,
    draw_practice,
    draw_program,
    draw_task,
    grade,
    held_out_tasks,
    is_held_out,
    nameless,
    ways_to_say,
)
from kittenllm.lora import add_lora, merge_lora
from kittenllm.optim import make_optimizer
from kittenllm.runs.checkpoints import load_model
from kittenllm.runs.run import read_json
from kittenllm.sampling import Rollout
from kittenllm.settings import with_values
from kittenllm.skills.meowscript import MeowError, parse, run
from kittenllm.skills.meowscript_format import format_program

# -------------------------------------------------------------------------------------- exercises


@pytest.mark.parametrize("kind", KINDS)
def test_the_demonstrations_are_right(kind):
    rng = random.Random(1)
    for _ in range(300):
        task = draw_task(kind, rng)
        assert task.kind == kind
        assert grade(task, task.reply)
        assert not grade(task, "")
        assert not grade(task, task.text)


def test_programs_are_small_neat_and_run():
    rng = random.Random(2)
    lengths = set()
    for _ in range(500):
        program = draw_program(rng)
        assert format_program(program, one_line=True) == program
        printed = run(program)
        assert 1 <= len(printed) <= 3
        assert all(text.isalpha() or 0 <= int(text) <= 24 for text in printed)
        lengths.add(len(parse(program).parts))
    assert lengths == {1, 2, 3, 4}


def test_every_construct_is_asked_about():
    programs = " ".join(draw_program(random.Random(seed)) for seed in range(300))
    for piece in ("let", "purr", "repeat", "if", "else", "+", "-", "*", "<", ">", "==", '"'):
        assert piece in programs


def test_the_split_goes_by_content_and_not_by_names():
    assert nameless("let a = 3; let b = a+1; purr a;") == nameless(
        "let x = 3; let y = x+1; purr x;"
    )
    assert nameless("let a = 3; purr a;") != nameless("let a = 4; purr a;")
    assert nameless("let a = 3; let b = 4; purr a;") != nameless("let a = 3; let b = 4; purr b;")
    rng = random.Random(3)
    drawn = [draw_program(rng) for _ in range(2000)]
    share = sum(map(is_held_out, drawn)) / len(drawn)
    assert 0.15 < share < 0.25


@pytest.mark.parametrize("kind", KINDS)
def test_no_training_exercise_is_about_a_held_out_program(kind):
    rng = random.Random(4)
    taught = {nameless(draw_task(kind, rng).program) for _ in range(400)}
    examined = {nameless(task.program) for task in held_out_tasks(kind, 100, 5)}
    assert not taught & examined


def test_the_exam_is_large_and_the_same_for_all():
    for kind in KINDS:
        tasks = held_out_tasks(kind, 340, language_exam.EXAM_SEED)
        assert len({task.text for task in tasks}) == 340
        assert tasks == held_out_tasks(kind, 340, language_exam.EXAM_SEED)
    count, replies_each = language_exam.FULL_PLAN
    assert count >= 300 and count * replies_each >= 2000


def test_an_order_in_words_says_all_that_the_program_does():
    """No two programs share a wording: otherwise a right reply could be called wrong."""
    rng = random.Random(6)
    meaning: dict[str, str] = {}
    for _ in range(400):
        program = draw_program(rng)
        for words in {". ".join(ways_to_say(node)[-1] for node in parse(program).parts)}:
            assert meaning.setdefault(words, program) == program


def test_the_wordings_of_some_lines():
    def ways(line: str) -> list[str]:
        return ways_to_say(parse(line).parts[0])

    assert ways("let a = 4;") == ["a is 4", "let a be 4"]
    assert ways("let a = a-3;") == ["take 3 from a", "let a be a minus 3"]
    assert ways("let a = a*3;") == ["make a 3 times a", "let a be a times 3"]
    assert ways("let b = a*3;") == ["b is a times 3", "let b be a times 3"]
    assert ways('purr "meow";') == ['show "meow"', 'say "meow"']
    assert "repeat 3 times: add 2 to a, say a" in ways("repeat 3 { let a = a+2; purr a; }")
    assert ways("if a > 3 { purr 1; } else { purr a+1; }")[0] == (
        "if a is above 3, show 1, else show a plus 1"
    )
    assert ways("if a == 3 { purr 1; } else { purr 2; }")[-1] == "if a is 3, say 1, else say 2"


def test_bugs_are_real_and_named():
    """The planted bug stops the program or changes what it prints; mending it is possible."""
    rng = random.Random(7)
    stopped = 0
    for _ in range(300):
        task = draw_task("repair", rng)
        question, _, wish = task.text.partition(" It should say ")
        broken = question.partition(": ")[2] or question
        assert broken != task.program
        try:
            assert run(broken) != run(task.program)
            assert wish == ", ".join(run(task.program)) + "."  # only a wish tells what is wrong
        except MeowError:
            assert not wish
            stopped += 1
    assert 100 < stopped < 300


def test_practice_is_worked_out_right():
    """Each note is what the diary of a program would say; about two in three are comparisons."""
    rng = random.Random(8)
    comparisons = total = 0
    for _ in range(200):
        task = draw_practice(rng)
        asked = task.text.removeprefix("What is it? ").removesuffix(".").split(", ")
        notes = task.reply.removesuffix(".").split(", ")
        assert 5 <= len(asked) == len(notes) <= 9
        for text, note in zip(asked, notes, strict=True):
            (value,) = run(f"purr {text};")
            is_comparison = any(sign in text for sign in "<>=")
            result = {"1": " yes", "0": " no"}[value] if is_comparison else f"={value}"
            assert note == text + result
            comparisons += is_comparison
            total += 1
    assert 0.6 < comparisons / total < 0.7
    assert set(KIND_SHARES) == {*KINDS, "practice"}
    assert sum(KIND_SHARES.values()) == pytest.approx(1)


def test_unknown_kinds_are_refused():
    with pytest.raises(ValueError, match="unknown kind of task 'sing'"):
        draw_task("sing", random.Random(0))


# ------------------------------------------------------------------------------------------ grades

PROGRAM = "let x = 4; let x = x+3; purr x;"


@pytest.mark.parametrize(
    "kind, reply, right",
    [
        ("write", PROGRAM, True),
        ("write", "let n = 3; purr n+4;", True),  # looks odd, prints the right thing
        ("write", "let x=4;let x=x+3;purr x;", True),
        ("write", "let x = 4; let x = x+3; purr x", False),  # does not run
        ("write", "let x = 4; let x = x-3; purr x;", False),
        ("write", PROGRAM + " purr 1;", False),  # prints too much
        ("write", "Here it is: " + PROGRAM, False),  # is not a program
        ("write", "repeat 999999999 { }", False),
        ("output", "x=4, x=4+3=7, purr x=7. It says 7.", True),
        ("output", "It says 7.", True),
        ("output", "It says 8.", False),
        ("output", "It says 7, 7.", False),
        ("output", "It says 8. It says 7.", True),  # the last word counts
        ("output", "7", False),
        ("repair", f"no ; after 3. Mended: {PROGRAM}", True),
        ("repair", f"I do not know. Mended: {PROGRAM}", True),  # only the code is graded
        ("repair", PROGRAM, False),
        ("repair", "no ; after 3. Mended: let x = 4; purr x;", False),
        ("repair", "", False),
    ],
)
def test_grades_come_from_running_the_code(kind, reply, right):
    assert grade(Task(kind, PROGRAM, "...", "..."), reply) is right


def test_any_of_our_explanations_is_right():
    task = Task("explain", "let x = x+3;", "...", "...")
    assert grade(task, "add 3 to x.")
    assert grade(task, "let x be x plus 3.")
    assert not grade(task, "add 4 to x.")
    assert not grade(task, "add 3 to x")


def test_replies_that_never_end_are_wrong(monkeypatch):
    """And the attempts stand beside their own exercises."""
    tasks = [Task("write", "purr 1;", "one", ""), Task("write", "purr 2;", "two", "")]
    said = ["purr 1;", "purr 2;", "purr 2;", "purr 2;"]

    class Parrot:
        def encode(self, text):
            return [ord(letter) for letter in text]

        def decode(self, tokens):
            return "".join(map(chr, tokens))

    def generate(gpt, prompts, **options):
        ended = torch.tensor([True, True, True, False])
        rollout = Rollout(None, None, None, ended)
        rollout.replies = lambda: [Parrot().encode(text) for text in said]
        return rollout

    monkeypatch.setattr(language_exam, "generate", generate)
    monkeypatch.setattr(language_exam, "chat_prompt", lambda tokenizer, messages: [1])
    common = type("Common", (), {"device": "cpu", "seed": 0})
    kitten = type("Kitten", (), {"gpt": None, "tokenizer": Parrot(), "common": common})
    attempts = language_exam.attempts_at(kitten, tasks, replies_each=2)
    assert [attempt.question.text for attempt in attempts] == ["one", "one", "two", "two"]
    assert [attempt.right for attempt in attempts] == [True, False, True, False]


# ------------------------------------------------------------------------------------- the settings


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"methods": ()}, "methods"),
        ({"methods": ("full", "full")}, "methods"),
        ({"methods": ("lora_2",)}, "lora_2"),
        ({"chat_fraction": 1.0}, "chat_fraction .* got 1.0"),
        ({"lora_alpha": 0.0}, "lora_alpha .* got 0.0"),
        ({"lora_lr": -1.0}, "got -1.0"),
        ({"steps": 0}, "got 0"),
    ],
)
def test_wrong_settings_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        with_values(Settings(), wrong)


def test_ranks():
    assert [rank_of(method) for method in METHODS] == [None, 1, 4, 16]


@pytest.mark.parametrize("rank", [None, 4])
def test_the_cost_is_counted(tiny_gpt, device, rank):
    """4 bytes for each weight, gradient and remembered mean; AdamW keeps two means, Muon one."""
    model = tiny_gpt.parameter_count
    if rank:
        add_lora(
            tiny_gpt, rank=rank, alpha=1.0, generator=torch.Generator(device=device).manual_seed(0)
        )
    optimizer = make_optimizer(tiny_gpt, matrix_lr=1e-3, other_lr=1e-3)
    tiny_gpt(torch.zeros(1, 4, dtype=torch.int64, device=device)).sum().backward()
    optimizer.step()
    costs = cost(tiny_gpt, optimizer)
    detours = tiny_gpt.parameter_count - model
    others = 61 * 32 + 5 * 32  # embeddings and norms: AdamW's, which also counts its steps
    trained = detours or model
    means = trained if rank else model + others + 6
    assert costs["trained_parameters"] == trained
    assert costs["trained_share"] == trained / model
    assert costs["memory_mb"] == pytest.approx(4e-6 * (model + detours + trained + means))


# ------------------------------------------------------------------------------------ the quick run

RATES = ("program_accuracy", "output_accuracy", "repair_accuracy", "explain_accuracy")
PROMISED = {
    *RATES[:3],
    "forgetting_bits_per_byte",
    "trained_parameters",
    "seconds",
}


@pytest.fixture(scope="module")
def finished(quick_runs, tmp_path_factory, run_offline):
    """One quick run with both default ways; what it prints and its folder."""
    runs = tmp_path_factory.mktemp("language") / "runs"
    for name in ("ch0_base", "ch1_sft"):
        target = runs / "quick" / name
        target.mkdir(parents=True)
        for file in (quick_runs / "quick" / name).iterdir():
            if file.is_file():
                (target / file.name).write_bytes(file.read_bytes())
    result = run_offline("chapters.ch1_language", "--quick", "--runs", runs, "--device", "cpu")
    assert result.returncode == 0, result.stderr
    return runs, result.stdout


def test_the_run_folder_is_complete(finished):
    folder = finished[0] / "quick" / "ch1_language"
    names = {path.name for path in folder.iterdir()} - {".lock", "run.json", "samples.json"}
    assert names == {
        "model.pt",
        "lora_16.pt",
        "metrics.jsonl",
        "summary.json",
        "samples.md",
        "methods.png",
    }


def test_the_summary_holds_what_was_promised(finished):
    summary = read_json(finished[0] / "quick" / "ch1_language" / "summary.json")
    for method in ("full", "lora_16"):
        numbers = summary[method]
        assert numbers.keys() >= PROMISED
        assert all(0 <= numbers[rate] <= 1 for rate in RATES)
        for rate in (*RATES, *(f"{rate}_greedy" for rate in RATES), "chat_accuracy_after"):
            assert f"{rate}_stderr" in numbers
    assert summary["lora_1"] is None and summary["lora_4"] is None  # not asked for
    assert summary["full"]["trained_share"] == 1
    assert summary["lora_16"]["trained_share"] < 0.2
    assert summary["full"]["merge_difference"] is None
    assert summary["lora_16"]["merge_difference"] < 1e-4
    assert summary["lora_16"]["memory_mb"] < summary["full"]["memory_mb"]


def test_both_ways_start_alike_and_learn(finished):
    lines = (finished[0] / "quick" / "ch1_language" / "metrics.jsonl").read_text().splitlines()
    losses: dict[str, list[float]] = {}
    for line in map(json.loads, lines):
        losses.setdefault(line["stage"], []).append(line["chat_loss"])
    assert losses.keys() == {"full", "lora_16"}
    assert losses["full"][0] == pytest.approx(losses["lora_16"][0], abs=1e-5)
    assert all(of_method[-1] < of_method[0] for of_method in losses.values())


def test_lora_moves_no_embedding_and_its_file_is_an_ordinary_model(finished):
    folder = finished[0] / "quick"
    chat_kitten, tokenizer, _ = load_model(folder / "ch1_sft" / "model.pt")
    merged, other, _ = load_model(folder / "ch1_language" / "lora_16.pt")
    assert type(merged) is GPT and other.to_state() == tokenizer.to_state()
    old, new = chat_kitten.state_dict(), merged.state_dict()
    for name, tensor in old.items():
        assert torch.equal(tensor, new[name]) == ("_proj" not in name), name
    with pytest.raises(ValueError, match="no detours"):
        merge_lora(merged)


def test_the_screen_shows_the_language_and_a_table(finished):
    screen = finished[1]
    assert "repeat 3 {\n  let x = x+2;" in screen
    assert "4+2=6" in screen
    rows = [line for line in screen.splitlines() if line.startswith("writes programs")]
    assert len(rows) == 1 and rows[0].count("±") == 3  # before, full, lora_16
    table = screen[screen.index("writes programs") :].splitlines()
    assert all(len(line) <= 80 for line in table if str(finished[0]) not in line)


def test_it_is_not_run_twice(finished, capsys):
    flags = ["--quick", "--runs", str(finished[0]), "--device", "cpu"]
    assert chapter_main("ch1_language", argv=flags) == 0
    assert "finished earlier" in capsys.readouterr().out


def test_names_of_exercises_and_keys_fit():
    assert tuple(language_exam.KEYS) == KINDS == tuple(meow_tasks.ORDERS)
    assert tuple(language_exam.KEYS.values()) == RATES
