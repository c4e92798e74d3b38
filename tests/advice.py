"""What to say about a function that failed: its numbers are compared with typical mistakes.

A hint must fit to the mistake. So the grader calls the function with small examples and looks: is
it the right kind of thing that comes back? Was an input changed? Are the numbers those of a known
mistake? Nothing is guessed from the name of a test.

Read before: chapters/check/table.py. Left out: the mistakes themselves, see mistakes.py.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from mistakes import MISTAKES, RIGHT, Mistake
from torch import Tensor

from kittenllm.chat import ChatTokens
from kittenllm.gpt import GPTConfig
from kittenllm.tokenizer import SMALLEST_VOCABULARY, Tokenizer, train_bpe

NAN = float("nan")
METRICS = {  # of every loss: the names of its metrics
    "sft": ["accuracy"],
    "reward": ["accuracy", "margin"],
    "ppo": ["clip_fraction", "approx_kl"],
    "dpo": ["margin", "accuracy"],  # given in the stub
    "ipo": ["margin", "accuracy"],
    "orpo": ["nll", "odds_loss", "margin", "accuracy", "chosen_logprob", "rejected_logprob"],
    "grpo": ["clip_fraction", "approx_kl", "kl"],
}


ONE_TENSOR = ("gather", "mask", "token_logprobs", "group_advantages")  # what comes back


@dataclass(frozen=True)
class Call:
    """What a function is called with; `learnt` counts the first inputs that get a gradient."""

    inputs: tuple
    settings: dict = field(default_factory=dict)
    learnt: int = 1


# ------------------------------------------------------------------------------- the examples


def examples() -> dict[str, dict[str, Call]]:
    """Of every exercise some calls, by name. "plain" has nothing special."""
    mask = torch.tensor([[0, 1, 1, 1, 0], [1, 0, 1, 1, 0], [0, 1, 0, 0, 0], [0] * 5]).bool()
    generator = torch.Generator().manual_seed(0)

    def frame() -> Tensor:
        return -0.2 - torch.rand(4, 5, generator=generator)

    old, ref, values, rewards = frame(), frame(), frame(), frame() + 0.7
    ratios = torch.tensor([1.0, 0.5, 1.5, 1.21, 0.95])
    logprobs = old + torch.stack([ratios.roll(n) for n in range(4)]).log()
    per_token = torch.randn(4, 5, generator=generator)
    per_reply = torch.tensor([1.0, -2.0, 0.5, 3.0])

    def hidden(tensor: Tensor) -> Tensor:
        return torch.where(mask, tensor, NAN)

    logits = torch.randn(3, 6, 7, generator=generator)
    tokens = torch.randint(7, (3, 6), generator=generator)
    tokens[0, 2], tokens[1, 1] = logits[0, 1].argmax(), logits[1, 0].argmax()  # two hits
    loss_mask = torch.tensor([[0, 0, 1, 1, 0, 0], [0, 1, 0, 0, 1, 1], [0, 0, 0, 0, 1, 0]]).bool()
    producing = torch.cat([loss_mask[:, 1:], torch.zeros(3, 1).bool()], dim=1)
    spoilt = torch.where(producing[..., None], logits, NAN), torch.where(loss_mask, tokens, -100)

    pairs = [[-10.0, -4.0, -7.0], [-12.0, -3.0, -7.5], [-11.0, -4.0, -6.0], [-10.0, -6.0, -8.0]]
    pairs = tuple(map(torch.tensor, pairs))
    far = tuple(torch.tensor([x]) for x in (-800.0, -1.0, 0.0, 0.0))
    likely = torch.tensor([0.5, 0.2, 0.6]).log(), torch.tensor([0.2, 0.5, 0.3]).log()
    clip = {"clip_eps": 0.1, "clip_eps_high": 0.3}
    frames = (logprobs, old, per_reply, mask)
    with_ref = {"ref_logprobs": ref, "kl_coef": 0.5, "normalize": "token"}
    talk = [("user", "is it 12?"), ("assistant", "no"), ("user", "why?"), ("assistant", "it is 13")]
    talk = [{"role": role, "content": content} for role, content in talk]
    tokenizer = Tokenizer(train_bpe("a\n\n\nb\n\n\nc\n\n\n" * 9, SMALLEST_VOCABULARY + 3))
    tool = [*talk[:2], {"role": "tool", "content": "12"}, talk[3]]
    system = [{"role": "system", "content": "be kind"}, *talk]
    breaks = [talk[0], {"role": "assistant", "content": "\n\nno"}]
    return {
        "gather": {
            "plain": Call((logits, tokens)),
            "huge": Call((torch.tensor([[1e4, -1e4, 0.0]]), torch.tensor([1]))),
        },
        "mask": {
            "plain": Call((per_token, mask)),
            "padding": Call((hidden(per_token), mask)),
            "empty": Call((per_token, mask & False)),
        },
        "token_logprobs": {
            "plain": Call((logits, tokens)),
            "huge": Call((torch.tensor([[[1e4, -1e4, 0.0], [0.0] * 3]]), torch.tensor([[0, 1]]))),
        },
        "sft": {
            "plain": Call((logits, tokens, loss_mask)),
            "padding": Call((*spoilt, loss_mask)),
            "empty": Call((logits, tokens, torch.zeros_like(loss_mask))),
        },
        "reward": {
            "plain": Call(
                (torch.tensor([2.0, -1, 0.5, 1]), torch.tensor([0.5, 1, 0.25, 1])), learnt=2
            ),
            "far": Call((torch.tensor([-500.0, 2.0]), torch.tensor([500.0, 1.0])), learnt=2),
        },
        "gae": {
            "plain": Call((rewards, values, mask), {"gamma": 0.9, "lam": 0.8}, learnt=0),
            "padding": Call(
                (hidden(rewards), hidden(values), mask), {"gamma": 0.9, "lam": 0.8}, learnt=0
            ),
        },
        "ppo": {
            "plain": Call((logprobs, old, per_token, mask), {"clip_eps": 0.2}),
            "padding": Call(
                (hidden(logprobs), hidden(old), hidden(per_token), mask), {"clip_eps": 0.2}
            ),
            "empty": Call((logprobs, old, per_token, mask & False), {"clip_eps": 0.2}),
        },
        "dpo": {
            "plain": Call(pairs, {"beta": 0.3}, learnt=2),
            "smoothed": Call(pairs, {"beta": 0.3, "label_smoothing": 0.1}, learnt=2),
            "far": Call(far, {"beta": 5.0}, learnt=2),
        },
        "ipo": {"plain": Call(pairs, {"beta": 0.3}, learnt=2)},
        "orpo": {
            "plain": Call(likely, {"weight": 0.3}, learnt=2),
            "ties": Call((likely[0], likely[0].clone()), {"weight": 0.3}, learnt=2),
            "certain": Call(
                (torch.tensor([0.0, -1.0]), torch.tensor([-1.0, 0.0])), {"weight": 1.0}, learnt=2
            ),
        },
        "group_advantages": {
            "plain": Call((torch.tensor([1.0, 2, 3, 10, 10, 40]),), {"group_size": 3}, learnt=0),
            "raw": Call(
                (torch.tensor([1.0, 2, 3, 10, 10, 40]),),
                {"group_size": 3, "normalize_std": False},
                learnt=0,
            ),
            "equal": Call((torch.full((7,), 0.7),), {"group_size": 7, "eps": 0.0}, learnt=0),
        },
        "grpo": {
            "plain": Call(frames, {**clip, "normalize": "token"}),
            "reply": Call(frames, {**clip, "normalize": "reply"}),
            "constant": Call(frames, {**clip, "normalize": "constant", "max_tokens": 10}),
            "kl": Call(frames, with_ref),
            "padding": Call((hidden(logprobs), hidden(old), per_reply, mask), {}),
            "empty": Call((logprobs, old, per_reply, mask & False), {}),
        },
        "chat_mask": {
            "plain": Call((tokenizer, talk), learnt=0),
            "prompt": Call((tokenizer, talk[:3]), {"reply_next": True}, learnt=0),
            "tool": Call((tokenizer, tool), learnt=0),
            "system": Call((tokenizer, system), learnt=0),
            "breaks": Call((tokenizer, breaks), learnt=0),
        },
        "cache": {"plain": Call((), learnt=0)},
        "mixed_reward": {"plain": Call((three_kinds(),), learnt=0)},
    }


KINDS = (2, 4, 3)  # prompts of each kind


def three_kinds() -> list[tuple[int, Callable]]:
    """Rewards that tell their kind, the number they are asked about, and what they hear."""

    def of_kind(kind: int) -> Callable:
        def reward(number: int, reply: list[int], ended: bool) -> tuple[float, dict[str, float]]:
            return 100.0 * kind + number, {"heard": 2.0 * len(reply) + ended}

        return reward

    return [(count, of_kind(kind)) for kind, count in enumerate(KINDS)]


# ---------------------------------------------------------------------------- looking at one


def advice_for(name: str, function: object) -> str | None:
    """What to say about a function that failed, or None if nothing typical is found."""
    calls = examples()[name]
    if name != "cache":
        told = wrong_form(name, function, calls["plain"]) or changed_input(function, calls)
        if told:
            return told
    for mistake in MISTAKES[name]:
        if is_made(mistake, name, function, calls):
            return mistake.sentence
    call = calls["kl" if name == "grpo" else "plain"]
    return leaking_gradient(name, function, call) or float64_trouble(name, function, call)


def is_made(mistake: Mistake, name: str, function: object, calls: dict[str, Call]) -> bool:
    """Does the function give what the mistake gives, and not what is right?"""
    call = calls[mistake.example]
    right = parts_of(name, RIGHT[name], call).get(mistake.part)
    found = parts_of(name, function, call).get(mistake.part)
    if right is None or found is None or same(found, right):
        return False
    if mistake.wrong is None:
        if mistake.or_other and is_right(name, function, calls["plain"], mistake.part):
            return True
        return bool(right.isfinite().all()) and not bool(found.isfinite().all())
    return same(found, wrong_part(mistake, name, call))


def is_right(name: str, function: object, call: Call, part: str) -> bool:
    found = parts_of(name, function, call).get(part)
    return found is not None and same(found, parts_of(name, RIGHT[name], call)[part])


def wrong_part(mistake: Mistake, name: str, call: Call) -> Tensor:
    """What the mistake gives: a whole wrong answer, as in the first three, or one part."""
    if name in ("chat_mask", "cache", "mixed_reward"):
        return parts_of(name, mistake.wrong, call)[mistake.part]
    return mistake.wrong(*call.inputs, **call.settings)


def same(a: Tensor, b: Tensor) -> bool:
    """Equal but for rounding; what is not finite counts as one and the same."""
    if a.shape != b.shape:
        return False
    a, b = a.detach().double(), b.detach().double()
    finite = a.isfinite() & b.isfinite()
    scale = b[finite].abs().max() if finite.any() else torch.tensor(0.0)
    close = (a - b).abs() <= 1e-5 * scale
    if not bool((b != 0).any()):
        close = a == b  # where exactly 0 is right, almost 0 is not
    return bool((a.isfinite() == b.isfinite()).all()) and bool(close[finite].all())


def parts_of(name: str, function: object, call: Call) -> dict[str, Tensor]:
    """The result in named parts; empty where the function fails or gives something else."""
    try:
        if name == "cache":
            return use_cache(function)
        if name == "mixed_reward":
            return ask_everybody(function(*call.inputs))
        result = function(*call.inputs, **call.settings)
        if name in METRICS:
            loss, metrics = result
            return {"loss": loss, **metrics}
        if name == "gae":
            return dict(zip(("advantages", "returns"), result, strict=True))
        if name == "chat_mask":
            return {
                "tokens": torch.tensor(result.tokens),
                "mask": torch.tensor(result.loss_mask).bool(),
            }
        return {"result": result}
    except Exception:  # the tests show it; here it is only no typical mistake
        return {}


def use_cache(cache_class: type) -> dict[str, Tensor]:
    """Two layers, three rows: three tokens, then two more; then rows 2 and 0 are kept."""
    config = GPTConfig(layers=2, channels=8, heads=2, kv_heads=1)
    cache = cache_class(config, 3, 8)
    cache.valid = torch.tensor([[0, 1], [1, 1], [1, 0]]).bool().repeat(1, 4)
    generator = torch.Generator().manual_seed(0)
    lengths, shapes, parts = [], [], {}
    try:
        for count in (3, 2):
            for layer in range(2):
                k, v = torch.randn(2, 3, 1, count, 4, generator=generator)
                keys, values = cache.append(layer, k, v)
                lengths.append(cache.length)
                shapes.append(list(keys.shape))
        parts |= {"keys": keys.clone(), "values": values.clone()}
        cache.keep(torch.tensor([2, 0]))
        parts |= {"kept keys": cache.keys[:, :2].clone(), "kept valid": cache.valid[:2].clone()}
        parts["rows"] = torch.tensor(cache.rows)
    except (RuntimeError, IndexError, TypeError, ValueError):
        pass  # what was seen until then tells enough
    parts["lengths"] = torch.tensor(lengths)
    parts["shapes"] = torch.tensor(shapes)
    return parts


def ask_everybody(reward: Callable) -> dict[str, Tensor]:
    """All prompts up and down, every other one with an end; then numbers that are of no kind."""
    parts: dict[str, list[float]] = {"worth": [], "heard": [], "refused": []}
    for number in (*range(sum(KINDS)), *reversed(range(sum(KINDS)))):
        try:
            worth, heard = reward(number, [7] * number, number % 2 == 0)
        except (ValueError, LookupError):
            worth, heard = NAN, {}
        parts["worth"].append(worth)
        parts["heard"].append(heard.get("heard", NAN))
    for number in (-1, sum(KINDS)):
        try:
            reward(number, [7], True)
            parts["refused"].append(0.0)
        except Exception as error:
            parts["refused"].append(float(isinstance(error, ValueError)))
    return {name: torch.tensor(numbers).double() for name, numbers in parts.items()}


# ------------------------------------------------------------------------ form, inputs, dtypes


def wrong_form(name: str, function: Callable, call: Call) -> str | None:
    """What is wrong with the kind of thing that comes back, if anything is."""
    inputs = list(call.inputs)
    for i in range(call.learnt):
        inputs[i] = inputs[i].clone().requires_grad_()
    try:
        result = function(*inputs, **call.settings)
    except Exception:
        return None
    if result is None:
        return "The function returns None: the return at its end is missing."
    if name in METRICS:
        return wrong_loss(result, METRICS[name])
    if name == "gae":
        shape = tuple(call.inputs[0].shape)
        if isinstance(result, Tensor) or len(result) != 2:
            return "Two tensors must come back: return advantages, returns."
        for tensor in result:
            if not isinstance(tensor, Tensor) or tuple(tensor.shape) != shape:
                return f"Advantages and returns must be tensors of shape {shape}, like the rewards."
    if name in ONE_TENSOR:
        shape = tuple(RIGHT[name](*call.inputs, **call.settings).shape)
        if not isinstance(result, Tensor):
            return f"One tensor must come back, of shape {shape}; this is a {kind_of(result)}."
        if tuple(result.shape) != shape:
            return f"The result must have shape {shape}, it has {tuple(result.shape)}."
    if name == "chat_mask" and not isinstance(result, ChatTokens):
        return f"ChatTokens must come back, this is a {kind_of(result)}: return chat."
    if name == "mixed_reward":
        if not callable(result):
            return f"A function must come back, this is a {kind_of(result)}: return reward."
        verdict = result(0, [7], True)
        if not isinstance(verdict, tuple | list) or len(verdict) != 2:
            return "Worth and parts of the asked reward must come back, both: return its result."
    return None


def wrong_loss(result: object, names: list[str]) -> str | None:
    """Of a loss function: not (loss, metrics), or not what these two must be."""
    if isinstance(result, Tensor):
        return "Only the loss comes back. Two things are wanted: return loss, metrics."
    if not isinstance(result, tuple | list) or len(result) != 2:
        return "Two things must come back, in this order: return loss, metrics."
    loss, metrics = result
    if isinstance(loss, dict):
        return "Loss and metrics have changed places: return loss, metrics."
    if not isinstance(loss, Tensor):
        return (
            f"The loss is a {kind_of(loss)}. It must stay a tensor, or no gradient flows: leave "
            ".item(), float() and math out."
        )
    if loss.dim() > 0:
        return f"The loss has shape {tuple(loss.shape)}. It must be one number: take the mean."
    if metrics is None:
        return "The metrics are missing: return loss, metrics."
    if not isinstance(metrics, dict):
        return f"The metrics are a {kind_of(metrics)}. They must be a dict of names and tensors."
    missing = [name for name in names if name not in metrics]
    if missing:
        return f"In the metrics {' and '.join(missing)} is missing."
    if not loss.requires_grad:
        return (
            "No gradient flows through the loss: there is a .detach(), .item(), torch.no_grad() or "
            "torch.tensor(...) on the way."
        )
    for name, number in metrics.items():
        if not isinstance(number, Tensor):
            return f"The metric {name} is a {kind_of(number)}, not a 0-d tensor: leave .item() out."
        if number.dim() > 0:
            return f"The metric {name} has shape {tuple(number.shape)}: take its mean."
        if number.requires_grad:
            return f"The metric {name} carries a gradient: .detach() it."
    return None


def kind_of(value: object) -> str:
    return type(value).__name__


def changed_input(function: Callable, calls: dict[str, Call]) -> str | None:
    for call in calls.values():
        given = [x.clone() if isinstance(x, Tensor) else x for x in call.inputs]
        try:
            function(*given, **call.settings)
        except Exception:
            continue
        for now, before in zip(given, call.inputs, strict=True):
            if isinstance(now, Tensor) and not now.equal(before) and not now.isnan().any():
                return (
                    "An input was changed. Look for x += 1, x[...] = 0 or a function that ends in "
                    "_, and write the result into a new tensor."
                )
    return None


def leaking_gradient(name: str, function: Callable, call: Call) -> str | None:
    """Does a gradient reach an input that is a fixed number?"""
    if name in ("chat_mask", "cache", "token_logprobs", "gather", "mask", "mixed_reward"):
        return None

    def leaf(x: object) -> object:
        return x.clone().requires_grad_() if is_float(x) else x

    inputs, settings = list(map(leaf, call.inputs)), {k: leaf(v) for k, v in call.settings.items()}
    parts = parts_of(name, function, Call(tuple(inputs), settings))
    if name in ("gae", "group_advantages"):
        if any(part.requires_grad for part in parts.values()):
            return "The result carries a gradient. It must be plain numbers: .detach() the inputs."
        return None
    if "loss" not in parts or not parts["loss"].requires_grad:
        return None
    parts["loss"].backward()
    names = list(inspect.signature(RIGHT[name]).parameters)
    fixed = dict(zip(names[call.learnt :], inputs[call.learnt :], strict=False)) | settings
    for input_name, value in fixed.items():
        if is_float(value) and value.grad is not None and value.grad.any():
            return f"A gradient reaches {input_name}. These are fixed numbers: .detach() them."
    return None


def is_float(x: object) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


def float64_trouble(name: str, function: Callable, call: Call) -> str | None:
    """Right in float32, but not in float64."""
    if name in ("chat_mask", "cache", "mixed_reward"):
        return None

    def in_float64(x: object) -> object:
        return x.double() if is_float(x) else x

    exact = Call(
        tuple(map(in_float64, call.inputs)),
        {key: in_float64(value) for key, value in call.settings.items()},
    )
    part = "result" if name in ONE_TENSOR else {"gae": "advantages"}.get(name, "loss")
    right = parts_of(name, RIGHT[name], call)[part]
    found = parts_of(name, function, call).get(part)
    if found is None or not same(found, right):
        return None
    right, found = parts_of(name, RIGHT[name], exact)[part], parts_of(name, function, exact)
    if part not in found or (found[part].detach() - right).abs().max() > 1e-10:
        return (
            "With float64 inputs the digits get lost, or it fails: something inside is fixed to "
            "float32. Leave .float() out, and make new tensors with zeros_like or new_zeros."
        )
    return None
