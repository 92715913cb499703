"""The end of a log, and what was added to it."""

from pathlib import Path

from deploy.torchserve import logs


def test_only_what_was_added_is_shown(tmp_path: Path) -> None:
    log = tmp_path / "model_log.log"
    log.write_text("old trouble\n")
    start = logs.mark(tmp_path)
    assert logs.since(start) == ""
    with log.open("a") as file:
        file.writelines(f"line {n}\n" for n in range(40))
    shown = logs.since(start, lines=3)
    assert shown.splitlines() == [f"the end of {log}:", "  line 37", "  line 38", "  line 39"]


def test_the_workers_log_is_asked_before_the_servers(tmp_path: Path) -> None:
    start = logs.mark(tmp_path)
    (tmp_path / "ts_log.log").write_text("server\n")
    assert "server" in logs.since(start)
    (tmp_path / "model_log.log").write_text("worker\n")
    assert "worker" in logs.since(start)


def test_a_log_that_was_rolled_over_is_read_from_its_start(tmp_path: Path) -> None:
    log = tmp_path / "model_log.log"
    log.write_text("long ago " * 100)
    start = logs.mark(tmp_path)
    log.write_text("fresh\n")
    assert "fresh" in logs.since(start)


def test_unknown_or_missing_logs_are_empty(tmp_path: Path) -> None:
    assert logs.since(logs.mark(None)) == ""
    assert logs.tail(tmp_path / "none.log") == ""


def test_bytes_that_are_no_text_do_not_matter(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    log.write_bytes(b"\xff\xfe trouble\nlast\n")
    assert logs.tail(log, lines=1) == "  last"
    assert "trouble" in logs.tail(log)
