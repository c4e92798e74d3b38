"""Exercise: the key-value cache. Why is the hundredth token as cheap as the first?

A token's keys and values never change once they are computed. Keep them, and a new token costs one
step through the model and not a hundred.

Check your work:  python -m chapters.check cache        The next hint:  ... cache --hint
Read before: kittenllm/sampling.py, which uses the cache. Look it up in kittenllm/gpt.py afterwards.
"""

import torch

from kittenllm import gpt


class KVCache(gpt.KVCache):
    """Keys and values of the tokens already read. `__init__` is given; it has made for you

    self.keys, self.values  zeros, (layers, B, K, max_tokens, D): memory for everything, taken once
    self.valid              True, (B, max_tokens) bool: False where a column is only padding
    self.rows               B at first: how many rows are still in use (the first ones)
    self.max_tokens         how many columns there are
    self.length             0 at first: how many columns are in use

    Letters: B rows, K heads of keys, T new tokens, S tokens so far, D channels of one head.
    """

    def append(
        self, layer: int, k: torch.Tensor, v: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write T new tokens behind the others and return all tokens so far.

        k and v (B, K, T, D) go into columns length .. length + T - 1 of this layer. The result is
        (keys, values) of this layer, each (B, K, S, D) with S = length + T: only the rows in use
        and only the columns in use. Every layer appends the same tokens, one layer after the
        other, so `length` may move on only when the *last* layer has appended.

        Raises: ValueError if the columns do not suffice.
        """
        end = self.length + k.shape[2]
        if end > self.max_tokens:
            raise ValueError(f"the cache has room for {self.max_tokens} tokens, not for {end}")
        raise NotImplementedError

    def keep(self, rows: torch.Tensor) -> None:
        """Keep these rows, in this order, and forget the others: replies that ended leave.

        rows is 1-D: either numbers of rows, such as [3, 1], or one bool per row. Afterwards row
        rows[0] is the first one, and so on; `self.rows` is their count. `valid` must move along.

        Raises: ValueError if more rows are asked for than there are.
        """
        if rows.dtype == torch.bool:
            rows = rows.nonzero().squeeze(1)  # from here on: numbers of rows
        if len(rows) > self.rows:
            raise ValueError(f"cannot keep {len(rows)} rows of a cache of {self.rows}")
        raise NotImplementedError
