"""Thirteen questions and two puzzles, the same for all kittens that they are for.

One idea: to compare kittens, ask all of them the same, without dice: greedily, the likeliest token
each time. Each stage's model.pt is loaded for a moment; the answers stay in report_replies.json,
together with the fingerprint of the stage, so that nobody is asked twice. The answers to the
hundred prompts of the page's selftest are kept there as well.

Also here: one conversation as tokens, with the mask that says which of them are trained.

Used by page.py.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from chapters.report.data import Stage
from chapters.report.languages import both, reported
from chapters.report.selftest import exam_of
from kittenllm.chat import chat_prompt, encode_chat, text_prompt
from kittenllm.data_file import DataFile, read_data_file
from kittenllm.evaluation import Reply, fixed_questions, sample_replies
from kittenllm.gpt import GPT
from kittenllm.kitten_town import DATA
from kittenllm.kitten_town.countdown import exam_problems
from kittenllm.kitten_town.facts import Town, build_town
from kittenllm.kitten_town.judge import is_right
from kittenllm.kitten_town.rules import answer_reward
from kittenllm.records import RecordError, load_chats
from kittenllm.runs.checkpoints import CheckpointError, load_model, write_json_atomic
from kittenllm.runs.json_files import DamagedFile, damaged, read_json
from kittenllm.sampling import generate
from kittenllm.settings import new_generator
from kittenllm.tokenizer import Tokenizer

FORMAT = 2  # of report_replies.json
PUZZLES = 2
PUZZLE_TOKENS = 192
LOOKED_AT = 1000  # lines of the file of conversations
MASK_TOKENS = (40, 110)  # a conversation that is worth looking at, and fits on a screen


@dataclass(frozen=True)
class Kitten:
    """A stage that can be asked; `bare`: it never learnt the chat template, it only continues."""

    stage: str
    name: str
    bare: bool
    answers: str  # what it is for: "questions", "puzzles" or "both"

    def is_for(self, what: str) -> bool:
        return self.answers in ("both", what)


KITTENS = (
    Kitten("ch0_base", "base", bare=True, answers="both"),
    Kitten("ch1_sft", "chat", bare=False, answers="questions"),
    Kitten("ch3_ppo", "PPO", bare=False, answers="questions"),
    Kitten("ch4_preferences", "DPO", bare=False, answers="questions"),
    Kitten("ch5_reasoning", "Zero", bare=True, answers="puzzles"),
    Kitten("ch6_r1", "R1", bare=False, answers="both"),
)


def ask_everyone(folder: Path, stages: dict[str, Stage]) -> tuple[dict, list[str]]:
    """What every finished kitten says -> (the content of report_replies.json, notes).

    Content: "kittens": stage -> {"fingerprint", "replies", "exam"}, and "mask": [[piece, trained],
    ...]. A reply is {"prompt", "text", "ended", "right", "right_at_first"}, and for questions
    "tone" and "score" as well; exam: see `exam_of`.
    """
    path = folder / "report_replies.json"
    notes: list[str] = []
    try:
        kept, writable = read_json(path) or {}, True
        if kept and not (type(kept.get("format")) is int and type(kept.get("kittens")) is dict):
            raise damaged(path, "no replies of kittens")
    except DamagedFile as error:
        notes.append(reported(error))
        kept, writable = {}, False  # what cannot be read is not written over
    if kept.get("format") != FORMAT or not isinstance(kept.get("kittens"), dict):
        kept = {"format": FORMAT, "kittens": {}, "mask": None}
    kittens, changed = {}, False
    for kitten in KITTENS:
        stage = stages.get(kitten.stage)
        if stage is None or stage.state != "finished" or not stage.summary.get("model"):
            continue
        mark = str(stage.summary.get("fingerprint"))
        earlier = kept["kittens"].get(kitten.stage)
        if isinstance(earlier, dict) and earlier.get("fingerprint") == mark:
            kittens[kitten.stage] = earlier
            continue
        try:
            gpt, tokenizer, _ = load_model(stage.folder / str(stage.summary["model"]))
            replies = answers_of(gpt, tokenizer, kitten)
            exam = exam_of(gpt, tokenizer, kitten.bare, kitten.answers)
        except (CheckpointError, RecordError, ValueError, RuntimeError, OSError) as error:
            sentence = "the {name} kitten could not be asked: {error}"
            notes.append(both(sentence, name=both(kitten.name), error=error))
            continue
        if kitten.stage == "ch1_sft":
            try:
                kept["mask"] = masked_conversation(stage, tokenizer)
            except RecordError as error:  # the user's file has moved; the kitten needs it no more
                kept["mask"] = None
                sentence = "the conversation with its mask cannot be shown: {error}"
                notes.append(both(sentence, error=error))
        kittens[kitten.stage] = {"fingerprint": mark, "replies": replies, "exam": exam}
        changed = True
    content = {"format": FORMAT, "kittens": kittens, "mask": kept.get("mask")}
    if changed and writable:
        write_json_atomic(path, content)
    return content, notes


def answers_of(gpt: GPT, tokenizer: Tokenizer, kitten: Kitten) -> list[dict]:
    """Judged replies to what the kitten is for: thirteen questions, two puzzles; greedy."""
    found = []
    if kitten.is_for("questions"):
        found += question_answers(gpt, tokenizer, kitten.bare)
    if kitten.is_for("puzzles"):
        found += puzzle_answers(gpt, tokenizer, kitten.bare)
    return found


def question_answers(gpt: GPT, tokenizer: Tokenizer, bare: bool) -> list[dict]:
    """Replies to the thirteen fixed questions, with what the judge says."""
    town = build_town()
    replies = sample_replies(
        gpt,
        tokenizer,
        town,
        fixed_questions(town),
        replies_each=1,
        temperature=0.0,
        generator=new_generator(gpt.device, 0),
        prompt_of=(lambda question: text_prompt(tokenizer, question.text)) if bare else None,
    )
    found = []
    for reply in replies:
        verdict = reply.verdict
        judged = {"right": verdict.right, "right_at_first": right_at_first(town, reply)}
        judged |= {"tone": verdict.tone, "score": verdict.score}
        found.append(
            {"prompt": reply.question.text, "text": reply.text, "ended": reply.ended, **judged}
        )
    return found


def right_at_first(town: Town, reply: Reply) -> bool:
    """Is its first sentence right, whatever the kitten goes on to say?"""
    sentence = re.split(r"(?<=[.!?])\s|\n", reply.text.strip(), maxsplit=1)[0]
    return is_right(town, reply.question, sentence)


def puzzle_answers(gpt: GPT, tokenizer: Tokenizer, bare: bool) -> list[dict]:
    """Two held-out puzzles; the rule looks only at a whole <answer>."""
    problems = [orders[0] for orders in exam_problems()[:PUZZLES]]
    if bare:
        prompts = [text_prompt(tokenizer, problem.prompt) for problem in problems]
    else:
        prompts = [
            chat_prompt(tokenizer, [{"role": "user", "content": problem.prompt}])
            for problem in problems
        ]
    rollout = generate(
        gpt,
        prompts,
        max_new_tokens=PUZZLE_TOKENS,
        temperature=0.0,
        generator=new_generator(gpt.device, 0),
    )
    found = []
    for problem, ids, ended in zip(
        problems, rollout.replies(), rollout.ended.tolist(), strict=True
    ):
        text = tokenizer.decode(ids)
        right = ended and answer_reward(text, problem) == 1.0
        whole = re.match(r"<think>.*?</think><answer>.*?</answer>", text, re.DOTALL)
        first = bool(whole) and answer_reward(whole[0], problem) == 1.0
        judged = {"right": right, "right_at_first": first}
        found.append({"prompt": problem.prompt, "text": text, "ended": ended, **judged})
    return found


def masked_conversation(stage: Stage, tokenizer: Tokenizer) -> list[list]:
    """One conversation of the training data -> [[piece of text, is it trained], ...].

    Raises: RecordError if the file of conversations can no longer be read.
    """
    path = str(stage.value("config.chats") or "") or str(DATA / "chats_raw.jsonl")
    if not Path(path).is_file():  # a pipe would be waited for
        raise RecordError(f"{path}: there is no such file any more")
    file = read_data_file(path)
    if file.content.lstrip().startswith(b"{"):  # a record a line: the first ones are enough
        file = DataFile(file.path, b"\n".join(file.content.split(b"\n")[:LOOKED_AT]))
    records, _ = load_chats(file)
    shortest, longest = MASK_TOKENS
    best = None
    for record in records:
        messages = record["messages"]
        roles = [message["role"] for message in messages]
        chat = encode_chat(tokenizer, messages)
        if best is None or (roles[0] == "system" and shortest <= len(chat) <= longest):
            best = chat
        if roles[0] == "system" and roles.count("user") == 2 and best is chat:
            break
    pieces = tokenizer.tokens_as_text(best.tokens)
    return [[piece, bool(trained)] for piece, trained in zip(pieces, best.loss_mask, strict=True)]
