import pytest
import torch

from benchmarks import gpu


@pytest.mark.slow
def test_the_prepared_script_runs_where_there_is_no_card() -> None:
    found = gpu.measure("cpu", torch.float32, 1, 0.01)
    assert min(found.values()) > 0


def test_without_a_card_it_says_so(capsys, monkeypatch) -> None:
    monkeypatch.setattr("sys.argv", ["gpu"])
    if torch.cuda.is_available():
        pytest.skip("there is a card here")
    assert gpu.main() == 2
    assert "needs a card" in capsys.readouterr().err
