"""Which operators a TorchScript file calls, read from its source without loading it.

`torch.jit.load` runs code of the file (`__setstate__`), and TorchScript has operators that read and
write files (`aten::from_file`), call other processes or print. So the file is looked at first: its
code is text in a zip, in which operators are written `torch.NAME(...)`, `ops.NAMESPACE.NAME(...)`
or as methods, `x.NAME(...)`. What is not in `operators.txt` is outside. Reading takes a bounded
amount of memory, whatever the file claims.
"""

import re
import zipfile
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path
from typing import IO

MAX_DIRECTORY = 2 * 2**20  # bytes of a zip's list of entries: about 20,000 tensors
MAX_CODE = 64 * 2**20
MAX_LINE = 4 * 2**20
MAX_NAMES = 50_000
BLOCK = 2**16
_END, _LOCATOR, _END64 = 22, 20, 56  # bytes of a zip's last records
_TAIL = 2**17  # where PyTorch looks for them
_FLATBUFFER = b"PTMF"  # PyTorch reads a file with this at its fifth byte as no zip

# A token of the source; strings and comments hold no calls.
_TOKEN = re.compile(
    r'"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\'|#[^\n]*'
    r"|(?P<name>[^\W\d]\w*)|(?P<dot>\.(?!\d))|\d+(?:\.\d*)?(?:[eE][+-]?\d+)?j?|(?P<other>\S)"
)
_CLASSES = re.compile(rb"torch[.\n]classes[.\n](\w+)")  # a pickle ends names with a line
# C++ classes that hold packed weights; others hold files and sockets.
_SAFE_CLASSES = frozenset({"quantized", "rnn", "mkldnn", "sparse"})
# Operators that must not even be named without a call.
_NEVER = frozenset({"from_file", "save", "set_data"})
_REMOTE = frozenset({"rpc_async", "rpc_sync", "rpc_remote"})


class UnreadableCode(ValueError):
    """The file is no TorchScript file whose code can be read; the message says why."""


class NoTorchScript(UnreadableCode):
    """The file holds no code: it is something else."""


@cache
def allowed() -> frozenset[str]:
    """The operators of `operators.txt`, as `namespace::name`."""
    names: set[str] = set()
    namespace = ""
    text = Path(__file__).with_name("operators.txt").read_text(encoding="utf-8")
    for line in text.splitlines():
        if line.startswith("  "):
            names.update(f"{namespace}::{name}" for name in line.split())
        elif not line.startswith("#"):
            namespace = line.removesuffix(":")
    return frozenset(names)


def outside(file: IO[bytes], more: Collection[str] = ()) -> list[str]:
    """The operators and classes that a TorchScript file uses and that are not allowed, in order.

    Args:
        file: the open file; it is read, not loaded.
        more: names to allow too, as this function gives them.

    Raises:
        UnreadableCode: it is no TorchScript file, or its code is not as PyTorch writes it.
    """
    reader = _Reader()
    try:
        _check_directory(file)
        with zipfile.ZipFile(file) as packed:
            for entry in _code(packed):
                if entry.filename.lower().endswith(".py"):
                    for line in _lines(packed, entry):
                        reader.feed(line)
                    reader.end()
                else:
                    for found in _class_names(packed, entry):
                        reader.use("torch.classes", found)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise UnreadableCode(f"it is no readable TorchScript file: {str(error)[:200]}") from error
    return sorted(reader.outside() - set(more))


def _check_directory(file: IO[bytes]) -> None:
    """Refuse a list of entries that takes more memory than a model's needs, or that lies elsewhere.

    Python looks for the list just before the record that ends the file, PyTorch where that record
    says: with a list at either place, each of them would read other code.
    """
    file.seek(4)
    if file.read(4) == _FLATBUFFER:
        raise UnreadableCode("it begins as another kind of file")
    size = file.seek(0, 2)
    file.seek(max(0, size - _END64 - _LOCATOR - _END))
    end = file.read()
    record, locator = end[-_END:], end[-_END - _LOCATOR : -_END]
    if not record.startswith(b"PK\x05\x06") or record[_END - 2 :] != b"\0\0":
        file.seek(max(0, size - _TAIL))
        if b"PK\x05\x06" in file.read():  # PyTorch looks for it further up
            raise UnreadableCode("something follows the end of its zip")
        raise NoTorchScript("it is no TorchScript file: its end is missing")
    length, start = _numbers(record, 4, 12, 16)
    at = size - _END
    if locator.startswith(b"PK\x06\x07"):  # a zip64 record, as PyTorch writes it
        at -= _LOCATOR + _END64
        record = end[:_END64]
        if not record.startswith(b"PK\x06\x06") or _numbers(locator, 8, 8) != [at]:
            raise UnreadableCode("its list of entries lies elsewhere than PyTorch puts it")
        length, start = _numbers(record, 8, 40, 48)
    if start + length != at:
        raise UnreadableCode("its list of entries lies elsewhere than PyTorch puts it")
    if length > MAX_DIRECTORY:
        raise UnreadableCode(f"its list of entries takes {length} bytes: {MAX_DIRECTORY} at most")
    if not length:
        raise NoTorchScript("it is no TorchScript file: it is empty")
    file.seek(0)
    if file.read(4) != b"PK\x03\x04":
        raise UnreadableCode("it begins as another kind of file")


def _numbers(record: bytes, size: int, *offsets: int) -> list[int]:
    return [int.from_bytes(record[at : at + size], "little") for at in offsets]


def _code(packed: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The entries with code and with pickled objects; PyTorch finds them in any case of letters."""
    entries = packed.infolist()
    names = [entry.filename.lower() for entry in entries]
    if any(entry.filename != entry.orig_filename for entry in entries):
        raise UnreadableCode("the name of an entry is not plain")
    if len(set(names)) != len(names):
        raise UnreadableCode("it holds an entry twice")
    if any(name.count("/") == 1 and name.endswith("/model.json") for name in names):
        raise UnreadableCode("it was written by PyTorch 1.3 or earlier: load and save it again")
    found = [e for e, n in zip(entries, names, strict=True) if n.endswith((".py", ".pkl"))]
    if not any("/code/" in name or name.endswith("/constants.pkl") for name in names):
        raise NoTorchScript("it is no TorchScript file: it holds no code")
    if sum(entry.file_size for entry in found) > MAX_CODE:
        raise UnreadableCode(f"its code takes over {MAX_CODE} bytes")
    return found


def _blocks(packed: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterator[bytes]:
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UnreadableCode(
            f"{entry.filename[:80]!r} is packed in a way that PyTorch does not use"
        )
    read = 0
    with packed.open(entry) as source:
        while block := source.read(BLOCK):
            read += len(block)
            if read > MAX_CODE:
                raise UnreadableCode(f"its code takes over {MAX_CODE} bytes")
            yield block


def _lines(packed: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterator[str]:
    rest = b""
    for block in _blocks(packed, entry):
        *lines, rest = (rest + block).split(b"\n")
        if len(rest) > MAX_LINE:
            raise UnreadableCode(f"a line of its code takes over {MAX_LINE} bytes")
        yield from (line.decode("utf-8", "replace") for line in lines)
    yield rest.decode("utf-8", "replace")


def _class_names(packed: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterator[str]:
    rest = b""
    for block in _blocks(packed, entry):
        text = rest + block
        yield from (match[1].decode() for match in _CLASSES.finditer(text))
        rest = text[-256:]


class _Reader:
    """Collects what the code names; a chain such as `torch.add` may run over several lines."""

    def __init__(self) -> None:
        self._used: set[str] = set()  # as namespace::name
        self._methods: set[str] = set()
        self._defined: set[str] = set()
        self._chain: list[str] = []
        self._after_dot = False

    def feed(self, line: str) -> None:
        """Read one line."""
        if '"""' in line or "'''" in line:
            raise UnreadableCode("its code holds a string over several lines")
        for token in _TOKEN.finditer(line):
            if name := token["name"]:
                if not self._after_dot:
                    self._finish(name)
                    self._chain = []
                self._chain.append(name)
                self._after_dot = False
            elif token["dot"]:
                self._chain = self._chain or [""]
                self._after_dot = True
            elif token[0] in ('"', "'"):
                raise UnreadableCode("its code holds a string over several lines")
            elif not token[0].startswith("#"):
                self._finish(token[0])
                self._chain = []
                self._after_dot = False
        if len(self._used) + len(self._methods) + len(self._defined) > MAX_NAMES:
            raise UnreadableCode(f"its code uses over {MAX_NAMES} names")

    def end(self) -> None:
        """The end of a file."""
        self._finish("")
        self._chain = []
        self._after_dot = False

    def use(self, namespace: str, name: str) -> None:
        """Note an operator, or a C++ class by its namespace."""
        between = "." if namespace == "torch.classes" else "::"
        self._used.add(f"{namespace}{between}{name}")

    def outside(self) -> set[str]:
        """What was used and is not allowed."""
        known = allowed()
        special = {"__new__"} | {n.removeprefix("prim::") for n in known if n.startswith("prim::")}
        methods = {f"aten::{name}" for name in self._methods - self._defined - special}
        methods |= {f"aten::{name}" for name in self._methods & _NEVER}
        safe = known | {f"torch.classes.{name}" for name in _SAFE_CLASSES}
        return (self._used | methods) - safe

    def _finish(self, following: str) -> None:
        """A chain of names has ended before the token `following`."""
        if not self._chain:
            return
        root, *rest = self._chain
        if root == "def" or root == "class":
            self._defined.add(following)
        elif root == "torch":
            for name in rest or ["torch"]:
                self.use("aten", name)
        elif root == "ops":
            if len(rest) < 2:
                raise UnreadableCode("its code uses `ops` other than to call an operator")
            for name in rest[1:]:
                self.use(rest[0], name)
        elif root == "__torch__" and rest[:2] == ["torch", "classes"]:
            self.use("torch.classes", rest[2] if len(rest) > 2 else "")
        elif root == "__torch__" and rest in ([], ["torch"]):
            raise UnreadableCode("its code uses `__torch__` other than to name a class")
        elif not rest and root in _REMOTE | {"print"}:
            self.use("prim", root)
        if root not in ("torch", "ops"):
            self._methods.update(set(rest) & _NEVER)
            if rest and following == "(":
                self._methods.add(rest[-1])
