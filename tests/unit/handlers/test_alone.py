"""Workers that see each other's work, and a model that is held twice."""

import multiprocessing
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from handlers import alone
from handlers.alone import Company, widened

ROW = torch.ones(1, 3)


def _work(path: Path, pipe) -> None:
    with Company(path):
        pipe.send("marked")
        pipe.recv()


@pytest.fixture
def busy(tmp_path):
    """Starts processes that have work; all are gone in the end."""
    context, started = multiprocessing.get_context("spawn"), []

    def start():
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(tmp_path / "workers", theirs))
        process.start()
        started.append(process)
        assert ours.recv() == "marked"
        return process, ours

    yield start
    for process in started:
        process.kill()
        process.join()


def test_a_worker_is_alone_until_another_has_work(tmp_path, busy):
    company = Company(tmp_path / "workers")
    assert not company.alone, "it has no work itself"
    with company:
        assert company.alone
        process, pipe = busy()
        assert not company.alone
        pipe.send("done")
        process.join()
        assert company.alone
    assert not company.alone


def test_a_worker_that_is_killed_is_not_waited_for(tmp_path, busy):
    company = Company(tmp_path / "workers")
    process, _ = busy()
    assert company.others
    process.kill()
    process.join()
    assert not company.others


def test_where_it_cannot_be_seen_nobody_is_alone(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for path in (tmp_path / "link", tmp_path / "no" / "folder"):
        company = Company(path)
        with company:
            assert not company.alone
    assert not (tmp_path / "elsewhere").exists()


def _answers(seconds, value=1.0):
    def predict(rows):
        time.sleep(seconds)
        return rows * value

    return predict


@pytest.fixture
def held(tmp_path, monkeypatch):
    """`widened` of a slow model, whose second copy is as given; four cores."""
    (tmp_path / "model.pt").write_bytes(b"a model")
    monkeypatch.setattr(alone.cores, "usable", lambda: 4)
    monkeypatch.setattr(alone, "PATIENCE", 0.1)

    @dataclass
    class Card:
        model: dict
        threads: int = 1

    def make(wide, own=None, company=None, asked=None):
        def load(folder, card):
            (asked if asked is not None else []).append(card.model["threads"])
            return wide

        monkeypatch.setattr(alone, "load_model", load)
        card = Card({"file": "model.pt"})
        company = company or Company(tmp_path / "workers")
        return widened(tmp_path, card, own or _answers(0.01), [ROW], company)

    return make


def test_a_lone_row_goes_to_the_copy_with_more_threads(held, tmp_path):
    asked, own, company = [], _answers(0.01), Company(tmp_path / "workers")
    called = []

    def wide(rows):
        called.append(torch.get_num_threads())
        return rows * 1.0

    before = torch.get_num_threads()
    try:
        predict = held(wide, own, company, asked)
        assert asked == [4] and set(called) == {4}
        del called[:]
        predict(ROW)
        assert not called, "no batch is under way"
        with company:
            predict(ROW)
            assert called == [4]
            predict(torch.ones(2, 3))
            assert called == [4], "several rows are no lone request"
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "wide",
    [_answers(0.02), _answers(0.0, 1.1), lambda rows: 1 / 0],
    ids=["slower", "answers otherwise", "fails"],
)
def test_a_copy_that_does_not_pay_is_not_kept(held, wide):
    before, own = torch.get_num_threads(), _answers(0.01)
    try:
        assert held(wide, own) is own
    finally:
        torch.set_num_threads(before)


def test_a_large_file_is_held_once(held, monkeypatch):
    own, asked = _answers(0.01), []
    monkeypatch.setattr(alone, "LARGEST", 3)
    assert held(_answers(0.0), own, asked=asked) is own
    assert not asked


def test_one_core_has_no_use_for_it(held, monkeypatch):
    own, asked = _answers(0.01), []
    monkeypatch.setattr(alone.cores, "usable", lambda: 1)
    assert held(_answers(0.0), own, asked=asked) is own
    assert not asked


def test_two_that_want_to_measure_wait_for_each_other_no_longer_than_patience(
    tmp_path, busy, monkeypatch
):
    monkeypatch.setattr(alone, "PATIENCE", 0.2)
    _worker = busy()
    started = time.monotonic()
    with alone._quiet(Company(tmp_path / "workers")):
        pass
    assert 0.2 <= time.monotonic() - started < 5


def test_the_answers_of_both_are_compared_whole():
    pair = SimpleNamespace(own=lambda x: (x, x + 1), wide=lambda x: (x, x + 2))
    with pytest.raises(ValueError, match="something else"):
        alone._timed(pair.own, pair.wide, [ROW])
