"""The best of the bug hunt: a small table in <runs>/museum/hunt.json.

Hunts of different length are not compared: each number of minutes has a table of its own.
"""

from pathlib import Path

from chapters.common.terminal import safe_text
from kittenllm.runs.checkpoints import write_json_atomic
from kittenllm.runs.json_files import is_number, read_json

SHOWN = 10  # lines of the table


def entered(path: Path, name: str, minutes: float, result: tuple[int, int, int]) -> list[dict]:
    """Write a hunt into the table -> the hunts of this length, best first; of equal ones the
    earlier is first.

    result: points, bugs found, bugs seen. A hunt in which nothing was seen is not written.
    Raises: CheckpointError if the file cannot be written, DamagedFile if it cannot be read; it then
    stays as it is.
    """
    points, found, seen = result
    kept = (read_json(path) or {}).get("hunts", [])
    hunts = [hunt for hunt in kept if is_hunt(hunt)] if isinstance(kept, list) else []
    if seen:
        hunt = {"name": name, "minutes": minutes, "points": points, "found": found, "seen": seen}
        hunts.append(hunt)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json_atomic(path, {"hunts": hunts})
    alike = [hunt for hunt in hunts if hunt["minutes"] == minutes]
    return sorted(alike, key=lambda hunt: -hunt["points"])


def is_hunt(value: object) -> bool:
    """Whether a value of the file is a hunt."""
    numbers = ("minutes", "points", "found", "seen")
    return (
        isinstance(value, dict)
        and isinstance(value.get("name"), str)
        and all(is_number(value.get(key)) for key in numbers)
    )


def best_text(hunts: list[dict]) -> str:
    """The table of the best, "" if there is none."""
    if not hunts:
        return ""
    lines = [f"The best hunts of {hunts[0]['minutes']:g} minutes:"]
    for place, hunt in enumerate(hunts[:SHOWN], start=1):
        name = safe_text(hunt["name"])[:20]
        found = f"{hunt['found']} of {hunt['seen']} bugs"
        lines.append(f"{place:>3}  {name:<20}{hunt['points']:>4} points  {found}")
    return "\n".join(lines)
