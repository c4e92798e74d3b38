r"""BM25: which page has what I am looking for?

One idea: a page is good if it holds the words of the query, *rare* words more than common ones. The
second time a word comes it counts less than the first, and a long page gets no credit for length.

    score(query, page) = sum over words w of the query of

              tf                              N - n + 0.5
    ------------------------------- * log  -----------------
    k1 (1 - b + b dl / avdl) + tf               n + 0.5

    tf  how often w stands in the page             N  number of pages
    n   number of pages that hold w                dl, avdl  length of this page, mean length, words
    k1  how slowly tf saturates, 1.2 to 2          b  how much length matters, 0 to 1

Paper: Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009,
equation 3.15, without relevance judgements (then the weight of a word is the logarithm above).

Read before: nothing. Left out: word stems ("rivers" is not "river"), spelling mistakes, meaning.
One reading of ours: a word in more than half of the pages has a negative logarithm; it counts 0.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence

from kittenllm import checks

WORD = re.compile(r"[^\W_]+")  # letters and digits; everything else separates words


def words_of(text: str) -> list[str]:
    """The words of a text, without capitals.

    >>> words_of("The river Olive: 3 bridges!")
    ['the', 'river', 'olive', '3', 'bridges']
    """
    return WORD.findall(text.lower())


class BM25:
    """Pages, ready to be searched. Everything that does not depend on the query is counted once.

    Raises: ValueError for no pages, a negative k1, or a b outside 0 to 1.
    """

    def __init__(self, pages: Sequence[str], *, k1: float = 1.2, b: float = 0.75):
        checks.count("the number of pages", len(pages))
        checks.number("k1", k1)
        checks.between("b", b, 0, 1)
        if k1 < 0:
            raise ValueError(f"k1 must be 0 or above, got {k1}")
        self.k1, self.b = k1, b
        self.counts = [Counter(words_of(page)) for page in pages]  # per page: word -> tf
        self.lengths = [sum(count.values()) for count in self.counts]  # dl, in words
        self.mean_length = sum(self.lengths) / len(pages) or 1.0  # avdl
        self.pages_with = Counter(word for count in self.counts for word in count)  # n

    def rarity(self, word: str) -> float:
        """The weight of a word, log((N - n + 0.5) / (n + 0.5)), and at least 0."""
        without = len(self.counts) - self.pages_with[word]
        return max(0.0, math.log((without + 0.5) / (self.pages_with[word] + 0.5)))

    def score(self, query: str, page: int) -> float:
        """How well page number `page` (from 0) fits; 0 if it holds no word of the query."""
        length = self.lengths[page] / self.mean_length
        saturation = self.k1 * (1 - self.b + self.b * length)
        total = 0.0
        for word in words_of(query):
            tf = self.counts[page][word]
            if tf:
                total += tf / (saturation + tf) * self.rarity(word)
        return total

    def best(self, query: str, count: int = 1) -> list[tuple[int, float]]:
        """The `count` best pages as (page, score), best first; only scores above 0.

        Of pages that are equally good the earlier one comes first.
        """
        checks.count("count", count)
        scored = [(page, self.score(query, page)) for page in range(len(self.counts))]
        found = [(page, score) for page, score in scored if score > 0]
        return sorted(found, key=lambda pair: -pair[1])[:count]
