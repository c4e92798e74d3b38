"""The exercise of section Reasoning, R1: puzzles and chats in one batch, each with its own judge.

Plain Python, no tensor. Check your work:  python -m chapters.check mixed_reward
The next hint:  python -m chapters.check mixed_reward --hint
Read before: chapters/ch6_r1/lesson.md. Look it up in kittenllm/rewards.py afterwards.
"""

from collections.abc import Sequence

from kittenllm.rewards import Reward


def mixed_reward(kinds: Sequence[tuple[int, Reward]]) -> Reward:
    """One reward for prompts of several kinds.

    A reward is a function `reward(number, reply, ended) -> (worth, parts)`: the number of a prompt,
    the reply's tokens, whether the reply ended by itself. kinds holds (count, reward) pairs: the
    first `count` prompts have the first reward, the next ones the second, and so on. Each of these
    rewards counts its own prompts from 0. What comes back is a function as well: it is called with
    the number of a prompt in the whole list, and asks the reward of that prompt's kind.

    By hand: kinds [(2, puzzle), (4, chat), (3, poem)] make 9 prompts.

        number   0 1   2 3 4 5   6 7 8
        kind     puzzle  chat     poem
        its own  0 1   0 1 2 3   0 1 2

    So reward(4, reply, ended) is chat(2, reply, ended): its worth and its parts, as they are. No
    other reward is asked. A kind may have 0 prompts.

    Raises: ValueError, when the returned function is called, for the number of a prompt that is of
    no kind, here 9 or -1. The message names the number.
    """
    raise NotImplementedError
