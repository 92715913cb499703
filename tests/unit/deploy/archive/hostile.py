"""Archives that mean harm, made from a good one, and the memory that looking at them takes.

python -m tests.unit.deploy.archive.hostile 1000
"""

import hashlib
import io
import json
import random
import struct
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from deploy.archive import layout, mar
from deploy.archive.verify import verify
from deploy.errors import BadInput
from handlers import binding
from handlers.seal import LIST, MANIFEST

ROOT = Path(__file__).resolve().parents[4]

Entries = dict[str, bytes]


def repacked(entries: Entries, change: Callable[[zipfile.ZipInfo], None]) -> bytes:
    """The archive with every entry's head changed, as zipfile writes it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as sink:
        for name in layout.ordered(entries):
            info = zipfile.ZipInfo(name, layout.DATE)
            info.external_attr, info.create_system = layout.MODE, 3
            change(info)
            sink.writestr(info, entries[name], info.compress_type)
    return buffer.getvalue()


def packed(change: Callable[[zipfile.ZipFile], None], entries: Entries) -> bytes:
    """The archive with something added at its end."""
    buffer = io.BytesIO(layout.pack(entries))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(buffer, "a") as sink:
            change(sink)
    return buffer.getvalue()


def bomb(size: int) -> bytes:
    """`size` zeros, deflated."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = bytes(2**20)
    parts = [squeeze.compress(block) for _ in range(size // len(block))]
    return b"".join([*parts, squeeze.flush()])


def raw_zip(name: str, data: bytes, claimed: int, method: int = 8, flags: int = 0) -> bytes:
    """A zip of one entry whose head says whatever is wanted."""
    known = name.encode()
    head = struct.pack(
        "<HHHHHLLLHH", 20, flags, method, 0, 33, 0, len(data), claimed, len(known), 0
    )
    local = b"PK\x03\x04" + head + known + data
    central = b"PK\x01\x02" + struct.pack("<H", 20) + head + struct.pack("<HHHLL", 0, 0, 0, 0, 0)
    central += known
    return local + central + end(1, len(central), len(local))


def end(count: int, size: int, at: int) -> bytes:
    """The record at a zip's end."""
    return b"PK\x05\x06" + struct.pack("<HHHHLLH", 0, 0, count % 65536, count % 65536, size, at, 0)


def many(count: int) -> bytes:
    """A zip whose list names an entry `count` times."""
    local = b"PK\x03\x04" + struct.pack("<HHHHHLLLHH", 20, 0, 0, 0, 33, 0, 0, 0, 1, 0) + b"a"
    head = struct.pack("<HHHHHHLLLHHHHHLL", 20, 20, 0, 0, 0, 33, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0)
    central = (b"PK\x01\x02" + head + b"a") * count
    return local + central + end(count, len(central), len(local))


def long_list(size: int) -> bytes:
    """A zip64 record that claims a list of entries far beyond the small one it stands beside."""
    padding = bytes(size)
    at = len(padding)
    record = b"PK\x06\x06" + struct.pack("<QHHLLQQQQ", 44, 45, 45, 0, 0, 9, 9, size, 0)
    locator = b"PK\x06\x07" + struct.pack("<LQL", 0, at, 1)
    return padding + record + locator + end(9, 10, 0)


def torchscript(entries: Entries, change: Callable[[Entries], None]) -> Entries:
    """The entries with something changed inside model.pt, and a report of it."""
    with zipfile.ZipFile(io.BytesIO(entries["model.pt"])) as zipped:
        inside = {name: zipped.read(name) for name in zipped.namelist()}
    change(inside)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as sink:
        for name, data in inside.items():
            sink.writestr(name, data)
    model = buffer.getvalue()
    report = json.loads(entries["report.json"])
    report["files"]["model.pt"] = hashlib.sha256(model).hexdigest()
    text = json.dumps(binding.sealed(report)).encode()
    return {**entries, "model.pt": model, "report.json": text}


def cases(entries: Entries) -> Iterator[tuple[str, bytes]]:
    """Names and bytes; each must be refused."""
    good = layout.pack(entries)
    code = next(
        n for n in zipfile.ZipFile(io.BytesIO(entries["model.pt"])).namelist() if ".py" in n
    )
    small = bomb(256 * 2**20)
    yield "bomb", raw_zip("model.pt", small, 256 * 2**20)
    yield "bomb that claims little", raw_zip(MANIFEST, small, 100)
    yield "claims 4 GB", raw_zip("model.pt", b"x", 2**32 - 2, method=0)
    yield "encrypted", raw_zip("model.json", b"x" * 40, 40, method=0, flags=1)
    yield "100,000 entries", many(100_000)
    yield "a list of 3 MB", many(60_000)
    yield "a zip64 list of 64 MB", long_list(64 * 2**20)
    yield "a list that is not there", good[:-22] + end(3, 2**32 - 2, 0)
    yield "symbolic links", repacked(entries, lambda i: setattr(i, "external_attr", 0o120777 << 16))
    yield "deflated", repacked(entries, lambda i: setattr(i, "compress_type", 8))
    yield "bzip2", repacked(entries, lambda i: setattr(i, "compress_type", 12))
    yield "lzma", repacked(entries, lambda i: setattr(i, "compress_type", 14))
    yield "other dates", repacked(entries, lambda i: setattr(i, "date_time", (1990, 1, 1, 0, 0, 0)))
    yield "extra fields", repacked(entries, lambda i: setattr(i, "extra", b"up\x04\x00boo!"))
    slips = ("../x", "/x", "//x", "a\\..\\x", "a/../../x", "C:x", "..", "./x", "a//b", "a/./b")
    for name in (*slips, "x\n", "x\x1b[2J", "\u202etp.ledom"):
        yield f"name {name!r}", packed(lambda z, n=name: z.writestr(n, b"x"), entries)
    yield "twice", packed(lambda z: z.writestr("model.json", b"{}"), entries)
    yield "a comment", packed(lambda z: setattr(z, "comment", b"PK\x05\x06" + bytes(18)), entries)
    yield "followed by something", good + b"x"
    yield "preceded by something", b"x" + good
    yield "overlapping", overlapping(entries)
    yield "no list", layout.zipped({n: d for n, d in entries.items() if n != LIST})
    yield "another model", layout.zipped({**entries, "model.pt": entries["model.pt"] + b"\n"})
    yield "an entry more", layout.zipped({**entries, "json.py": b""})
    yield (
        "an entry less",
        layout.zipped({n: d for n, d in entries.items() if n != "handlers/base.py"}),
    )
    for data in (b"", b"{}", entries[LIST][:-1], b" " * 2**21, b'{"files": {"a": [1]}}'):
        yield f"list {data[:9]!r}", layout.zipped({**entries, LIST: data})
    for name in ("MODEL.pt", "model.\uff50\uff54", "Handlers/base.py", "model.json/x", "handlers"):
        yield f"beside {name}", layout.pack({**entries, name: b"x"})
    accents = {**entries, "caf\u00e9": b"", "cafe\u0301": b""}
    yield "two accents", layout.pack(accents)
    yield "70,000 entries", many(70_000)
    yield "no end", good[:-1]
    yield "half", good[: len(good) // 2]
    inner = {**entries, "inner.mar": layout.pack(entries)}
    yield "an archive in an archive", layout.pack(inner)
    yield "other local name", good.replace(b"model.json", b"model.jsoN", 1)
    yield "a folder", packed(lambda z: z.writestr("sub/", b""), entries)
    for name in (MANIFEST, "model.json", "report.json"):
        deep = b'{"a":' + b"[" * 400_000 + b"]" * 400_000 + b"}"
        yield f"{name} deep", layout.pack({**entries, name: deep})
        yield f"{name} long", layout.pack({**entries, name: b'{"a":[' + b"[]," * 2**20 + b"1]}"})
        yield f"{name} large", layout.pack({**entries, name: b'{"a":' + b" " * 5 * 2**20 + b"1}"})
        wide = json.dumps({"\U0001f600" * 900_000: []}, ensure_ascii=False).encode()
        yield f"{name} wide", layout.pack({**entries, name: wide[:-1]})
        yield f"{name} no object", layout.pack({**entries, name: b"[]"})
    manifest = json.loads(entries[MANIFEST])
    for value in ("../../x", "/etc/x", "", " ", "a b", "x" * 5000 + "/"):
        manifest["model"]["modelName"] = value
        yield (
            f"model {value[:9]!r}",
            layout.pack({**entries, MANIFEST: json.dumps(manifest).encode()}),
        )
    line = b"x = 1" + b" " * (8 * 2**20)
    names = "\n".join(f"def f{n}(): return a.g{n}(1)" for n in range(60_000)).encode()
    for what, text in (
        ("code bomb", bytes(80 * 2**20)),
        ("a long line", line),
        ("many names", names),
        ("from_file", b"def forward(self): return torch.from_file('x', True, 1)"),
        ("split", b"def forward(self):\n  t = torch\n  return t.\n from_file('x', True, 1)"),
    ):
        yield (
            what,
            layout.pack(torchscript(entries, lambda inside, t=text: inside.update({code: t}))),
        )
    other_case = code.upper().replace(".PY", ".Py")
    yield (
        "code in capitals",
        layout.pack(
            torchscript(
                entries,
                lambda inside: inside.update({other_case: inside.pop(code) + b"\ntorch.save(1)"}),
            )
        ),
    )
    yield (
        "a class with a socket",
        layout.pack(
            torchscript(
                entries,
                lambda inside: inside.update(
                    {code: b"x: __torch__.torch.classes.dist_c10d.Store\n" + inside[code]}
                ),
            )
        ),
    )
    yield (
        "a pickle with a file",
        layout.pack(
            torchscript(
                entries,
                lambda inside: inside.update(
                    {"archive/data.pkl": b"c__torch__.torch.classes.dist_c10d\nFileStore\n"}
                ),
            )
        ),
    )


def overlapping(entries: Entries) -> bytes:
    """Two names for the bytes of one entry."""
    data = bytearray(layout.pack(entries))
    with zipfile.ZipFile(io.BytesIO(bytes(data))) as packed_zip:
        infos = packed_zip.infolist()
    (at,) = struct.unpack_from("<L", data, len(data) - 6)
    for _ in infos[:-1]:
        name, extra, comment = struct.unpack_from("<HHH", data, at + 28)
        at += 46 + name + extra + comment
    struct.pack_into("<L", data, at + 42, infos[0].header_offset)
    return bytes(data)


def mutated(good: bytes, count: int) -> Iterator[tuple[str, bytes]]:
    """The archive with bytes flipped, cut out or repeated, the same ones every time."""
    chance = random.Random(7)
    for number in range(count):
        data = bytearray(good)
        # The heads of the entries and their list are where a change tells.
        first = chance.choice((0, len(data) - 6000, chance.randrange(len(data))))
        for _ in range(chance.randrange(1, 6)):
            at = min(len(data) - 1, first + chance.randrange(6000))
            data[at] ^= 1 << chance.randrange(8)
        if chance.random() < 0.3:
            at = chance.randrange(len(data))
            del data[at : at + chance.randrange(1, 2000)]
        if chance.random() < 0.2:
            at = chance.randrange(len(data))
            data[at:at] = data[at : at + chance.randrange(1, 2000)]
        if data != good:
            yield f"mutated {number}", bytes(data)


def write_all(folder: Path, good: Path, count: int) -> int:
    """Write `count` archives or more into a folder; how many."""
    with zipfile.ZipFile(good) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    made = list(cases(entries))
    made += mutated(good.read_bytes(), max(0, count - len(made)))
    for number, (_, data) in enumerate(made):
        (folder / f"{number}.mar").write_bytes(data)
    (folder / "names.json").write_text(json.dumps([name for name, _ in made]))
    return len(made)


def refuse_all(folder: Path, good: Path) -> dict[str, float]:
    """Look at every archive in the folder: the MB that took at most, the seconds at worst.

    To be called in a process that has done nothing else. Raises AssertionError for an archive
    that passes.
    """
    verify(good)
    reset_peak()
    before, worst = peak(), 0.0
    for number, name in enumerate(json.loads((folder / "names.json").read_text())):
        started = time.monotonic()
        try:
            verify(folder / f"{number}.mar")
        except BadInput as error:
            assert len(str(error)) < 2500, name
        else:
            raise AssertionError(f"{name} passes")
        worst = max(worst, time.monotonic() - started)
    return {"megabytes": (peak() - before) / 1024, "seconds": worst}


def looked_at(folder: Path, good: Path) -> dict[str, float]:
    """`refuse_all` in a fresh process."""
    command = [sys.executable, "-m", __name__, str(folder), str(good)]
    if __name__ == "__main__":
        command[2] = "tests.unit.deploy.archive.hostile"
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def reset_peak() -> None:
    """Have Linux forget this process's highest memory; `before` then is what is in use."""
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """The highest resident memory since `reset_peak`, in kB."""
    status = Path("/proc/self/status").read_text()
    line = next(x for x in status.splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1])


def main() -> None:
    """Print the figures for as many archives as the first argument says."""
    if len(sys.argv) == 3:
        print(json.dumps(refuse_all(Path(sys.argv[1]), Path(sys.argv[2]))))
        return
    # Imports torch, whose memory the other process must not have.
    from tests.integration import quadrant

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        good = mar.seal(quadrant.make(folder / "artifacts"), folder / "store").path
        (folder / "hostile").mkdir()
        count = write_all(folder / "hostile", good, int(sys.argv[1]))
        took = looked_at(folder / "hostile", good)
    print(
        f"{count} archives, all refused: {took['megabytes']:.1f} MB, {took['seconds']:.2f} s each"
    )


if __name__ == "__main__":
    main()
