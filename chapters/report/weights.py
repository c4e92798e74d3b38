"""The kittens on the page: their weights as letters.

One idea: a number of a matrix needs no 32 bits to be what it is. Each row gets one scale, each
number becomes a whole one from -17222 to 17222 times that scale, and seven letters of 88 kinds can
write three of these: 34445 ** 3 < 88 ** 7. A page of 16-bit floats would be longer and less exact.

The script worker.js unpacks them, and gpt.js runs them.

Used by live.py. Left out: tokenizers and attention of other families.
"""

from dataclasses import asdict

import numpy as np

from kittenllm.gpt import GPT
from kittenllm.tokenizer import Tokenizer

LETTERS = bytes(code for code in range(33, 127) if chr(code) not in "\"&'<>\\")
BASE = len(LETTERS)  # 88: signs that mean nothing in HTML or JSON
WORD, NUMBERS = 7, 3  # a word of so many letters is so many numbers
LEVELS = 34_445  # different values of a number; three fit into a word
HALF = LEVELS // 2


def packed(gpt: GPT) -> dict:
    """A model as JSON can hold it: its config, the shape of each matrix, scales and letters."""
    shapes, scales, letters = [], [], []
    for name, weight in gpt.state_dict().items():
        rows = weight.detach().float().cpu().reshape(-1, weight.shape[-1])  # a norm is one row
        row_scales = [rounded_up(largest) for largest in rows.abs().amax(dim=1).tolist()]
        numbers = np.rint(rows.double().numpy() / np.array(row_scales)[:, None]).astype(np.int64)
        shapes.append([name, *rows.shape])
        scales += row_scales
        letters.append(in_letters(numbers))
    config = {key: value for key, value in asdict(gpt.config).items() if value is not None}
    return {"config": config, "shapes": shapes, "scales": scales, "letters": "".join(letters)}


def rounded_up(largest: float) -> float:
    """The scale of a row whose largest number is this: four digits, so that the page is short."""
    scale = (largest or 1.0) / HALF
    return float(f"{scale * 1.0005:.3e}")


def in_letters(numbers: np.ndarray) -> str:
    """Whole numbers from -17222 to 17222, seven letters for three; zeros fill up the last word.

    >>> in_letters(np.array([-17222, -17222, -17221, 17222]))
    '!!!!!!#~~tuNdo'
    """
    shifted = numbers.reshape(-1) + HALF
    shifted = np.pad(shifted, (0, -len(shifted) % NUMBERS), constant_values=HALF)
    words = shifted.reshape(-1, NUMBERS) @ LEVELS ** np.arange(NUMBERS)[::-1]
    places = words[:, None] // BASE ** np.arange(WORD)[::-1] % BASE
    return np.frombuffer(LETTERS, np.uint8)[places].tobytes().decode()


def can_be_packed(gpt: GPT, tokenizer: Tokenizer) -> str:
    """ "", or why gpt.js cannot run this model."""
    if tokenizer.dialect is not None:
        return "its tokenizer is not one of ours"
    if gpt.config.qkv_bias:
        return "its attention has biases"
    return ""
