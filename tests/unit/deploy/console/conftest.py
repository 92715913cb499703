"""Requests to the console's application, each in an event loop of its own."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest


class Loop:
    """What `tests.unit.deploy.service.client.Client` runs its requests in."""

    def do(self, work: Coroutine[Any, Any, Any], timeout: float = 120) -> Any:
        """Run a coroutine; its result."""
        return asyncio.run(asyncio.wait_for(work, timeout))


@pytest.fixture
def loop() -> Loop:
    return Loop()
