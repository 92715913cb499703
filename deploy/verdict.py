"""The verb `python -m deploy verify`: an archive is whole, and what it claims in one table."""

import argparse
import json
import textwrap
import zipfile
from pathlib import Path
from typing import Any

from deploy import output
from deploy.archive import adopted, store
from deploy.archive.verify import Archive, verify
from deploy.claims import add_keys, trusted_keys
from deploy.errors import Untrusted
from deploy.signing.signature import Signed, look
from deploy.summary import size
from handlers import binding

WIDTH = 80
_TITLE = 11
_MOST = 400  # characters of what an archive says in one row


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own arguments; --model-store and --config are shared with the other verbs."""
    parser.add_argument("file", metavar="FILE|NAME", help="a .mar, or a model of the model store")
    add_keys(parser, "fail unless this key, or one of those that the settings trust, signed it")
    output.add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Print what a whole archive claims.

    Raises BadInput for what is no archive of ours, NotAsReported with the entry that differs, is
    missing or is extra, Untrusted for a signature that is wrong, or not there though asked for.
    """
    path = store.named(Path(args.model_store), args.file)
    sealed = verify(path, args.allow_ops)
    signed = look(path, trusted_keys(args), sealed.sha256)
    with zipfile.ZipFile(path) as packed:
        count = len(packed.namelist())
        report = {} if sealed.adopted else json.loads(packed.read("report.json"))
    found = {**claimed(sealed, report, count), "signed": str(signed)}
    if args.json:
        output.show(as_json(sealed, report, signed))
    else:
        for line in table(found):
            print(line)
    if signed.state == "wrong" or (args.key and signed.state != "trusted"):
        raise Untrusted(f"{path} is not signed by a key that you trust: {signed}")


def claimed(sealed: Archive, report: dict[str, Any], count: int) -> dict[str, str]:
    """What an archive of `count` entries says of itself, by row; nothing in it is believed."""
    whole = {
        "model": f"{sealed.name} version {sealed.version}",
        "archive": f"{size(sealed.bytes)}, {count} entries, each as it was sealed",
        "sha256": sealed.sha256,
    }
    if sealed.adopted:
        return {**whole, "evidence": adopted.STATUS}
    return {
        **whole,
        "measured": measured(report),
        "budget": budget(report),
        "gate": _gate(report),
    }


def measured(report: dict[str, Any]) -> str:
    """The metric's value, interval and samples, and what it was before."""
    if not binding.is_bound(report):
        return "nothing: the report was written by hand and names no files"
    try:
        metric, after, before = report["metric"], report["final"], report["original"]
        name, scale, digits = metric["name"], metric["scale"], metric["digits"]
        low, high = (f"{scale * end:.{digits}f}" for end in after["ci95"])
        return (
            f"{name} {scale * after[name]:.{digits}f} {metric['unit']}, 95% interval {low} to "
            f"{high}, {after['samples']:,} samples; {scale * before[name]:.{digits}f} before"
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        return "the report says no metric with interval and samples"


def budget(report: dict[str, Any]) -> str:
    """The criteria that the recipe set, with what was measured."""
    try:
        return "; ".join(
            f"{one['metric']} {one['comparator']} {one['threshold']:g} ({one['value']:.4g} on "
            f"{one['samples']:,})"
            for one in report["gate"]["criteria"]
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        return "the report states none"


def _gate(report: dict[str, Any]) -> str:
    gate = report.get("gate")
    passed = isinstance(gate, dict) and gate.get("passed") is True
    reason = gate.get("reason") if isinstance(gate, dict) else None
    told = f": {reason}" if isinstance(reason, str) else ""
    return f"{'passed' if passed else 'FAILED, sealed with --force'}{told}"


def table(rows: dict[str, str]) -> list[str]:
    """The rows at most 80 columns wide, of printable characters alone."""
    found = []
    for title, text in rows.items():
        shown = "".join(c if c.isprintable() else "?" for c in text[:_MOST])
        found += textwrap.wrap(
            shown,
            WIDTH,
            initial_indent=f"{''.join(c if c.isprintable() else '?' for c in title):<{_TITLE}}",
            subsequent_indent=" " * _TITLE,
            break_on_hyphens=False,
        )
    return found


def as_json(sealed: Archive, report: dict[str, Any], signed: Signed) -> dict[str, Any]:
    """The same for programs, the figures as the report has them."""
    metric, final = report.get("metric"), report.get("final")
    name = metric.get("name") if isinstance(metric, dict) else None
    figures = final if isinstance(final, dict) else {}
    return {
        "model": sealed.name,
        "version": sealed.version,
        "bytes": sealed.bytes,
        "sha256": sealed.sha256,
        "adopted": sealed.adopted,
        "bound": binding.is_bound(report),
        "metric": {
            "name": name,
            "value": figures.get(name) if isinstance(name, str) else None,
            "interval95": figures.get("ci95"),
            "samples": figures.get("samples"),
        },
        "gate": report.get("gate"),
        "signature": signed.as_json(),
    }
