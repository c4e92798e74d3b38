"""A loop that never ends fails its test by name, and the rest of the suite still runs."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HANGS = """
import signal

def test_that_hangs():
    {prepare}
    while True:
        pass

def test_that_is_quick():
    pass
"""


def run_pytest(tmp_path, prepare: str) -> subprocess.CompletedProcess:
    (tmp_path / "test_loops_here.py").write_text(HANGS.format(prepare=prepare))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "--limit", "0.5"]
    command += ["--rootdir", str(tmp_path), "-p", "no:cacheprovider", str(tmp_path)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there is no alarm on Windows")
def test_a_hang_fails_its_test_and_no_other(tmp_path):
    result = run_pytest(tmp_path, "pass")
    assert result.returncode == 1
    assert "test_that_hangs took longer than 0.5 s" in result.stdout
    assert "1 failed, 1 passed" in result.stdout


def test_a_hang_that_hears_no_alarm_ends_the_suite(tmp_path):
    deaf = "hasattr(signal, 'SIGALRM') and signal.signal(signal.SIGALRM, signal.SIG_IGN)"
    result = run_pytest(tmp_path, deaf)
    assert result.returncode == 1
    assert "Timeout" in result.stderr and "test_that_hangs" in result.stderr
