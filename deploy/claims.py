"""The verb `python -m deploy evidence`: an archive's claims, its parts, and who signed them."""

import argparse
import json
import textwrap
import zipfile
from pathlib import Path
from typing import Any

from deploy import output
from deploy.archive import adopted, store
from deploy.archive.verify import Archive, verify
from deploy.errors import BadInput, Untrusted
from deploy.evidence import bom, statement
from deploy.signing import beside, envelope, keys
from deploy.signing.signature import Signed, look
from deploy.torchserve import config as configuration

WIDTH = 80


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own arguments; --model-store and --config are shared with the other verbs."""
    parser.add_argument("name", metavar="NAME|FILE", help="a model of the model store, or a .mar")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--statement", action="store_true", help="the in-toto statement, as packed")
    shape.add_argument("--bom", action="store_true", help="the CycloneDX bill, as packed")
    shape.add_argument("--json", action="store_true", help="both, and the signatures, as JSON")
    add_keys(parser, "a public key to trust, beside those of the settings")


def run(args: argparse.Namespace) -> None:
    """Print the evidence. Raises BadInput for no archive, Untrusted for a wrong signature."""
    path = store.named(Path(args.model_store), args.name)
    sealed = verify(path, allow_ops=None)
    inside = _read(path)
    for chosen, name in ((args.statement, statement.NAME), (args.bom, bom.NAME)):
        if chosen:
            if name not in inside:
                why = adopted.STATUS if sealed.adopted else _OLD
                raise BadInput(f"{path} holds no {name}: {why}")
            print(inside[name].decode(), end="")
            return
    trusted = trusted_keys(args)
    signed = look(path, trusted, sealed.sha256)
    stated = stated_by(path, trusted, inside.get(statement.NAME))
    if args.json:
        output.show(_as_json(sealed, inside, signed, stated))
    else:
        for line in lines(sealed, inside, signed, stated):
            print(line)
    for found in (signed, stated):
        if found.state == "wrong":
            raise Untrusted(
                f"{found.why}: get the archive and what lies beside it again from whoever signs it"
            )


_OLD = "seal it again from an artifact that this version measured"


def add_keys(parser: argparse.ArgumentParser, meaning: str) -> None:
    """The option `--key` of `trusted_keys`, any number of times."""
    parser.add_argument("--key", action="append", default=[], metavar="PUB.pem", help=meaning)


def trusted_keys(args: argparse.Namespace) -> tuple[keys.PublicKey, ...]:
    """The keys that --key names and those that the settings trust."""
    given = tuple(keys.public(Path(path)) for path in args.key)
    return (*given, *configuration.trust(Path(args.config), optional=True).trusted)


def stated_by(archive: Path, trusted: tuple[keys.PublicKey, ...], packed: bytes | None) -> Signed:
    """What is known of the signature of an archive's statement; it must be of the `packed` one."""
    path = beside.statement(archive)
    if not path.is_file():
        return Signed("unsigned")
    with path.open("rb") as file:
        data = file.read(envelope.MAX_BYTES + 1)
    try:
        named = envelope.keyid(data)
        for key in trusted:
            if named in ("", key.fingerprint):
                if envelope.verified(data, key) != packed:
                    raise Untrusted(f"{path} is of another statement than the archive's")
                return Signed("trusted", key.fingerprint, key.name)
    except (Untrusted, BadInput) as error:
        missing = str(error) == keys.INSTALL
        return Signed("unchecked", named) if missing else Signed("wrong", why=str(error))
    return Signed("unknown", named)


def lines(sealed: Archive, inside: dict[str, bytes], signed: Signed, stated: Signed) -> list[str]:
    """The evidence for people, at most 80 columns wide."""
    found = [
        *_row("model", f"{sealed.name} version {sealed.version}"),
        *_row("archive", f"SHA-256 {sealed.sha256}"),
        *_row("signature", str(signed)),
    ]
    if statement.NAME in inside:
        found += _claims(json.loads(inside[statement.NAME]), stated)
    else:
        none = adopted.STATUS if sealed.adopted else f"no statement: {_OLD}"
        found += _row("claims", none)
    if bom.NAME in inside:
        found += _made_of(json.loads(inside[bom.NAME]))
    return found


def _claims(claimed: dict[str, Any], stated: Signed) -> list[str]:
    told = claimed["predicate"]
    measured, fixed = told["measurement"], told.get("preRegistration")
    served, before = measured["served"], measured["original"]
    found = ["", *_row("statement", f"in-toto, {stated}"), *_row("about", _files(claimed))]
    found += _row(
        "data", f"{told['dataset']['name']}, {told['sampleSize']} samples of the test split"
    )
    low, high = served["interval95"]
    found += _row(
        measured["metric"],
        f"{served['value']}, 95% interval {low} to {high}; the original's {before['value']}",
    )
    for one in told["claims"]:
        held = "holds" if one["passed"] else "FAILS"
        found += _row(
            "claim",
            f"{held}: {one['metric']} {one['comparator']} {one['threshold']}, measured "
            f"{one['value']} on {one['sampleSize']}",
        )
    if fixed:
        late = ", CHANGED after a measurement" if fixed["changedAfterMeasurement"] else ""
        found += _row("budget", f"fixed {fixed['at']}{late}, SHA-256 {fixed['value'][:16]}")
    harness = told.get("harness")
    if harness:
        digest = harness["digest"]["sha256"][:16]
        found += _row(
            "measured", f"{told['evaluatedAt']} by {harness['name']} {harness['version']}"
        )
        found += _row("", f"its sources SHA-256 {digest}")
    return found


def _files(claimed: dict[str, Any]) -> str:
    return ", ".join(
        f"{one['name']} (SHA-256 {one['digest']['sha256'][:16]})" if number == 0 else one["name"]
        for number, one in enumerate(claimed["subject"])
    )


def _made_of(bill: dict[str, Any]) -> list[str]:
    found = ["", *_row("made of", f"CycloneDX {bill['specVersion']}, {bill['serialNumber']}")]
    parts = bill.get("components", [])
    for part in parts:
        if part["type"] in ("library", "platform", "data"):
            licences = " ".join(map(_licence, part.get("licenses", []))) or "licence not stated"
            text = f"{part['name']} {part.get('version', '')}, {licences}"
            found += _row("data" if part["type"] == "data" else "package", text)
    count = sum(part["type"] == "file" for part in parts)
    return found + _row("files", f"{count}, each with its SHA-256")


def _licence(entry: dict[str, Any]) -> str:
    if "expression" in entry:
        return str(entry["expression"])
    return str(entry["license"].get("id") or entry["license"].get("name"))


def _row(title: str, text: str) -> list[str]:
    """A row of printable characters alone: an archive's words could command a terminal."""
    first, rest = f"{_printable(title):<10} ", " " * 11
    return textwrap.wrap(
        _printable(text),
        WIDTH,
        initial_indent=first,
        subsequent_indent=rest,
        break_on_hyphens=False,
    )


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


def _as_json(
    sealed: Archive, inside: dict[str, bytes], signed: Signed, stated: Signed
) -> dict[str, Any]:
    def read(name: str) -> Any:
        return json.loads(inside[name]) if name in inside else None

    return {
        "model": sealed.name,
        "version": sealed.version,
        "sha256": sealed.sha256,
        "signature": signed.as_json(),
        "statement_signature": stated.as_json(),
        "statement": read(statement.NAME),
        "bom": read(bom.NAME),
    }


def _read(path: Path) -> dict[str, bytes]:
    """The two files of evidence that a verified archive holds."""
    with zipfile.ZipFile(path) as packed:
        names = [name for name in (statement.NAME, bom.NAME) if name in packed.namelist()]
        return {name: packed.read(name) for name in names}
