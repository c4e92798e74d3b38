"""Python finds this file, and not the package, if a file of this folder was started by its path."""

import runpy
from pathlib import Path

door = runpy.run_path(str(Path(__file__).resolve().parents[2] / "kittenllm" / "door.py"))
door["explain_path"]()
