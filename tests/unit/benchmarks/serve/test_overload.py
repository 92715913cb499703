import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks.serve.arrivals import parsed
from benchmarks.serve.open_loop import Answer, open_loop
from benchmarks.serve.overload import overloaded, recovered
from benchmarks.serve.soak import growth
from deploy.tune.clients import http_request


def test_goodput_counts_what_came_late_at_its_time() -> None:
    answers = [Answer(0.1 * n, 0.05, 200) for n in range(100)]
    answers += [Answer(9.0, 1.0, 503), Answer(9.1, 3.0, 503), Answer(9.9, 10.1, 200)]
    answers += [Answer(1.0, 0.0, 0)]
    found = overloaded(answers, 10.0, 10.0)
    assert found["goodput_rps"] == pytest.approx(101 / 20, abs=0.1)
    assert found["goodput_of_peak"] == pytest.approx(0.505)
    assert (found["refused"], found["lost"], found["sent"]) == (2, 1, 104)
    assert found["refused_p99_ms"] == 1000.0


def test_recovery_is_the_last_answer_that_was_late() -> None:
    usual = [Answer(0.01 * n, 0.02, 200) for n in range(500)]
    assert recovered(usual, 0.02)["back_after_s"] == 0.0
    late = [Answer(0.01 * n, 0.5, 200) for n in range(120)]
    assert recovered(late + usual[120:], 0.02)["back_after_s"] == pytest.approx(1.14)
    refused = [Answer(0.01 * n, 0.001, 503) for n in range(100)]
    assert recovered(refused + usual[100:], 0.02)["back_after_s"] > 0.9


def test_growth_leaves_out_the_warm_up() -> None:
    assert growth([100, 150, 200, 200, 200, 200, 200, 200]) == 0.0
    assert growth([100, 200, 200, 200, 205, 208, 210, 210]) == pytest.approx(0.05)
    assert growth([100]) == 0.0


def test_loadgens_summary() -> None:
    summary = (
        "50.00 percentile latency (ns)   : 52402919\n99.00 percentile latency (ns)   : 142318595\n"
    )
    assert parsed(summary) == {"p50_ms": 52.4, "p99_ms": 142.32}
    assert parsed("nothing")["p99_ms"] == float("inf")


def test_arrivals_do_not_wait_for_answers() -> None:
    held = threading.Event()
    seen: list[int] = []

    class Slow(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            seen.append(1)
            if len(seen) < 5:
                held.wait(60)
            held.set()
            self.send_response(200 if len(seen) % 2 else 503)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            answers = open_loop(
                server.server_address, [http_request("host", "/", {}, b"x")], 100.0, 0.5
            )
        finally:
            server.shutdown()
    # Four are held until a fifth has come, which closed loops of four clients never send.
    assert held.is_set() and len(answers) == len(seen) >= 5
    assert {one.status for one in answers} <= {200, 503}
    assert all(0 < one.due < 0.5 for one in answers)
