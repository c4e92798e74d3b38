"""What several test files need: the devices of this machine, a tiny kitten, the town's tokens, and
two chapters that were run once."""

import faulthandler
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # several processes test side by side: one thread each
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import kittenllm  # noqa: F401 (before torch: see there)

# isort: split
import torch

from chapters.check.substitute import FileError, load_file, substituted
from chapters.check.table import EXERCISES
from kittenllm.gpt import GPT, GPTConfig

ROOT = Path(__file__).parent.parent

# Runs a module as `python -m` does, but whoever opens a socket or asks for an address is ended.
# SystemExit and not OSError: a program that tries to download and falls back would hide the latter.
OFFLINE = """
import runpy, socket, sys

def refuse(*arguments, **options):
    raise SystemExit("this program wanted to use the network")

class ClosedSocket(socket.socket):
    __init__ = refuse

socket.socket = ClosedSocket
socket.getaddrinfo = socket.create_connection = refuse
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


MOST_WORKERS = 4  # that test side by side; each holds torch and a few kittens in memory
LIMIT = 600.0  # seconds for one test: the slowest needs about 20, but no computer is always quiet
SCREEN = pytest.StashKey()


def pytest_addoption(parser) -> None:
    parser.addoption(
        "--limit",
        type=float,
        default=LIMIT,
        metavar="SECONDS",
        help=f"a test that takes longer has failed (default: {LIMIT:.0f})",
    )
    parser.addoption(
        "--implementation",
        metavar="FILE[::NAME,...]",
        help="test the functions of this file in the place of the package's own: those that have "
        "the name of an exercise function (or only the named ones), or what its REPLACES says",
    )


def pytest_configure(config) -> None:
    text = "asks for more than the stub of an exercise states: `check` leaves the test out"
    config.addinivalue_line("markers", f"package_only: {text}")
    config.stash[SCREEN] = os.fdopen(os.dup(2), "w")  # before pytest catches what tests print


@pytest.hookimpl(optionalhook=True)  # `check` grades without xdist
def pytest_xdist_auto_num_workers(config) -> int:
    """All tests: one worker for each core. Named files: none, so that a debugger can stop in them.

    `-n 0` and `-n 2` on the command line say otherwise.
    """
    if config.invocation_params.args and config.args != config.getini("testpaths"):
        return 0
    return min(MOST_WORKERS, os.cpu_count() or 1)


def pytest_collection_modifyitems(items) -> None:
    """What shares something that takes long to make goes to one worker: the tests on `quick_runs`,
    and otherwise those of one file."""
    for item in items:
        group = "quick_runs" if "quick_runs" in item.fixturenames else item.path.name
        item.add_marker(pytest.mark.xdist_group(group))


@contextmanager
def time_limit(item, part: str):
    """A loop that never ends must fail its test, not stop the suite.

    An alarm fails the test where it is and the suite goes on. Where there is no alarm (Windows), or
    if the test sits inside of C and hears none, the whole suite ends a little later, with a
    traceback that names the test.
    """
    seconds = item.config.getoption("--limit")

    def too_late(signal_number, frame):
        pytest.fail(f"{part} {item.nodeid} took longer than {seconds:g} s (--limit)")

    screen = item.config.stash[SCREEN]
    faulthandler.dump_traceback_later(1.5 * seconds, exit=True, file=screen)
    alarm = hasattr(signal, "setitimer")
    if alarm:
        earlier = signal.signal(signal.SIGALRM, too_late)
        signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        if alarm:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, earlier)
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    with time_limit(item, "the setup of"):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    with time_limit(item, "the test"):
        return (yield)


@pytest.fixture(scope="session", autouse=True)
def implementation(request):
    """Which implementation is under test: the package's own, or that of --implementation."""
    option = request.config.getoption("--implementation")
    if option is None:
        yield
        return
    path, _, names = option.partition("::")
    try:
        with substituted(replacements(load_file(path), set(names.split(",")) - {""})):
            yield
    except (FileError, ValueError) as error:
        pytest.exit(f"--implementation {option}: {error}", returncode=pytest.ExitCode.USAGE_ERROR)


def replacements(written: dict[str, object], wanted: set[str]) -> dict[str, object]:
    """Qualified name -> object, from the names of a loaded file; `wanted` empty means all."""
    if "REPLACES" in written:
        return written["REPLACES"]
    places = {exercise.function: exercise.qualified for exercise in EXERCISES.values()}
    found = {name: places[name] for name in places if name in written}
    if wanted:
        found = {name: place for name, place in found.items() if name in wanted}
    if not found or wanted - set(found):
        missing = ", ".join(sorted(wanted - set(found))) or "an exercise function"
        raise ValueError(f"the file does not define {missing}")
    return {place: written[name] for name, place in found.items()}


def devices_present() -> list[str]:
    """The CPU, and the GPU if there is one: numerical tests run on each."""
    devices = ["cpu"]
    if torch.cuda.is_available():
        devices.append("cuda")
    if torch.backends.mps.is_available():
        devices.append("mps")
    return devices


@pytest.fixture(params=devices_present())
def device(request) -> torch.device:
    return torch.device(request.param)


@pytest.fixture
def tiny_gpt(device) -> GPT:
    """A kitten with random weights large enough that every token gets another probability."""
    config = GPTConfig(
        vocab_size=61,
        context_length=64,
        layers=2,
        channels=32,
        heads=4,
        kv_heads=2,
        ffn_channels=80,
        stop_ids=(1, 2),
        pad_id=0,
    )
    gpt = GPT(config, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for parameter in gpt.parameters():
            if parameter.ndim == 2:
                parameter.mul_(10)  # as after training; fresh weights predict everything alike
    return gpt.to(device)


@pytest.fixture(scope="session")
def town_tokenizer():
    """A small tokenizer trained on Kitten Town's own stories."""
    from itertools import islice

    from kittenllm.kitten_town.stories import documents
    from kittenllm.tokenizer import Tokenizer, train_bpe

    return Tokenizer(train_bpe(islice(documents(seed=0), 300), 600))


@pytest.fixture(scope="session")
def run_offline() -> Callable[..., subprocess.CompletedProcess]:
    """run_offline("chapters", "--quick") is `python -m chapters --quick` without a network."""

    def run(module: str, *flags, **options) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", OFFLINE, module, *map(str, flags)]
        return subprocess.run(
            command, cwd=ROOT, capture_output=True, encoding="utf-8", errors="replace", **options
        )

    return run


@pytest.fixture(scope="session")
def quick_runs(tmp_path_factory, run_offline) -> Path:
    """A runs folder in which ch0_base and ch1_sft have finished with --quick --seed 0.

    Nobody may change what is in it. A test of a later chapter may add its own run with --quick
    --seed 0 and no other setting, which the test of the journey then need not do again; a test
    that runs anything else takes `own_runs`. What stood on the screen is in screen.txt.
    """
    runs = tmp_path_factory.mktemp("quick") / "runs"
    flags = ["--quick", "--seed", 0, "--device", "cpu", "--runs", runs]
    result = run_offline("chapters", "ch1_sft", *flags)
    assert result.returncode == 0, result.stderr
    (runs / "screen.txt").write_text(result.stdout, encoding="utf-8")
    return runs


@pytest.fixture
def own_runs(quick_runs, tmp_path) -> Path:
    """A copy of the first two chapters of `quick_runs`, to do with as a test likes."""
    runs = tmp_path / "runs"
    for name in ("ch0_base", "ch1_sft"):
        shutil.copytree(quick_runs / "quick" / name, runs / "quick" / name)
    return runs


_watched_opens: list[tuple[str, list[str]]] = []  # (path, the openings to read it so far)


def _note_open(event: str, arguments: tuple) -> None:
    if event == "open" and _watched_opens and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
        for path, opens in _watched_opens:
            if str(arguments[0]) == path:
                opens.append(path)


sys.addaudithook(_note_open)  # sees every way to open a file; it can never be removed again


@pytest.fixture
def count_opens():
    """opens = count_opens(path): from now on a list with an entry for every time it is opened to
    be read."""

    def start(path) -> list[str]:
        opens: list[str] = []
        _watched_opens.append((str(path), opens))
        return opens

    yield start
    _watched_opens.clear()


@pytest.fixture
def fill_pipe(tmp_path):
    """fill_pipe(b"...") -> a FIFO that gives these bytes once; whoever opens it again hangs."""

    def fill(content: bytes, name: str = "pipe") -> Path:
        pipe = tmp_path / name
        os.mkfifo(pipe)
        threading.Thread(target=pipe.write_bytes, args=(content,), daemon=True).start()
        return pipe

    return fill
