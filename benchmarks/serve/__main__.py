"""The command line: python -m benchmarks.serve."""

import argparse
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path

from benchmarks.serve import results
from benchmarks.serve.kinds import KINDS, ROOT
from benchmarks.serve.race import Plan, race
from benchmarks.serve.servers import SERVERS
from deploy.errors import DeployError
from optimize.evaluation import environment

TABLES = ("race", "arrivals", "gain")


def _names(known: dict[str, object]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        chosen = [name for name in text.split(",") if name]
        unknown = set(chosen) - known.keys()
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not of {', '.join(known)}")
        return chosen

    return parse


def main() -> int:
    """Race the chosen kinds and print their tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve")
    parser.add_argument("--kinds", type=_names(dict(KINDS)), default=list(KINDS))
    parser.add_argument("--servers", type=_names(dict(SERVERS)), default=list(SERVERS))
    parser.add_argument(
        "--clients", type=lambda t: [int(n) for n in t.split(",")], default=[1, 4, 16, 64]
    )
    parser.add_argument("--tables", type=_names(dict.fromkeys(TABLES)), default=list(TABLES))
    parser.add_argument(
        "--peers",
        type=_names(dict(SERVERS)),
        default=["fastapi", "mosec"],
        help="asked by LoadGen too; the first serves the original (default: fastapi,mosec)",
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each run")
    parser.add_argument("--quick", action="store_true", help="one round of a second each")
    parser.add_argument("--fresh", action="store_true", help="forget the rounds in the file")
    parser.add_argument("--artifacts", type=Path, default=ROOT / "artifacts")
    parser.add_argument("--output", type=Path, default=results.PATH)
    arguments = parser.parse_args()
    rounds, seconds = (1, 1.0) if arguments.quick else (arguments.rounds, arguments.seconds)
    plan = Plan(
        servers=arguments.servers,
        clients=arguments.clients,
        rounds=rounds,
        seconds=seconds,
        tables=arguments.tables,
        peers=arguments.peers,
    )
    found = {} if arguments.fresh else results.read(arguments.output)
    found["date"] = date.today().isoformat()
    found["machine"], found["versions"] = environment.describe(), environment.versions()
    status = 0
    for name in arguments.kinds:
        kind = KINDS[name]
        try:
            artifact = kind.artifact(arguments.artifacts)
        except DeployError as error:
            print(f"{name}: {error}", flush=True)
            status = 2
            continue
        race(kind, artifact, plan, found, arguments.output)
        print(f"\n{name} ({artifact.name})\n{results.table(found[name])}\n", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
