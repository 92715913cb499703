import threading
import time

import pytest

from deploy.errors import BadInput
from deploy.service.pool import QUEUE_SIZE, Pool
from deploy.service.worker import Answer


class Recorder:
    """Answers each row with its own number; a gate holds it back, batches are noted."""

    def __init__(self, batches, gate=None):
        self.batches = batches
        self.gate = gate
        self.closed = False

    def answer(self, rows, headers, senders):
        if self.gate is not None:
            self.gate.wait(10)
        self.batches.append(len(rows))
        return [Answer(200, str(row["n"]).encode()) for row in rows]

    def close(self):
        self.closed = True


def pool_of(make, size=4, delay=0.05, workers=1):
    pool = Pool(make, "test", size, delay)
    pool.scale(workers, 10)
    return pool


def test_everyone_gets_the_own_answer():
    batches = []
    pool = pool_of(lambda: Recorder(batches), workers=3)
    jobs = [pool.submit({"n": n}, {}) for n in range(60)]
    assert [job.wait(10).body for job in jobs] == [str(n).encode() for n in range(60)]
    assert sum(batches) == 60
    assert pool.close(10)


def test_waiting_requests_are_batched_up_to_the_batch_size():
    batches, gate = [], threading.Event()
    pool = pool_of(lambda: Recorder(batches, gate), size=4, delay=0.001)
    jobs = [pool.submit({"n": 0}, {})]
    while jobs[0].started is None:
        time.sleep(0.001)
    jobs += [pool.submit({"n": n}, {}) for n in range(1, 11)]
    gate.set()
    assert all(job.wait(10) for job in jobs)
    assert batches == [1, 4, 4, 2]
    pool.close(10)


def test_a_worker_waits_for_company_for_as_long_as_the_delay():
    batches = []
    pool = pool_of(lambda: Recorder(batches), size=2, delay=30)
    first = pool.submit({"n": 1}, {})
    time.sleep(0.05)
    assert first.answer is None, "it did not wait for the batch to fill"
    second = pool.submit({"n": 2}, {})
    assert (first.wait(10).body, second.wait(10).body) == (b"1", b"2")
    assert batches == [2]
    pool.close(10)


def test_closing_answers_what_waits_and_refuses_what_comes_later():
    batches, gate, made = [], threading.Event(), []
    pool = pool_of(lambda: made.append(Recorder(batches, gate)) or made[0], size=2)
    jobs = [pool.submit({"n": n}, {}) for n in range(7)]
    closing = threading.Thread(target=pool.close, args=(10,))
    closing.start()
    while not pool._closed:
        time.sleep(0.001)
    assert pool.submit({"n": 8}, {}) is None
    gate.set()
    closing.join()
    assert [job.wait(10).body for job in jobs] == [str(n).encode() for n in range(7)]
    assert made[0].closed


def test_too_many_waiting_are_refused():
    gate = threading.Event()
    pool = pool_of(lambda: Recorder([], gate), size=1)
    jobs = [pool.submit({"n": 0}, {})]
    while jobs[0].started is None:
        time.sleep(0.001)
    jobs += [pool.submit({"n": n}, {}) for n in range(1, QUEUE_SIZE + 2)]
    assert jobs[-1] is None
    assert all(job is not None for job in jobs[:-1])
    gate.set()
    assert all(job.wait(10) for job in jobs[:-1])
    pool.close(10)


def test_scaling_up_down_and_to_none():
    batches = []
    pool = pool_of(lambda: Recorder(batches), workers=3)
    assert len(pool.threads) == 3
    pool.scale(1, 10)
    until(lambda: len(pool.threads) == 1)
    assert pool.submit({"n": 1}, {}).wait(10).body == b"1"
    pool.scale(0, 10)
    until(lambda: not pool.threads)
    assert pool.submit({"n": 2}, {}) is None
    pool.scale(2, 10)
    assert pool.submit({"n": 3}, {}).wait(10).body == b"3"
    pool.close(10)


def test_a_worker_that_does_not_load_is_an_error_and_no_worker():
    def fail():
        raise BadInput("no such model")

    pool = Pool(fail, "test", 1, 0.01)
    with pytest.raises(BadInput, match="no such model"):
        pool.scale(2, 10)
    assert pool.threads == []
    assert pool.submit({"n": 1}, {}) is None


def test_an_answer_that_takes_too_long_is_given_up():
    gate = threading.Event()
    pool = pool_of(lambda: Recorder([], gate), size=1)
    job = pool.submit({"n": 1}, {})
    assert job.wait(0.05) is None
    gate.set()
    assert job.wait(10).body == b"1"
    pool.close(10)


class Talker:
    """Gives a partial answer, waits for its gate, gives another and then the whole."""

    def __init__(self, gate):
        self.gate = gate

    def answer(self, rows, headers, senders):
        for send in senders:
            if send is not None:
                send(Answer(200, b"one", partial=True))
        self.gate.wait(10)
        for send in senders:
            if send is not None:
                send(Answer(200, b"two", partial=True))
        return [Answer(200, b"whole") for _ in rows]

    def close(self):
        pass


def test_partial_answers_come_before_the_whole_and_to_those_alone_who_take_them():
    gate = threading.Event()
    pool = pool_of(lambda: Talker(gate), size=2, delay=30)
    streaming, silent = pool.submit({}, {}, streams=True), pool.submit({}, {})
    assert streaming.partial(10).body == b"one"
    assert streaming.answer is None
    gate.set()
    assert streaming.partial(10).body == b"two"
    assert streaming.partial(10) is None
    assert (streaming.wait(10).body, silent.wait(10).body) == (b"whole", b"whole")
    assert silent.partial(10) is None
    pool.close(10)


def test_each_partial_answer_starts_the_timeout_anew():
    gate = threading.Event()
    pool = pool_of(lambda: Talker(gate), size=1)
    job = pool.submit({}, {}, streams=True)
    assert job.partial(10).body == b"one"
    job.started -= 100
    gate.set()
    assert job.partial(5).body == b"two"
    assert job.wait(5).body == b"whole"
    pool.close(10)


def test_a_worker_that_falls_silent_is_given_up():
    gate = threading.Event()
    pool = pool_of(lambda: Talker(gate), size=1)
    job = pool.submit({}, {}, streams=True)
    assert job.partial(10).body == b"one"
    assert job.partial(0.05) is None
    assert job.wait(0.05) is None
    gate.set()
    pool.close(10)


def until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)
