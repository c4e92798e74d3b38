"""Exercises of section SFT: which tokens are trained, and what training on them costs.

A GPT learns from tokens. In a conversation it must learn to say what the assistant says, and
nothing else. Three functions: the log-probability of each token, the mask, and the loss.

Check your work:  python -m chapters.check token_logprobs     (then chat_mask, then sft)
The next hint:    python -m chapters.check token_logprobs --hint
Read before: chapters/ch1_sft/lesson.md. Look it up in kittenllm/logprobs.py, chat.py and sft.py
afterwards.

Letters: B rows, T tokens, V vocabulary. Log-probabilities are natural logarithms (nats).
"""

import torch

from kittenllm import checks
from kittenllm.chat import ChatTokens, check_messages
from kittenllm.tokenizer import Tokenizer


def token_logprobs(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Log-probability that the model gave to each token when it had read the ones before it.

    logprobs[b, t] = log softmax(logits[b, t])[tokens[b, t + 1]]

    logits (B, T, V) float, tokens (B, T) integer -> (B, T-1). The logits at position t are the
    model's opinion about the token at t + 1: nothing produces the first token, and what comes
    after the last one is not known. Half and bfloat16 logits are turned into float32 first.

    Raises: ValueError for wrong shapes or dtypes, or a token id outside 0 .. V-1.
    """
    checks.floats("logits", logits, dims=3)
    checks.token_ids("tokens", tokens, logits.shape[-1])
    if tokens.shape != logits.shape[:2]:
        shapes = f"{tuple(logits.shape[:2])} like the logits, got {tuple(tokens.shape)}"
        raise ValueError(f"tokens must have shape {shapes}")
    raise NotImplementedError


def encode_chat(
    tokenizer: Tokenizer, messages: list[dict[str, str]], *, reply_next: bool = False
) -> ChatTokens:
    """Messages -> tokens, and the loss mask that says which of them are trained.

    messages is a list such as [{"role": "user", "content": "hi"}, {"role": "assistant", ...}].
    Every turn becomes, without anything between two turns,

        <|im_start|>role\\ncontent<|im_end|>

    The mask is True on the content of the *assistant* and on the <|im_end|> behind it (or the
    kitten would never learn to stop), False everywhere else. A message with "train": False is only
    read, whoever says it (nothing that `check` runs has one). The content is encoded on its own, as
    ordinary text. With reply_next=True the tokens go on with "<|im_start|>assistant\\n", not
    trained: a prompt to sample a reply from.

    Use `chat = ChatTokens()`, then `chat.add(ids, trained=...)` as often as you like; `ids` is one
    id or a list. Ids come from tokenizer.im_start_id, .im_end_id and .encode(text).

    Raises: ValueError for messages that `check_messages` refuses, or if a reply is wanted where
    the assistant cannot speak.
    """
    check_messages(messages)
    last_role = messages[-1]["role"]
    if reply_next and last_role not in ("user", "tool"):
        raise ValueError(f"a reply must follow user or tool, the last message is {last_role!r}")
    raise NotImplementedError


def sft_loss(
    logits: torch.Tensor, tokens: torch.Tensor, loss_mask: torch.Tensor
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Mean negative log-probability of the trained tokens of the whole batch, nats per token.

    loss = -(1 / n) sum over trained tokens of log p(token_t | the tokens before it)

    (Ouyang et al. 2022, arXiv 2203.02155, section 3.5, step 1.)

    logits (B, T, V), tokens (B, T), loss_mask (B, T) bool: True where the token *itself* is
    trained on. `loss_mask[:, 0]` is never used: nothing produces the first token. n counts the
    trained tokens of all rows together; with n = 0 the loss is 0, not NaN. What stands in tokens
    that are not trained, and in logits that produce none that is, must not matter: tokens may
    be -100 there and logits NaN. The loss has the dtype of the logits.

    Returns the loss, 0-d, and {"accuracy": share of the trained tokens that were the likeliest},
    0-d and without gradient.

    Raises: ValueError for wrong shapes or dtypes, or a trained token id outside 0 .. V-1.
    """
    checks.floats("logits", logits, dims=3)
    checks.token_dtype("tokens", tokens)
    checks.bool_mask("loss_mask", loss_mask, logits.shape[:2])
    checks.bool_mask("loss_mask", loss_mask, tokens.shape)
    checks.token_ids("tokens", tokens[loss_mask], logits.shape[-1])
    raise NotImplementedError
