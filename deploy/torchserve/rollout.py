"""Put an archive into service: the new version answers before the old one goes.

The order is register, ask, default, retire. Whatever fails before the new version is the default
leaves the old one as it was.
"""

import hashlib
import json
import os
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import psutil

from deploy.archive import mar, store
from deploy.archive.verify import Archive, identity, refuse_tar
from deploy.errors import Conflict, DeployError, ModelNotFound, Refused, Untrusted
from deploy.progress import Say
from deploy.signing.policy import Policy
from deploy.signing.signature import Signed
from deploy.torchserve import server
from deploy.torchserve.management import Management

REGISTERED = "registered.json"
POLL_SECONDS = 0.5

Ask = Callable[[str], None]
"""Ask one version, by its name, for what it must answer; raises DeployError if it does not."""


def roll_out(sealed: Archive, management: Management, workdir: Path, ask: Ask, say: Say) -> None:
    """Make `sealed` the version that answers, once `ask` is satisfied with it.

    Raises DeployError; then the version that answered before still does.
    """
    versions = _versions(management, sealed.name)
    label = f"{sealed.name} version {sealed.version}"
    if sealed.version not in versions:
        _register(sealed, management, ask)
        say(f"model     {label}, registered through the management API")
    elif _loaded_digest(workdir, sealed) in {None, sealed.sha256}:
        _with_workers(sealed, management, label, say)
        ask(sealed.version)
    else:
        _replace(sealed, management, ask, say)
        say(f"model     {label}, replaced")
    _take_over(management, sealed.name, sealed.version, say)
    _remember(workdir, sealed)


def register_file(
    url: str, store: Path, management: Management, trust: Policy, workers: int | None = None
) -> tuple[str, Signed]:
    """Register `url`, a file of the model store, as it is; the server's message and who signed it.

    Raises BadInput, Untrusted for one that `trust` does not admit, or that was changed while it was
    loaded, Refused.
    """
    archive = store / url
    refuse_tar(archive)
    known = identity(archive)
    sha256 = digest(archive) if known else None
    signed = trust.admit(archive, sha256)
    message = management.register(url, workers, settings=registration(archive))
    if known and sha256:
        try:
            check_unchanged(archive, sha256)
        except Untrusted:
            management.unregister(*known)
            raise
    return message, signed


def _register(sealed: Archive, management: Management, ask: Ask) -> None:
    """Register a version and ask it; one that fails is removed again."""
    try:
        message = management.register(sealed.path.name, settings=registration(sealed.path))
        if sealed.version not in _versions(management, sealed.name):
            raise Refused(
                f"TorchServe registered something else than {sealed.name} version "
                f"{sealed.version}: {message}. Something replaced {sealed.path}",
                200,
            )
        check_unchanged(sealed.path, sealed.sha256)
        ask(sealed.version)
    except Conflict:
        raise  # another has registered it meanwhile
    except BaseException:
        _remove(management, sealed.name, sealed.version)
        raise


def check_unchanged(archive: Path, sha256: str) -> None:
    """After TorchServe has read an archive: it must still be the one that was verified before.

    Raises Untrusted.
    """
    if digest(archive) != sha256:
        raise Untrusted(f"{archive} was changed while it was loaded: build or fetch it again")


def digest(archive: Path) -> str:
    """A file's SHA-256."""
    with archive.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def registration(archive: Path) -> dict[str, int]:
    """What the management API must be told beside the archive: a delay of 0, which its
    model-config.yaml cannot say."""
    try:
        with zipfile.ZipFile(archive) as packed:
            serving = json.loads(packed.read("model.json")).get("serving", {})
    except (OSError, ValueError, KeyError, AttributeError, zipfile.BadZipFile):
        return {}  # TorchServe says what is wrong with it
    waits = not isinstance(serving, dict) or serving.get("max_batch_delay_ms") != 0
    return {} if waits else {"max_batch_delay": 0}


def _with_workers(sealed: Archive, management: Management, label: str, say: Say) -> None:
    (entry,) = management.describe(sealed.name, sealed.version)
    if any(worker["status"] == "READY" for worker in entry["workers"]):
        say(f"model     {label}, registered already")
        return
    workers = max(entry["minWorkers"], 1)
    management.scale(sealed.name, workers, sealed.version)
    say(f"model     {label}, registered already; {workers} worker(s) started again")


def _replace(sealed: Archive, management: Management, ask: Ask, say: Say) -> None:
    """Other content under a version that is served already, which TorchServe cannot hold twice.

    The content takes over under a version of its own first, then under the one it is named.
    """
    between = mar.reversioned(sealed, f"{sealed.version}-{sealed.sha256[:12]}")
    try:
        if between.version not in _versions(management, sealed.name):
            _register(between, management, ask)
        else:
            ask(between.version)
        _take_over(management, sealed.name, between.version, lambda line: None)
        _register(sealed, management, ask)
        management.set_default(sealed.name, sealed.version)
    finally:
        store.remove(between.path)


def _take_over(management: Management, name: str, version: str, say: Say) -> None:
    """Make a version the default, then retire all others."""
    default, *_ = _versions(management, name)
    if default != version:
        management.set_default(name, version)
    for old in _versions(management, name):
        if old != version:
            drain(management, name, old)
            management.unregister(name, old)
            say(f"          version {old} retired")


def _remove(management: Management, name: str, version: str) -> None:
    """Remove a version that did not stand the test, if it is there; never the only other one."""
    try:
        versions = _versions(management, name)
        if version in versions and (version != versions[0] or len(versions) == 1):
            management.unregister(name, version)
    except DeployError:
        pass  # the first error is the one to show


def drain(management: Management, name: str, version: str) -> None:
    """Wait until a version that is no longer the default has answered its requests.

    TorchServe drops the queued requests of a version that it unregisters, and their clients wait
    until they time out. It shows how many requests are queued, not whether a worker is answering
    one, so the workers must also have been idle between two polls. Gives up after the version's
    response timeout.
    """
    entry = management.describe(name, version)[0]
    deadline = time.monotonic() + entry["responseTimeout"]
    spent_before = -1.0
    while time.monotonic() < deadline:
        entry = management.describe(name, version)[0]
        spent = sum(_cpu_seconds(int(worker["pid"])) for worker in entry["workers"])
        # Two hundredths: an idle worker's clock may tick.
        if entry["jobQueueStatus"]["pendingRequests"] == 0 and 0 <= spent - spent_before < 0.02:
            return
        spent_before = spent
        time.sleep(POLL_SECONDS)


def _cpu_seconds(pid: int) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except (psutil.Error, ValueError):
        return 0.0
    return float(times.user + times.system)


def _versions(management: Management, name: str) -> list[str]:
    """The registered versions of a model, the default first."""
    try:
        found = [str(entry["modelVersion"]) for entry in management.describe(name, "all")]
        default = str(management.describe(name)[0]["modelVersion"])
    except ModelNotFound:
        return []
    return [default, *(version for version in found if version != default)]


def _loaded_digest(workdir: Path, sealed: Archive) -> str | None:
    """The digest of the archive that the running server loaded under this name and version.

    None where it is not known, as on a server started by hand: then the version decides.
    """
    state = server.running(workdir)
    try:
        record = json.loads((workdir / ".run" / REGISTERED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if state is None or record.get("pid") != state.pid:
        return None
    entry = record.get("models", {}).get(sealed.name, {})
    return entry.get("sha256") if entry.get("version") == sealed.version else None


def _remember(workdir: Path, sealed: Archive) -> None:
    state = server.running(workdir)
    if state is None:
        return
    path = workdir / ".run" / REGISTERED
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        record = {}
    models = record.get("models", {}) if record.get("pid") == state.pid else {}
    models[sealed.name] = {"version": sealed.version, "sha256": sealed.sha256}
    aside = path.with_suffix(f".{os.getpid()}")
    aside.write_text(json.dumps({"pid": state.pid, "models": models}) + "\n", encoding="utf-8")
    aside.replace(path)
