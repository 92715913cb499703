"""From an artifact to an answer: archive, start, register, ask, show; skips what is up to date."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy import lock, samples
from deploy.archive import mar, store
from deploy.archive.card import check_workers, read_card, read_report
from deploy.archive.verify import Archive, verify
from deploy.errors import Unproven
from deploy.progress import Say
from deploy.samples import Asked
from deploy.signing import beside, keys, signature
from deploy.summary import compact, engine_lines, headline, next_steps, short_path, size
from deploy.torchserve import config as configuration
from deploy.torchserve import server
from deploy.torchserve.inference import content_type
from deploy.torchserve.rollout import roll_out

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey


@dataclass(frozen=True)
class Place:
    """The folders and settings in use; `workdir` is the folder that TorchServe runs in."""

    workdir: Path
    config: Path
    model_store: Path
    artifacts: Path


def serve(
    name: str,
    place: Place,
    force: bool = False,
    engines: tuple[str, ...] = (),
    allow_ops: Collection[str] = (),
    say: Say = print,
    key: "EllipticCurvePrivateKey | None" = None,
) -> dict[str, Any]:
    """Serve artifact `name` and show a real answer. Raises DeployError with what to do.

    Returns for programs: `archive`, `inference` and `management` (URLs), `metric`, `before` and
    `after` (the report's original and final row), and `answers`, a sample each.

    The new version is asked all of the artifact's samples before it becomes the default and the
    old one goes: if anything fails, the old version serves on, and NAME.mar stays what it was.
    `engines` are exports to pack instead of what the card lists; the worker serves from the
    fastest. `allow_ops` are operators that its TorchScript may call beyond the allowed ones. `key`
    signs the archive; one that config.properties does not trust is refused. Two calls for one name
    wait for each other.
    """
    artifact = place.artifacts / name
    card = read_card(artifact)
    check_workers(card.serving.workers, card.name)
    trust = configuration.trust(place.config)
    with lock.held(place.workdir / ".run" / f"serve-{card.name}.lock"):
        there = set(place.model_store.glob(f"{card.name}-*.mar"))
        sealed = ensure_archive(artifact, place.model_store, force, engines, allow_ops, say, key)
        try:
            own = () if key is None else (keys.of(key.public_key(), "the key given"),)
            shown = replace(trust, trusted=trust.trusted or own)
            say(_signature(shown.admit(sealed.path, sealed.sha256)))
            asked = _serve(sealed, artifact, place, bool(engines or card.alternatives), say)
        except BaseException:
            if sealed.path not in there:
                store.remove(sealed.path)
            raise
        store.make_current(sealed, place.model_store)
    report, settings = read_report(artifact), configuration.read(place.config)
    say("console   .venv/bin/python -m deploy console: ask it in a browser")
    say("")
    for line in headline(report):
        say(line)
    say("")
    sample = asked[0].sample.path if asked else None
    for line in next_steps(card.name, settings, sample):
        say(line)
    return {
        "archive": sealed.as_json(),
        "inference": settings.inference,
        "management": settings.management,
        "metric": report.get("metric"),
        "before": report.get("original"),
        "after": report.get("final"),
        "answers": [one.as_json() for one in asked],
    }


def _serve(
    sealed: Archive, artifact: Path, place: Place, with_engines: bool, say: Say
) -> list[Asked]:
    """Start a server unless one runs, roll the archive out; its answers to the samples."""
    settings = configuration.read(place.config)
    management, inference = server.clients(place.workdir, settings)
    if server.running(place.workdir) or server.answers(inference):
        say(f"server    running at {settings.inference}")
    else:
        server.start(place.workdir, place.config, place.model_store)
        management, inference = server.clients(place.workdir, settings)
        logs = short_path(place.workdir / "logs")
        say(f"server    started at {settings.inference}, logs in {logs}")
    report = read_report(artifact)
    files = samples.read(artifact / "samples")
    asked: list[Asked] = []

    def ask(version: str) -> None:
        def predict(path: Path) -> object:
            return inference.predict(sealed.name, path.read_bytes(), content_type(path), version)

        try:
            asked[:] = samples.ask(files, predict, report)
        except Unproven as error:
            raise Unproven(
                f"{sealed.name} version {version} does not take over: {error}. What was served "
                "before still is"
            ) from error

    roll_out(sealed, management, place.workdir, ask, say)
    if with_engines:
        for line in engine_lines(management.describe(sealed.name, None, True)):
            say(line)
    for line in _answer_lines(asked):
        say(line)
    return asked


def ensure_archive(
    artifact: Path,
    model_store: Path,
    force: bool,
    engines: tuple[str, ...],
    allow_ops: Collection[str],
    say: Say,
    key: "EllipticCurvePrivateKey | None" = None,
) -> Archive:
    """The artifact's archive as NAME-VERSION.mar, built unless NAME.mar holds the same content."""
    name = read_card(artifact).name
    path = store.current(model_store, name)
    if mar.is_stale(artifact, path, engines=engines):
        sealed = mar.seal(
            artifact,
            model_store,
            force=force,
            engines=engines,
            allow_ops=allow_ops,
            in_use=False,
            key=key,
        )
        state = "built"
    else:
        sealed = verify(path, allow_ops)
        target = store.versioned(model_store, name, sealed.version)
        store.link(path, target)
        sealed = replace(sealed, path=target)
        if key is not None and not _signed_by(sealed, key):
            mar.sign(target, key)
        state = "up to date"
    say(f"archive   {short_path(sealed.path)}, {size(sealed.bytes)}, {state}")
    return sealed


def _signature(found: signature.Signed) -> str:
    """A line that begins as the others do, also if there is none."""
    return f"{'signed':<10}{found}"


def _signed_by(sealed: Archive, key: "EllipticCurvePrivateKey") -> bool:
    found = signature.look(sealed.path, (keys.of(key.public_key()),), sealed.sha256)
    return found.state == "trusted" and beside.statement(sealed.path).is_file()


def _answer_lines(asked: list[Asked]) -> list[str]:
    """One sample with its answer, and how many of all are right."""
    if not asked:
        return ["answer    not asked: the artifact has no samples/"]
    first = asked[0]
    verdict = {True: " (right)", False: f" (wrong, it is {first.sample.label})", None: ""}
    lines = [
        f"sample    {short_path(first.sample.path)}",
        f"answer    {compact(first.reply)}{verdict[first.right]}",
    ]
    judged = [one for one in asked if one.right is not None]
    if len(judged) > 1:
        right = sum(one.right is True for one in judged)
        lines.append(f"          {right} of {len(judged)} samples answered right")
    return lines
