"""How far the same seed moves by rounding alone: runs that differ in nothing but their threads.

Two threads add up the same numbers in another order than one, so a sum differs in its last digit,
and a training takes that elsewhere. A table of seeds must not mix both.

Used by building.py.
"""

from collections.abc import Mapping, Sequence

from chapters.bands.key_numbers import KEY_NUMBERS, digits, number_of


def threads_of(summary: dict) -> int | None:
    """How many threads a run had; None where it does not say (an earlier version)."""
    threads = summary.get("threads")
    return threads if isinstance(threads, int) else None


def common_threads(chapter: str, summaries: dict[int, dict]) -> int | None:
    """On how many threads all seeds ran; None for runs that do not say it (an earlier version).

    Raises: ValueError for different numbers: rounding alone would look like another seed.
    """
    threads = {seed: threads_of(summary) for seed, summary in sorted(summaries.items())}
    if len(set(threads.values())) > 1:
        listed = ", ".join(
            f"seed {seed} on {count or 'unknown'}" for seed, count in threads.items()
        )
        raise ValueError(
            f"{chapter}: these runs differ in their threads ({listed}), and that alone moves the "
            "numbers. Make all of them with one setting, for example OMP_NUM_THREADS=2; to "
            "measure how far threads move them, give the others to --rounding."
        )
    return next(iter(threads.values()))


def compare(chapter: str, partners: Sequence[dict], others: Mapping[str, dict]) -> list[dict]:
    """[{"seed", "threads": [2, 1], "seconds": [...], "values": {key: [with 2, with 1]}}]: seconds
    and all key numbers of the summaries `others` (folder -> summary), each beside its partner of
    the same seed.

    Raises: ValueError for a run without a partner, with as many threads, or that differs from its
    partner in anything else.
    """
    of_seed = {summary["seed"]: summary for summary in partners}
    compared = []
    for folder, summary in others.items():
        seed = summary["seed"]
        if seed not in of_seed:
            raise ValueError(f"{folder}: there is no other run of seed {seed} to compare with")
        partner = of_seed[seed]
        threads = [threads_of(partner), threads_of(summary)]
        if None in threads or threads[0] == threads[1]:
            raise ValueError(
                f"{folder}: must have run on another number of threads than its partner, and both "
                f"must be known; they are {threads[0]} and {threads[1]}"
            )
        if partner.get("fingerprint") != summary.get("fingerprint"):
            raise ValueError(f"{folder}: differs from its partner in more than the threads")
        values = {}
        for number in KEY_NUMBERS[chapter]:
            pair = [number_of(each, number.key) for each in (partner, summary)]
            if None not in pair:
                values[number.key] = [digits(value) for value in pair]
        seconds = [digits(each.get("seconds")) for each in (partner, summary)]
        compared.append({"seed": seed, "threads": threads, "seconds": seconds, "values": values})
    return compared
