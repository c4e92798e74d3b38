"""The first exercises, before any loss: three moves with tensors that every loss is made of.

Shape, gather, mask. Try them in Python's shell first (type `python`, then these lines):

    >>> import torch
    >>> scores = torch.tensor([[5.0, 7.0, 9.0], [2.0, 4.0, 6.0]])
    >>> scores.shape                            # two rows, three columns
    torch.Size([2, 3])
    >>> wanted = torch.tensor([2, 0])           # column 2 of the first row, column 0 of the second
    >>> wanted.unsqueeze(-1).shape              # gather wants as many dimensions as scores has
    torch.Size([2, 1])
    >>> scores.gather(-1, wanted.unsqueeze(-1)).squeeze(-1)
    tensor([9., 2.])
    >>> mask = torch.tensor([[True, True, False], [True, False, False]])
    >>> torch.where(mask, scores, 0.0)          # what does not count becomes 0
    tensor([[5., 7., 0.],
            [2., 0., 0.]])
    >>> torch.where(mask, scores, 0.0).sum(), mask.sum()
    (tensor(14.), tensor(3))

Check your work:  python -m chapters.check gather     (then mask)
The next hint:    python -m chapters.check gather --hint
Read before: chapters/ch0_base/lesson.md. Look it up in kittenllm/logprobs.py afterwards.

Letters: V vocabulary. "(..., V)" is any shape whose last dimension is V.
"""

import torch
import torch.nn.functional as F  # noqa: F401 (you may need it)

from kittenllm import checks


def pick_logprobs(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The log-probability of each target: what the logits say about the one token that came.

    picked[i] = log softmax(logits[i])[targets[i]]

    logits (..., V) float, targets (...) integer -> (...). There is no shift here: the logits at a
    place speak about the target at the same place. Half and bfloat16 logits are turned into
    float32 first, since sums of many log-probabilities need the digits; float64 stays.

    Example: logits for two words, equally likely, target 1 -> log 1/2 = -0.693.
    """
    raise NotImplementedError


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean of the values where the mask is True: one number, 0-d.

    mean = (sum of the counted values) / (how many are counted)

    values float, mask bool of the same shape, any shape. What stands where the mask is False never
    matters, not even NaN. An empty mask gives 0 and not NaN. Half and bfloat16 values are added up
    in float32; the result has the dtype of the values.

    Example: values [1, 2, NaN], mask [True, True, False] -> 1.5.

    Raises: ValueError for integer values, or a mask that is not bool or of another shape.
    """
    checks.floats("values", values)
    checks.bool_mask("mask", mask, values.shape)
    raise NotImplementedError
