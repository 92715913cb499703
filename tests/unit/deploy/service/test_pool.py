import threading
import time

import pytest

from deploy.errors import BadInput
from deploy.service import pool as pool_module
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


def pool_of(make, size=4, delay=0.05, workers=1, timeout=60):
    pool = Pool(make, "test", size, delay, timeout)
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
    assert streaming.partial().body == b"one"
    assert streaming.answer is None
    gate.set()
    assert streaming.partial().body == b"two"
    assert streaming.partial() is None
    assert (streaming.wait(10).body, silent.wait(10).body) == (b"whole", b"whole")
    assert silent.partial() is None
    pool.close(10)


def test_each_partial_answer_starts_the_timeout_anew():
    gate = threading.Event()
    pool = pool_of(lambda: Talker(gate), size=1, timeout=5)
    job = pool.submit({}, {}, streams=True)
    assert job.partial().body == b"one"
    job.queued -= 100
    gate.set()
    assert job.partial().body == b"two"
    assert job.wait().body == b"whole"
    pool.close(10)


def test_a_worker_that_falls_silent_is_given_up():
    gate = threading.Event()
    pool = pool_of(lambda: Talker(gate), size=1, timeout=0.2)
    job = pool.submit({}, {}, streams=True)
    assert job.partial().body == b"one"
    assert job.partial() is None
    assert job.wait() is None
    gate.set()
    pool.close(10)


def hung(pool):
    """A job that the pool's worker works on until its gate opens."""
    job = pool.submit({"n": -1}, {})
    until(lambda: job.started is not None)
    return job


def test_the_deadline_counts_from_the_arrival_and_what_missed_it_is_not_computed():
    batches, gate = [], threading.Event()
    pool = pool_of(lambda: Recorder(batches, gate), size=1, timeout=0.3)
    first = hung(pool)
    waiting = [pool.submit({"n": n}, {}) for n in range(20)]
    assert [job.wait() for job in [first, *waiting]] == [None] * 21
    gate.set()
    until(lambda: not pool.pending)
    pool._batch_seconds = 0.0
    assert pool.submit({"n": 7}, {}).wait().body == b"7"
    assert batches == [1, 1]
    pool.close(10)


def test_what_a_client_that_hung_up_asked_for_is_not_computed():
    batches, gate = [], threading.Event()
    pool = pool_of(lambda: Recorder(batches, gate), size=1)
    hung(pool)
    abandoned = [pool.submit({"n": n}, {}, gone=lambda: True) for n in range(20)]
    wanted = pool.submit({"n": 20}, {}, gone=lambda: False)
    gate.set()
    assert wanted.wait(10).body == b"20"
    assert batches == [1, 1]
    assert all(job.answer is None for job in abandoned)
    pool.close(10)


def test_what_cannot_be_answered_in_time_is_refused_at_once():
    gate = threading.Event()
    pool = pool_of(lambda: Recorder([], gate), size=2, workers=2, timeout=10)
    jobs = [hung(pool)]
    pool._batch_seconds = 4.0
    while (job := pool.submit({"n": 0}, {})) is not None:
        jobs.append(job)
    # Two workers do two batches of two each in time; one that finds a free queue is always let in.
    assert 8 <= len(jobs) <= 10
    assert pool.expected_wait > 10
    gate.set()
    assert all(job.wait(10) for job in jobs)
    pool.close(10)


class Panic(BaseException):
    """What a library written in Rust raises."""


class Panicking:
    """Answers, but for a row that is told to panic."""

    def answer(self, rows, headers, senders):
        if any(row.get("panic") for row in rows):
            raise Panic
        return [Answer(200, b"well") for _ in rows]

    def close(self):
        pass


def test_a_panic_costs_its_batch_and_a_fresh_worker_goes_on():
    made = []
    pool = pool_of(lambda: made.append(1) or Panicking(), size=1)
    for _ in range(3):
        assert pool.submit({"panic": True}, {}).wait(10).status == 503
    assert pool.submit({}, {}).wait(10).body == b"well"
    assert len(made) == 4
    assert [thread.running for thread in pool.threads] == [True]
    assert pool.close(10)


def test_a_worker_that_does_not_load_again_is_not_said_to_run(monkeypatch):
    monkeypatch.setattr(pool_module, "RELOAD_PAUSES", (0.01,))
    broken = threading.Event()

    def make():
        if broken.is_set():
            raise Panic
        return Panicking()

    pool = pool_of(make, size=1)
    broken.set()
    assert pool.submit({"panic": True}, {}).wait(10).status == 503
    until(lambda: not pool.threads[0].running)
    broken.clear()
    assert pool.submit({}, {}).wait(10).body == b"well"
    assert pool.threads[0].running
    broken.set()
    assert pool.submit({"panic": True}, {}).wait(10).status == 503
    assert pool.close(10), "it can be closed while it loads again"


def test_stuck_is_a_pool_whose_workers_show_no_progress():
    gate = threading.Event()
    pool = pool_of(lambda: Recorder([], gate), size=1, workers=2, timeout=0.1)
    assert not pool.stuck
    hung(pool)
    time.sleep(0.25)
    assert not pool.stuck, "the other worker is idle"
    hung(pool)
    until(lambda: pool.stuck)
    gate.set()
    until(lambda: not pool.stuck)
    pool.close(10)


def until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)
