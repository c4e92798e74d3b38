"""Exercise of section RLHF, the reward model: from "this reply is better" to a number.

Check your work:  python -m chapters.check reward        The next hint:  ... reward --hint
Read before: chapters/ch2_reward_model/lesson.md. Look it up in kittenllm/reward_model.py
afterwards.
"""

import torch
import torch.nn.functional as F  # noqa: F401 (you may need it)

from kittenllm import checks


def bradley_terry_loss(
    chosen_rewards: torch.Tensor, rejected_rewards: torch.Tensor
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """How surprised a judge is about what people chose, the mean over P pairs.

    loss = -mean log sigmoid(r_chosen - r_rejected)    (Ouyang et al. 2022, arXiv 2203.02155, eq. 1)

    chosen_rewards and rejected_rewards (P,) -> the loss, 0-d: log 2 when nothing is known. Scores
    may be as far apart as 1000: the loss stays finite.

    Returns the loss and two metrics, 0-d and without gradient:
    accuracy  share of the pairs with the higher score on the chosen reply; a tie counts half
    margin    mean of r_chosen - r_rejected

    Raises: ValueError for integer tensors, different shapes or no pairs.
    """
    checks.pairs(chosen_rewards=chosen_rewards, rejected_rewards=rejected_rewards)
    raise NotImplementedError
