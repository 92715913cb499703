"""Put an archive into service: the new version's workers run before the old ones go."""

import json
import time
from pathlib import Path

import psutil

from deploy.archive.mar import Archive
from deploy.errors import ModelNotFound
from deploy.progress import Say
from deploy.torchserve import server
from deploy.torchserve.management import Management

REGISTERED = "registered.json"
POLL_SECONDS = 0.5


def ensure_registered(sealed: Archive, management: Management, workdir: Path, say: Say) -> None:
    """Make `sealed` the version that answers, starting its workers before the old ones go."""
    versions = _versions(management, sealed.name)
    label = f"{sealed.name} version {sealed.version}"
    if sealed.version in versions and _loaded_digest(workdir, sealed) in {None, sealed.sha256}:
        (entry,) = management.describe(sealed.name, sealed.version)
        if any(worker["status"] == "READY" for worker in entry["workers"]):
            say(f"model     {label}, registered already")
        else:
            workers = max(entry["minWorkers"], 1)
            management.scale(sealed.name, workers, sealed.version)
            say(f"model     {label}, registered already; {workers} worker(s) started again")
    elif sealed.version in versions:
        # One version name cannot be registered twice, with two contents.
        _unregister_all(management, sealed.name, versions)
        management.register(sealed.path.name)
        say(f"model     {label}, replaced")
        versions = [sealed.version]
    else:
        management.register(sealed.path.name)
        say(f"model     {label}, registered through the management API")
        versions.append(sealed.version)
    if len(versions) > 1:
        management.set_default(sealed.name, sealed.version)
        for old in versions:
            if old != sealed.version:
                drain(management, sealed.name, old)
                management.unregister(sealed.name, old)
                say(f"          version {old} retired")
    _remember(workdir, sealed)


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
    try:
        return [str(entry["modelVersion"]) for entry in management.describe(name, "all")]
    except ModelNotFound:
        return []


def _unregister_all(management: Management, name: str, versions: list[str]) -> None:
    default = str(management.describe(name)[0]["modelVersion"])
    for version in [v for v in versions if v != default] + [default]:
        management.unregister(name, version)


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
    path.write_text(json.dumps({"pid": state.pid, "models": models}) + "\n", encoding="utf-8")
