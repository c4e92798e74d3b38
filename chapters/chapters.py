"""Python finds this file, and not the package, if a file of this folder was started by its path."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])
sys.modules.pop("kittenllm", None)  # in this folder that name means this file

from kittenllm.door import explain_path  # noqa: E402

explain_path()
