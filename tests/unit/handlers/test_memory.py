import subprocess
import sys

import pytest

from handlers import memory
from handlers.memory import MEGABYTE, Keeper

# A process whose malloc keeps everything, as a worker's does, and that frees a lot of it.
SCRIPT = """
import numpy
from handlers import memory
from handlers.backend import keep_freed_memory

keep_freed_memory()
keeper = memory.Keeper()
numpy.ones(100 << 20, numpy.uint8)
kept = memory.resident() - keeper.usual
keeper.tidy()
left = memory.resident() - keeper.usual
print(kept >> 20, left >> 20, keeper.worn)
held = numpy.ones(900 << 20, numpy.uint8)
keeper.tidy()
print(keeper.worn)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_what_a_batch_took_is_given_back_and_what_stays_wears_a_worker_out():
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    (kept, left, worn), (in_the_end,) = (line.split() for line in run.stdout.splitlines())
    assert int(kept) >= 90
    assert int(left) <= 30
    assert (worn, in_the_end) == ("False", "True")


def test_what_is_in_use_is_not_trimmed_for_again_and_again(monkeypatch):
    sizes = iter([100, 200, 190, 200, 400, 395])
    trims = []
    monkeypatch.setattr(memory, "resident", lambda: next(sizes) * MEGABYTE)
    monkeypatch.setattr(memory, "trim", lambda: trims.append(1))
    keeper = Keeper()
    keeper.tidy()
    keeper.tidy()
    assert len(trims) == 1
    keeper.tidy()
    assert len(trims) == 2
    assert not keeper.worn


def test_a_system_that_does_not_say_is_left_alone(monkeypatch):
    monkeypatch.setattr(memory, "resident", lambda: 0)
    monkeypatch.setattr(memory, "trim", lambda: pytest.fail("trimmed"))
    Keeper().tidy()
