"""What a pickle would import when it is loaded, read from its opcodes without loading it."""

import pickletools
import re
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

from deploy.adopt.source import DAMAGE

SUFFIXES = (".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt", ".joblib", ".jit", ".ts", ".data")
MAX_OPCODES = 5_000_000
MAX_PICKLES = 64  # one after another in a file
NUMPY = b"\x93NUMPY"


class Unreadable(ValueError):
    """The file's pickle cannot be followed; the message says why."""


@dataclass(frozen=True)
class Pickled:
    """The names that a file's pickles import, as `module.name`, and where in the file they lie."""

    names: frozenset[str]
    parts: int

    @property
    def dangerous(self) -> list[str]:
        """Those that reach the system or run code."""
        return sorted(name for name in self.names if is_dangerous(name))

    @property
    def others(self) -> list[str]:
        """Those that are neither dangerous nor needed by every file of tensors."""
        return sorted(n for n in self.names if not is_dangerous(n) and not is_plain(n))


def is_dangerous(name: str) -> bool:
    """Whether loading a pickle that imports this could reach the system or run any code."""
    name = re.sub(r"^__builtin__\.", "builtins.", name)
    parts = name.split(".")
    below = {".".join(parts[:count]) for count in range(1, len(parts))}
    return name in _known()["functions"] or bool(below & _known()["modules"])


def is_plain(name: str) -> bool:
    """Whether it only rebuilds tensors, arrays and containers."""
    storage = name.startswith("torch.") and name.endswith("Storage")
    return name in _known()["plain"] or storage


@cache
def _known() -> dict[str, frozenset[str]]:
    """The lists of imports.txt."""
    found: dict[str, set[str]] = {}
    head = ""
    text = Path(__file__).with_name("imports.txt").read_text(encoding="utf-8")
    for line in text.splitlines():
        if line.startswith("  "):
            found[head].update(line.split())
        elif not line.startswith("#"):
            head = line.removesuffix(":")
            found[head] = set()
    return {name: frozenset(listed) for name, listed in found.items()}


def read(path: Path) -> Pickled | None:
    """What the pickles in a file import; None for a file that holds none.

    A zip of `torch.save` or TorchScript, its older formats, a plain pickle, and a `.npy` of
    objects. Raises Unreadable.
    """
    with path.open("rb") as file:
        begin = file.read(8)
        file.seek(0)
        try:
            if begin.startswith(b"PK\x03\x04"):
                return _zip(file)
            if tarfile.is_tarfile(file):
                file.seek(0)
                return _tar(file)
            file.seek(0)
            if begin.startswith(NUMPY):
                return _numpy(file)
            if path.suffix.lower() in SUFFIXES or (begin[:1] == b"\x80" and begin[1:2] <= b"\x05"):
                return _series(file, named=path.suffix.lower() in SUFFIXES)
        except Unreadable:
            raise
        except (*DAMAGE, OSError, RuntimeError) as error:
            raise Unreadable(f"it cannot be read: {str(error)[:120]}") from error
    return None


def _zip(file: IO[bytes]) -> Pickled | None:
    found: set[str] = set()
    parts = 0
    with zipfile.ZipFile(file) as packed:
        for entry in packed.infolist():
            if entry.filename.lower().endswith((".pkl", ".pickle")):
                with packed.open(entry) as part:
                    found |= _globals(part)
                parts += 1
    return Pickled(frozenset(found), parts) if parts else None


def _tar(file: IO[bytes]) -> Pickled | None:
    found: set[str] = set()
    parts = 0
    with tarfile.open(fileobj=file) as packed:
        for member in packed:
            part = packed.extractfile(member) if member.isfile() else None
            if part is not None and member.name in ("pickle", "storages", "tensors"):
                found |= _series(part, named=True).names
                parts += 1
    return Pickled(frozenset(found), parts) if parts else None


def _numpy(file: IO[bytes]) -> Pickled | None:
    """A `.npy` holds a pickle only if its type is object."""
    header = file.read(4096)
    if b"'|O'" not in header and b"'O'" not in header:
        return None
    at = header.find(b"\n")
    file.seek(at + 1)
    return _series(file, named=True)


def _series(file: IO[bytes], named: bool) -> Pickled:
    """Pickles one after another, as old `torch.save` wrote them; what follows is data."""
    found: set[str] = set()
    parts = 0
    while parts < MAX_PICKLES:
        at = file.tell()
        if not file.read(1):
            break
        file.seek(at)
        try:
            found |= _globals(file)
        except Unreadable:
            if parts or not named:
                break  # the tensors' bytes, or a file of another kind
            raise
        parts += 1
    return Pickled(frozenset(found), parts)


def _globals(file: IO[bytes]) -> set[str]:
    """The imports of one pickle: GLOBAL and INST name them, STACK_GLOBAL takes two strings.

    Python writes these two right before it; strings that come there otherwise are refused, since
    only running the pickle would tell them.
    """
    found: set[str] = set()
    pushed: list[str | None] = [None, None]
    memo: dict[int, str | None] = {}
    for count, (opcode, argument, _) in enumerate(_opcodes(file)):
        if count > MAX_OPCODES:
            raise Unreadable(f"its pickle takes over {MAX_OPCODES} steps")
        name = opcode.name
        if name in ("PROTO", "FRAME"):
            continue
        if name == "MEMOIZE":
            memo[len(memo)] = pushed[-1]
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[int(str(argument))] = pushed[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            pushed = [pushed[-1], memo.get(int(str(argument)))]
        elif name in ("GLOBAL", "INST"):
            found.add(str(argument).replace(" ", "."))
            pushed = [pushed[-1], None]
        elif name == "STACK_GLOBAL":
            if None in pushed:
                raise Unreadable("its pickle computes the names of what it imports")
            found.add(f"{pushed[0]}.{pushed[1]}")
            pushed = [None, None]
        elif name in ("EXT1", "EXT2", "EXT4"):
            found.add("copyreg.extension")
            pushed = [pushed[-1], None]
        else:
            pushed = [pushed[-1], argument if isinstance(argument, str) else None]
        if len(memo) > MAX_OPCODES:
            raise Unreadable(f"its pickle remembers over {MAX_OPCODES} values")
    return found


def _opcodes(file: IO[bytes]) -> Iterator[tuple[pickletools.OpcodeInfo, object, int | None]]:
    try:
        yield from pickletools.genops(file)
    except (ValueError, IndexError, UnicodeDecodeError, OverflowError, MemoryError) as error:
        raise Unreadable(f"its pickle cannot be followed: {str(error)[:120]}") from error
