import threading

import torch

from deploy.service.quantized_engine import Turns

FIRST, SECOND = [e for e in torch.backends.quantized.supported_engines if e != "none"][:2]


def test_engines_take_turns_and_models_of_one_engine_run_together():
    before = torch.backends.quantized.engine
    turns, seen, errors = Turns(), set(), []
    inside, lock = {FIRST: 0, SECOND: 0}, threading.Lock()

    def work(engine):
        for _ in range(40):
            with turns.turn(engine):
                with lock:
                    inside[engine] += 1
                    seen.add((inside[FIRST] > 0, inside[SECOND] > 0))
                if torch.backends.quantized.engine != engine:
                    errors.append(engine)
                with lock:
                    inside[engine] -= 1

    threads = [threading.Thread(target=work, args=(e,)) for e in (FIRST, SECOND) * 3]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    finally:
        torch.backends.quantized.engine = before
    assert not errors
    assert seen == {(True, False), (False, True)}


def test_two_of_one_engine_do_not_wait_for_each_other():
    before = torch.backends.quantized.engine
    turns, met = Turns(), threading.Barrier(2, timeout=10)

    def work():
        with turns.turn(FIRST):
            met.wait()

    threads = [threading.Thread(target=work) for _ in range(2)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    finally:
        torch.backends.quantized.engine = before
    assert not met.broken


def test_a_model_without_quantized_operators_never_waits():
    turns = Turns()
    before = torch.backends.quantized.engine
    try:
        with turns.turn(FIRST), turns.turn(None):
            assert torch.backends.quantized.engine == FIRST
    finally:
        torch.backends.quantized.engine = before
