import json
from types import SimpleNamespace

import pytest

from handlers import budget
from handlers.base import BaseHandler
from handlers.budget import Budget, Pace
from handlers.errors import ModelError, RequestError
from tests.unit.handlers import archive

# A second for each input and one for each unit, 40 s in all.
SLOW = Budget("miles", 20, 40, Pace(1.0, 1.0))


def test_a_request_is_charged_as_a_whole():
    SLOW.charge([10, 10])
    with pytest.raises(RequestError, match="21 miles in one request, the limit is 20") as caught:
        SLOW.charge([10, 11])
    assert (caught.value.status, caught.value.type) == (413, "too_costly")


def test_the_cheap_go_first_and_parts_take_a_quarter_of_the_timeout():
    # Seconds: 9, 2, 3, 12, 5.
    costs = [[8], [1], [1, 0], [11], [4]]
    assert SLOW.parts(costs) == [[1, 2, 4], [0], [3]]
    assert Budget("miles", 20, 40).parts(costs) == [[0, 1, 2, 3, 4]]
    assert SLOW.parts([]) == []


def test_what_would_end_too_late_is_known():
    assert not SLOW.too_late(20, [[4], [4]])
    assert SLOW.too_late(20, [[4], [5]])


def test_limits_that_cannot_be_kept_in_time_are_refused_with_the_numbers():
    SLOW.check(20, 1)
    with pytest.raises(ModelError, match=r"21 inputs, 20 miles\) would take 41\.0 s .* is 40 s"):
        SLOW.check(21, 1)
    Budget("miles", float("inf"), 1).check(64, 8)


def test_a_batch_that_cannot_be_kept_in_time_is_warned_of(caplog):
    SLOW.check(20, 3)
    assert "3 requests of 20 miles would take 120 s" in caplog.text


def test_where_a_card_sets_no_limit_time_does():
    assert SLOW.fitted(10).request == 20
    assert SLOW.fitted(20).request == 10
    assert Budget("miles", 20, 40).fitted(64).request == 20


class Sleeper(BaseHandler):
    """Takes as many units as a text has letters; `ran` lists what went to the model together."""

    task = "image_classification"
    unit = "letters"

    def setup(self):
        self.ran = []

    def preprocess(self, request):
        return [entry.value for entry in request.inputs]

    def cost(self, value):
        return len(value)

    def decode(self, value):
        if value == "bad":
            raise RequestError(422, "bad_word", "a bad word")
        return value.upper()

    def inference(self, inputs):
        self.ran.append(inputs)
        return inputs

    def postprocess(self, request, results):
        return results


@pytest.fixture
def sleeper(colours):
    handler = Sleeper()
    handler.initialize(SimpleNamespace(system_properties={"model_dir": str(colours)}))
    handler.budget = Budget("letters", 8, 20, Pace(0.0, 0.5))
    return handler


def ask(handler, *bodies):
    replies = handler.answer([{"body": body} for body in bodies], [{}] * len(bodies))
    return [(reply.status, json.loads(reply.body)) for reply in replies]


def test_a_batch_runs_in_parts_and_everyone_gets_the_own_answer(sleeper):
    answers = ask(sleeper, {"data": "four"}, {"data": "a"}, {"data": "bad"}, {"data": ["bb", "c"]})
    assert [status for status, _ in answers] == [200, 200, 422, 200]
    assert [answers[i][1] for i in (0, 1, 3)] == [["FOUR"], ["A"], ["BB", "C"]]
    assert sleeper.ran == [["A", "BB", "C"], ["FOUR"]]


def test_a_request_beyond_its_budget_is_never_decoded(sleeper):
    (costly,) = ask(sleeper, {"data": ["12345", "6789"]})
    assert (costly[0], costly[1]["type"]) == (413, "too_costly")
    assert sleeper.ran == []


def test_of_several_the_one_that_cannot_be_decoded_is_named(sleeper):
    (answer,) = ask(sleeper, {"data": ["a", "bad"]})
    assert answer[1]["message"] == "data[1]: a bad word"


def test_what_a_batch_has_no_time_for_is_told_to_come_again(sleeper):
    sleeper.budget = Budget("letters", 8, 8, Pace(0.0, 7.0))
    first, second = ask(sleeper, {"data": "ab"}, {"data": "a"})
    assert second == (200, ["A"])
    assert (first[0], first[1]["type"]) == (503, "busy")


def test_the_pace_is_measured_while_the_worker_starts(tmp_path):
    class Timed(Sleeper):
        def trials(self):
            return "a", "a" * 1000

        def request_limit(self):
            return 10_000

    limits = {"size": [32, 32], "max_request_letters": 10_000}
    folder = archive.make(tmp_path, input=limits, serving={"response_timeout_s": 1e-9})
    properties = {"model_dir": str(folder)}
    with pytest.raises(ModelError, match=r"10000 letters\) would take .* s on this machine"):
        Timed().initialize(SimpleNamespace(system_properties=properties))
    folder = archive.make(tmp_path, serving={"response_timeout_s": 3600})
    handler = Timed()
    handler.initialize(SimpleNamespace(system_properties=properties))
    assert handler.ran.count(["A" * 1000]) >= 1
    assert handler.budget.request == 10_000


@pytest.mark.parametrize("limit", [0, -1, "many", True, None])
def test_a_limit_that_is_none_is_refused(tmp_path, limit):
    folder = archive.make(tmp_path, input={"max_request_letters": limit})
    with pytest.raises(ModelError, match=r"input\.max_request_letters must be a positive number"):
        Sleeper().initialize(SimpleNamespace(system_properties={"model_dir": str(folder)}))


def test_a_rate_is_that_between_two_inputs():
    pace = budget.measured(lambda value: None, (1.0, "a"), (1.0, "b"))
    assert pace.rate == 0.0
    assert pace.base >= 0.0
