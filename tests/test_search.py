"""BM25 against scores worked out by hand, its limits, and the town's encyclopedia."""

import math

import pytest

from kittenllm.kitten_town.tool_chats import ENCYCLOPEDIA, search_call
from kittenllm.skills.search import BM25, words_of

# 5 pages of 1, 3, 1, 3 and 2 words: the mean length is 2.
PAGES = ["cat", "cat cat dog", "fish", "bird fish bird", "milk milk"]


def test_words():
    assert words_of("The river OLIVE: 3 bridges, isn't it?") == [
        *("the", "river", "olive", "3", "bridges", "isn", "t", "it")
    ]
    assert words_of("snow_white Grüße 小猫") == ["snow", "white", "grüße", "小猫"]
    assert words_of(" ,;- ") == []


def test_rarity_by_hand():
    index = BM25(PAGES)
    assert index.rarity("dog") == pytest.approx(math.log(4.5 / 1.5))  # in 1 of 5 pages
    assert index.rarity("cat") == pytest.approx(math.log(3.5 / 2.5))  # in 2 of 5
    assert index.rarity("unicorn") == pytest.approx(math.log(5.5 / 0.5))  # in none


def test_scores_by_hand():
    """Equation 3.15 of the paper, with k1 = 1.2 and b = 0.75."""
    index = BM25(PAGES)
    # page 0: length 1 of 2 on average, k1 (0.25 + 0.75 * 0.5) = 0.75, tf 1
    assert index.score("cat", 0) == pytest.approx(1 / 1.75 * math.log(1.4))
    assert index.score("cat", 0) == pytest.approx(0.192270, abs=1e-6)
    # page 1: length 3, k1 (0.25 + 0.75 * 1.5) = 1.65, tf 2
    assert index.score("cat", 1) == pytest.approx(2 / 3.65 * math.log(1.4))
    assert index.score("dog", 1) == pytest.approx(0.414571, abs=1e-6)  # log 3 / 2.65
    assert index.score("cat dog", 1) == pytest.approx(0.184368 + 0.414571, abs=1e-6)
    assert index.score("dog", 0) == 0


def test_other_settings_by_hand():
    index = BM25(PAGES, k1=2.0, b=0.5)
    # page 3: length 3, 2 (0.5 + 0.5 * 1.5) = 2.5, "bird" twice
    assert index.score("bird", 3) == pytest.approx(2 / 4.5 * math.log(3))


def test_the_order_of_the_words_and_capitals_do_not_matter():
    index = BM25(PAGES)
    assert index.score("dog cat", 1) == pytest.approx(index.score("CAT, Dog!", 1))


def test_a_word_said_twice_in_the_query_counts_twice():
    index = BM25(PAGES)
    assert index.score("dog dog", 1) == pytest.approx(2 * index.score("dog", 1))


def test_limits_of_the_settings():
    short, long = 0, 1  # "cat", "cat cat dog"
    no_saturation = BM25(PAGES, k1=0)  # k1 = 0: holding the word is all that counts
    assert no_saturation.score("cat", short) == no_saturation.score("cat", long)
    no_length = BM25(PAGES, b=0)  # b = 0: tf 2 beats tf 1, however long the page is
    assert no_length.score("cat", long) > no_length.score("cat", short)
    all_length = BM25(PAGES, b=1)  # b = 1: the short page is favoured most
    assert all_length.score("cat", short) > BM25(PAGES).score("cat", short)


def test_the_second_time_counts_less_than_the_first():
    index = BM25(["fish", "fish fish", "fish fish fish", *["bird"] * 7], b=0)
    one, two, three = (index.score("fish", page) for page in range(3))
    assert one < two < three
    assert two - one > three - two


def test_a_rare_word_counts_more():
    index = BM25(["fish milk", "fish bird", "fish bread", "snow bird", "sand grass", "sand moss"])
    assert index.score("milk", 0) > index.score("bird", 1) > index.score("fish", 1)


def test_a_word_on_most_pages_never_counts_against_a_page():
    """The logarithm of the paper is negative there; it is taken as 0."""
    index = BM25(["the cat", "the dog", "the bird", "fish"])
    assert index.rarity("the") == 0
    assert index.score("the cat", 0) == index.score("cat", 0) > 0


def test_best_is_sorted_and_leaves_out_pages_without_any_word():
    index = BM25(PAGES)
    found = index.best("cat dog", 5)
    assert [page for page, _ in found] == [1, 0]
    assert found[0][1] == index.score("cat dog", 1)
    assert index.best("cat dog") == found[:1]
    assert index.best("unicorn", 5) == index.best("", 5) == []


def test_equal_pages_come_in_their_order():
    index = BM25(["snow", "fish milk", "milk fish", "sand", "moss"])
    assert [page for page, _ in index.best("milk fish", 2)] == [1, 2]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"pages": []}, "number of pages"),
        ({"pages": PAGES, "k1": -1.0}, "k1 must be 0 or above, got -1"),
        ({"pages": PAGES, "k1": float("nan")}, "k1"),
        ({"pages": PAGES, "b": 1.5}, "b must be"),
    ],
)
def test_wrong_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        BM25(**options)


def test_best_refuses_a_count_below_one():
    with pytest.raises(ValueError, match="0"):
        BM25(PAGES).best("cat", 0)


def test_pages_without_words_do_no_harm():
    assert BM25(["", "..."]).best("cat", 3) == []


def test_every_fact_of_the_encyclopedia_is_found():
    """The best page for "star Velvet" is the one that says who found the star Velvet."""
    index = BM25([page.text for page in ENCYCLOPEDIA])
    for number, page in enumerate(ENCYCLOPEDIA):
        (best, score), *others = index.best(search_call(page.entry), 2)
        assert best == number
        assert all(score > 1.1 * second for _, second in others)  # not by a hair
