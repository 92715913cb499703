"""Start and stop a TorchServe, by process id only.

What runs is the stock `torchserve --start` on our config.properties. This module adds what
a shell would have to set up for it: a Java, a temporary folder of its own, free ports, a
wait until it answers, and errors that show the log. Its state lies in WORKDIR/.run/.
"""

import json
import logging
import os
import shlex
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from tqdm import tqdm

from deploy import lock, scratch
from deploy.archive import store
from deploy.errors import BadInput, DeployError, NoServer, Refused, TokenRefused
from deploy.torchserve import config as configuration
from deploy.torchserve import environment, java, logs, ports
from deploy.torchserve.config import Config
from deploy.torchserve.inference import Inference
from deploy.torchserve.management import Management
from deploy.torchserve.tokens import KEY_FILE, Tokens

logger = logging.getLogger(__name__)

MAIN_CLASS = "org.pytorch.serve.ModelServer"
LOG_CONFIG = Path(__file__).with_name("log4j2.xml")
_FRESH = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
START_TIMEOUT = 120.0
STOP_TIMEOUT = 30.0


@dataclass(frozen=True)
class State:
    """A server that `start` started.

    `created`, in seconds since the epoch, tells its process from a later one with the same pid.
    """

    pid: int
    created: float
    workdir: str
    config: str
    log_dir: str
    temp: str


def start(
    workdir: Path, config_path: Path, model_store: Path, models: list[str] | None = None
) -> State:
    """Start TorchServe in `workdir` and return once it answers; a running one is returned.

    `models` are archives to load at once, `["all"]` for the whole model store but for the earlier
    versions that lie beside; then it returns when their workers are ready. Raises NoServer, with
    the end of the log, if a port is taken or the server or a model does not come up, and Untrusted
    for an archive that lacks the signature that the settings ask for.
    """
    with lock.held(_state_file(workdir).with_name("lock")):
        state = running(workdir)
        if state is not None:
            return state
        _forget(workdir)  # the files of a server that was killed
        settings = configuration.read(config_path)
        if not model_store.is_dir():
            raise BadInput(f"no model store at {model_store}: ./build_mar.sh NAME makes it")
        _check_ports(settings)
        wanted = store.in_use(model_store) if models == ["all"] else models or []
        trust = configuration.trust(config_path)
        for name in wanted:
            trust.admit(model_store / name)
        return _launch(workdir, settings, model_store, wanted)


def stop(workdir: Path) -> int | None:
    """Stop the server that `start` started in `workdir`; its pid, or None if none ran."""
    with lock.held(_state_file(workdir).with_name("lock")):
        state = running(workdir)
        if state is not None:
            _terminate(psutil.Process(state.pid))
            (workdir / KEY_FILE).unlink(missing_ok=True)
        _forget(workdir)
        return None if state is None else state.pid


def running(workdir: Path) -> State | None:
    """The server that `start` started in `workdir`, if its process lives."""
    state = _load(workdir)
    if state is None:
        return None
    try:
        process = psutil.Process(state.pid)
        alive = process.status() != psutil.STATUS_ZOMBIE
        same = abs(process.create_time() - state.created) < 1
        here = Path(process.cwd()) == workdir.resolve()
        return state if alive and same and here and MAIN_CLASS in process.cmdline() else None
    except (psutil.Error, OSError, ValueError, OverflowError):
        return None


def clients(workdir: Path, settings: Config) -> tuple[Management, Inference]:
    """Clients of the server in `workdir`, started by `start` or by hand."""
    key_file = workdir / KEY_FILE if settings.tokens else None
    tokens = Tokens(key_file, settings.management)
    state = running(workdir)
    log_dir = Path(state.log_dir) if state is not None else workdir / "logs"
    return Management(settings.management, tokens, log_dir), Inference(settings.inference, tokens)


def answers(inference: Inference) -> bool:
    """Whether a TorchServe that accepts our token answers."""
    try:
        inference.ping()
    except DeployError:
        return False
    return True


def all_ready(management: Management) -> bool:
    """Whether every model has all its workers; /ping says Healthy while they still start."""
    entries = [e for name in management.models() for e in management.describe(name, "all")]
    return all(
        sum(worker["status"] == "READY" for worker in entry["workers"]) >= entry["minWorkers"]
        for entry in entries
    )


def _launch(workdir: Path, settings: Config, model_store: Path, models: list[str]) -> State:
    runtime = java.find()
    log_dir = workdir / "logs"
    log_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Worker sockets and the pid file live in the temporary folder, which two servers must not
    # share; it stays short because a Unix socket's path may have 107 bytes only.
    scratch.sweep("server")
    temp = scratch.make("server")
    console = log_dir / "console.log"
    command = [sys.executable, "-m", "ts.model_server", "--start"]
    # No snapshots: TorchServe would write one on every change, and restores them only where no
    # --ts-config is set.
    command += ["--ncs", "--log-config", str(LOG_CONFIG)]
    command += ["--ts-config", str(settings.path.resolve())]
    command += ["--model-store", str(model_store.resolve())]
    if models:
        command += ["--models", *models]
    logger.debug("in %s: %s", workdir, shlex.join(command))
    try:
        with os.fdopen(os.open(console, _FRESH, 0o600), "wb") as output:
            subprocess.run(
                command,
                cwd=workdir,
                env=_environment(settings, runtime, temp, log_dir),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                umask=0o077,  # logs show what was asked; keys and unpacked archives lie beside
                check=False,
            )
        process = _launched(temp, console)
        scratch.own(temp, process.pid)
    except BaseException:
        scratch.remove(temp)
        raise
    state = State(
        pid=process.pid,
        created=process.create_time(),
        workdir=str(workdir),
        config=str(settings.path),
        log_dir=str(log_dir),
        temp=str(temp),
    )
    _save(workdir, state)
    try:
        _wait(process, workdir, settings, console, wait_for_workers=bool(models))
    except BaseException:
        _terminate(process)
        _forget(workdir)
        raise
    return state


def _environment(settings: Config, runtime: java.Java, temp: Path, log_dir: Path) -> dict[str, str]:
    env = environment.passed(os.environ, settings.withheld)
    env.pop("TS_CONFIG_FILE", None)  # would win over --ts-config
    path = [str(Path(sys.executable).parent), str(runtime.home / "bin"), env.get("PATH", "")]
    env["PATH"] = os.pathsep.join(p for p in path if p)
    env["JAVA_HOME"] = str(runtime.home)
    env["TMPDIR"] = env["TEMP"] = str(temp)
    env["LOG_LOCATION"] = env["METRICS_LOCATION"] = str(log_dir.resolve())
    return env


def _launched(temp: Path, console: Path) -> psutil.Process:
    """The Java process that `torchserve --start` left behind."""
    try:
        return psutil.Process(int((temp / ".model_server.pid").read_text()))
    except (OSError, ValueError, psutil.Error) as error:
        text = logs.tail(console)
        hint = ""
        if "No module named" in text:
            hint = f"\n{sys.executable} lacks a package: run `make setup`"
        raise NoServer(f"TorchServe did not start:\n{text}{hint}") from error


def _wait(
    process: psutil.Process, workdir: Path, settings: Config, console: Path, wait_for_workers: bool
) -> None:
    management, inference = clients(workdir, settings)
    deadline = time.monotonic() + START_TIMEOUT
    with tqdm(desc="starting TorchServe", bar_format="{desc} {elapsed}", disable=None) as bar:
        while time.monotonic() < deadline:
            if not _alive(process):
                raise NoServer(f"TorchServe stopped while starting:\n{logs.tail(console)}")
            try:
                inference.ping()
                if not wait_for_workers or all_ready(management):
                    return
            except (NoServer, TokenRefused):
                pass  # not listening yet, or an old key file that is about to be replaced
            except Refused as error:
                raise NoServer(f"what answers at {settings.inference} is no TorchServe") from error
            time.sleep(0.2)
            bar.update()
    state = "is up, but its models are not ready" if wait_for_workers else "does not answer"
    shown = console.with_name("model_log.log") if wait_for_workers else console
    raise NoServer(f"TorchServe {state} after {START_TIMEOUT:.0f} s:\n{logs.tail(shown)}")


def _check_ports(settings: Config) -> None:
    for name, port in settings.ports.items():
        if not ports.is_free(port):
            raise NoServer(
                f"port {port} ({name} in {settings.path}) is taken by {ports.owner(port)}: "
                "stop that, or choose another port there"
            )


def _terminate(process: psutil.Process) -> None:
    """SIGTERM, then SIGKILL; the server's workers are gone too when this returns."""
    try:
        family = [process, *process.children(recursive=True)]
        process.terminate()
    except psutil.NoSuchProcess:
        return
    _, left = psutil.wait_procs(family, timeout=STOP_TIMEOUT)
    for survivor in left:
        try:
            survivor.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(left, timeout=5)


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _state_file(workdir: Path) -> Path:
    return workdir / ".run" / "server.json"


def _load(workdir: Path) -> State | None:
    try:
        state = State(**json.loads(_state_file(workdir).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    texts = (state.workdir, state.config, state.log_dir, state.temp)
    numbers = type(state.pid) is int and isinstance(state.created, int | float)
    return state if numbers and all(isinstance(text, str) for text in texts) else None


def _save(workdir: Path, state: State) -> None:
    path = _state_file(workdir)
    aside = path.with_suffix(f".{os.getpid()}")
    aside.write_text(json.dumps(asdict(state), indent=2) + "\n", encoding="utf-8")
    aside.replace(path)


def _forget(workdir: Path) -> None:
    state = _load(workdir)
    if state is not None:
        scratch.remove_left(Path(state.temp))
    _state_file(workdir).unlink(missing_ok=True)
