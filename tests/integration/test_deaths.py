"""Workers that die, however they die, cost no good request its answer, and leave nothing behind."""

import os
import random
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import requests

from tests.integration import fatal
from tests.integration.service import Service, serving

GOOD = 500
DEADLY = [*["exit"] * 7, *["segv"] * 6, *["memory"] * 6, "hang"]
TIMEOUT_S = 10
MEMORY_MIB = 2000


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    workdir = tmp_path_factory.mktemp("deaths")
    store = workdir / "model_store"
    archive = fatal.seal(
        workdir / "artifacts", store, workers=2, batch_size=4, response_timeout_s=TIMEOUT_S
    )
    options = ("--memory-limit", str(MEMORY_MIB))
    with serving(workdir, archive, options=options, OMP_NUM_THREADS="1") as running:
        yield running


def ask(service: Service, value: object) -> tuple[object, int, dict]:
    url = f"{service.address}/predictions/fatal"
    reply = requests.post(url, json={"data": value}, timeout=120)
    return value, reply.status_code, reply.json()


def workers(service: Service) -> set[int]:
    """The processes of the model's workers."""
    (entry,) = requests.get(f"{service.address}/models/fatal", timeout=10).json()
    return {worker["pid"] for worker in entry["workers"]}


def until(condition) -> None:
    """Within two minutes: after many deaths the service waits before it starts a worker again."""
    for _ in range(2400):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail("it did not come true")


def test_no_good_request_is_lost_among_deadly_ones(service: Service) -> None:
    before = workers(service)
    asked = [*range(GOOD), *DEADLY]
    random.Random(0).shuffle(asked)
    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(lambda value: ask(service, value), asked))
    lost = [
        r for r in replies if isinstance(r[0], int) and (r[1], r[2]) != (200, {"twice": 2 * r[0]})
    ]
    assert not lost
    told = {(value, status) for value, status, _ in replies if isinstance(value, str)}
    # Memory is refused within the handler, which says so; a hang is told by the time it took.
    assert told == {("exit", 500), ("segv", 500), ("hang", 504), ("memory", 507)}
    died = [body["type"] for value, _, body in replies if value in ("exit", "segv")]
    assert set(died) == {"WORKER_DIED"}
    until(lambda: requests.get(f"{service.address}/v2/health/ready", timeout=10).ok)
    assert ask(service, 21)[2] == {"twice": 42}
    assert not before & workers(service)


def test_a_worker_whose_child_outlives_it_is_noticed(service: Service) -> None:
    _, status, body = ask(service, "fork")
    assert (status, body["type"]) == (500, "WORKER_DIED")


def test_what_a_handler_starts_ends_when_it_is_told_to(service: Service) -> None:
    until(lambda: requests.get(f"{service.address}/v2/health/ready", timeout=10).ok)
    assert ask(service, "children")[2] == {"twice": [-signal.SIGTERM, -signal.SIGTERM]}


def test_a_service_whose_workers_cannot_answer_is_not_ready(service: Service) -> None:
    """A worker that is stopped, not even busy, is noticed and replaced."""
    url = f"{service.address}/v2/models/fatal/ready"
    assert requests.get(url, timeout=10).status_code == 200
    before = workers(service)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    until(lambda: not before & workers(service))
    until(lambda: requests.get(url, timeout=10).status_code == 200)
    (stopped, *_) = workers(service)
    os.kill(stopped, signal.SIGSTOP)
    until(lambda: stopped not in workers(service))
    assert ask(service, 1)[2] == {"twice": 2}


def test_a_killed_service_leaves_no_process(service: Service) -> None:
    """kill -9 of the front, while one worker hangs: the last test of its service."""
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, service, "hang")
        until(lambda: any(busy(pid) for pid in workers(service)) or asked.done())
        children = psutil.Process(service.process.pid).children(recursive=True)
        assert workers(service) <= {child.pid for child in children}
        os.kill(service.process.pid, signal.SIGKILL)
        service.process.wait(timeout=10)
        until(lambda: not any(child.is_running() and not zombie(child) for child in children))
        with pytest.raises(requests.ConnectionError):
            asked.result()


def busy(pid: int | None) -> bool:
    """Whether a worker sleeps in its handler: its time does not pass in the receive call."""
    try:
        return pid is not None and "nanosleep" in Path(f"/proc/{pid}/wchan").read_text()
    except OSError:
        return False


def zombie(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
