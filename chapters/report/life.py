"""Thirteen questions and two puzzles, the same for every kitten of a runs folder; answers are kept.

One idea: to compare kittens, ask all of them the same, without dice: greedily, the likeliest token
each time. Each stage's model.pt is loaded for a moment; the answers stay in report_replies.json,
together with the fingerprint of the stage, so that nobody is asked twice.

Also here: one conversation as tokens, with the mask that says which of them are trained.

Used by page.py.
"""

from dataclasses import dataclass
from pathlib import Path

from chapters.report.data import Stage
from kittenllm.chat import chat_prompt, encode_chat, text_prompt
from kittenllm.evaluation import fixed_questions, sample_replies
from kittenllm.gpt import GPT
from kittenllm.kitten_town import DATA
from kittenllm.kitten_town.countdown import exam_problems
from kittenllm.kitten_town.facts import build_town
from kittenllm.kitten_town.rules import answer_reward
from kittenllm.records import RecordError, load_chats
from kittenllm.runs.checkpoints import CheckpointError, load_model, write_json_atomic
from kittenllm.runs.json_files import DamagedFile, damaged, read_json
from kittenllm.sampling import generate
from kittenllm.settings import new_generator
from kittenllm.tokenizer import Tokenizer

FORMAT = 1  # of report_replies.json
PUZZLES = 2
PUZZLE_TOKENS = 192
MASK_TOKENS = (40, 110)  # a conversation that is worth looking at, and fits on a screen


@dataclass(frozen=True)
class Kitten:
    """A stage that can be asked; `bare`: it never learnt the chat template, it only continues."""

    stage: str
    name: str
    bare: bool


KITTENS = (
    Kitten("ch0_base", "base", bare=True),
    Kitten("ch1_sft", "chat", bare=False),
    Kitten("ch3_ppo", "PPO", bare=False),
    Kitten("ch4_preferences", "DPO", bare=False),
    Kitten("ch5_reasoning", "reasoner", bare=True),
    Kitten("ch6_r1", "R1", bare=False),
)


def ask_everyone(folder: Path, stages: dict[str, Stage]) -> tuple[dict, list[str]]:
    """What every finished kitten says -> (the content of report_replies.json, notes).

    Content: "kittens": stage -> {"fingerprint", "replies"}, and "mask": [[piece, trained], ...].
    A reply is {"prompt", "text", "ended", "right"}, and for questions "tone" and "score" as well.
    """
    path = folder / "report_replies.json"
    notes: list[str] = []
    try:
        kept, writable = read_json(path) or {}, True
        if kept and not (type(kept.get("format")) is int and type(kept.get("kittens")) is dict):
            raise damaged(path, "no replies of kittens")
    except DamagedFile as error:
        notes.append(str(error))
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
            replies = answers_of(gpt, tokenizer, kitten.bare)
        except (CheckpointError, RecordError, ValueError, RuntimeError, OSError) as error:
            notes.append(f"the {kitten.name} kitten could not be asked: {error}")
            continue
        if kitten.stage == "ch1_sft":
            try:
                kept["mask"] = masked_conversation(stage, tokenizer)
            except RecordError as error:  # the user's file has moved; the kitten needs it no more
                kept["mask"] = None
                notes.append(f"the conversation with its mask cannot be shown: {error}")
        kittens[kitten.stage] = {"fingerprint": mark, "replies": replies}
        changed = True
    content = {"format": FORMAT, "kittens": kittens, "mask": kept.get("mask")}
    if changed and writable:
        write_json_atomic(path, content)
    return content, notes


def answers_of(gpt: GPT, tokenizer: Tokenizer, bare: bool) -> list[dict]:
    """Ten judged replies to the fixed questions, two to puzzles; greedy."""
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
        judged = {"right": verdict.right, "tone": verdict.tone, "score": verdict.score}
        found.append(
            {"prompt": reply.question.text, "text": reply.text, "ended": reply.ended, **judged}
        )
    return found + puzzle_answers(gpt, tokenizer, bare)


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
        found.append({"prompt": problem.prompt, "text": text, "ended": ended, "right": right})
    return found


def masked_conversation(stage: Stage, tokenizer: Tokenizer) -> list[list]:
    """One conversation of the training data -> [[piece of text, is it trained], ...].

    Raises: RecordError if the file of conversations can no longer be read.
    """
    path = str(stage.value("config.chats") or "") or str(DATA / "chats_raw.jsonl")
    if not Path(path).is_file():  # a pipe would be waited for
        raise RecordError(f"{path}: there is no such file any more")
    records, _ = load_chats(path)
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
