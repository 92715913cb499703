from benchmarks import figures
from benchmarks.serve import results


def measured(rps: float, errors: int = 0) -> dict[str, float]:
    return {"rps": rps, "p50_ms": 1000 / rps, "p99_ms": 2000 / rps, "errors": errors}


def kind() -> dict[str, object]:
    rounds = [
        {
            "torchserve": {"1": measured(rate), "16": measured(2 * rate, errors=1)},
            "ceiling": {"1": 300.0 + rate, "4": 320.0 + rate},
        }
        for rate in (100.0, 140.0, 110.0)
    ]
    rounds.append({"fastapi": {"1": measured(200.0)}})  # one that was cut short
    found = {"artifact": "photos", "rounds": rounds, "absent": {"ray": "no\nmemory"}}
    results.summarise(found)
    return found


def test_medians_and_sums() -> None:
    found = kind()
    assert found["ceiling_rps"] == 430.0
    assert found["ceiling_by_batch"] == {"1": 410.0, "4": 430.0}
    assert list(found["clients"]) == ["1", "16"]
    assert found["clients"]["16"] == {
        "torchserve": {"rps": 220.0, "p50_ms": 4.55, "p99_ms": 9.09, "errors": 3}
    }
    assert found["clients"]["1"]["fastapi"]["rps"] == 200.0


def test_the_table_names_what_is_missing() -> None:
    text = results.table(kind())
    assert "110 / 9.1 / 18" in text and "220 / 4.5 / 9 3!" in text
    assert "ray did not run: no" in text and "memory" not in text


def test_the_readmes_lines() -> None:
    found = kind()
    found["gain"] = {"peer": "fastapi", "ratio": {"1": 3.0, "16": 5.04}, "clients": {}}
    found["arrivals"] = {"service": {"server_rps": 120.4, "bound_ms": 50.0}}
    text = "\n".join(figures.serving({"images": found, "date": "2026-11-28"}))
    assert "| **ours in TorchServe** | 110 / 9.1 | 220 / 4.5 |" in text
    assert "| FastAPI, uvicorn | 200 / 5.0 |  |" in text
    assert "with 1 / 16 clients: 3.0x / 5.0x" in text
    assert "p99 under 50 ms (LoadGen): service 120" in text
