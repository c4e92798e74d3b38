"""How far the same seed moves by rounding alone: runs that differ in nothing but their threads.

Two threads add up the same numbers in another order than one, so a sum differs in its last digit,
and a training takes that elsewhere. A table of seeds must not mix both.

Used by building.py and docs.py.
"""

from collections.abc import Mapping, Sequence

from chapters.bands.key_numbers import KEY_NUMBERS
from chapters.bands.number import digits, number_of


def threads_of(summary: dict) -> int | None:
    """How many threads a run had; None where it does not say (an earlier version)."""
    threads = summary.get("threads")
    return threads if isinstance(threads, int) else None


def threads_text(count: int | None) -> str:
    """ "one thread", "2 threads"."""
    if count is None:
        return "an unknown number of threads"
    return "one thread" if count == 1 else f"{count} threads"


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


# ------------------------------------------------------------------------------------ in words


def words(key: str) -> str:
    return key.replace("_", " ").replace(".", " ")


def moves(content: dict, chapter: str) -> list[tuple[str, str, str, str]]:
    """Per key number: its name, its largest move by rounding, its largest error, the seeds' range.

    A share moves by points of percent.
    """
    compared = content.get("rounding", {}).get(chapter, [])
    band = content["chapters"].get(chapter, {})
    rows = []
    for key_number in KEY_NUMBERS[chapter]:
        key = key_number.key
        pairs = [entry["values"][key] for entry in compared if key in entry["values"]]
        if not pairs or key not in band.get("numbers", {}):
            continue
        values = band["numbers"][key]["values"]
        errors = [error for error in band.get("errors", {}).get(key, []) if error is not None]

        def text(size: float, share=key_number.share) -> str:
            return f"{100 * size:.1f} points" if share else f"{size:.2g}"

        largest = max(abs(first - second) for first, second in pairs)
        error = text(max(errors)) if errors else "–"
        rows.append((words(key), text(largest), error, text(max(values) - min(values))))
    return rows


def runs_compared(content: dict, chapter: str) -> str:
    """ "seed 0 and seed 1, 2 threads against one thread"."""
    compared = content["rounding"][chapter]
    seeds = " and ".join(f"seed {entry['seed']}" for entry in compared)
    pairs = {tuple(entry["threads"]) for entry in compared}
    threads = [" against ".join(map(threads_text, pair)) for pair in sorted(pairs)]
    return f"{seeds}, {' or '.join(threads)}"


def journey_lines(content: dict) -> list[str]:
    """How long a whole journey took with each number of threads, a line for each seed."""
    entries = [content["rounding"].get(chapter, []) for chapter in KEY_NUMBERS]
    lines = []
    for of_seed in zip(*entries, strict=False):  # of each chapter the entry of the same run
        seconds = [entry.get("seconds") for entry in of_seed]
        listed_seconds = [number for pair in seconds for number in pair or [None]]
        if len({entry["seed"] for entry in of_seed}) > 1 or None in listed_seconds:
            continue
        sums = [sum(pair) for pair in zip(*seconds, strict=True)]
        threads = of_seed[0]["threads"]
        listed = [
            f"{total:.0f} s on {threads_text(count)}"
            for total, count in zip(sums, threads, strict=True)
        ]
        lines += [f"The journey of seed {of_seed[0]['seed']} took {' and '.join(listed)}.", ""]
    return lines
