"""How much memory a run needed at its peak: a number for summary.json.

Read before: nothing. Left out: the memory of a GPU, and of other processes.
"""

import contextlib
import re
import sys
from pathlib import Path


def peak_memory_mb() -> int | None:
    """The most memory this program held at one time, in MB (since `reset_peak_memory` on Linux)."""
    try:
        peak_kb = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        peak_kb = None
    if peak_kb:
        return round(int(peak_kb[1]) / 1000)
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if sys.platform == "darwin" else 1e3))  # bytes on a Mac, else kB


def reset_peak_memory() -> None:
    """Count the peak from here on, where the system can (Linux); elsewhere since the start."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
