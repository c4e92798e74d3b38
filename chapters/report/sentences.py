"""The sentences that the scripts of the page show, and those of its top, in one place.

Another language is another file like this one. Words in {braces} are filled in.

Used by live.py and top.py.
"""

TITLE = "The life of a kitten"
LEAD = (
    "This page shows how a machine that only continues text becomes one that answers, is kind, and "
    "thinks first. It was made by one run on one computer, from random numbers on. The kittens of "
    "all stages, very small language models, are in this file: talk to them, no network is needed."
)
TOWN = (
    "They know one place only, Kitten Town: where its kittens live, what they eat, what is "
    "dangerous for them, small sums, and a number game. So every answer can be checked: a program, "
    "the judge, knows the truth. Its mark is the gold score, and no kitten ever learns from it."
)
TOUR = (
    "Five minutes? Ask all of them \u201cMay I chew the wire?\u201d in the box below. The base "
    "kitten goes on with the text; SFT made it answer; PPO and DPO made it careful and friendly. "
    "Then press a puzzle and open what Zero thinks: it says \u201cwait\u201d and tries again. "
    "Touch any token to see what else could have been said there. Words with dots under them are "
    "explained when you touch them."
)
LESSONS = (
    "It belongs to KittenLLM, a package to read and to step through, and to part 5 of the article "
    "series \u201cLLM principles that even a kitten can understand\u201d. Each part below names "
    "its lesson in the package."
)
PATH_TITLE = "The path"
LOOP_TITLE = "The RLHF loop: generate, score, update"
LOOP_TEXT = (
    "RLHF is reinforcement learning from human feedback. The policy writes a reply. The reward "
    "model, which learnt people's taste, gives it one number. The reference asks a price for every "
    "step away from where the kitten started. The value model guessed what would come; what came "
    "better than guessed makes its tokens likelier. Then the next reply is written."
)
FIRST_TERMS = (  # of the glossary, explained near the top; the others stand at the bottom
    "token",
    "pretraining",
    "SFT",
    "reward model",
    "policy",
    "temperature",
    "advantage",
)
PIECES_ABOUT = (
    "A model reads numbers. A tokenizer cuts a text into tokens, each of which has a number. "
    "Tokens that come often are whole words; rare words fall apart. Special tokens mark who "
    "speaks. Nobody can type one: try it."
)
GROUPS_ABOUT = (
    "GRPO needs no judge that was trained: several replies to the same problem are compared with "
    "each other. A reply above the mean of its group is encouraged, one below it discouraged. If "
    "all of a group earn the same, it teaches nothing. Tokens are coloured by what the update then "
    "did to them: orange became likelier, purple less likely."
)
GROUPS_MISSING = "Groups are shown here if the run logged them, and with JavaScript."
NO_SCRIPT = (
    "This box needs JavaScript, which is switched off here. All other parts of the page work "
    "without it."
)
TALK_ABOUT = (
    "Nothing is sent anywhere: the weights of all these kittens are in this file, and the model "
    "that runs them is 150 lines of JavaScript. The base kitten and Zero get your bare text, the "
    "others get it in the chat template that they were trained on."
)

FIRST_QUESTION = "May I chew the wire?"

SCRIPT = {
    # talk.js
    "silent": "has not been asked yet",
    "reads": "what it really reads",
    "stages": {
        "ch0_base": "fresh from pretraining",
        "ch1_sft": "after fine-tuning",
        "ch3_ppo": "after PPO",
        "ch4_preferences": "after DPO",
        "ch5_reasoning": "puzzles only",
        "ch6_r1": "chats and thinks",
    },
    "speaking": "{n} tokens ...",
    "stopped": "{n} tokens, then it stopped by itself; {speed} tokens a second",
    "runs_on": "{n} tokens, and it would go on; {speed} tokens a second",
    "too_long": "This is too long for a kitten. Say it shorter.",
    "thinks": "it thinks (open to read)",
    "waited": "it thinks, and says \u201cwait\u201d {n} times (open to read)",
    "ten": "The ten likeliest tokens at this place:",
    "rare": "(the token that was drawn is a rarer one)",
    "branch": "Choose one, and the kitten goes on from there.",
    "close": "close",
    "box": "Say something to all kittens",
    "ask": "Ask",
    "temperature": "temperature",
    "temperature_help": "0: always the likeliest token. 1: each as often as the kitten means it",
    "seed": "seed",
    "seed_help": "where the dice start; the same seed throws the same dice",
    "again": "Again",
    "again_help": "the same question with other dice",
    "stop": "Stop",
    "everyone": "ask everyone, also those who never practised this",
    "questions": "questions",
    "puzzles": "puzzles",
    # pieces.js
    "type_here": "Type any text",
    "sample_text": "Is Nori\u2019s bowl blue? 1234 miau! <|im_end|>",
    "counted": "{tokens} tokens for {letters} letters. Touch one to see what it is made of.",
    "made_of": "token {id}: the bytes {bytes}",
    "special_made_of": "token {id}: a special token; no text can spell it, only a program can",
    "as_chat": "The same text as a chat kitten sees it when somebody says it, with a reply",
    "reply_text": "No, my dear!",
    "mask": "Green tokens are trained in SFT, grey ones are only read: {trained} of {all}.",
    "reply_label": "The reply",
    # credit.js
    "choose_reply": "reply",
    "method": "method",
    "methods": {"ppo": "PPO", "reinforce": "REINFORCE", "grpo": "GRPO"},
    "gamma": "\u03b3 (gamma)",
    "lam": "\u03bb (lambda)",
    "price": "price of a nat (KL)",
    "siblings": "mean score of its siblings",
    "explain": {
        "ppo": "TD error = reward + \u03b3 \u00b7 next guess \u2212 guess; advantage = TD errors "
        "from here on, each further one weighted with \u03b3\u03bb",
        "reinforce": "advantage = rewards from here on, each further one weighted with \u03b3; no "
        "value model, so every token of a good reply is praised",
        "grpo": "advantage = score \u2212 mean score of its siblings, the same for all tokens; no "
        "value model, and the KL price is not part of the reward",
    },
    "score_of": "{question} The reward model gave the whole reply {score}.",
    "columns": ["token", "reward", "guess", "TD error", "advantage"],
    "as_run": "as in the run",
    # groups.js
    "step_of": "after {step} rounds",
    "group_mean": "mean reward {mean}",
    "no_signal": "all earned the same: no signal, nothing is learnt from this group",
    "reply_line": "reward {reward}, advantage {advantage}, {n} tokens",
    "right": "right",
    "wrong": "wrong",
    "cut_off": "cut off",
    # page.js
    "scroll": "\u2194 this table is wider than the screen: move it sideways",
}
