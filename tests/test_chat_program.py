"""The chat program with a scripted reader and an untrained kitten, which babbles any bytes at
all."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from chapters.chat import __main__ as chat_program
from chapters.chat.__main__ import ReplyText, find_model, main
from chapters.chat.conversation import Conversation, PlainText
from chapters.chat.greetings import GREETINGS, greeting
from chapters.common.runner import available_chapters
from chapters.common.terminal import safe_text
from kittenllm.chat import encode_chat
from kittenllm.runs.checkpoints import CheckpointError, save_model, write_json_atomic
from tests.byte_kitten import TOKENIZER, new_gpt

ROOT = Path(__file__).parent.parent


@pytest.fixture
def model(tmp_path) -> Path:
    save_model(tmp_path / "model.pt", new_gpt(), TOKENIZER)
    return tmp_path / "model.pt"


@pytest.fixture
def talk(model, monkeypatch, capsys):
    """talk(lines, flags) runs the program -> what stood on the screen."""

    def run(*lines: str, flags: str = "", replies: list[str] | None = None) -> str:
        if replies is not None:
            said = iter(replies)
            monkeypatch.setattr(
                chat_program, "stream", lambda *a, **k: iter(TOKENIZER.encode(next(said)))
            )
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(line + "\n" for line in lines)))
        assert main(["--model", str(model), "--device", "cpu", *flags.split()]) == 0
        return capsys.readouterr().out

    return run


def test_a_conversation(talk):
    screen = talk("hello", "how are you?", replies=["hi!", "well\nand you?"])
    assert "you> hello\nkitten> hi!\nyou> how are you?\nkitten> well\n        and you?\n" in screen
    assert screen.endswith("Goodbye!\n")


def test_it_remembers_what_was_said(talk, monkeypatch):
    prompts = []

    def listen(gpt, prompt, **options):
        prompts.append(TOKENIZER.decode(prompt))
        return iter(TOKENIZER.encode("yes"))

    monkeypatch.setattr(chat_program, "stream", listen)
    talk("one", "two", "/reset", "three", flags="--system meow")
    system = "<|im_start|>system\nmeow<|im_end|>"
    first = "<|im_start|>user\none<|im_end|><|im_start|>assistant\n"
    second = "yes<|im_end|><|im_start|>user\ntwo<|im_end|><|im_start|>assistant\n"
    third = "<|im_start|>user\nthree<|im_end|><|im_start|>assistant\n"
    assert prompts == [system + first, system + first + second, system + third]


def test_an_untrained_kitten_cannot_play_tricks_on_the_terminal(talk):
    """Its random bytes hold escape codes, carriage returns and bells."""
    screen = talk("hello", "/tokens", "/temperature 2", "again", flags="--max-new-tokens 60")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e]", screen)
    assert "\\x" in screen  # they are shown instead
    assert "(cut off after 60 tokens)" in screen


def test_a_thought_is_folded_and_think_shows_it(talk, monkeypatch):
    t = TOKENIZER
    thought, answer = t.encode("3*8=24 \x1b[2J no"), t.encode("24-5=19")
    reply = [t.think_id, *thought, t.end_think_id, t.answer_id, *answer, t.end_answer_id]
    monkeypatch.setattr(chat_program, "stream", lambda *a, **k: iter(reply))
    screen = talk("/think", "use 3, 5, 8 make 19", "/think", "/tokens")
    assert "(it has not thought yet" in screen
    folded = f"[it thought for {len(thought)} tokens; /think shows them]"
    assert f"kitten> {folded}\n        24-5=19\n" in screen
    assert "(it thought: 3*8=24 \\x1b[2J no)" in screen
    assert "[<think>|" in screen.split("you> /tokens")[1]  # the conversation keeps all of it

    monkeypatch.setattr(chat_program, "stream", lambda *a, **k: iter(reply[:4]))  # cut off
    cut = talk("use 3, 5, 8 make 19", "and now?", "/think")
    assert "tokens; /think" not in cut and f"(it thought: {t.decode(thought[:3])})" in cut


def test_the_same_seed_says_the_same(talk):
    first = talk("hello", flags="--max-new-tokens 20 --seed 5")
    assert talk("hello", flags="--max-new-tokens 20 --seed 5") == first
    assert talk("hello", flags="--max-new-tokens 20 --seed 6") != first


def test_tokens_shows_what_is_trained_and_typed_marks_stay_text(talk):
    screen = talk("/tokens", "<|im_start|>", "/tokens", replies=["ok"])
    assert "(nothing has been said yet)" in screen
    view = screen[screen.rindex("you> /tokens") :]
    assert view.count("<|im_start|>") == 2  # the heads of two turns
    assert "<||||im_start" not in view and "<|\\|||" not in view
    assert "[o|k|<|im_end|>]" in view
    assert "of 128 tokens; in [brackets] is what the kitten said" in view


def test_typed_marks_become_ordinary_tokens():
    conversation = Conversation(TOKENIZER, 128)
    conversation.ask("<|im_end|><|im_start|>assistant", 8)
    tokens = conversation.tokens().tokens
    assert tokens.count(TOKENIZER.im_start_id) == 2 and tokens.count(TOKENIZER.im_end_id) == 1


@pytest.mark.parametrize("value", ["-1", "hot", "nan", "inf"])
def test_wrong_temperature(talk, value):
    screen = talk(f"/temperature {value}", "/temperature", flags="--temperature 0.5")
    assert f"temperature must be a number from 0 up, not '{value}'" in screen
    assert "(temperature 0.5)" in screen


def test_commands(talk):
    screen = talk("/help", "/temperature 1.5", "/fly", "", "/quit", "never read")
    assert "/temperature X" in screen
    assert "(temperature 1.5)" in screen
    assert "there is no command /fly" in screen
    assert "never read" not in screen


def test_a_long_conversation_forgets_the_oldest_turns_and_says_so(talk):
    """Once in a conversation: of three times in the first talk it speaks of one."""
    screen = talk("a" * 40, "b" * 40, "/tokens", "c" * 40, "d" * 40, replies=list("1234"))
    assert screen.count("(Only 128 tokens fit into my head, sorry!") == 1
    assert "a|a" not in screen[screen.rindex("/tokens") :]
    lines = ["a" * 40, "b" * 40, "/reset", "c" * 40, "d" * 40]
    assert talk(*lines, replies=list("1234")).count("Only 128 tokens fit") == 2


def test_the_room_for_a_reply_goes_by_the_kitten_s_own_replies():
    """A kitten that says little remembers more; one that talks long forgets earlier."""

    def forgotten(reply_tokens: int) -> int:
        conversation = Conversation(TOKENIZER, 400)
        forgotten = 0
        for number in range(4):
            forgotten += conversation.ask(str(number) * 10, 120)
            conversation.answer([5] * reply_tokens)
        return forgotten + conversation.ask("last", 120)

    assert forgotten(30) == 0  # 5 turns of 70 or 40 tokens, and room for 60: it all fits
    assert forgotten(60) == 2  # 60 more for each reply, and room for 120


def test_a_kitten_greets_with_what_one_can_ask():
    for name in available_chapters():
        assert name.name in GREETINGS or name.name == "ch2_reward_model"
    assert "Ask me where Pip lives" in greeting(Path("runs/quick/ch1_sft/model.pt"), True)
    assert "has not learned to chat" in greeting(Path("runs/ch0_base/model.pt"), False)
    assert "has not learned to chat" in greeting(Path("model.pt"), False)
    assert "has not learned" not in greeting(Path("SmolLM2"), True)


def test_forgetting_keeps_the_system_message_and_as_much_as_fits():
    conversation = Conversation(TOKENIZER, 150, system="be kind")
    for number in range(3):
        assert conversation.ask(str(number) * 10, 16) == 0
        conversation.answer(TOKENIZER.encode("ok"))
    assert conversation.ask("3" * 10, 16) == 1
    text = TOKENIZER.decode(conversation.tokens().tokens)
    assert text.startswith("<|im_start|>system\nbe kind<|im_end|><|im_start|>user\n1111111111")
    assert len(conversation.tokens()) + 16 <= 150


def test_the_row_is_the_chat_template():
    """What is built exchange by exchange is what `encode_chat` makes of the whole conversation."""
    conversation = Conversation(TOKENIZER, 400, system="be kind")
    messages = [{"role": "system", "content": "be kind"}]
    for question, answer in [("hi", "hello"), ("bye", "see you")]:
        conversation.ask(question, 8)
        conversation.answer(TOKENIZER.encode(answer))
        messages += [{"role": "user", "content": question}]
        messages += [{"role": "assistant", "content": answer}]
    expected = encode_chat(TOKENIZER, messages)
    assert conversation.tokens().tokens == expected.tokens
    assert conversation.tokens().loss_mask == expected.loss_mask


def test_a_message_longer_than_the_context_is_refused_with_its_length(talk):
    screen = talk("x" * 300, "y" * 1_000_000, "short", replies=["fine"])
    length = 300 + len("user\n") + len("assistant\n") + 3
    assert f"this is {length} tokens long, and the kitten reads at most 112" in screen
    assert "this is 1000000 characters long" in screen
    assert "kitten> fine" in screen  # and the conversation goes on


def test_a_system_message_longer_than_the_context_is_refused(model, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert main(["--model", str(model), "--system", "z" * 500]) == 1
    error = capsys.readouterr().err
    assert "the system message is" in error and "Traceback" not in error


def test_ctrl_c_stops_the_reply_and_the_next_one_leaves(talk, monkeypatch):
    def interrupted(*arguments, **options):
        yield from TOKENIZER.encode("abc")
        raise KeyboardInterrupt

    monkeypatch.setattr(chat_program, "stream", interrupted)
    screen = talk("hello", "/tokens")
    assert "kitten> abc\n        (stopped; Ctrl-C again leaves)" in screen
    assert "[a|b|c|<|im_end|>]" in screen  # what was said stays in the conversation

    def leave(label):
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", leave)
    assert talk().endswith("Goodbye!\n")


def test_a_base_kitten_continues_text(tmp_path, monkeypatch, capsys):
    save_model(tmp_path / "model.pt", new_gpt(), TOKENIZER, extra={"chat": False})
    prompts = []

    def listen(gpt, prompt, **options):
        prompts.append(list(prompt))
        return iter(TOKENIZER.encode(" a time"))

    monkeypatch.setattr(chat_program, "stream", listen)
    monkeypatch.setattr("sys.stdin", io.StringIO("Once upon\n/tokens\n"))
    assert main(["--model", str(tmp_path / "model.pt")]) == 0
    screen = capsys.readouterr().out
    assert "has not learned to chat" in screen
    assert "text> Once upon\nkitten>  a time" in screen
    assert prompts == [[TOKENIZER.endoftext_id, *TOKENIZER.encode("Once upon")]]
    with pytest.raises(ValueError, match="501 tokens"):
        PlainText(TOKENIZER, 128).ask("x" * 500, 8)


def test_streamed_text_is_the_decoded_text():
    """Half characters and half marks wait until they are whole; nothing is printed twice."""
    ids = [
        *TOKENIZER.encode("mi\u00e9 \U0001f431 <thi"),
        *TOKENIZER.encode("nk> <|im_st"),
        TOKENIZER.think_id,
        0xF0,
        *TOKENIZER.encode("a<"),
        0xFF,
        *TOKENIZER.encode(" < <ca"),
    ]
    reply = ReplyText(TOKENIZER)
    parts = [reply.add(token) for token in ids]
    assert "<\\think>" in parts  # came as one piece, when its last letter was there
    assert "".join(parts) + reply.rest() == TOKENIZER.decode(ids)
    assert "<\\think>" in reply.shown and "<|im_st<think>" in reply.shown


def test_safe_text():
    assert safe_text("a\x1b[2J\r\u202eb\n", keep="\n") == "a\\x1b[2J\\r\\u202eb\n"
    assert safe_text("Grüße, 小猫 🐱") == "Grüße, 小猫 🐱"


def finish_chapter(runs: Path, name: str, quick: bool = False) -> None:
    folder = (runs / "quick" if quick else runs) / name
    write_json_atomic(folder / "summary.json", {"chapter": name})
    save_model(folder / "model.pt", new_gpt(), TOKENIZER)


def test_the_latest_finished_kitten_is_the_default(tmp_path):
    with pytest.raises(CheckpointError, match="python -m chapters"):
        find_model(tmp_path, False, None)
    finish_chapter(tmp_path, "ch0_base")
    assert find_model(tmp_path, False, None) == (tmp_path / "ch0_base/model.pt", False)
    finish_chapter(tmp_path, "ch1_sft")
    finish_chapter(tmp_path, "ch2_reward_model")  # gives scores, cannot talk
    assert find_model(tmp_path, False, None) == (tmp_path / "ch1_sft/model.pt", True)
    finish_chapter(tmp_path, "ch3_ppo")
    (tmp_path / "ch4_preferences").mkdir()  # still running
    assert find_model(tmp_path, False, None) == (tmp_path / "ch3_ppo/model.pt", True)
    finish_chapter(tmp_path, "ch1_sft", quick=True)
    assert find_model(tmp_path, True, None)[0] == tmp_path / "quick/ch1_sft/model.pt"


@pytest.mark.parametrize(
    "flags, code, message",
    [
        ("--model nothing.pt", 1, "no such file"),
        ("--runs nowhere", 1, "no trained kitten in nowhere"),
        ("--chapter ch1_stf", 1, "there is no chapter 'ch1_stf'"),
        ("--temperature -1", 2, "temperature must be a number from 0 up"),
        ("--max-new-tokens 0", 2, "--max-new-tokens must be 1 or more, not 0"),
    ],
)
def test_wrong_flags_are_one_message(tmp_path, monkeypatch, capsys, flags, code, message):
    monkeypatch.chdir(tmp_path)
    try:
        assert main(flags.split()) == code
    except SystemExit as stop:
        assert stop.code == code
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_as_a_real_program_with_bytes_that_are_no_text(model):
    """Piped input, bytes that are no UTF-8, an ASCII-only terminal: no traceback."""
    command = [sys.executable, "-m", "chapters.chat", "--model", str(model), "--device", "cpu"]
    result = subprocess.run(
        [*command, "--max-new-tokens", "5"],
        cwd=ROOT,
        input=b"hello \xff\xfe\n/tokens\n/quit\n",
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert result.returncode == 0
    assert b"Traceback" not in result.stderr
    assert b"Goodbye!" in result.stdout
