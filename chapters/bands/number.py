"""What a key number is, how it is found in a summary, and how it is shown.

Used by key_numbers.py, which lists those of each chapter, and by all that reads them.
"""

from dataclasses import dataclass

from kittenllm.runs.json_files import is_number


@dataclass(frozen=True)
class KeyNumber:
    """One key of summary.json; "dpo.gold_after" looks into the dict under "dpo"."""

    key: str
    low: str  # likeliest causes when it is below the band
    high: str  # and above it
    share: bool = False  # it lies in 0 .. 1


def number_of(summary: dict, key: str) -> float | None:
    """summary["dpo"]["gold_after"] for "dpo.gold_after"; None if there is no number."""
    value = summary
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value if is_number(value) else None


def digits(value: float | None) -> float | None:
    """Five digits are enough for a band, and the file stays small."""
    return None if value is None else float(f"{value:.5g}")


def shown(value: float) -> str:
    """Three digits that matter: 0.649, 98.7, 124; 1 and 0 without any."""
    if value in (0, 1):
        return str(int(value))
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


EARLIER = "another kitten before it (a changed ch0_base or ch1_sft)"
LUCK = "good luck, or an easier exam: look at samples.md before you believe it"
