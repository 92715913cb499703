"""Fixtures that unit and integration tests share, and the order in which tests run."""

import multiprocessing.util
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

# One thread per process, before torch is imported: on a busy machine a second one mostly waits.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Runtimes are raced where a test asks for it: it takes half a minute after each run of a recipe.
os.environ.setdefault("MARPRESS_ENGINES", "none")
# pytest-xdist gives its processes one: what is printed is folded in those tests alone that set it.
os.environ.pop("COLUMNS", None)

import pytest

import optimize.utils.torchscript  # noqa: F401  (before any test: it keeps torch's operators)
from tests.integration import quadrant

INTEGRATION = Path(__file__).with_name("integration")


def pytest_configure(config: pytest.Config) -> None:
    """Sign what the tests pickle with a key of their own; give each process of pytest-xdist cores
    of its own. What the tests start inherits both.

    Latency is measured on as many threads as there are cores: those threads would spin while one
    of them waits for the other test process.
    """
    scratch = tempfile.TemporaryDirectory(prefix="marpress-tests-")
    config.add_cleanup(scratch.cleanup)
    os.environ["XDG_CONFIG_HOME"] = scratch.name
    # Kept from here on: a test's own temporary folder is too long for sockets, and goes.
    multiprocessing.util.get_temp_dir()
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if count == 1 or not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    own = cores[int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw")) :: count]
    if own:
        os.sched_setaffinity(0, own)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of servers are slow; files with slow tests go first, so that no process ends alone."""
    for item in items:
        if INTEGRATION in item.path.parents:
            item.add_marker("slow")
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """A service that starts drops variables of its process; the next test finds them again."""
    before = dict(os.environ)
    yield
    for name, value in before.items():
        os.environ.setdefault(name, value)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    """A fresh copy of the quadrant artifact, to change at will."""
    return quadrant.make(tmp_path / "artifacts")
