"""An event loop in a thread, in which models and their workers live while tests ask them."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from deploy.service import process
from tests.unit.deploy.service.client import Loop


@pytest.fixture(scope="session")
def loop() -> Iterator[Loop]:
    process.prepare()
    made = asyncio.new_event_loop()
    thread = threading.Thread(target=made.run_forever)
    thread.start()
    yield Loop(made)
    made.call_soon_threadsafe(made.stop)
    thread.join()
    made.close()
