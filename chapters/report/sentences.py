"""The sentences of the page that are longer than a label, and all that its scripts show.

sentences_zh.py is the same in Chinese. Words in {braces} are filled in.

Used by everything that makes a part of the page, and by languages.py.
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
CONDITION = "Rates and lengths above are means over replies drawn with dice, at temperature 1."
FRONTIER_MISSING = (
    "Not run. python -m chapters.ch4_preferences --frontier compares DPO, IPO, ORPO, PPO "
    "and best-of-n: what each gains for how far it goes. It takes some minutes."
)
FRONTIER_ABOUT = (
    "Higher is better, further left is cheaper: a kitten that stayed closer to its start."
)
LIFE_ABOUT = (
    "All kittens answer greedily, without dice. The judge of Kitten Town marks every answer "
    "and reads all of it. {bare} get the bare text and go on with it, the others get the chat "
    "template. A kitten is only asked what it is for: Zero has practised nothing but puzzles, "
    "and chat, PPO and DPO no puzzle at all."
)
NOBODY = "No kitten can be asked yet: no stage has finished, or its model.pt is missing."
QUICK = (
    "This was a --quick run: the whole path on tiny settings. The kittens below only babble; "
    "python -m chapters trains real ones."
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
    "score_of": "The reward model gave the whole reply {score}.",
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
    "colours": "colours show: ",
    "scroll": "\u2194 this table is wider than the screen: move it sideways",
}
