"""What a kitten says before the first line: what one can ask it.

Used by __main__.py.
"""

from pathlib import Path

TOWN = (
    "Meow! I am a kitten of Kitten Town. Ask me where Pip lives, what 8+8 is, or whether a kitten "
    "may eat grapes. You can also say hello, wish for a story, or thank me."
)
CONTINUES = "This kitten has not learned to chat. Give it the beginning of a text; it goes on."
GREETINGS = {
    "ch0_base": f"{CONTINUES} Try: Pip lives in the",
    "ch1_sft": TOWN,
    "ch1_tools": "Meow! With --tools I can calculate and look things up. Ask me: What is 237+48?",
    "ch1_language": "Meow! I speak MeowScript. Ask me: What does it say? let a=5; repeat 3{ let "
    "a=a+5; } purr a;",
    "ch3_ppo": TOWN,
    "ch4_preferences": TOWN,
    "ch5_reasoning": f"{CONTINUES} Give it a puzzle: use 3, 5, 8 make 19",
    "ch6_r1": f"{TOWN} Or give me a puzzle: use 3, 5, 8 make 19",
}


def greeting(path: Path, chats: bool) -> str:
    """The greeting of the kitten in this file; one that we do not know is greeted in general."""
    unknown = "Say something; this model answers." if chats else CONTINUES
    return GREETINGS.get(path.parent.name, unknown)
