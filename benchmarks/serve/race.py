"""The race: rounds in which every server and the ceiling take their turn."""

import json
import random
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.serve import arrivals, gain, results
from benchmarks.serve.ceiling import BATCHES, Ceiling
from benchmarks.serve.guard import Guarded
from benchmarks.serve.kinds import Kind, multipart
from benchmarks.serve.load import Measured, Target, send
from benchmarks.serve.servers import BENCH, OURS, SERVERS, Place, ServerError, running
from deploy.errors import DeployError
from deploy.tune.sandbox import free_ports

PYTHON = BENCH / "python"
_WARM_SECONDS = 5.0  # Java compiles what it runs often
_MB = 1 << 20


@dataclass(frozen=True)
class Plan:
    """What is raced, and for how long; `peers` are in the second table, the first in the third."""

    servers: Sequence[str]
    clients: Sequence[int]
    rounds: int
    seconds: float
    tables: Sequence[str]
    peers: Sequence[str]


@dataclass
class Contestant:
    """A server that runs: where it is asked, what it is sent, and its processes."""

    target: Target
    files: list[Path]
    guarded: Guarded


class Field:
    """The servers of one kind: those that idle well run all the time, others for their turn."""

    def __init__(self, kind: Kind, artifact: Path, scratch: Path) -> None:
        self.kind, self.artifact, self.scratch = kind, artifact, scratch
        self.unpacked = scratch / "unpacked"
        shutil.copytree(
            artifact, self.unpacked, ignore=shutil.ignore_patterns("stages", "exports", "samples")
        )
        self.bodies = kind.bodies(artifact)
        self.raw = self._files("raw", self.bodies)
        self.forms = self._files("form", [multipart(b, kind.content_type) for b in self.bodies])
        self.running: dict[str, Contestant] = {}
        self.absent: dict[str, str] = {}

    def _files(self, name: str, bodies: list[bytes]) -> list[Path]:
        folder = self.scratch / name
        folder.mkdir()
        paths = [folder / f"{number:03}" for number in range(len(bodies))]
        for path, body in zip(paths, bodies, strict=True):
            path.write_bytes(body)
        return paths

    @contextmanager
    def server(self, name: str, folder: Path | None = None) -> Iterator[Contestant]:
        """A server that answers, warmed up; of the files in `folder`, if not of the archive's."""
        if folder is None and name in self.running:
            yield self.running[name]
            return
        (port,) = free_ports(1)
        own = self.scratch / (f"{name}-{folder.name}" if folder else name)
        place = Place(self.kind, self.artifact, folder or self.unpacked, own, port)
        with running(name, place, self.bodies[0]) as (target, guarded):
            files = self.forms if SERVERS[name].form else self.raw
            send(target, files, 4, _WARM_SECONDS)
            yield Contestant(target, files, guarded)

    def start(self, names: Sequence[str], stack: ExitStack) -> list[str]:
        """Start those that run all the time; the names that can be raced."""
        for name in names:
            if not SERVERS[name].idles:
                continue
            try:
                self.running[name] = stack.enter_context(self.server(name))
                print(f"  {name} is up", flush=True)
            except (ServerError, DeployError, OSError) as error:
                self.absent[name] = str(error)
                print(f"  {name} is left out: {error}", flush=True)
        return [name for name in names if name not in self.absent]


def race(kind: Kind, artifact: Path, plan: Plan, found: dict[str, Any], path: Path) -> None:
    """Race one kind and write `found` to `path` after every round; rounds in it are kept."""
    report = json.loads((artifact / "report.json").read_text())
    entry = found.get(kind.name, {})
    if entry.get("digest") != report.get("digest") or entry.get("seconds") != plan.seconds:
        entry = {"artifact": artifact.name, "digest": report.get("digest"), "rounds": []}
    entry["seconds"] = plan.seconds
    found[kind.name] = entry
    rounds = entry["rounds"]
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="marpress-race-")))
        field = Field(kind, artifact, scratch)
        entry["input_bytes"] = round(sum(map(len, field.bodies)) / len(field.bodies))
        names = field.start(plan.servers, stack)
        ceiling = Ceiling(kind, field.unpacked, field.raw)
        stack.callback(ceiling.close)
        entry["absent"] = field.absent
        for number in range(plan.rounds if "race" in plan.tables else 0):
            started = time.monotonic()
            if number == len(rounds):
                rounds.append({})
            _round(field, ceiling, names, plan, rounds[number], number)
            entry["rss_mb"] = {
                **entry.get("rss_mb", {}),
                **{n: round(c.guarded.resident() / _MB) for n, c in field.running.items()},
            }
            results.summarise(entry)
            results.write(found, path)
            print(f"round {number + 1} took {time.monotonic() - started:.0f} s", flush=True)
        if "arrivals" in plan.tables:
            _arrivals(field, names, plan, entry)
            results.write(found, path)
        if "gain" in plan.tables:
            _gain(field, plan, entry)
            results.write(found, path)


def _arrivals(field: Field, names: Sequence[str], plan: Plan, entry: dict[str, Any]) -> None:
    """The second table: every server whose entry is not there yet."""
    table = entry.setdefault("arrivals", {})
    for name in names:
        if name in table or name not in (*OURS, *plan.peers):
            continue
        with field.server(name) as contestant:
            raced = [m["rps"] for c in entry.get("clients", {}).values() if (m := c.get(name))]
            most = 1.1 * max(raced, default=0.0) or 500.0
            target, files, bound = contestant.target, contestant.files, field.kind.bound_ms
            table[name] = arrivals.measure(PYTHON, target, files, bound, plan.seconds, most)
        print(f"  {name:18} arrivals {table[name]}", flush=True)


def _gain(field: Field, plan: Plan, entry: dict[str, Any]) -> None:
    """The third table: the original in a peer by turns with our archive in TorchServe."""
    folder = field.scratch / "original"
    shutil.copytree(field.unpacked, folder)
    if not gain.original(field.kind, field.artifact, folder):
        return
    table: dict[str, Any] = {"peer": plan.peers[0], "clients": {}}
    with (
        field.server("torchserve") as ours,
        field.server(plan.peers[0], folder) as peer,
    ):
        for clients in plan.clients:
            runs: dict[str, list[Measured]] = {"ours": [], "original": []}
            for _ in range(plan.rounds):
                for name, one in (("ours", ours), ("original", peer)):
                    runs[name].append(send(one.target, one.files, clients, plan.seconds))
            table["clients"][str(clients)] = {
                name: sorted(measured, key=lambda m: m.rps)[len(measured) // 2].as_json()
                for name, measured in runs.items()
            }
    table["ratio"] = gain.ratios(table)
    entry["gain"] = table
    print(f"  ours over the original in {table['peer']}: {table['ratio']}", flush=True)


def _round(
    field: Field,
    ceiling: Ceiling,
    names: Sequence[str],
    plan: Plan,
    done: dict[str, dict[str, Any]],
    number: int,
) -> None:
    order = random.Random(number).sample([*names, results.CEILING], len(names) + 1)
    for name in order:
        columns = done.setdefault(name, {})
        if name == results.CEILING:
            for batch in BATCHES:
                if str(batch) not in columns:
                    columns[str(batch)] = ceiling.rps(batch, plan.seconds)
            continue
        left = [count for count in plan.clients if str(count) not in columns]
        if not left:
            continue
        try:
            with field.server(name) as contestant:
                for clients in left:
                    measured = send(contestant.target, contestant.files, clients, plan.seconds)
                    columns[str(clients)] = measured.as_json()
                    print(f"  {name:18}{clients:4} clients  {measured}", flush=True)
        except ServerError as error:
            field.absent[name] = str(error)
            print(f"  {name} is left out: {error}", flush=True)
