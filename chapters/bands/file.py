"""bands.json: what it holds, and that it is whole.

Used by verdicts.py and building.py.
"""

from dataclasses import dataclass, fields
from pathlib import Path

from kittenllm.runs.json_files import damaged, is_number, read_json

FILE = Path(__file__).with_name("bands.json")
FORMAT = 1
NO_BAND = {"seeds": [], "config": {}, "numbers": {}, "curves": []}


@dataclass(frozen=True)
class CurveBand:
    """A curve over several seeds: at each step the smallest and the largest."""

    name: str
    stage: str
    key: str
    unit: str
    steps: list[float]
    low: list[float]
    high: list[float]


def read_bands(path: Path = FILE) -> dict[str, dict]:
    """What bands.json says about each chapter; nothing if there is no such file.

    Raises: DamagedFile for a file that `build` did not make.
    """
    content = read_json(path) or {}
    if content.get("format") != FORMAT:
        return {}
    chapters = content.get("chapters")
    for name, band in chapters.items() if isinstance(chapters, dict) else [("chapters", None)]:
        if not isinstance(band, dict) or not is_band({**NO_BAND, **band}):
            raise damaged(path, f"{name!r} is no band")
    return {name: {**NO_BAND, **band} for name, band in chapters.items()}


def is_band(band: dict) -> bool:
    """Whether this has the keys that `chapter_band` writes, each of its type."""
    seeds, numbers, curves = band["seeds"], band["numbers"], band["curves"]
    if (
        not isinstance(band["config"], dict)
        or not isinstance(seeds, list)
        or not isinstance(numbers, dict)
        or not isinstance(curves, list)
    ):
        return False
    for limits in numbers.values():
        if not isinstance(limits, dict) or not is_number(limits.get("low")):
            return False
        if not is_number(limits.get("high")):
            return False
    for curve in curves:
        if not isinstance(curve, dict) or set(curve) != {f.name for f in fields(CurveBand)}:
            return False
        lists = [curve["steps"], curve["low"], curve["high"]]
        if not all(isinstance(part, list) and all(map(is_number, part)) for part in lists):
            return False
        if len({len(part) for part in lists}) != 1:
            return False
        if not all(isinstance(curve[key], str) for key in ("name", "stage", "key", "unit")):
            return False
    return True
