import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from deploy.errors import NoServer
from deploy.tune.clients import Answers, closed_loop, http_request


@pytest.fixture
def server():
    """Answers with what it was sent, in two pieces; every third request is refused."""
    seen: list[tuple[str, str]] = []

    class Echo(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            seen.append((self.headers["X-Name"], body.decode()))
            self.send_response(503 if len(seen) % 3 == 0 else 200)
            self.send_header("Content-Length", str(len(body)))
            if len(seen) % 3 == 0:  # as a server that is overloaded may
                self.send_header("Connection", "close")
                self.close_connection = True
            self.end_headers()
            self.wfile.write(body[:2])
            self.wfile.flush()
            self.wfile.write(body[2:])

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        yield served.server_address, seen
        served.shutdown()
        thread.join()


def test_every_answer_is_counted_and_all_inputs_are_sent(server):
    address, seen = server
    requests = [
        http_request("host", "/here", {"X-Name": "a"}, text.encode()) for text in ("one", "three")
    ]
    answers = closed_loop(address, requests, 3, 0.3)
    assert len(answers.latencies) + answers.others == len(seen)
    assert answers.others == len(seen) // 3 > 0
    assert {body for _, body in seen} == {"one", "three"}
    assert answers.seconds >= 0.3
    assert 0 < min(answers.latencies) <= answers.quantile(0.5) <= max(answers.latencies)


def test_goodput_leaves_out_what_came_late():
    answers = Answers(2.0, [0.01, 0.02, 0.03, 0.5])
    assert answers.within(0.02) == 1.0
    assert answers.within(1.0) == 2.0
    assert answers.quantile(0.5) == 0.03
    assert answers.quantile(0.99) == 0.5
    assert Answers(1.0).quantile(0.99) == float("inf")


def test_a_late_answer_is_worth_the_part_that_the_bound_is_of_its_time():
    answers = Answers(1.0, [0.01, 0.02, 0.08, 0.04])
    assert answers.within(0.02) == 2.0
    assert answers.worth(0.02) == pytest.approx(1 + 1 + 0.25 + 0.5)
    faster = Answers(1.0, [0.05, 0.06])
    assert Answers(1.0, [0.07, 0.08]).worth(0.02) < faster.worth(0.02), "though all are late"


def test_nothing_listens():
    with pytest.raises(NoServer, match=r"127\.0\.0\.1:9"):
        closed_loop(("127.0.0.1", 9), [b"x"], 1, 0.1)
