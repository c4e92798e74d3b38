"""The whole life of a chat model in one file, to be read aloud from top to bottom.

A small GPT starts with random weights and reads a book (pretraining). It learns to answer (SFT).
A judge learns from people which reply is nicer (reward model), and the GPT learns to please the
judge (PPO), or it learns from the people directly (DPO). At last it learns to solve puzzles, and a
rule is its only teacher (GRPO). Each stage prints one number, which must rise:

    python -m chapters.one_file              all of it
    python -m chapters.one_file --quick      a few steps of each stage: nothing is learnt

What is held out: a quarter of the kittens, and a sixth of the number sets. The book tells the facts
of these kittens, but no training question and no training pair is about them. No text and no
training puzzle holds these numbers. From the second stage on, every number is measured on them
alone, on replies that are drawn at random.

This file imports nothing of ours, torch is enough. A test holds its losses and those of kittenllm/
together; there is everything that is left out here: a real tokenizer, a cache for sampling, checks.

Letters: B rows, T tokens in a row, C channels, V words, P pairs. A tensor about producing tokens is
(B, T-1): index t is about tokens[:, t + 1]. A mask is True where something counts.
"""

import argparse
import copy
import itertools
import random
import sys

import torch
import torch.nn.functional as F
from torch import nn

# ----------------------------------------------------------------------------- the world
# Every kitten of the town eats one thing and chases one thing. A question and a puzzle are both an
# item: a prompt, and the endings that make a reply right.

SYLLABLES = "mi lu ki ta bo ne pi so"
NAMES = [a + b for a in SYLLABLES.split() for b in SYLLABLES.split()]  # 64 kittens: mimi, milu, ...
FOOD = ["fish", "milk", "cheese", "ham", "tuna", "cream", "liver", "shrimp"]
TOYS = ["mice", "balls", "leaves", "moths", "strings", "birds", "flies", "shadows"]
KIND, RUDE = ("purr ,", "dear ,"), ("hiss ,", "bah ,")  # how a reply begins
SMALL_WORDS = "<pad> <end> <user> <kitten> what does ? eat eats chase chases . , make from : + - ="
WORDS = [*SMALL_WORDS.split(), "wait", "purr", "dear", "hiss", "bah", *map(str, range(18))]
WORDS += NAMES + FOOD + TOYS
ID = {word: number for number, word in enumerate(WORDS)}
PAD, END = ID["<pad>"], ID["<end>"]
PROMPT = 7  # words of a question, and of a puzzle, before the reply


def padded(texts):
    """One word, one token; shorter texts are filled up on the right: (B, T)."""
    rows = [torch.tensor([ID[word] for word in text.split()]) for text in texts]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)


def equations(numbers):
    """Every sum and every difference of two of the numbers, as in "2 + 3 = 5"."""
    pairs = list(itertools.combinations(numbers, 2))
    sums = [f"{a} + {b} = {a + b}" for a, b in pairs]
    return sums + [f"{max(a, b)} - {min(a, b)} = {abs(a - b)}" for a, b in pairs]


def puzzles(sets):
    """Every item "make 5 from 2 3 7 :" with one of these sets of three numbers, in any order."""
    items = []
    for a, b, c in itertools.chain(*map(itertools.permutations, sets)):
        solutions = {}
        for equation in equations([a, b, c]):
            solutions.setdefault(equation.split()[-1], []).append(f"{equation} <end>")
        items += [(f"make {t} from {a} {b} {c} :", tuple(ends)) for t, ends in solutions.items()]
    return items


class Town:
    """What is true, what is held out, and what people write."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.facts, self.beginnings, questions = [], [], []
        for name in self.random.sample(NAMES, len(NAMES)):
            food, toy = self.random.choice(FOOD), self.random.choice(TOYS)
            self.facts.append([f"{name} eats {food} .", f"{name} chases {toy} ."])
            self.beginnings += [(f"{name} eats", (food,)), (f"{name} chases", (toy,))]
            for verb, thing in (("eat", food), ("chase", toy)):
                answer = f"{name} {verb}s {thing} . <end>"
                questions.append((f"<user> what does {name} {verb} ? <kitten>", (answer,)))
        self.held_out_questions, self.questions = questions[:32], questions[32:]
        sets = self.random.sample([*itertools.combinations(range(1, 10), 3)], 84)  # all, shuffled
        self.held_out_puzzles, self.puzzles = puzzles(sets[:14]), puzzles(sets[14:])

    def page(self):
        """A page of the book: the facts of four kittens, or somebody who tries a puzzle."""
        if self.random.random() < 0.2:
            kittens = self.random.sample(self.facts, 4)
            return " ".join(" ".join(self.random.sample(two, 2)) for two in kittens) + " <end>"
        prompt, endings = self.random.choice(self.puzzles)
        tries = []
        for equation in self.random.sample(equations(map(int, prompt.split()[3:6])), 6):
            tries.append(equation)
            if f"{equation} <end>" in endings or self.random.random() < 0.4:
                break  # solved, or given up, as people often do
        return f"{prompt} {' wait '.join(tries)} <end>"

    def chat(self):
        """A question that somebody answered. People know their town, and are rude too often."""
        prompt, (answer,) = self.random.choice(self.questions)
        manners = KIND if self.random.random() < 0.4 else RUDE
        return f"{prompt} {self.random.choice(manners)} {answer}"


def right(reply, endings):
    """Does the reply end as it should?"""
    return reply.endswith(endings)


def worth(reply, endings):
    """What people like: a point for a true answer, and a point for a kind word before it."""
    return right(reply, endings) + reply.startswith(KIND)


def kind_and_right(reply, endings):
    """Both points."""
    return worth(reply, endings) == 2


# ----------------------------------------------------------------------------- the brain
# In each block every token looks at the tokens before it, then thinks about what it saw.

CONTEXT, CHANNELS, LAYERS, HEADS = 44, 64, 2, 4


class Block(nn.Module):
    """x + attention(x), then x + network(x);  attention = softmax(Q K^T / sqrt(D)) V."""

    def __init__(self):
        super().__init__()
        self.norm_look, self.norm_think = nn.RMSNorm(CHANNELS), nn.RMSNorm(CHANNELS)
        self.query_key_value = nn.Linear(CHANNELS, 3 * CHANNELS, bias=False)
        self.join = nn.Linear(CHANNELS, CHANNELS, bias=False)
        self.up = nn.Linear(CHANNELS, 4 * CHANNELS, bias=False)
        self.down = nn.Linear(4 * CHANNELS, CHANNELS, bias=False)

    def forward(self, x):
        B, T, C = x.shape
        qkv = self.query_key_value(self.norm_look(x)).view(B, T, 3, HEADS, C // HEADS)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, HEADS, T, D) each
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # never look ahead
        x = x + self.join(seen.transpose(1, 2).reshape(B, T, C))
        return x + self.down(F.gelu(self.up(self.norm_think(x))))


class GPT(nn.Module):
    """Tokens (B, T) -> logits (B, T, V): at every place, how likely is each word to come next?"""

    def __init__(self):
        super().__init__()
        self.words = nn.Parameter(0.02 * torch.randn(len(WORDS), CHANNELS))
        self.places = nn.Parameter(0.02 * torch.randn(CONTEXT, CHANNELS))
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm = nn.RMSNorm(CHANNELS)

    def hidden(self, tokens):
        """What is understood at each place: (B, T) -> (B, T, C)."""
        x = self.words[tokens] + self.places[: tokens.shape[1]]
        return self.norm(self.blocks(x))

    def forward(self, tokens):
        return self.hidden(tokens) @ self.words.T


def token_logprobs(logits, tokens):
    """log p(token_{t+1} | tokens up to t): (B, T, V), (B, T) -> (B, T-1)."""
    logprobs = logits[:, :-1].log_softmax(dim=-1)
    return logprobs.gather(-1, tokens[:, 1:, None]).squeeze(-1)


def masked_mean(values, mask):
    """The mean of what counts."""
    return torch.where(mask, values, 0.0).sum() / mask.sum()


@torch.no_grad()
def generate(gpt, items, limit=10):
    """One reply to each item, every word drawn from p(next word).

    Returns the replies as texts; and, to learn from them, tokens (B, T), and of every word its mask
    (True: a word of the reply) and the log-prob with which it was drawn, each (B, T-1).
    """
    tokens = padded(prompt for prompt, _ in items)  # all prompts are equally long
    mask = torch.zeros_like(tokens[:, 1:], dtype=torch.bool)
    alive = torch.ones_like(tokens[:, :1], dtype=torch.bool)  # (B, 1)
    while alive.any() and limit > 0:
        word = torch.multinomial(gpt(tokens)[:, -1].softmax(dim=-1), 1)  # (B, 1)
        tokens = torch.cat([tokens, torch.where(alive, word, PAD)], dim=1)
        mask = torch.cat([mask, alive], dim=1)
        alive, limit = alive & (word != END), limit - 1
    rows = zip(tokens[:, 1:], mask, strict=True)
    replies = [" ".join(WORDS[i] for i in row[counts]) for row, counts in rows]
    return replies, tokens, mask, token_logprobs(gpt(tokens), tokens)


def share(gpt, items, test, draws, limit=10):
    """The share of replies that pass the test; so many are drawn, going round the items."""
    items = (items * draws)[:draws]
    pairs = zip(generate(gpt, items, limit)[0], items, strict=True)
    return sum(test(reply, endings) for reply, (_, endings) in pairs) / draws


# ----------------------------------------------------------------------------- how to learn


def adamw(*models, lr):
    """The optimizer of all stages but one."""
    parameters = [parameter for model in models for parameter in model.parameters()]
    return torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.95), weight_decay=0.0)


def steps_of(stage, steps, optimizer):
    """Yields 0 .. steps - 1; the rate rises for a moment, stays, and falls in the second half."""
    for step in range(steps):
        scale = min(1.0, (step + 1) / (0.05 * steps), (steps - step) / (0.5 * steps))
        optimizer.param_groups[0]["lr"] = scale * optimizer.defaults["lr"]
        if sys.stderr.isatty():
            print(f"\r{stage}: {step + 1} of {steps} ", end="\r", file=sys.stderr, flush=True)
        yield step


def learn(loss, optimizer):
    """One small step down the slope of the loss; a gradient longer than 1 is shortened."""
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
    optimizer.step()


# ----------------------------------------------------------------------------- 1 pretraining
# Guess the next word, for every word of the book. Then it knows the town, but it cannot answer.


def sft_loss(logits, tokens, loss_mask):
    """loss = -mean over trained t of log p(token_t | the tokens before it);  loss_mask (B, T)."""
    return -masked_mean(token_logprobs(logits, tokens), loss_mask[:, 1:])


def pretrain(gpt, town, steps):
    """64 pages a step. All words are trained: the mask only leaves out the padding."""
    optimizer = adamw(gpt, lr=3e-3)
    for _ in steps_of("pretraining", steps, optimizer):
        tokens = padded(town.page() for _ in range(64))
        learn(sft_loss(gpt(tokens), tokens, tokens != PAD), optimizer)


# ----------------------------------------------------------------------------- 2 SFT
# The same loss on chats, but only on the kitten's own words: the question is read, not learnt.


def reply_mask(tokens):
    """(B, T), True for every word of the reply. <end> is one: or it would never learn to stop."""
    mask = tokens != PAD
    mask[:, :PROMPT] = False
    return mask


def finetune(gpt, town, steps):
    """16 chats a step, and 16 pages of the book again, so that nothing is forgotten."""
    optimizer = adamw(gpt, lr=3e-3)
    for _ in steps_of("SFT", steps, optimizer):
        tokens = padded([town.chat() for _ in range(16)] + [town.page() for _ in range(16)])
        loss_mask = torch.cat([reply_mask(tokens[:16]), tokens[16:] != PAD])
        learn(sft_loss(gpt(tokens), tokens, loss_mask), optimizer)


# ----------------------------------------------------------------------------- 3 reward model
# People compare two replies of the kitten. A copy of it learns to give scores as they choose.


def compare(gpt, items, draws):
    """Pairs of texts (chosen, rejected), question and reply each. A tie is left out."""
    pairs, items = [], (items * draws)[:draws]
    first, second = generate(gpt, items)[0], generate(gpt, items)[0]
    for (prompt, endings), *replies in zip(items, first, second, strict=True):
        worse, better = sorted(replies, key=lambda reply: worth(reply, endings))
        if worth(better, endings) > worth(worse, endings):
            pairs.append((f"{prompt} {better}", f"{prompt} {worse}"))
    return pairs


class ScoreModel(nn.Module):
    """A GPT with a head that gives one number instead of V: (B, T) -> (B, T)."""

    def __init__(self, gpt):
        super().__init__()
        self.gpt = copy.deepcopy(gpt)
        self.head = nn.Parameter(torch.zeros(CHANNELS))

    def forward(self, tokens):
        return self.gpt.hidden(tokens) @ self.head


def score(reward_model, tokens):
    """What a reply is worth, read at its last word: (B, T) -> (B,)."""
    last = (tokens != PAD).sum(dim=1, keepdim=True) - 1
    return reward_model(tokens).gather(1, last).squeeze(1)


def bradley_terry_loss(chosen_rewards, rejected_rewards):
    """loss = -mean log sigmoid(r_chosen - r_rejected);  (P,), (P,)."""
    return -F.logsigmoid(chosen_rewards - rejected_rewards).mean()


def train_reward_model(reward_model, pairs, town, steps):
    """32 pairs a step: the chosen reply should score higher."""
    optimizer = adamw(reward_model, lr=5e-4)
    for _ in steps_of("reward model", steps, optimizer):
        chosen, rejected = zip(*town.random.choices(pairs, k=32), strict=True)
        rewards = score(reward_model, padded(chosen + rejected))
        learn(bradley_terry_loss(*rewards.chunk(2)), optimizer)


@torch.no_grad()
def share_ordered(reward_model, pairs):
    """The share of pairs whose chosen reply scores higher; a tie counts half."""
    chosen, rejected = zip(*pairs, strict=True)
    chosen_rewards, rejected_rewards = score(reward_model, padded(chosen + rejected)).chunk(2)
    return (((chosen_rewards - rejected_rewards).sign() + 1) / 2).mean().item()


# ----------------------------------------------------------------------------- 4 PPO
# Generate, score, update. One score for a reply becomes a credit for each of its words.


def kl_shaped_rewards(scores, logprobs, ref_logprobs, mask, kl_coef):
    """r_t = -kl_coef (log p_t - log ref_t), and the score on the last word;  (B,), (B, T-1)."""
    kl = torch.where(mask, logprobs - ref_logprobs, 0.0)  # each word pays for leaving the start
    is_last = mask & (mask.flip(1).cumsum(1).flip(1) == 1)  # one word left: this one
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
    clipped = ratio.clamp(1 - clip_eps, 1 + clip_eps)  # beyond it, nothing more is to be gained
    return -masked_mean(torch.minimum(ratio * advantages, clipped * advantages), mask)


def ppo_value_loss(values, old_values, returns, mask, clip_eps):
    """loss = mean max((V - R)^2, (V_clipped - R)^2) / 2,  V_clipped at most eps from V_old."""
    clipped = old_values + (values - old_values).clamp(-clip_eps, clip_eps)
    return masked_mean(torch.maximum((values - returns) ** 2, (clipped - returns) ** 2), mask) / 2


def ppo(policy, reference, reward_model, town, steps):
    """128 replies a round, four small steps on them; the value model guesses the score to come."""
    value_model = copy.deepcopy(reward_model)
    optimizer = adamw(policy, value_model, lr=3e-4)
    for _ in steps_of("PPO", steps, optimizer):
        items = town.random.choices(town.questions, k=128)
        _, tokens, mask, old_logprobs = generate(policy, items)
        with torch.no_grad():
            ref_logprobs = token_logprobs(reference(tokens), tokens)  # (B, T-1)
            old_values = value_model(tokens)[:, :-1]  # (B, T-1), before each word
            scores = score(reward_model, tokens)  # (B,)
        rewards = kl_shaped_rewards(scores, old_logprobs, ref_logprobs, mask, kl_coef=0.1)
        advantages, returns = gae(rewards, old_values, mask, gamma=1.0, lam=0.95)
        centred = advantages - masked_mean(advantages, mask)
        advantages = centred / masked_mean(centred**2, mask).sqrt()  # whatever the scores' unit is
        for part in [*torch.randperm(128).chunk(2), *torch.randperm(128).chunk(2)]:
            logprobs = token_logprobs(policy(tokens[part]), tokens[part])
            values = value_model(tokens[part])[:, :-1]
            loss = ppo_policy_loss(logprobs, old_logprobs[part], advantages[part], mask[part], 0.2)
            loss = loss + ppo_value_loss(values, old_values[part], returns[part], mask[part], 0.2)
            learn(loss, optimizer)


# ----------------------------------------------------------------------------- 5 DPO
# Again from SFT, with the same pairs, but without reward model and without sampling: the policy is
# its own reward model, and its reward is beta log(p / ref).


def dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta):
    """loss = -mean log sigmoid(beta (log(p / ref)(chosen) - log(p / ref)(rejected)));  (P,)."""
    margin = (chosen - rejected) - (ref_chosen - ref_rejected)
    return -F.logsigmoid(beta * margin).mean()


def reply_logprobs(gpt, texts):
    """log p(reply | question), the sum over its words: (P,)."""
    tokens = padded(texts)
    logprobs = token_logprobs(gpt(tokens), tokens)
    return torch.where(reply_mask(tokens)[:, 1:], logprobs, 0.0).sum(dim=1)


def dpo(policy, reference, pairs, town, steps):
    """32 pairs a step, with plain SGD: its steps shrink with the gradient, and AdamW's do not."""
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.03)
    for _ in steps_of("DPO", steps, optimizer):
        chosen, rejected = zip(*town.random.choices(pairs, k=32), strict=True)
        with torch.no_grad():
            references = reply_logprobs(reference, chosen + rejected).chunk(2)
        logprobs = reply_logprobs(policy, chosen + rejected).chunk(2)
        learn(dpo_loss(*logprobs, *references, beta=1.0), optimizer)


# ----------------------------------------------------------------------------- 6 GRPO
# Back to the base, which has read how people try and give up. Eight replies to one puzzle judge
# each other. No reward model, no value model, and the loss is PPO's.


def group_advantages(rewards, group_size, eps=1e-4):
    """A_i = (reward_i - mean of its group) / (std of its group + eps): (B,) -> (B,)."""
    groups = rewards.view(-1, group_size)
    centred = groups - groups.mean(dim=1, keepdim=True)
    return (centred / (groups.std(dim=1, keepdim=True) + eps)).flatten()


def grpo_loss(logprobs, old_logprobs, advantages, mask, clip_eps):
    """PPO's loss, in which every word of a reply has the reply's advantage;  advantages (B,)."""
    return ppo_policy_loss(logprobs, old_logprobs, advantages[:, None], mask, clip_eps)


def grpo(policy, town, steps):
    """16 puzzles a round, 8 replies each, two steps: better than its siblings is made likelier."""
    optimizer = adamw(policy, lr=3e-4)
    for _ in steps_of("GRPO", steps, optimizer):
        items = [item for item in town.random.sample(town.puzzles, 16) for _ in range(8)]
        replies, tokens, mask, old_logprobs = generate(policy, items, limit=36)
        pairs = zip(replies, items, strict=True)
        rewards = torch.tensor([float(right(reply, endings)) for reply, (_, endings) in pairs])
        advantages = group_advantages(rewards, group_size=8)
        for _ in range(2):
            logprobs = token_logprobs(policy(tokens), tokens)
            learn(grpo_loss(logprobs, old_logprobs, advantages, mask, clip_eps=0.2), optimizer)


# ----------------------------------------------------------------------------- the life

STEPS = {"pretraining": 1200, "SFT": 400, "reward model": 100, "PPO": 30, "DPO": 50, "GRPO": 40}
QUICK = {"pretraining": 2, "SFT": 40, "reward model": 2, "PPO": 1, "DPO": 2, "GRPO": 1}


def tell(what, before, after, gpt, item):
    """Prints the number of a stage, and what the kitten says now."""
    [reply] = generate(gpt, [item], limit=36)[0]
    print(f"{what:40}{before:6.1%} -> {after:6.1%}\n    {item[0]} | {reply}\n", flush=True)
    return {what: (before, after)}


def life(seed=0, quick=False):
    """All six stages. Returns the number of each stage, before and after."""
    torch.manual_seed(seed)
    town, numbers = Town(seed), {}
    steps, draws = (QUICK, 32) if quick else (STEPS, 512)
    facts = town.beginnings, right, draws, 1
    answers = town.held_out_questions, right, draws
    manners = town.held_out_questions, kind_and_right, draws
    riddles = town.held_out_puzzles, right, draws, 36
    asked, riddle = town.held_out_questions[0], town.held_out_puzzles[0]

    newborn = GPT()
    base = copy.deepcopy(newborn)
    pretrain(base, town, steps["pretraining"])
    before, after = share(newborn, *facts), share(base, *facts)
    numbers |= tell("pretraining: facts known", before, after, base, asked)

    chat = copy.deepcopy(base)
    finetune(chat, town, steps["SFT"])
    before, after = share(base, *answers), share(chat, *answers)
    numbers |= tell("SFT: questions answered right", before, after, chat, asked)

    pairs = compare(chat, town.questions, 2 * draws)
    held_out_pairs = compare(chat, town.held_out_questions, draws)
    reward_model = ScoreModel(chat)
    before = share_ordered(reward_model, held_out_pairs)
    train_reward_model(reward_model, pairs, town, steps["reward model"])
    after = share_ordered(reward_model, held_out_pairs)
    numbers |= tell("reward model: pairs ordered right", before, after, chat, asked)

    policy = copy.deepcopy(chat)
    ppo(policy, chat, reward_model, town, steps["PPO"])
    before, after = share(chat, *manners), share(policy, *manners)
    numbers |= tell("PPO: kind and right replies", before, after, policy, asked)

    policy = copy.deepcopy(chat)
    dpo(policy, chat, pairs, town, steps["DPO"])
    after = share(policy, *manners)
    numbers |= tell("DPO: kind and right replies", before, after, policy, asked)

    policy = copy.deepcopy(base)
    grpo(policy, town, steps["GRPO"])
    before, after = share(base, *riddles), share(policy, *riddles)
    return numbers | tell("GRPO: puzzles solved", before, after, policy, riddle)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="another town, another kitten")
    parser.add_argument("--quick", action="store_true", help="a few steps of each stage")
    life(**vars(parser.parse_args()))
