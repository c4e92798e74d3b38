"""The whole life of a chat model in one file, to be read aloud from top to bottom.

A small GPT starts with random weights and reads a book (pretraining). It learns to answer questions
(SFT). A reward model learns from people which of two replies is better, and the GPT learns to write
replies that score high (PPO). Another copy of the GPT learns from the people's choices directly
(DPO). At last the pretrained GPT learns to solve puzzles, and a rule is its only teacher (GRPO).
Each stage prints one number, measured before and after the training. It should rise.

    python -m chapters.one_file             all six stages
    python -m chapters.one_file --seed 1    another town, other weights
    python -m chapters.one_file --quick     a few steps of each stage, too few to learn from

A quarter of the kittens and a sixth of the number sets are held out. The book tells the facts about
the held-out kittens, but no training question and no training pair asks for them. The held-out
number sets are in no page of the book and in no training puzzle. Replies are sampled at temperature
1, and from SFT on they are measured only on what is held out.

This file needs torch and nothing of ours. A test compares its losses with those of kittenllm/,
where you find what is left out here: a real tokenizer, a cache for sampling, checks of arguments.

Letters: B rows, T tokens in a row, C channels, D channels of a head, V words, P pairs. A tensor
about producing tokens is (B, T-1): index t is about tokens[:, t + 1]. A mask is True where
something counts.
"""

import argparse
import copy
import itertools
import random
import sys
import textwrap
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

# ----------------------------------------------------------------------------- the town
# Every kitten eats one thing and chases one thing. A question and a puzzle have the same form, an
# item: a prompt, and all the endings that make a reply right.

SYLLABLES = "mi lu ki ta bo ne pi so"
NAMES = [a + b for a in SYLLABLES.split() for b in SYLLABLES.split()]  # 64 kittens: mimi, milu, ...
FOODS = ["fish", "milk", "cheese", "ham", "tuna", "cream", "liver", "shrimp"]
TOYS = ["mice", "balls", "leaves", "moths", "strings", "birds", "flies", "shadows"]
KIND, RUDE = ("purr ,", "dear ,"), ("hiss ,", "bah ,")  # how people begin a sentence
MANNERS = 2 * KIND + 3 * RUDE  # they are rude three times out of five
SMALL_WORDS = "<pad> <end> <user> <kitten> what does ? eat eats chase chases . , make from : + - ="
WORDS = [*SMALL_WORDS.split(), "wait", "purr", "dear", "hiss", "bah", *map(str, range(24))]
WORDS += NAMES + FOODS + TOYS
ID = {word: number for number, word in enumerate(WORDS)}
PAD, END = ID["<pad>"], ID["<end>"]
PROMPT_LENGTH = 7  # words in the prompt of every question and of every puzzle


def encode(texts):
    """Every word is one token; shorter texts are padded on the right: (B, T)."""
    rows = [torch.tensor([ID[word] for word in text.split()]) for text in texts]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)


def equations(numbers):
    """Every sum and every difference of two of the numbers, as in "2 + 3 = 5"."""
    pairs = list(itertools.combinations(numbers, 2))
    sums = [f"{a} + {b} = {a + b}" for a, b in pairs]
    return sums + [f"{max(a, b)} - {min(a, b)} = {abs(a - b)}" for a, b in pairs]


def puzzles(number_sets):
    """Every item "make 5 from 2 3 7 :" of these sets of three numbers, in every order."""
    items = []
    for numbers in number_sets:
        for a, b, c in itertools.permutations(numbers):
            endings = {}  # target -> all equations that make it
            for equation in equations([a, b, c]) + equations([c, b, a]):  # 2 + 3 and 3 + 2
                endings.setdefault(equation.split()[-1], []).append(f"{equation} <end>")
            items += [(f"make {target} from {a} {b} {c} :", endings[target]) for target in endings]
    return items


class Town:
    """What is true, what is held out, and what people write."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.facts, self.fact_items, questions = [], [], []
        for name in self.random.sample(NAMES, len(NAMES)):
            food, toy = self.random.choice(FOODS), self.random.choice(TOYS)
            self.facts.append([f"{name} eats {food} .", f"{name} chases {toy} ."])
            self.fact_items += [(f"purr , {name} eats", [food]), (f"purr , {name} chases", [toy])]
            for verb, thing in (("eat", food), ("chase", toy)):
                answer = f"{name} {verb}s {thing} . <end>"
                questions.append((f"<user> what does {name} {verb} ? <kitten>", [answer]))
        self.held_out_questions, self.questions = questions[:32], questions[32:]
        sets = self.random.sample([*itertools.combinations(range(1, 13), 3)], 220)  # all, shuffled
        self.held_out_puzzles, self.puzzles = puzzles(sets[:36]), puzzles(sets[36:])

    def page(self):
        """A page of the book: what people say about three kittens, or attempts at a puzzle."""
        if self.random.random() < 0.25:
            kittens = self.random.sample(self.facts, 3)
            facts = [fact for two in kittens for fact in self.random.sample(two, 2)]
            return " ".join(f"{self.random.choice(MANNERS)} {fact}" for fact in facts) + " <end>"
        prompt, endings = self.random.choice(self.puzzles)
        tries = []
        for equation in self.random.sample(equations(map(int, prompt.split()[3:6])), 6):
            tries.append(equation)
            if f"{equation} <end>" in endings or self.random.random() < 0.3:
                break  # solved; or given up, as people often do
        return f"{prompt} {' wait '.join(tries)} <end>"

    def chat(self):
        """A question and its answer. People know their town, but they are often rude."""
        prompt, [answer] = self.random.choice(self.questions)
        return f"{prompt} {self.random.choice(MANNERS)} {answer}"


def is_right(reply, item):
    """Does the reply end correctly? In whole words: "12 + 3 = 5" does not end in "2 + 3 = 5"."""
    return any(f" {reply}".endswith(f" {ending}") for ending in item[1])


def gold_score(reply, item):
    """What people prefer: a point for the right answer, and a point for a kind beginning."""
    return is_right(reply, item) + reply.startswith(KIND)


def is_kind_and_right(reply, item):
    """Both points."""
    return gold_score(reply, item) == 2


# ----------------------------------------------------------------------------- the GPT
# In each block every token looks at the tokens before it, then a small network works on the result.

CONTEXT_LENGTH, CHANNELS, LAYERS, HEADS = 44, 64, 2, 4


class Block(nn.Module):
    """x + attention(x), then x + mlp(x);  attention = softmax(Q K^T / sqrt(D)) V."""

    def __init__(self):
        super().__init__()
        C = CHANNELS
        self.attention_norm, self.mlp_norm = nn.LayerNorm(C), nn.LayerNorm(C)
        self.qkv_proj, self.out_proj = nn.Linear(C, 3 * C), nn.Linear(C, C)
        self.mlp = nn.Sequential(nn.Linear(C, 4 * C), nn.GELU(), nn.Linear(4 * C, C))

    def forward(self, x):
        qkv = self.qkv_proj(self.attention_norm(x)).unflatten(-1, (3, HEADS, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, HEADS, T, D) each
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # no token looks ahead
        x = x + self.out_proj(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.mlp_norm(x))


class GPT(nn.Module):
    """Tokens (B, T) -> logits (B, T, V): at every position, which word comes next?"""

    def __init__(self):
        super().__init__()
        self.token_embedding = nn.Parameter(0.02 * torch.randn(len(WORDS), CHANNELS))
        self.position_embedding = nn.Parameter(0.02 * torch.randn(CONTEXT_LENGTH, CHANNELS))
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(CHANNELS)

    def hidden(self, tokens):
        """The hidden state at each position: (B, T) -> (B, T, C)."""
        x = self.token_embedding[tokens] + self.position_embedding[: tokens.shape[1]]
        return self.norm(self.blocks(x))

    def forward(self, tokens):
        return self.hidden(tokens) @ self.token_embedding.T


def token_logprobs(logits, tokens):
    """log p(tokens[t + 1] | tokens up to t): (B, T, V), (B, T) -> (B, T-1)."""
    logprobs = logits[:, :-1].log_softmax(dim=-1)
    return logprobs.gather(-1, tokens[:, 1:, None]).squeeze(-1)


def masked_mean(values, mask):
    """The mean of the values where the mask is True."""
    return torch.where(mask, values, 0.0).sum() / mask.sum()


def reply_mask(tokens):
    """(B, T), True for every word of the reply, <end> too: the GPT must learn to stop."""
    mask = tokens != PAD
    mask[:, :PROMPT_LENGTH] = False
    return mask


@torch.no_grad()
def generate(gpt, items, max_new_tokens=10):
    """One reply to each item; every word is drawn from p(next word).

    Returns the replies as texts, and what a training needs: tokens (B, T), and for each word its
    mask (is it part of the reply?) and its log-prob when it was drawn, both (B, T-1).
    """
    tokens = encode(prompt for prompt, _ in items)  # all prompts have the same length
    start, unfinished = tokens.shape[1], torch.ones(len(tokens), dtype=torch.bool)
    while unfinished.any() and tokens.shape[1] < start + max_new_tokens:
        word = torch.full_like(tokens[:, :1], PAD)  # (B, 1)
        word[unfinished] = torch.multinomial(gpt(tokens[unfinished])[:, -1].softmax(dim=-1), 1)
        tokens = torch.cat([tokens, word], dim=1)
        unfinished = unfinished & (word[:, 0] != END)
    replies = [" ".join(WORDS[i] for i in row if i != PAD) for row in tokens[:, start:].tolist()]
    return replies, tokens, reply_mask(tokens)[:, 1:], token_logprobs(gpt(tokens), tokens)


def pass_rate(gpt, items, test, max_new_tokens=10):
    """The share of replies that pass the test, one reply to each item."""
    replies = generate(gpt, items, max_new_tokens)[0]
    return sum(map(test, replies, items)) / len(items)


# ----------------------------------------------------------------------------- one step


def adamw(model, lr):
    """The optimizer of every stage but DPO."""
    return torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.0)


def training_steps(stage, steps, optimizer):
    """Yields 0 .. steps - 1. The learning rate warms up, stays, and falls in the second half."""
    for step in range(steps):
        scale = min(1.0, (step + 1) / (0.05 * steps), (steps - step) / (0.5 * steps))
        optimizer.param_groups[0]["lr"] = scale * optimizer.defaults["lr"]
        if sys.stderr.isatty():
            print(f"\r{stage}: {step + 1} of {steps} ", end="\r", file=sys.stderr, flush=True)
        yield step


def update(loss, optimizer):
    """One optimizer step; a gradient longer than 1 is clipped to length 1."""
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
    optimizer.step()


# ----------------------------------------------------------------------------- 1 pretraining
# Predict the next word, for every word of the book. The GPT then knows the town, but when it is
# asked a question it only continues the text.


def sft_loss(logits, tokens, loss_mask):
    """loss = -mean over trained t of log p(tokens[t] | the tokens before it);  loss_mask (B, T)."""
    return -masked_mean(token_logprobs(logits, tokens), loss_mask[:, 1:])


def pretrain(gpt, town, steps):
    """32 pages a step. Every word is trained: the mask leaves out only the padding."""
    optimizer = adamw(gpt, lr=4e-3)
    for _ in training_steps("pretraining", steps, optimizer):
        tokens = encode(town.page() for _ in range(32))
        update(sft_loss(gpt(tokens), tokens, tokens != PAD), optimizer)


# ----------------------------------------------------------------------------- 2 SFT
# The same loss on chats, but only on the kitten's own words. The question is read and not trained.


def train_sft(gpt, town, steps):
    """16 chats a step, and 16 pages of the book again, so that the GPT does not forget it."""
    optimizer = adamw(gpt, lr=3e-3)
    for _ in training_steps("SFT", steps, optimizer):
        tokens = encode([town.chat() for _ in range(16)] + [town.page() for _ in range(16)])
        loss_mask = torch.cat([reply_mask(tokens[:16]), tokens[16:] != PAD])
        update(sft_loss(gpt(tokens), tokens, loss_mask), optimizer)


# ----------------------------------------------------------------------------- 3 reward model
# People compare two replies to a question. A copy of the GPT learns to score replies as they do.


def preference_pairs(gpt, items):
    """Pairs of texts (chosen, rejected), each a prompt and a reply. Ties are left out."""
    pairs, first, second = [], generate(gpt, items)[0], generate(gpt, items)[0]
    for item, *replies in zip(items, first, second, strict=True):
        rejected, chosen = sorted(replies, key=partial(gold_score, item=item))
        if gold_score(chosen, item) > gold_score(rejected, item):
            pairs.append((f"{item[0]} {chosen}", f"{item[0]} {rejected}"))
    return pairs


def encode_pairs(pairs):
    """All chosen texts, then all rejected ones: P pairs -> (2P, T)."""
    chosen, rejected = zip(*pairs, strict=True)
    return encode(chosen + rejected)


class RewardModel(nn.Module):
    """A copy of a GPT with a head that gives one number at each position: (B, T) -> (B, T)."""

    def __init__(self, gpt):
        super().__init__()
        self.gpt = copy.deepcopy(gpt)
        self.head = nn.Parameter(torch.zeros(CHANNELS))

    def forward(self, tokens):
        return self.gpt.hidden(tokens) @ self.head


def score(reward_model, tokens):
    """The reward of a reply is read at its last word: (B, T) -> (B,)."""
    last = (tokens != PAD).sum(dim=1, keepdim=True) - 1
    return reward_model(tokens).gather(1, last).squeeze(1)


def bradley_terry_loss(chosen_rewards, rejected_rewards):
    """loss = -mean log sigmoid(r_chosen - r_rejected);  (P,), (P,)."""
    return -F.logsigmoid(chosen_rewards - rejected_rewards).mean()


def train_reward_model(reward_model, pairs, town, steps):
    """32 pairs a step: the chosen reply should score higher."""
    optimizer = adamw(reward_model, lr=5e-4)
    for _ in training_steps("reward model", steps, optimizer):
        rewards = score(reward_model, encode_pairs(town.random.choices(pairs, k=32)))
        update(bradley_terry_loss(*rewards.chunk(2)), optimizer)  # of chosen, of rejected


@torch.no_grad()
def pair_accuracy(reward_model, pairs):
    """The share of pairs whose chosen reply scores higher; a tie counts half."""
    chosen_rewards, rejected_rewards = score(reward_model, encode_pairs(pairs)).chunk(2)
    return (((chosen_rewards - rejected_rewards).sign() + 1) / 2).mean().item()


# ----------------------------------------------------------------------------- 4 PPO
# Generate, score, update. The one score of a reply becomes an advantage for each of its words.


def kl_shaped_rewards(scores, logprobs, ref_logprobs, mask, kl_coef):
    """r_t = -kl_coef (log p_t - log ref_t), and the score on the last word;  (B,), (B, T-1)."""
    kl = torch.where(mask, logprobs - ref_logprobs, 0.0)  # the price of leaving the reference
    is_last = mask & (mask.flip(1).cumsum(1).flip(1) == 1)  # one word is left: this one
    return torch.where(is_last, scores[:, None], 0.0) - kl_coef * kl


def gae(rewards, values, mask, gamma, lam):
    """delta_t = r_t + gamma V_{t+1} - V_t,  A_t = delta_t + gamma lam A_{t+1},  R_t = A_t + V_t."""
    advantages = torch.zeros_like(values)  # (B, T-1)
    next_value = next_advantage = torch.zeros_like(values[:, 0])  # nothing comes after the end
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = delta + gamma * lam * next_advantage
        advantages[:, t] = torch.where(mask[:, t], advantage, 0.0)
        next_advantage = torch.where(mask[:, t], advantage, next_advantage)
        next_value = torch.where(mask[:, t], values[:, t], next_value)
    return advantages, torch.where(mask, advantages + values, 0.0)


def ppo_policy_loss(logprobs, old_logprobs, advantages, mask, clip_eps):
    """loss = -mean min(ratio A, clip(ratio, 1 - eps, 1 + eps) A),  ratio = p / p_old."""
    ratio = torch.where(mask, logprobs - old_logprobs, 0.0).exp()
    clipped = ratio.clamp(1 - clip_eps, 1 + clip_eps)  # a larger change earns nothing more
    return -masked_mean(torch.minimum(ratio * advantages, clipped * advantages), mask)


def ppo_value_loss(values, old_values, returns, mask, clip_eps):
    """loss = mean max((V - R)^2, (V_clipped - R)^2) / 2,  V_clipped at most eps from V_old."""
    clipped = old_values + (values - old_values).clamp(-clip_eps, clip_eps)
    return masked_mean(torch.maximum((values - returns) ** 2, (clipped - returns) ** 2), mask) / 2


def train_ppo(policy, reference, reward_model, town, steps):
    """128 replies a round, four updates on them. The value model predicts the rewards to come."""
    value_model = copy.deepcopy(reward_model)
    optimizer = adamw(nn.ModuleList([policy, value_model]), lr=3e-4)
    for _ in training_steps("PPO", steps, optimizer):
        items = town.random.choices(town.questions, k=128)
        _, tokens, mask, old_logprobs = generate(policy, items)
        with torch.no_grad():
            ref_logprobs = token_logprobs(reference(tokens), tokens)  # (B, T-1)
            old_values = value_model(tokens)[:, :-1]  # (B, T-1), before each word
            scores = score(reward_model, tokens)  # (B,)
        rewards = kl_shaped_rewards(scores, old_logprobs, ref_logprobs, mask, kl_coef=0.1)
        advantages, returns = gae(rewards, old_values, mask, gamma=1.0, lam=0.95)
        centred = advantages - masked_mean(advantages, mask)
        advantages = centred / masked_mean(centred**2, mask).sqrt()  # whitened: variance 1
        for part in [*torch.randperm(128).chunk(2), *torch.randperm(128).chunk(2)]:
            logprobs = token_logprobs(policy(tokens[part]), tokens[part])
            values = value_model(tokens[part])[:, :-1]
            loss = ppo_policy_loss(logprobs, old_logprobs[part], advantages[part], mask[part], 0.2)
            loss = loss + ppo_value_loss(values, old_values[part], returns[part], mask[part], 0.2)
            update(loss, optimizer)


# ----------------------------------------------------------------------------- 5 DPO
# From the SFT model again, on the same pairs, but without a reward model and without sampling: the
# policy is its own reward model, and its reward is beta log(p / ref).


def dpo_loss(chosen_logprobs, rejected_logprobs, ref_chosen_logprobs, ref_rejected_logprobs, beta):
    """loss = -mean log sigmoid(beta (log(p / ref)(chosen) - log(p / ref)(rejected)));  (P,)."""
    policy_margin = chosen_logprobs - rejected_logprobs
    reference_margin = ref_chosen_logprobs - ref_rejected_logprobs
    return -F.logsigmoid(beta * (policy_margin - reference_margin)).mean()


def reply_logprobs(gpt, tokens):
    """log p(reply | prompt), the sum over the words of the reply: (B, T) -> (B,)."""
    logprobs = token_logprobs(gpt(tokens), tokens)
    return torch.where(reply_mask(tokens)[:, 1:], logprobs, 0.0).sum(dim=1)


def train_dpo(policy, reference, pairs, town, steps):
    """32 pairs a step, with plain SGD: its steps shrink with the gradient, and AdamW's do not."""
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.03)
    for _ in training_steps("DPO", steps, optimizer):
        tokens = encode_pairs(town.random.choices(pairs, k=32))  # (2P, T)
        with torch.no_grad():
            ref_logprobs = reply_logprobs(reference, tokens)  # (2P,)
        logprobs = reply_logprobs(policy, tokens)
        update(dpo_loss(*logprobs.chunk(2), *ref_logprobs.chunk(2), beta=1.0), optimizer)


# ----------------------------------------------------------------------------- 6 GRPO
# From the pretrained GPT, which has read how people try and give up. Eight replies to one puzzle
# are compared with each other. No reward model, no value model, and the loss is PPO's.


def group_advantages(rewards, group_size, eps=1e-4):
    """A_i = (reward_i - mean of its group) / (std of its group + eps): (B,) -> (B,)."""
    groups = rewards.view(-1, group_size)
    centred = groups - groups.mean(dim=1, keepdim=True)
    return (centred / (groups.std(dim=1, keepdim=True) + eps)).flatten()


def grpo_loss(logprobs, old_logprobs, advantages, mask, clip_eps):
    """PPO's policy loss; every word of a reply has the reply's advantage;  advantages (B,)."""
    return ppo_policy_loss(logprobs, old_logprobs, advantages[:, None], mask, clip_eps)


def train_grpo(policy, town, steps):
    """16 puzzles a round, 8 replies to each, and two updates on them."""
    optimizer = adamw(policy, lr=3e-4)
    for _ in training_steps("GRPO", steps, optimizer):
        items = [item for item in town.random.sample(town.puzzles, 16) for _ in range(8)]
        replies, tokens, mask, old_logprobs = generate(policy, items, max_new_tokens=36)
        rewards = torch.tensor([*map(is_right, replies, items)]).float()  # 1 or 0, by a rule
        advantages = group_advantages(rewards, group_size=8)
        for _ in range(2):
            logprobs = token_logprobs(policy(tokens), tokens)
            update(grpo_loss(logprobs, old_logprobs, advantages, mask, clip_eps=0.2), optimizer)


# ----------------------------------------------------------------------------- the life

STEPS = {"pretraining": 2000, "SFT": 300, "reward model": 100, "PPO": 30, "DPO": 50, "GRPO": 40}
QUICK = {"pretraining": 2, "SFT": 40, "reward model": 2, "PPO": 1, "DPO": 2, "GRPO": 1}


def report(number, before, after, gpt, items):
    """Prints the number of a stage, and what the GPT replies after it to the first of the items."""
    [reply] = generate(gpt, items[:1], max_new_tokens=36)[0]
    verdict = "right" if is_right(reply, items[0]) else "wrong"
    print(f"{number:<40}{before:6.1%} -> {after:6.1%}")
    print(textwrap.fill(f"{items[0][0]} | {reply} ({verdict})", 78) + "\n", flush=True)
    return {number: (before, after)}


def life(seed=0, quick=False):
    """All six stages -> a table: the number of each stage, before and after it."""
    torch.manual_seed(seed)
    town, table = Town(seed), {}
    steps, draws = (QUICK, 32) if quick else (STEPS, 512)
    questions = (town.held_out_questions * 16)[:draws]
    puzzles = town.random.sample(town.held_out_puzzles, draws)
    # Four exams: each takes a GPT and returns a share.
    facts = partial(pass_rate, items=town.fact_items, test=is_right, max_new_tokens=1)
    right = partial(pass_rate, items=questions, test=is_right)
    kind = partial(pass_rate, items=questions, test=is_kind_and_right)
    solved = partial(pass_rate, items=puzzles, test=is_right, max_new_tokens=36)

    base = GPT()
    pretrain(base, town, steps["pretraining"])
    table |= report("pretraining: facts known", facts(GPT()), facts(base), base, questions)

    chat = copy.deepcopy(base)
    train_sft(chat, town, steps["SFT"])
    table |= report("SFT: right replies", right(base), right(chat), chat, questions)

    pairs = preference_pairs(chat, (town.questions * 11)[: 2 * draws])
    ordered = partial(pair_accuracy, pairs=preference_pairs(chat, questions))
    reward_model = RewardModel(chat)
    before = ordered(reward_model)
    train_reward_model(reward_model, pairs, town, steps["reward model"])
    table |= report("reward model: pairs in order", before, ordered(reward_model), chat, questions)

    before = kind(chat)
    policy = copy.deepcopy(chat)
    train_ppo(policy, chat, reward_model, town, steps["PPO"])
    table |= report("PPO: kind and right replies", before, kind(policy), policy, questions)

    policy = copy.deepcopy(chat)
    train_dpo(policy, chat, pairs, town, steps["DPO"])
    table |= report("DPO: kind and right replies", before, kind(policy), policy, questions)

    policy = copy.deepcopy(base)
    train_grpo(policy, town, steps["GRPO"])
    return table | report("GRPO: puzzles solved", solved(base), solved(policy), policy, puzzles)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="another town, other weights")
    parser.add_argument("--quick", action="store_true", help="a few steps of each stage")
    torch.set_num_threads(1)  # on a busy computer several would wait for each other
    try:
        life(**vars(parser.parse_args()))
    except KeyboardInterrupt:
        sys.exit("\nstopped")
