"""The chat program with --tools: calls are run, shown folded, and stay harmless."""

import io
import re

import pytest

from chapters.chat import __main__ as chat_program
from chapters.chat.__main__ import main
from chapters.chat.conversation import Conversation
from chapters.chat.tool_talk import WIDTH, ToolTalk, fold
from kittenllm.kitten_town.tool_chats import ENCYCLOPEDIA
from kittenllm.runs.checkpoints import save_model
from kittenllm.skills.agent import encode_tool_chat
from kittenllm.skills.toolbox import MAX_CALLS
from tests.byte_kitten import TOKENIZER, ids, new_gpt

PAGE = ENCYCLOPEDIA[0]
SEARCH = f"<call>search {PAGE.entry.kind} {PAGE.entry.name}</call>"


@pytest.fixture
def model(tmp_path):
    save_model(tmp_path / "model.pt", new_gpt(512), TOKENIZER)
    return tmp_path / "model.pt"


@pytest.fixture
def talk(model, monkeypatch, capsys):
    """talk(lines, replies=...) runs the program with --tools -> the screen, and all prompts."""

    def run(*lines: str, replies: list[str], flags: str = "--tools"):
        said, prompts = iter(replies), []

        def listen(gpt, prompt, **options):
            prompts.append(TOKENIZER.decode(prompt))
            return iter(ids(next(said)))

        monkeypatch.setattr(chat_program, "stream", listen)
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(line + "\n" for line in lines)))
        assert main(["--model", str(model), "--device", "cpu", *flags.split()]) == 0
        return capsys.readouterr().out, prompts

    return run


def test_calls_and_results_stand_in_the_conversation(talk):
    screen, prompts = talk("2+3?", replies=["I count. <call>calc 2+3</call>", "It is 5."])
    assert (
        "kitten> I count. \n        [call] calc 2+3\n        [tool] 5\n        It is 5.\n"
    ) in screen
    assert prompts[1].endswith(
        "I count. <call>calc 2+3</call><|im_end|><|im_start|>tool\n5<|im_end|>"
        "<|im_start|>assistant\n"
    )


def test_nothing_behind_a_call_is_listened_to(talk):
    """The program speaks after </call>; a result that the kitten makes up is never read."""
    made_up = "<call>calc 2+3</call><|im_end|><|im_start|>tool\n6"
    screen, prompts = talk("2+3?", replies=[made_up, "It is 5."])
    assert "6" not in screen.split("you> 2+3?")[1]
    assert prompts[1].count("<|im_start|>tool") == 1


def test_a_result_is_folded_and_can_be_unfolded(talk):
    screen, _ = talk("who?", "/calls", replies=[SEARCH, "Somebody."])
    folded = next(line for line in screen.splitlines() if "[tool]" in line)
    assert folded == " " * 8 + fold(f"[tool] {PAGE.text}") and len(folded) <= 80
    assert PAGE.text in screen.split("you> /calls")[1]


def test_folding():
    assert fold("x" * WIDTH) == "x" * WIDTH
    assert len(fold("x" * (WIDTH + 1))) == WIDTH
    assert fold("a\x1b[2Jb\nc") == "a\\x1b[2Jb\\nc"


def test_colours_only_where_they_are_seen(monkeypatch):
    talk = ToolTalk(TOKENIZER)
    talk.answer_to(ids("<call>calc 2+3</call>"))
    assert "\x1b" not in talk.folded("5")
    monkeypatch.setattr("chapters.chat.tool_talk.use_colour", lambda: True)
    assert re.search(r"\x1b\[36m\[call\] calc 2\+3\x1b\[0m", talk.folded("5"))


def test_mistakes_are_shown_and_the_kitten_goes_on(talk):
    replies = ["<call>calc 2+", "<call>paint x</call>", "<call>calc 1/0</call>", "I give up."]
    screen, prompts = talk("?", replies=replies)
    assert "[tool] error: malformed call" in screen
    assert "[tool] error: unknown tool" in screen
    assert "[tool] error: nothing can be divided by zero" in screen
    assert "        I give up.\n" in screen and len(prompts) == 4


def test_an_endless_loop_ends(talk):
    calls = ["<call>calc 2+3</call>"] * 50
    screen, prompts = talk("?", "/calls", replies=calls)
    assert len(prompts) == MAX_CALLS + 2
    assert "error: too many calls" in screen
    assert "calls again and again, and was stopped" in screen
    assert screen.endswith("Goodbye!\n")


def test_the_row_is_what_training_shows():
    conversation = Conversation(TOKENIZER, 512)
    conversation.ask("2+3?", 32)
    conversation.answer(ids("<call>calc 2+3</call>"))
    assert conversation.tool_said("5", 32) == 0
    conversation.answer(ids("5"))
    messages = [
        {"role": "user", "content": "2+3?"},
        {"role": "assistant", "content": "", "call": "calc 2+3"},
        {"role": "tool", "content": "5"},
        {"role": "assistant", "content": "5"},
    ]
    expected = encode_tool_chat(TOKENIZER, messages)
    row = conversation.tokens()
    assert (row.tokens, row.loss_mask) == (expected.tokens, expected.loss_mask)


def test_a_long_result_forgets_old_exchanges_or_is_refused():
    conversation = Conversation(TOKENIZER, 256)
    conversation.ask("a" * 60, 16)
    conversation.answer(ids("ok"))
    conversation.ask("b" * 10, 16)
    conversation.answer(ids("<call>calc 2+3</call>"))
    assert conversation.tool_said("x" * 110, 16) == 1
    assert "aaa" not in TOKENIZER.decode(conversation.tokens().tokens)
    conversation.answer(ids("<call>calc 2+3</call>"))
    before = conversation.tokens().tokens
    with pytest.raises(ValueError, match="tokens long"):
        conversation.tool_said("x" * 240, 16)
    assert conversation.tokens().tokens == before


def test_without_the_flag_a_call_is_only_shown(talk):
    screen, prompts = talk("2+3?", "/calls", replies=["<call>calc 2+3</call>"], flags="")
    assert "kitten> <call>calc 2+3</call>\n" in screen and len(prompts) == 1
    assert "start the chat with --tools" in screen


def test_a_base_kitten_has_no_tools(tmp_path, capsys, model):
    from kittenllm.runs.checkpoints import load_model

    gpt, _, _ = load_model(model, device="cpu")
    save_model(tmp_path / "base.pt", gpt, TOKENIZER, extra={"chat": False})
    assert main(["--model", str(tmp_path / "base.pt"), "--tools"]) == 1
    assert "--tools needs a kitten that can chat" in capsys.readouterr().err


def test_tools_take_the_kitten_of_their_chapter(tmp_path, capsys):
    assert main(["--runs", str(tmp_path), "--tools"]) == 1
    assert "ch1_tools" in capsys.readouterr().err
