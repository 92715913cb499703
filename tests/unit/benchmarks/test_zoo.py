"""A sample of the zoo, and that the zoo sees what goes wrong."""

import os

import pytest
from torch import Tensor, nn

from benchmarks import zoo, zoo_case, zoo_layers, zoo_models
from benchmarks.zoo_case import Outcome, Stage

SAMPLE = ("Conv1d", "ConvTranspose2d", "MultiheadAttention", "GRUCell")


@pytest.mark.parametrize("stage", ["static_int8", "dynamic_int8"])
@pytest.mark.parametrize("name", SAMPLE)
def test_a_layer_is_quantized_or_left_in_float_rightly(name: str, stage: Stage) -> None:
    outcome = zoo_case.attempt(zoo_layers.build(name), zoo_layers.SIDE, stage)
    assert zoo.judged(outcome, 0.05).ending == "done", outcome.message
    assert outcome.lowered


def test_a_model_of_timm_is_quantized() -> None:
    outcome = zoo_case.attempt(zoo_models.build("test_vit3"), 64, "static_int8")
    assert zoo.judged(outcome, 0.5).ending == "done", outcome.message
    assert len(outcome.lowered) > 5


class Dying(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        os._exit(3)


class Flawed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x.float()
        return x.double()


def test_a_crash_a_delay_and_a_refusal_are_seen() -> None:
    zoo_case.warm()
    assert zoo_case.run(Dying, 8, "static_int8", 60).ending == "crashed"
    assert zoo_case.run(Flawed, 8, "static_int8", 0.0).ending == "late"
    refused = zoo_case.attempt(Flawed(), 8, "static_int8")
    assert refused.ending == "refused"
    assert "\n" not in refused.message


def test_answers_that_are_off_or_depend_on_mates_fail() -> None:
    assert zoo.judged(Outcome("done", error=0.01), 0.05).ending == "done"
    assert zoo.judged(Outcome("done", error=float("nan")), 0.05).ending == "failed"
    assert zoo.judged(Outcome("done", mates=0.01), 0.05).ending == "failed"


def test_the_table_says_what_stays_in_float_and_why() -> None:
    left = {"a": "no kernel", "b": "no kernel", "c": "small"}
    found: zoo.Found = {("m", "static_int8"): Outcome("done", 0.01, 0, ["x"], left)}
    assert "| m | 1, 0.010 | 2 x no kernel; small |" in zoo.table(found, ["m"], ["static_int8"])
