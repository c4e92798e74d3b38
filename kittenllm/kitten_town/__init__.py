"""Kitten Town: a small closed world whose truth is known, so that every reply has a gold score.

    facts.py        who lives there, what is dangerous; the split into taught and held-out content
    voices.py       how the people of the town say things: friendly, plain, grumpy
    manners.py      who are you, thanks, what no book tells, wishes to be refused
    stories.py      pretraining text: what is told, what is only asked, what is asked and answered
    echoes.py       things said again: the skill of copying
    later_words.py  pretraining text with words and habits for later chapters
    chats.py        prompts and demonstrations for SFT
    raw_chats.py    the same chats as a real data set would hold them, with planted rubbish
    judge.py        the gold judge and the noisy annotators
    countdown.py    the number game of the reasoning chapter; scribbles.py, rules.py belong to it

Everything is made by seeded generators. `python -m kittenllm.kitten_town` rewrites `data/`.
"""

from pathlib import Path

DATA = Path(__file__).resolve().parents[1] / "data"  # where pip has put an installed copy
if not DATA.is_dir():
    DATA = Path(__file__).resolve().parents[2] / "data"
