"""The words of the report: what it says about each chapter, and what its terms mean.

Used by page.py.
"""

from chapters.report.glossary import read_glossary

STORIES = {
    "ch0_base": (
        "Fresh from pretraining it is a nerd with a book. It has read the whole town, and all it "
        "can do is go on with a text. Ask it something, and it asks the next question, as on an "
        "exam sheet. Yet it knows the facts: let a text stop just before one, and it says it."
    ),
    "ch1_sft": (
        "It reads conversations, and only the assistant's words count. So it learns to answer and "
        "to stop, also about things that its books told and no conversation was about. It learns "
        "the manners of the people that it copies as well: some are grumpy, and some let kittens "
        "chew the wire."
    ),
    "ch2_reward_model": (
        "People compare two replies; a second model learns to score like them. People err, so no "
        "judge can always agree with them: look at the best that is possible. A false word "
        "surprises this judge, and that surprise is a part of its score."
    ),
    "ch3_ppo": (
        "Generate, score, update. Replies that the judge likes become likelier, and a price per "
        "nat keeps the kitten near the one it was: a leash, but a long one. Nobody tells it what "
        "to say; it is only told how well it was said."
    ),
    "ch4_preferences": (
        "The same kind of pairs, without a judge and without sampling: DPO, IPO and ORPO make the "
        "preferred reply likelier than the other one, straight away."
    ),
    "ch5_reasoning": (
        "Puzzles whose answers are easy to check. Several replies to each; those above the average "
        "of their siblings are encouraged. Nobody rewards long thoughts, only right answers and "
        "the right form. Watch what happens to the length."
    ),
    "ch6_r1": (
        "So far one kitten chats and another one thinks. Here their best replies are collected, "
        "picked by rules and by the reward model, and one kitten learns from both. Then it goes on "
        "by itself: puzzles are judged by rules, chats by the reward model, in the same batch."
    ),
}

# What follows stands at the top and at the bottom of the page.

SHORT = {  # names in the navigation
    "ch0_base": "base",
    "ch1_sft": "SFT",
    "ch1_tools": "tools",
    "ch1_language": "language",
    "ch2_reward_model": "reward model",
    "ch3_ppo": "PPO",
    "ch4_preferences": "DPO",
    "ch5_reasoning": "reasoning",
    "ch6_r1": "R1",
}
HEADLINES = (  # stage, key before, key after, kind, label: the tiles at the top
    ("ch1_sft", None, "answer_accuracy_sampled", "rate", "of held-out questions answered right"),
    ("ch3_ppo", "safe_rate_before", "safe_rate_after", "rate", "safe answers to risky questions"),
    ("ch3_ppo", "friendly_rate_before", "friendly_rate_after", "rate", "friendly replies"),
    ("ch5_reasoning", "accuracy_before", "accuracy_after", "rate", "of new puzzles solved"),
    ("ch5_reasoning", "tokens_before", "tokens_after", "count", "tokens per reply to a puzzle"),
)
CONDITION = "Rates and lengths above are means over replies drawn with dice, at temperature 1."
SHOWN_TERMS = (  # of the glossary, at the bottom of the page
    "held-out",
    "±",
    "greedy",
    "nat",
    "KL",
    "gold score",
    "reward",
    "entropy",
    "clip fraction",
    "explained variance",
    "pass@k",
)


def words() -> dict[str, str]:
    """The terms that the page explains, and their meanings, from glossary.md."""
    glossary = read_glossary()
    return {term: glossary[term] for term in SHOWN_TERMS}
