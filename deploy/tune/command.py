"""The verb `python -m deploy tune`: find the settings that serve an artifact best here."""

import argparse
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from deploy import lock, output
from deploy.archive.card import read_card, read_report
from deploy.errors import Unproven
from deploy.progress import Say
from deploy.tune import settings as ways
from deploy.tune.search import Goal, Tried, confirm, pareto, search
from handlers import cores

STUDY, RESULTS, CHART = "tune.db", "tune.json", "tune.svg"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own arguments; --artifacts and --config are shared with the other verbs."""
    parser.add_argument("name", help="the artifact's name")
    parser.add_argument(
        "--p99",
        type=_bound,
        default=0.05,
        metavar="TIME",
        help="answers that take longer do not count, such as 50ms or 1.5s (default: 50ms)",
    )
    parser.add_argument(
        "--clients",
        type=_clients,
        default=(1, 4, 16),
        metavar="N,...",
        help="numbers of clients that all count the same (default: 1,4,16)",
    )
    parser.add_argument("--minutes", type=float, default=5.0, help="of searching (default: 5)")
    parser.add_argument(
        "--keep", action="store_true", help="show what was found and leave the card as it is"
    )
    output.add_json(parser)
    parser.add_argument("--fresh", action="store_true", help="forget the trials of earlier calls")


def run(args: argparse.Namespace) -> None:
    """Search, measure the best again, write them into the card. Raises DeployError."""
    from deploy.tune.trial import bench

    artifact = Path(args.artifacts) / args.name
    card = read_card(artifact)
    read_report(artifact)
    path = artifact / "model.json"
    first = ways.of_card(json.loads(path.read_text(encoding="utf-8")))
    goal = Goal(args.p99, args.clients)
    say = output.note if args.json else output.say
    with lock.held(Path(args.workdir) / ".run" / f"tune-{card.name}.lock"):
        if args.fresh:
            (artifact / STUDY).unlink(missing_ok=True)
        with (
            tqdm(total=round(60 * args.minutes), unit="s", desc="tuning", disable=None) as bar,
            bench(artifact, Path(args.config), args.engines, args.allow_ops) as place,
        ):

            def tell(line: str) -> None:
                with bar.external_write_mode():
                    say(line)
                bar.update(min(round(bar.format_dict["elapsed"]), bar.total or 0) - bar.n)

            tried = search(place, goal, first, artifact / STUDY, args.minutes, tell)
            if not tried:
                raise Unproven("no settings could be measured: see the lines above")
            confirm(place, goal, tried, tell)
        chosen = max(tried, key=lambda one: (len(one.scores), one.score))
        show(tried, chosen, goal, say)
        found = _save(artifact, tried, chosen, goal)
        say(f"table and plot: {artifact / RESULTS}, {artifact / CHART}")
        if args.keep:
            say(f"{path} is left as it is")
        else:
            ways.write(path, chosen.settings)
            say(f"{path} says so now: ./build_mar.sh {args.name} packs it")
        if args.json:
            output.show({**found, "written": not args.keep})


def show(tried: Sequence[Tried], chosen: Tried, goal: Goal, say: Say = output.say) -> None:
    """The ways that no other beats, best first, and the chosen one; answers in all and within the
    bound."""
    say(f"{'':38}{'clients':>8}{'answers/s':>10}{'in time':>8}{'p50 ms':>8}{'p99 ms':>8}")
    listed = {id(one): one for one in (*pareto(tried), chosen)}
    for one in sorted(listed.values(), key=lambda one: -one.score):
        title = f"{'* ' if one is chosen else '  '}{one.settings.describe()}"
        for p in one.points:
            rates = f"{p.rps:>10.0f}{p.goodput:>8.0f}{p.p50_ms:>8.1f}{p.p99_ms:>8.0f}"
            say(f"{title:38}{p.clients:>8}{rates}")
            title = ""
    low, high = min(chosen.scores), max(chosen.scores)
    say(f"chosen: {chosen.settings.describe()}; score {low:.1f} to {high:.1f}, {goal.key()}")


def _save(artifact: Path, tried: Sequence[Tried], chosen: Tried, goal: Goal) -> dict[str, Any]:
    from deploy.tune.chart import chart

    found = {
        "goal": goal.key(),
        "cores": cores.usable(),
        "chosen": chosen.settings.as_json(),
        "tried": [
            {
                **one.settings.as_json(),
                "scores": [round(value, 1) for value in one.scores],
                "points": [point.as_json() for point in one.points],
            }
            for one in sorted(tried, key=lambda one: -one.score)
        ],
    }
    for name, text in (
        (RESULTS, json.dumps(found, indent=2) + "\n"),
        (CHART, chart(tried, chosen)),
    ):
        aside = artifact / f"{name}.{os.getpid()}"
        aside.write_text(text, encoding="utf-8")
        aside.replace(artifact / name)
    return found


def _bound(text: str) -> float:
    """A time in seconds: 50ms, 1.5s."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s)", text)
    if match is None or not float(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no time such as 50ms or 1.5s")
    return float(match[1]) * (1e-3 if match[2] == "ms" else 1.0)


def _clients(text: str) -> tuple[int, ...]:
    numbers = text.split(",")
    if not all(n.isdecimal() and 1 <= int(n) <= 1024 for n in numbers):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers from 1 to 1024")
    return tuple(sorted({int(n) for n in numbers}))
