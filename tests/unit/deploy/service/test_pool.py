"""The queue and its workers, with workers that a test leads by the hand."""

import asyncio

import pytest

from deploy.errors import BadInput
from deploy.service import pool as pool_module
from deploy.service.pool import QUEUE_SIZE, Pool


class Hand:
    """A worker that answers, falls silent or ends when the test says so."""

    def __init__(self, told, ended, refuses=""):
        self.told, self.ended = told, ended
        self.batches = []
        self.refuses = refuses
        self.killed = False
        self.alive = False
        self.pid = 1

    async def start(self):
        self.alive = True
        if self.refuses:
            self.told({"kind": "failed", "reason": self.refuses}, [])
            self.die()
        else:
            self.told({"kind": "ready"}, [])

    async def slow(self):
        self.alive = True

    def send(self, batch):
        self.batches.append([row["n"] for row in batch.rows])

    def answer(self):
        """Answer the last batch: each row with its own number."""
        bodies = [str(n).encode() for n in self.batches[-1]]
        answers = [[200, "text/plain", {}]] * len(bodies)
        self.told({"kind": "answers", "answers": answers, "metrics": []}, bodies)

    def say(self, text):
        self.told({"kind": "partial", "at": 0, "status": 200, "type": "text/plain"}, [text])

    def die(self):
        if self.alive:
            self.alive = False
            self.ended()

    def end(self):
        self.die()

    def kill(self):
        self.killed = True
        self.die()

    async def gone(self):
        pass

    def how(self):
        return "was ended by the test"


class Place:
    """A pool and the workers that it made."""

    def __init__(self, size=4, timeout=60.0, refuses=""):
        self.hands = []
        self.refuses = refuses
        self.pool = Pool(self.make, "test", size, timeout)

    def make(self, told, ended):
        self.hands.append(Hand(told, ended, self.refuses))
        return self.hands[-1]

    def submit(self, *numbers, **options):
        return [self.pool.submit({"n": n}, {}, **options) for n in numbers]


async def place(workers=1, **options):
    made = Place(**options)
    await made.pool.scale(workers, 10)
    return made


async def until(condition):
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come true")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(pool_module, "_TICK", 0.01)
    monkeypatch.setattr(pool_module, "GRACE", 0.05)


def run(test):
    """Run a coroutine function as a test."""

    def runs():
        asyncio.run(test())

    runs.__name__ = test.__name__
    runs.__doc__ = test.__doc__
    return runs


@run
async def test_a_free_worker_takes_what_waits_and_never_waits_itself():
    here = await place(size=4)
    jobs = here.submit(*range(11))
    (hand,) = here.hands
    for _ in range(4):
        hand.answer()
    assert hand.batches == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]
    assert [(await job.answer()).body for job in jobs] == [str(n).encode() for n in range(11)]
    assert await here.pool.close(1)


@run
async def test_too_many_waiting_are_refused():
    here = await place(size=1)
    jobs = here.submit(*range(QUEUE_SIZE + 2))
    assert jobs[-1] is None
    assert all(job is not None for job in jobs[:-1])
    here.pool._waiting.clear()
    here.hands[0].answer()
    await here.pool.close(1)


@run
async def test_what_cannot_be_answered_in_time_is_refused_at_once():
    here = await place(size=2, workers=2, timeout=10)
    here.pool._batch_seconds = 4.0
    jobs = []
    while (job := here.submit(0)[0]) is not None:
        jobs.append(job)
    # Two workers do two batches of two each in time; one that finds a free queue is always let in.
    assert 8 <= len(jobs) <= 10
    assert here.pool.expected_wait > 10
    await here.pool.close(0)


@run
async def test_the_deadline_counts_from_the_arrival_and_what_missed_it_is_not_computed():
    here = await place(size=1, timeout=0.2)
    jobs = here.submit(1, 2, 3)
    assert [await job.answer() for job in jobs] == [None] * 3
    await until(lambda: len(here.hands) == 2 and here.pool.running == 1)
    assert here.hands[0].killed, "it hangs"
    assert [hand.batches for hand in here.hands] == [[[1]], []]
    (late,) = here.submit(4)
    here.hands[1].answer()
    assert (await late.answer()).body == b"4"
    await here.pool.close(1)


@run
async def test_what_a_client_that_hung_up_asked_for_is_not_computed():
    here = await place(size=1)
    here.submit(0)
    here.submit(1, 2, 3, gone=lambda: True)
    (wanted,) = here.submit(4, gone=lambda: False)
    hand = here.hands[0]
    hand.answer()
    hand.answer()
    assert hand.batches == [[0], [4]]
    assert (await wanted.answer()).body == b"4"
    await here.pool.close(1)


@run
async def test_what_a_worker_had_when_it_died_is_tried_alone_and_the_culprit_found():
    here = await place(size=4)
    first, *jobs = here.submit(0, 1, 2, 3)
    here.hands[0].answer()
    assert here.hands[0].batches == [[0], [1, 2, 3]]
    here.hands[0].die()
    await until(lambda: len(here.hands) == 2 and here.hands[1].batches)
    here.hands[1].answer()
    assert here.hands[1].batches == [[1], [2]]
    here.hands[1].die()
    await until(lambda: len(here.hands) == 3 and here.hands[2].batches)
    here.hands[2].answer()
    answers = [await job.answer() for job in (first, *jobs)]
    assert [answer.status for answer in answers] == [200, 200, 500, 200]
    assert b'"type": "WORKER_DIED"' in answers[2].body
    assert here.hands[2].batches == [[3]]
    await here.pool.close(1)


@run
async def test_one_suspect_at_a_time_while_the_other_worker_goes_on():
    here = await place(size=2, workers=2)
    here.submit(8, 9)
    here.submit(1, 2)
    a, b = here.hands
    a.answer()
    assert a.batches == [[8], [1, 2]]
    a.die()
    await until(lambda: len(here.hands) == 3 and here.hands[2].batches)
    again = here.hands[2]
    assert again.batches == [[1]]
    b.answer()
    assert b.batches == [[9]], "the second suspect waits for the first"
    here.submit(3)
    assert b.batches == [[9], [3]]
    again.answer()
    assert again.batches == [[1], [2]]
    again.answer()
    b.answer()
    await here.pool.close(1)


@run
async def test_mates_of_one_that_hangs_get_their_time_anew():
    here = await place(size=2, timeout=0.3)
    here.submit(0)
    slow, mate = here.submit(1, 2)
    here.hands[0].answer()
    await until(lambda: len(here.hands) == 2 and here.hands[1].batches)
    assert here.hands[0].killed
    await until(lambda: here.hands[1].killed)
    await until(lambda: len(here.hands) == 3 and here.hands[2].batches == [[2]])
    here.hands[2].answer()
    assert await slow.answer() is None
    assert (await mate.answer()).body == b"2"
    await here.pool.close(1)


@run
async def test_partial_answers_come_before_the_whole_and_each_starts_the_time_anew():
    here = await place(size=1, timeout=0.3)
    (job,) = here.submit(1, streams=True)
    (hand,) = here.hands
    for text in (b"one", b"two", b"three"):
        await asyncio.sleep(0.2)
        hand.say(text)
        assert (await job.partial()).body == text
    hand.answer()
    assert await job.partial() is None
    assert (await job.answer()).body == b"1"
    assert not hand.killed
    await here.pool.close(1)


@run
async def test_a_worker_that_dies_in_the_middle_of_an_answer_ends_that_answer():
    here = await place(size=1)
    (job,) = here.submit(1, streams=True)
    here.hands[0].say(b"one")
    here.hands[0].die()
    assert (await job.partial()).body == b"one"
    assert await job.partial() is None
    assert (await job.answer()).status == 500
    await here.pool.close(1)


@run
async def test_an_idle_worker_is_asked_for_a_sign_of_life():
    pool_module.HEARTBEAT, before = 0.02, pool_module.HEARTBEAT
    try:
        here = await place(size=1, timeout=0.2)
        await until(lambda: here.hands[0].batches == [[]])
        here.hands[0].told({"kind": "alive"}, [])
        await until(lambda: len(here.hands[0].batches) > 1)
        await until(lambda: here.hands[0].killed)
        await until(lambda: len(here.hands) == 2)
        await here.pool.close(1)
    finally:
        pool_module.HEARTBEAT = before


@run
async def test_closing_answers_what_waits_and_refuses_what_comes_later():
    here = await place(size=2)
    jobs = here.submit(*range(3))
    closing = asyncio.create_task(here.pool.close(10))
    await asyncio.sleep(0)
    assert here.submit(8) == [None]
    here.hands[0].answer()
    here.hands[0].answer()
    assert await closing
    assert [(await job.answer()).body for job in jobs] == [b"0", b"1", b"2"]
    assert not here.hands[0].alive
    assert not here.hands[0].killed


@run
async def test_closing_does_not_wait_for_ever():
    here = await place(size=2)
    (job,) = here.submit(1)
    assert not await here.pool.close(0.05)
    assert here.hands[0].killed
    assert (await job.answer()) is None or (await job.answer()).status == 500


@run
async def test_scaling_up_down_and_to_none():
    here = await place(workers=3)
    assert here.pool.running == 3
    (busy,) = here.submit(1)
    await here.pool.scale(0, 10)
    assert [hand.alive for hand in here.hands] == [True, False, False]
    assert here.submit(2) == [None]
    here.hands[0].answer()
    assert (await busy.answer()).body == b"1"
    assert (here.pool.slots, here.hands[0].alive) == ([], False)
    await here.pool.scale(2, 10)
    assert here.pool.running == 2
    await here.pool.close(1)


@run
async def test_a_worker_that_does_not_load_is_an_error_and_no_worker():
    here = Place(refuses="no such model")
    with pytest.raises(BadInput, match="no such model"):
        await here.pool.scale(2, 10)
    assert here.pool.slots == []
    assert here.submit(1) == [None]
    await here.pool.close(1)


@run
async def test_a_worker_that_does_not_load_again_is_tried_again():
    pauses, pool_module.PAUSES = pool_module.PAUSES, (0.0, 0.01)
    try:
        here = await place(size=1)
        here.refuses = "the disk is gone"
        here.hands[0].die()
        await until(lambda: len(here.hands) > 3)
        assert here.pool.running == 0
        here.refuses = ""
        await until(lambda: here.pool.running == 1)
        (job,) = here.submit(1)
        here.hands[-1].answer()
        assert (await job.answer()).body == b"1"
        await here.pool.close(1)
    finally:
        pool_module.PAUSES = pauses


@run
async def test_what_waits_when_a_worker_dies_gets_its_time_anew():
    here = await place(size=1, timeout=0.4)
    here.submit(0)
    (waiting,) = here.submit(1)
    await asyncio.sleep(0.25)
    here.hands[0].die()
    await asyncio.sleep(0.25)
    assert not waiting.done, "0.5 s after it came, 0.25 s after the death"
    await here.pool.close(0)


@run
async def test_fewer_workers_asked_for_while_others_start_leaves_those_that_run():
    here = await place(workers=1)
    start, Hand.start = Hand.start, Hand.slow
    try:
        more = asyncio.create_task(here.pool.scale(3, 10))
        await until(lambda: len(here.hands) == 3)
        await here.pool.scale(1, 10)
        with pytest.raises(BadInput, match="fewer workers were asked for"):
            await asyncio.wait_for(more, 1)
    finally:
        Hand.start = start
    (job,) = here.submit(1)
    here.hands[0].answer()
    assert (await job.answer()).body == b"1"
    assert here.pool.target == len(here.pool.slots) == 1
    await here.pool.close(1)


@run
async def test_workers_that_are_to_go_once_they_have_answered_do_not_count():
    here = await place(size=1, workers=2)
    here.submit(1, 2)
    await here.pool.scale(1, 10)
    await here.pool.scale(2, 10)
    assert here.pool.running == 3
    for hand in here.hands[:2]:
        hand.answer()
    assert here.pool.running == len(here.pool.slots) == 2
    await here.pool.close(1)


@run
async def test_answers_that_fit_no_batch_lose_no_request():
    here = await place(size=1)
    (job,) = here.submit(1)
    (hand,) = here.hands
    with pytest.raises(ValueError, match="zip"):
        hand.told({"kind": "answers", "answers": [[200, "", {}]] * 2, "metrics": []}, [b"", b""])
    hand.die()  # as the process that said so is ended
    await until(lambda: len(here.hands) == 2)
    here.hands[1].answer()
    assert (await job.answer()).body == b"1"
    await here.pool.close(1)
