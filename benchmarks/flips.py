"""Flips the bytes of a real archive one at a time: each must be found, and by whom.

    python -m benchmarks.flips model_store/photos.mar [--flips 3000]

The flips are spread over every entry and over what lies between them. `deploy verify` looks at the
file; the check at a worker's start looks at the unpacked entry. Also times both for 40 MB.
"""

import argparse
import itertools
import json
import random
import shutil
import tempfile
import time
import zipfile
from pathlib import Path

from deploy.archive import layout
from deploy.archive.verify import verify
from deploy.errors import DeployError
from handlers import seal
from optimize.utils import files

RESULTS = Path(__file__).parent / "results" / "flips.json"
LARGE = 40_000_000


def offsets(archive: Path, count: int) -> list[int]:
    """At least `count` places: some in every entry's content, head and listing."""
    with archive.open("rb") as file:
        infos = layout.read(file, archive)
    size = archive.stat().st_size
    chance = random.Random(0)
    starts = [info.header_offset for info in infos] + [size]
    found: set[int] = set()
    share = count // (len(infos) + 1) + 1
    for start, stop in itertools.pairwise(starts):
        found |= {start, stop - 1, *(chance.randrange(start, stop) for _ in range(share))}
    end = infos[-1].header_offset + infos[-1].file_size  # the list of entries lies behind it
    while len(found) < count:
        found.add(chance.randrange(end, size))
    return sorted(found)


def by_verify(archive: Path, at: list[int]) -> int:
    """How many flipped bytes of the file `verify` finds."""
    missed = 0
    with archive.open("r+b") as file:
        for place in at:
            file.seek(place)
            (byte,) = file.read(1)
            put(file, place, byte ^ 1 << place % 8)
            try:
                verify(archive)
                missed += 1
                print(f"missed: byte {place}")
            except DeployError:
                pass
            put(file, place, byte)
    verify(archive)
    return len(at) - missed


def put(file: object, place: int, byte: int) -> None:
    """Write one byte of an open file."""
    file.seek(place)  # type: ignore[attr-defined]
    file.write(bytes([byte]))  # type: ignore[attr-defined]
    file.flush()  # type: ignore[attr-defined]


def at_load(archive: Path, folder: Path, count: int) -> tuple[int, int]:
    """Flips in the unpacked files: how many were made, how many the check at load finds."""
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(folder)
        names = [info.filename for info in packed.infolist() if info.file_size]
    chance, made, found = random.Random(1), 0, 0
    for name in names:
        path = folder / name
        with path.open("r+b") as file:
            size = path.stat().st_size
            share = min(size, count // len(names) + 1)
            for place in sorted(chance.sample(range(size), share)):
                file.seek(place)
                (byte,) = file.read(1)
                put(file, place, byte ^ 1 << place % 8)
                made += 1
                try:
                    seal.check(folder)
                    print(f"missed: byte {place} of {name}")
                except seal.Tampered:
                    found += 1
                put(file, place, byte)
    seal.check(folder)
    return made, found


def timed(folder: Path, archive: Path) -> dict[str, float]:
    """Milliseconds, the least of five, of both looks at an archive of 40 MB."""
    with zipfile.ZipFile(archive) as packed:
        entries = {name: packed.read(name) for name in packed.namelist()}
    chance = random.Random(2)
    report = json.loads(entries["report.json"])
    for key in ("report_sha256", "card_sha256", "files", "digest", "versions", "machine"):
        report.pop(key, None)  # as of a model that nobody measured
    entries["report.json"] = json.dumps(report).encode()
    entries.pop("statement.json", None)
    entries["more.bin"] = chance.randbytes(LARGE - sum(map(len, entries.values())))
    large = folder / "large.mar"
    large.write_bytes(layout.pack(entries))
    with zipfile.ZipFile(large) as packed:
        packed.extractall(folder / "large")
    verified, checked = [], []
    for _ in range(5):
        start = time.perf_counter()
        verify(large)
        verified.append(time.perf_counter() - start)
        start = time.perf_counter()
        seal.check(folder / "large")
        checked.append(time.perf_counter() - start)
    return {"verify_ms": round(min(verified) * 1e3, 1), "load_ms": round(min(checked) * 1e3, 1)}


def main() -> None:
    """Flip, count, time, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--flips", type=int, default=3000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="flips-") as name:
        copy = Path(name) / "copy.mar"
        shutil.copyfile(arguments.archive, copy)
        at = offsets(copy, arguments.flips)
        found = by_verify(copy, at)
        print(f"deploy verify: {found} of {len(at)} flipped bytes found")
        made, seen = at_load(copy, Path(name) / "unpacked", arguments.flips)
        print(f"at load:       {seen} of {made} flipped bytes found")
        took = timed(Path(name), copy)
        print(f"40 MB: verify {took['verify_ms']} ms, at load {took['load_ms']} ms")
    figures = {
        "archive": arguments.archive.name,
        "bytes": arguments.archive.stat().st_size,
        "verify": {"flips": len(at), "found": found},
        "load": {"flips": made, "found": seen},
        "40 MB": took,
    }
    files.write_json(RESULTS, figures)
    if found < len(at) or seen < made:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
