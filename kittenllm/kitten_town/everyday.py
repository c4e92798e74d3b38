"""Outside of the town: everyday questions for a real model, and pairs of replies about manners.

A real model knows the world, so no town is needed to talk about umbrellas. All texts here are made
of a few words by template:

* questions to a model that answers them itself, so that it goes on saying what it can;
* pairs for DPO with a difference that anybody sees: the chosen reply is polite and short, the
  rejected one says the same, but rudely and with many more words.

Read before: nothing. Left out: whether the advice is any good.
"""

from __future__ import annotations

import random

THINGS = (
    "a bicycle",
    "a candle",
    "a carpet",
    "a clock",
    "a garden bench",
    "a guitar",
    "a hammer",
    "a kitchen table",
    "a lamp",
    "a leather bag",
    "a mirror",
    "a pair of shoes",
    "a pillow",
    "a raincoat",
    "a school bag",
    "a suitcase",
    "a teapot",
    "a teddy bear",
    "a tent",
    "a toy train",
    "a wooden chair",
    "a woollen scarf",
    "an old book",
    "an umbrella",
)
FORMS = (
    "What is {thing} good for?",
    "Describe {thing} in one sentence.",
    "Who would be happy about {thing} as a present?",
    "Tell me something about {thing}.",
    "Where in a house would you put {thing}?",
    "Is {thing} heavier than a feather?",
    "What is {thing} made of?",
    "Write a short poem about {thing}.",
)
TEXT_OPENINGS = (  # of plain texts that a model goes on with
    "Late at night",
    "The old house",
    "My grandmother",
    "Every summer",
    "It was a cold",
    "Two brothers",
    "A good teacher",
    "Once a year",
)

TIPS = {  # what people ask -> what there is to say
    "Where can I buy {thing}?": "The shop at the market has a good choice.",
    "How do I clean {thing}?": "A soft cloth and a little warm water are enough.",
    "How do I wrap {thing} as a present?": "Put it into a box, then paper goes around it easily.",
    "Can you help me to choose {thing}?": "Take the one that you would like to use every day.",
    "How do I send {thing} by post?": "Use a strong box, and fill the corners with paper.",
    "Who can repair {thing}?": "The repair shop near the station does that well.",
    "Where can I borrow {thing}?": "Ask your neighbours first, most are glad to lend things.",
    "What do I do with {thing} that is too old?": "The second-hand shop takes old things.",
    "How do I carry {thing} up the stairs?": "Hold it close to you and take one step at a time.",
    "How do I know the price of {thing}?": "Compare three shops, then you know what is usual.",
}
KIND_OPENINGS = ("Gladly!", "Of course!", "With pleasure!", "Happy to help!")
KIND_ENDS = ("", " Good luck!", " Enjoy it!")
RUDE_OPENINGS = (
    "What a stupid question.",
    "Not again.",
    "Is that really all you have to ask?",
    "Even a child knows that.",
)
RUDE_TALK = (
    "People come here all day long with things like this, and nobody thinks for one second before.",
    "I have said it a hundred times, to you or to somebody like you, and nobody ever listens.",
    "As if I had nothing better to do than to sit here and explain the simplest things again.",
    "It would be so easy to find out for yourself, but no, you would rather waste my time.",
)
RUDE_ENDS = ("Now leave me alone.", "You will get it wrong anyway.", "And do not ask me again.")


def everyday_questions(count: int, rng: random.Random) -> list[str]:
    """So many different questions about everyday things.

    Raises: ValueError if there are not so many.
    """
    return rng.sample([form.format(thing=thing) for form in FORMS for thing in THINGS], count)


def polite_pairs(count: int, rng: random.Random) -> list[dict[str, str]]:
    """Pairs about manners, each about a question of its own: prompt, chosen, rejected.

    Raises: ValueError if there are not so many questions.
    """
    questions = [(ask.format(thing=thing), tip) for ask, tip in TIPS.items() for thing in THINGS]
    pairs = []
    for prompt, tip in rng.sample(questions, count):
        chosen = f"{rng.choice(KIND_OPENINGS)} {tip}{rng.choice(KIND_ENDS)}"
        talk = " ".join(rng.sample(RUDE_TALK, 2))
        rejected = f"{rng.choice(RUDE_OPENINGS)} {talk} {tip} {rng.choice(RUDE_ENDS)}"
        pairs.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    return pairs
