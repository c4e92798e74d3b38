"""KittenLLM: how a GPT becomes ChatGPT and then a reasoner, on a laptop and from random weights."""

# Plain old syntax in this file: a Python that is too old must get as far as the sentence below.
import os
import sys

__version__ = "0.1.0"

if sys.version_info < (3, 10):  # noqa: UP036
    sys.stderr.write(
        "KittenLLM needs Python 3.10 or newer, and this is Python " + sys.version.split()[0] + ".\n"
    )
    sys.exit(2)

# torch's threads wait for each other by spinning. Where other programs want the same cores, a
# thread spins while the one it waits for is not running, and a training all but stops. So they
# spin for a short while only and then sleep. A setting of your own wins. GNU's OpenMP, which torch
# uses on Linux, reads the variable while torch is loaded: import this package first, afterwards
# nothing can be changed any more. LLVM's and Intel's OpenMP (macOS, Windows) do not read it. By
# their documentation they spin for at most 200 ms (KMP_BLOCKTIME), on Apple silicon not at all, and
# on x86 they let others run meanwhile (KMP_USE_YIELD). That was not measured here.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def _ctrl_c_is_one_line(kind, error, trace):
    """Ctrl-C before a program has begun, which is mostly while torch is being loaded."""
    if issubclass(kind, KeyboardInterrupt) and not sys.flags.dev_mode:
        sys.stderr.write("\nstopped\n")
    else:
        sys.__excepthook__(kind, error, trace)


if sys.argv[:1] == ["-m"]:  # Python is still looking for the module of `python -m MODULE`
    sys.excepthook = _ctrl_c_is_one_line
    from kittenllm.door import enter

    enter()
