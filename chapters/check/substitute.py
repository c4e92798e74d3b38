"""Another implementation in the place of the package's own: how exercises are graded.

`substituted({"kittenllm.ppo.gae": my_gae})` puts `my_gae` wherever a loaded module of the package,
the chapters or the tests holds the package's `gae`, and puts everything back at the end. A function
is imported into many modules, so the object itself is looked for, not its name.

Read before: nothing. Left out: objects kept in lists or closures; they stay what they are.
"""

import importlib
import importlib.abc
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("kittenllm", "chapters", "tests")  # only modules of these are touched
PRIVATE = "_implementation_"  # the name of a loaded file's module begins like this

_numbers = count(1)  # every loaded file gets a module name of its own


class FileError(Exception):
    """A file that cannot be loaded; the message says why and in which line."""


class _FreshSource(importlib.abc.SourceLoader):
    """Reads the file as it is now. Bytecode that was kept from an earlier version is not used."""

    def __init__(self, path: Path):
        self.path = path

    def get_filename(self, fullname: str) -> str:
        return str(self.path)

    def get_data(self, path: str) -> bytes:
        return Path(path).read_bytes()


def load_file(path: str | Path) -> dict[str, object]:
    """Run a Python file as a module with a private name and return all its names.

    Raises: FileError for a missing file, a syntax error, or whatever goes wrong in its top lines.
    """
    path = Path(path).resolve()
    if not path.is_file():
        raise FileError(f"there is no file {path}")
    name = f"{PRIVATE}{next(_numbers)}_{path.stem}"
    spec = importlib.util.spec_from_loader(name, _FreshSource(path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up here
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        where = Path(error.filename or path).name
        raise FileError(f"{where}, line {error.lineno}: {error.msg}") from error
    except SystemExit as error:
        raise FileError(f"{_where(error, path)}: the file ends the program") from error
    except Exception as error:
        kind = type(error).__name__
        raise FileError(f"{_where(error, path)}: {kind}: {error}") from error
    return vars(module)


def _where(error: BaseException, path: Path) -> str:
    """`dpo.py, line 12`: the innermost line of this file that led to the error."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == str(path)
    ]
    return f"{path.name}, line {lines[-1]}" if lines else path.name


@contextmanager
def substituted(replacements: dict[str, object]) -> Iterator[None]:
    """Replace objects of the package by others while the `with` block runs.

    The keys are qualified names: "kittenllm.ppo.gae", "kittenllm.gpt.KVCache", or a method such as
    "kittenllm.gpt.KVCache.keep". A function or class is replaced in every loaded module of
    PACKAGES that holds it, except in the module where its replacement was written: there it is the
    right one to call and to compare with. Anything else is replaced at the named place only.

    Raises: ValueError for a name that does not exist.
    """
    found = [(*_resolve(name), new) for name, new in replacements.items()]
    loaded_before = set(sys.modules)
    undo: list[tuple[object, str, object]] = []
    try:
        for owner, name, old, new in found:
            places = [(owner, name)]
            if _is_shared(owner, old):
                places = _places(old, own_module=getattr(new, "__module__", None))
            for holder, attribute in places:
                undo.append((holder, attribute, vars(holder)[attribute]))
                setattr(holder, attribute, new)
        yield
    finally:
        for holder, attribute, old in reversed(undo):
            setattr(holder, attribute, old)
        for owner, _, old, new in found:  # modules that were loaded meanwhile took the new one
            if _is_shared(owner, old):
                for holder, attribute in _places(new, own_module=getattr(new, "__module__", None)):
                    if holder.__name__ not in loaded_before:
                        setattr(holder, attribute, old)


def _resolve(qualified: str) -> tuple[object, str, object]:
    """Owner, last name and object: kittenllm.gpt.KVCache.keep is the class, "keep", its method."""
    parts = qualified.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        module_name = ".".join(parts[:cut])
        try:
            owner: object = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or not module_name.startswith(error.name):
                raise  # the module exists, something that it needs does not
            continue
        for part in parts[cut:-1]:
            owner = getattr(owner, part, None)
        if parts[-1] in vars(owner):
            return owner, parts[-1], vars(owner)[parts[-1]]
        break
    raise ValueError(f"there is nothing called {qualified}")


def _is_shared(owner: object, old: object) -> bool:
    """Functions and classes of a module are imported elsewhere; a number 0 would be everywhere."""
    return isinstance(owner, ModuleType) and (inspect.isroutine(old) or inspect.isclass(old))


def _places(wanted: object, *, own_module: str | None) -> list[tuple[ModuleType, str]]:
    """Where loaded modules of PACKAGES hold this very object."""
    places = []
    for module_name, module in list(sys.modules.items()):
        if module_name == own_module or not _is_ours(module_name, module):
            continue
        places += [(module, name) for name, held in list(vars(module).items()) if held is wanted]
    return places


def _is_ours(module_name: str, module: ModuleType) -> bool:
    """By name, or by place: pytest loads tests/test_dpo.py as `test_dpo`."""
    if module_name.startswith(PRIVATE) or not isinstance(module, ModuleType):
        return False
    if module_name.split(".")[0] in PACKAGES:
        return True
    file = getattr(module, "__file__", None)
    if file is None or not file.startswith(str(ROOT)):  # quick: torch has thousands of modules
        return False
    return any(ROOT / name in Path(file).parents for name in PACKAGES)
