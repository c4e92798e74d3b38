"""Put a kitten on the road: python -m chapters.export ch1_sft --to my_kitten

Writes the kitten of a finished chapter as a Hugging Face folder: weights, tokenizer, chat template,
and a model card with the numbers that its chapter has measured. transformers loads it, and all that
stands on transformers. python -m chapters.chat --model my_kitten talks to it.

--data DIR writes the chats and the preferences of the town, or of --chats FILE and --preferences
FILE, as JSONL that TRL takes as it is; and polite.jsonl, pairs of polite and rude replies to
everyday questions, for a real model.

python -m chapters.export ch5_reasoning --unipo run.json writes a training with GRPO, token by
token, for UniPO, the visualiser of policy optimisation (poloclub/unipo on GitHub).

What is in the folder already stays: give the name of a new one.
"""

import argparse
import sys
from pathlib import Path

from chapters.bands.docs import cell, shown_numbers
from chapters.bands.rows import TABLE
from chapters.common.runner import exit_code, find_chapter
from chapters.export.data import export_data
from chapters.export.unipo import export_unipo
from kittenllm.door import Parser, path_argument
from kittenllm.gpt import GPT
from kittenllm.huggingface import check_free, save_folder
from kittenllm.runs.checkpoints import load_model
from kittenllm.runs.summaries import read_summary
from kittenllm.scorer import HEAD
from kittenllm.settings import Common
from kittenllm.tokenizer import Tokenizer

CARD = """\
---
license: mit
library_name: transformers
pipeline_tag: text-generation
---

# {title}

A GPT of {millions:.2f} million parameters, trained from random weights by KittenLLM, which shows
how a base GPT becomes a chat model and then a reasoner. Chapter `{chapter}`: {about}. It knows one
small made-up town of kittens and can talk about nothing else. It is made for learning, not for use.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = AutoModelForCausalLM.from_pretrained("."), AutoTokenizer.from_pretrained(".")
{use}
reply = model.generate(**tokens, max_new_tokens=60, do_sample=True)
print(tokenizer.decode(reply[0]))
```

{numbers}

## Good to know

* It reads {context} tokens at a time.
* transformers makes a special token of `<|im_start|>` in a text; in KittenLLM a text stays text.
  Take such marks out of what strangers type.
"""
CHAT_USE = """\
chat = [{"role": "user", "content": "Hello!"}]
settings = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True}
tokens = tokenizer.apply_chat_template(chat, **settings)"""
TEXT_USE = """\
text = "Once upon a time"  # it goes on with a text; a document begins with <|endoftext|>
tokens = tokenizer("<|endoftext|>" + text, return_tensors="pt")"""


def card(chapter: str, summary: dict, gpt: GPT, chats: bool) -> str:
    """The model card: what it is, how it is used, and the numbers of summary.json."""
    numbers = shown_numbers(chapter, [summary])
    rows = [f"| {row.label} | {cell(row, numbers, 0)} |" for row in TABLE.get(chapter, ())]
    seed, quick = summary.get("seed"), summary.get("quick")
    lines = [f"Measured in the run that trained it (seed {seed}), on prompts that were held out:"]
    if quick:
        lines.append("**It comes from a --quick run: it babbles.**")
    return CARD.format(
        title=f"A kitten of KittenLLM: {chapter}",
        millions=gpt.parameter_count / 1e6,
        chapter=chapter,
        about=find_chapter(chapter).title,
        use=CHAT_USE if chats else TEXT_USE,
        numbers="\n".join([*lines, "", "| number | value |", "|---|---:|", *rows]),
        context=gpt.config.context_length,
    )


def finished_kitten(chapter: str, common: Common) -> tuple[GPT, Tokenizer, dict, bool]:
    """What a finished chapter wrote: model, tokenizer, summary, and whether it can chat.

    Raises: ValueError if it has not finished, or if its model is not one that speaks.
    """
    row = find_chapter(chapter)
    folder = common.folder(row.name)
    summary = read_summary(folder / "summary.json")
    if summary is None:
        raise ValueError(f"{folder}: {chapter} has not finished. Run python -m chapters.{chapter}")
    if not summary.get("model"):
        raise ValueError(f"{folder}: {chapter} keeps no model")
    gpt, tokenizer, extra = load_model(folder / summary["model"])
    if HEAD in extra:
        raise ValueError(f"{chapter} is a reward model: it gives scores and cannot speak")
    return gpt, tokenizer, summary, extra.get("chat", row.talks)


def export(argv=None) -> None:
    """Write the folder of a kitten, or of data, or both."""
    parser = Parser(
        prog="chapters.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("chapter", nargs="?", help="whose kitten: ch1_sft, ch3_ppo ...")
    parser.add_argument("--to", type=path_argument, metavar="DIR", help="its new folder")
    parser.add_argument("--runs", type=path_argument, default=Path("runs"), metavar="DIR")
    parser.add_argument("--quick", action="store_true", help="look in <runs>/quick")
    data = parser.add_argument_group("data for other tools")
    data.add_argument("--data", type=path_argument, metavar="DIR", help="its new folder")
    data.add_argument("--chats", type=path_argument, metavar="FILE", help="yours, not the town's")
    data.add_argument("--preferences", type=path_argument, metavar="FILE", help="likewise")
    look = parser.add_argument_group("a training for UniPO")
    look.add_argument("--unipo", type=path_argument, metavar="FILE", help="a new JSON file")
    arguments = parser.parse_args(argv)
    if bool(arguments.chapter) != bool(arguments.to or arguments.unipo):
        parser.error("give a chapter and --to DIR, or --data DIR")
    if not arguments.data and (not arguments.chapter or arguments.chats or arguments.preferences):
        parser.error("give a chapter and --to DIR, or --data DIR")
    if arguments.unipo and arguments.chapter != "ch5_reasoning":
        parser.error("--unipo shows the training of ch5_reasoning: give that chapter")
    for folder in (arguments.to, arguments.data):
        if folder:
            check_free(folder)
    if arguments.data:
        export_data(arguments.data, arguments.chats, arguments.preferences)
    if arguments.to:
        export_kitten(arguments)
    if arguments.unipo:
        export_training(arguments)


def export_kitten(arguments: argparse.Namespace) -> None:
    """Load a kitten and write its folder."""
    common = Common(runs=arguments.runs, quick=arguments.quick)
    gpt, tokenizer, summary, chats = finished_kitten(arguments.chapter, common)
    text = card(arguments.chapter, summary, gpt, chats)
    save_folder(arguments.to, gpt, tokenizer, card=text, chats=chats)
    print(f"{arguments.to}: {gpt.parameter_count / 1e6:.2f} M parameters, for transformers")
    print(f"talk to it: python -m chapters.chat --model {arguments.to}")


def export_training(arguments: argparse.Namespace) -> None:
    """Write the file for UniPO."""
    folder = Common(runs=arguments.runs, quick=arguments.quick).folder(arguments.chapter)
    content = export_unipo(arguments.unipo, folder)
    entries = content["entries"]
    shown = sum("prompts" in entry for entry in entries)
    print(f"{arguments.unipo}: {len(entries)} rounds of GRPO, {shown} of them with their replies")
    print("put it into data/ of poloclub/unipo and run its scripts/build_data.py")


def main(argv=None) -> int:
    """The command line; returns the exit code."""
    return exit_code(lambda: export(argv))


if __name__ == "__main__":
    sys.exit(main())
