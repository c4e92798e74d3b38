"""Short trainings that test_distributed.py runs in one process, and in two that share the work.

    python -m tests.two_processes trainings FILE     writes FILE0 and FILE1: what came out in each
    python -m tests.two_processes run FOLDER         the run of resume_program.py, slowly

It is started twice, with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set as torchrun does.
"""

import sys

import kittenllm  # noqa: F401 (before torch: see there)

# isort: split
import torch

from chapters.common.runner import exit_code
from kittenllm import grpo
from kittenllm.batches import PackedRows, TokenStream
from kittenllm.distributed import whole, world
from kittenllm.dpo import DPOConfig, reference_logprobs, train_dpo
from kittenllm.forward import frozen_logprobs
from kittenllm.gpt import GPT, GPTConfig
from kittenllm.grpo import GRPOConfig, train_grpo
from kittenllm.optim import make_optimizer
from kittenllm.orpo import ORPOConfig, train_orpo
from kittenllm.pairs import PreferencePair
from kittenllm.pretrain import PretrainConfig, train_pretrain
from kittenllm.runs import stages
from kittenllm.sampling import Rollout
from kittenllm.sft import SFTConfig, train_sft
from tests.resume_program import run_tiny

STEPS = 20
V, PAD = 61, 0


def dice(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tiny_gpt() -> GPT:
    config = GPTConfig(
        vocab_size=V,
        context_length=32,
        layers=1,
        channels=16,
        heads=2,
        kv_heads=1,
        ffn_channels=40,
        stop_ids=(1,),
        pad_id=PAD,
    )
    gpt = GPT(config, generator=dice(0))
    with torch.no_grad():
        for parameter in gpt.parameters():
            if parameter.ndim == 2:
                parameter.mul_(10)
    return gpt


def tools(gpt: GPT) -> dict:
    return {
        "optimizer": make_optimizer(gpt, matrix_lr=3e-3, other_lr=3e-3),
        "generator": dice(1),
    }


def stream() -> TokenStream:
    return TokenStream(torch.randint(2, V, (500,), generator=dice(2)), document_start=7)


def some_pairs() -> list[PreferencePair]:
    """Replies of 1 to 9 tokens; each chosen reply is compared with two others."""
    tokens = torch.randint(2, V, (40, 30), generator=dice(3)).tolist()
    lengths = torch.randint(1, 10, (40, 3), generator=dice(4)).tolist()
    pairs = []
    for row, (a, b, c) in zip(tokens, lengths, strict=True):
        prompt, chosen = row[:3], [*row[3 : 3 + a], 1]
        pairs += [PreferencePair(prompt, chosen, [*row[12 : 12 + n], 1, 2]) for n in (b, c)]
    return pairs


def packed() -> PackedRows:
    """Rows with very different numbers of trained tokens, some with none at all."""
    tokens = torch.randint(2, V, (24, 16), generator=dice(5))
    density = torch.rand(24, 1, generator=dice(6)).square()
    loss_mask = torch.rand(24, 16, generator=dice(7)) < density
    loss_mask[::6] = False
    return PackedRows(tokens, loss_mask, torch.zeros_like(tokens))


def told_replies(policy: GPT, prompts: list[list[int]], **settings) -> Rollout:
    """In the place of `generate`: replies that depend on the prompt and the place in the group
    only, so that two processes write what one process writes."""
    rows, lengths = [], []
    for place, prompt in enumerate(prompts):
        draw = dice(1000 * sum(prompt) + place % 4)
        length = int(torch.randint(1, 12, (), generator=draw))
        rows.append([*prompt, *torch.randint(2, V, (length,), generator=draw).tolist()])
        lengths.append(len(prompt))
    tokens = torch.full((len(rows), max(map(len, rows))), PAD)
    mask = torch.zeros(len(rows), tokens.shape[1] - 1, dtype=torch.bool)
    for number, (row, start) in enumerate(zip(rows, lengths, strict=True)):
        tokens[number, : len(row)] = torch.tensor(row)
        mask[number, start - 1 : len(row) - 1] = True
    ended = torch.zeros(len(rows), dtype=torch.bool)
    return Rollout(tokens, mask, frozen_logprobs(policy, tokens, mask), ended)


def rule(number: int, reply: list[int], ended: bool) -> tuple[float, dict[str, float]]:
    """Prompts 0, 3, 6, ... earn nothing whatever is said: groups without a variance."""
    return (0.0 if number % 3 == 0 else sum(reply) / V), {"short": len(reply) < 5}


def pretraining(gpt: GPT):
    config = PretrainConfig(steps=STEPS, rows_per_step=5, row_length=16)
    return train_pretrain(gpt, stream(), config=config, **tools(gpt))


def fine_tuning(gpt: GPT, **settings):
    config = SFTConfig(steps=STEPS, rows_per_step=5, replay_fraction=0.3)
    return train_sft(gpt, packed(), config=config, replay=stream(), **settings, **tools(gpt))


def preferences(gpt: GPT, **settings):
    ref_logprobs = reference_logprobs(gpt, some_pairs())
    config = DPOConfig(steps=STEPS, pairs_per_step=10)
    return train_dpo(gpt, some_pairs(), ref_logprobs, config=config, **settings, **tools(gpt))


def odds(gpt: GPT):
    config = ORPOConfig(steps=STEPS, pairs_per_step=10)
    return train_orpo(gpt, some_pairs(), config=config, **tools(gpt))


def rules(
    gpt: GPT,
    *,
    steps: int = STEPS,
    normalize: str = "token",
    kl_coef: float = 0.0,
    kl_coefs: list[float] | None = None,
):
    config = GRPOConfig(
        steps=steps,
        prompts_per_step=4,
        group_size=4,
        max_new_tokens=12,
        epochs=2,
        tokens_per_pass=40,
        normalize=normalize,
        kl_coef=kl_coef,
    )
    prompts = [[2 + n, 3 + n, 9] for n in range(13)]
    reference = tiny_gpt() if kl_coef or kl_coefs else None
    models = {"reference": reference, "kl_coefs": kl_coefs, **tools(gpt)}
    return train_grpo(gpt, prompts, rule, config=config, **models)


TRAININGS = {
    "pretraining": pretraining,
    "fine_tuning": fine_tuning,
    "fine_tuning_in_parts": lambda gpt: fine_tuning(gpt, tokens_per_pass=20),
    "preferences": preferences,
    "preferences_in_parts": lambda gpt: preferences(gpt, tokens_per_pass=50),
    "odds": odds,
    "rules": rules,
    "rules_reply": lambda gpt: rules(gpt, normalize="reply"),
    "rules_kl": lambda gpt: rules(gpt, normalize="constant", kl_coef=0.1),
    "rules_prices": lambda gpt: rules(gpt, kl_coefs=[0.2 * (n % 4 == 0) for n in range(13)]),
}
SHARDED = ("pretraining", "fine_tuning", "preferences", "rules")
SHARDED += ("fine_tuning_in_parts", "preferences_in_parts")


def train(name: str) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    """The numbers of every step, and the weights at the end."""
    gpt, real = tiny_gpt(), grpo.generate
    grpo.generate = told_replies
    try:
        numbers = list(TRAININGS[name](gpt))
    finally:
        grpo.generate = real
    return numbers, {key: whole(value).detach() for key, value in gpt.state_dict().items()}


def saved_and_restored() -> list[bool]:
    """Is every number of the model and of the optimizer's state there again, in new objects?"""
    first, second = tiny_gpt(), tiny_gpt()
    optimizers = [tools(gpt)["optimizer"] for gpt in (first, second)]
    config = PretrainConfig(steps=2, rows_per_step=4, row_length=16)
    one = train_pretrain(first, stream(), config=config, optimizer=optimizers[0], generator=dice(1))
    assert len(list(one)) == 2
    equal = []
    for old, new in ((first, second), optimizers):
        state = stages._state_of(old)
        stages._restore_object(new, state)
        equal += [torch.equal(a, b) for a, b in zip(*map(numbers_in, (state, new)), strict=True)]
    return equal


def numbers_in(thing) -> list[torch.Tensor]:
    """All tensors of a state, in order."""
    if isinstance(thing, torch.Tensor):
        return [thing]
    if hasattr(thing, "state_dict"):
        thing = stages._state_of(thing)
    parts = thing.values() if isinstance(thing, dict) else ()
    return [number for part in parts for number in numbers_in(part)]


def all_trainings(path: str) -> None:
    results: dict = {}
    for world().sharded in (False, True):
        for name in SHARDED if world().sharded else TRAININGS:
            results[name, world().sharded] = train(name)
        sampled = list(rules(tiny_gpt(), steps=3))  # with dice of its own
        results["sampled", world().sharded] = [numbers["reward"] for numbers in sampled]
        results["restored", world().sharded] = saved_and_restored()
    torch.save(results, f"{path}{world().rank}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    stages.SAVING_SHARE = 1.0  # save often: the test has little time
    if sys.argv[1] == "trainings":
        all_trainings(sys.argv[2])
    else:
        sys.exit(exit_code(lambda: run_tiny(sys.argv[2], pause=0.02)))
