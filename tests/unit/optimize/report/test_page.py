import copy
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from optimize.evaluation.examples import Example
from optimize.report import page
from optimize.tasks.speech import WORD_ERROR_RATE
from optimize.tasks.text import METRICS
from tests.unit.optimize.report.reports import metrics, report

VOID = {"meta", "br", "line", "polyline", "img", "input", "link", "hr"}
SEARCH = {
    "objective": "latency_batch1",
    "finished": True,
    "seconds": 12.5,
    "chosen": 1,
    "points": [
        {"number": 0, "state": "complete", "stages": "quantize int8", "drop": 0.001,
         "bytes": 260_000, "latency_ratio": 0.25, "meets_budget": True, "front": True},
        {"number": 1, "state": "complete", "stages": "distill 0.5, prune 0.25", "drop": 0.008,
         "bytes": 52_000, "latency_ratio": 0.05, "meets_budget": True, "front": True},
        {"number": 2, "state": "pruned", "stages": "prune 0.75", "drop": 0.3,
         "bytes": 91_000, "latency_ratio": 0.07, "meets_budget": False, "front": False},
        {"number": 3, "state": "failed", "stages": "prune 0.9"},
    ],
}  # fmt: skip


class Outline(HTMLParser):
    """Tags opened and closed in order, all text, and every attribute."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.words = ""
        self.attributes: list[tuple[str, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words += data + " "


def outline(evidence: dict[str, Any]) -> Outline:
    read = Outline(page.render(evidence))
    assert read.open == []
    return read


def test_the_page_holds_the_reports_figures() -> None:
    words = outline(report()).words
    for figure in (
        "Gate passed", "93.16%", "92.57%", "0.59 points lower", "1.0 MB", "44.1 KB",
        "23.0x smaller",
        "1.73 ms", "0.0762 ms", "22.8x faster", "97.53%", "91.29%", "298.2 KB", "0.410 ms",
        "91.11%", "1,234 held-out", "f1n6e4", "Some CPU", "torch 2.13.0", "read this",
        "python -m optimize run recipes/sample.yaml",
    ):  # fmt: skip
        assert figure in words, figure
    assert "Search" not in words and "Exports" not in words and "Sensitivity" not in words


def test_it_asks_nothing_of_the_network() -> None:
    text = page.render(report(search=SEARCH))
    assert not re.search(r"https?:|//[a-z]|@import|url\(|<script|<link|<img|<iframe", text)
    read = outline(report())
    assert not {name for name, _ in read.attributes} & {"src", "href", "srcset", "onclick"}
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert ("content", policy) in read.attributes


EVIL = '<script>alert("1")</script>&\'{{ report }}{% raw %}'


def test_whatever_a_report_says_is_text() -> None:
    evidence = report()
    evidence["recipe"] = evidence["command"] = EVIL
    evidence["data"].update(name=EVIL, source=EVIL, labels=[EVIL] * 3, notes=[EVIL])
    evidence["stages"][0]["name"] = evidence["controls"][0]["name"] = EVIL
    evidence["stages"][0]["details"] = {
        "left_in_float": {EVIL: EVIL},
        "sensitivity": [{EVIL: EVIL}],
    }
    evidence["machine"].update(processor=EVIL, features=[EVIL])
    evidence["versions"]["torch"] = evidence["gate"]["reason"] = EVIL
    evidence["exports"] = {EVIL: {"file": EVIL, "bytes": 3, "parity": EVIL}}
    evidence["search"] = copy.deepcopy(SEARCH)
    evidence["search"]["objective"] = evidence["search"]["points"][0]["stages"] = EVIL
    read = outline(evidence)
    assert "script" not in read.seen
    assert read.words.count(EVIL) >= 15
    assert 'alert("1")' not in page.render(evidence)


def test_a_failed_gate_is_said_first() -> None:
    evidence = report()
    evidence["gate"].update(passed=False, drop=0.05, reason="accuracy lost 0.0500")
    words = outline(evidence).words
    assert words.index("Gate failed") < words.index("accuracy lost 0.0500") < words.index("92.57%")
    assert "Gate passed" not in words


@pytest.mark.parametrize(
    ("drop", "words"),
    [
        (0.0059, "accuracy 0.59 points lower"),
        (-0.0059, "accuracy 0.59 points higher"),
        (0.00004, "accuracy unchanged"),
        (-0.00004, "accuracy unchanged"),
    ],
)
def test_a_loss_reads_as_a_loss(drop: float, words: str) -> None:
    evidence = report()
    evidence["gate"]["drop"] = drop
    assert f"Measured: {words} on 1,234 held-out samples." in outline(evidence).words


def test_trials_are_drawn_and_listed() -> None:
    read = outline(report(search=SEARCH))
    classes = [value for name, value in read.attributes if name == "class"]
    # Both plots: three trials that were measured, two of them on the front.
    assert classes.count("best") == 2 * 2 + 1 and classes.count("trial") == 2 * 1 + 1
    for words in ("front, chosen", "distill 0.5, prune 0.25", "failed", "20.0x"):
        assert words in read.words, words


def test_sensitivity_exports_and_what_stayed_in_float_are_shown() -> None:
    evidence = report()
    evidence["stages"][2]["details"] = {
        "sensitivity": [{"layer": "conv1", "drop": 0.0123}, {"layer": "head", "drop": -0.001}],
        "left_in_float": {"attention": "no int8 kernel"},
    }
    evidence["exports"] = {
        "onnx": {"file": "exports/model.onnx", "bytes": 52_123, "parity": 0.0001, "samples": 10,
                 "accuracy": 0.9246, "latency_ratio": 1.5, "versions": {}}
    }  # fmt: skip
    words = outline(evidence).words
    for word in ("conv1", "1.23 points lower", "0.10 points higher", "attention",
                 "no int8 kernel", "exports/model.onnx",
                 "52.1 KB", "92.46%", "1.50x"):  # fmt: skip
        assert word in words, word


def test_word_errors_have_no_classes_and_less_is_better() -> None:
    evidence = report()
    for entry in (
        evidence["original"],
        evidence["final"],
        *evidence["stages"],
        *evidence["controls"],
    ):
        entry["wer"] = 1 - entry.pop("accuracy")
        entry.pop("per_class", None)
    evidence["gate"]["metric"], evidence["metric"] = "wer", WORD_ERROR_RATE.to_json()
    evidence["exports"] = {"onnx": {"file": "exports/onnx/encoder.onnx", "wer": 0.0417}}
    text = page.render(evidence)
    assert "<th>Word error rate</th>" in text.replace(' scope="col"', "") and "4.17%" in text
    assert "Word error rate" in text and "Class by class" not in text
    assert '<span class="bad">0.59 points higher</span>' in text
    assert "Down and to the left" in text


@pytest.mark.parametrize(("metric", "title"), [("macro_f1", "Macro F1"), ("auroc", "AUROC")])
def test_the_gates_own_metric_is_shown_and_more_is_better(metric: str, title: str) -> None:
    evidence = report()
    shown = [evidence["original"], evidence["final"], *evidence["stages"], *evidence["controls"]]
    for number, part in enumerate(shown):
        part |= {metric: 0.7 + number / 100}
    evidence["gate"]["metric"], evidence["metric"] = metric, METRICS[metric].to_json()
    outline = Outline(page.render(evidence))
    assert title in outline.words and "70.00" in outline.words


@pytest.mark.parametrize("count", [0, 1])
def test_few_stages_and_equal_figures_still_draw(count: int) -> None:
    same = metrics(0.5, 1000, 1.0)
    evidence = report(original=same, final=same, controls=[])
    evidence["stages"] = [{"name": "only", **same}] * count
    assert "50.00%" in outline(evidence).words


def test_a_thousand_classes_are_folded() -> None:
    evidence = report()
    evidence["data"]["labels"] = [f"class {n}" for n in range(1000)]
    evidence["original"]["per_class"] = [0.5] * 1000
    evidence["final"]["per_class"] = [0.5 + (n % 7 - 3) / 100 for n in range(1000)]
    read = outline(evidence)
    assert read.seen.count("details") == 2
    assert "class 999" in read.words


def test_the_page_is_written_whole(tmp_path: Path) -> None:
    path = page.write(tmp_path, report())
    assert path.name == "report.html"
    assert path.read_text(encoding="utf-8") == page.render(report())
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_half_a_character_does_not_keep_the_page_from_its_file(tmp_path: Path) -> None:
    evidence = report()
    evidence["data"]["labels"][0] = "a\ud800b"
    assert "a?b" in page.write(tmp_path, evidence).read_text(encoding="utf-8")


def test_warnings_and_the_floor_are_on_the_page() -> None:
    text = page.render(report())
    assert "Warning" not in text and "at least 80" not in text
    found = report(warnings=["the original is not better than chance: <20%>"])
    found["gate"]["floor"] = 0.8
    text = page.render(found)
    assert "The original is not better than chance: &lt;20%&gt;." in text
    assert "accuracy at least 80.00%" in text


def test_the_page_shows_the_race_and_the_kernels() -> None:
    race = {
        "served": "onnx-int8", "file": "engines/onnx-int8/model.onnx", "seconds": 31.5,
        "gain": 1.99, "least_gain": 1.1, "batch": 4, "threads": 1,
        "candidates": {
            "torchscript": {"outcome": "serves where the other does not",
                            "milliseconds": {"batch1": 0.07, "batch4": 0.2}, "bytes": 44_873},
            "onnx-int8": {"outcome": "serves", "milliseconds": {"batch1": 0.04, "batch4": 0.1},
                          "bytes": 63_609, "accuracy": 0.864},
            "aoti": {"outcome": "not raced: no compiler"},
        },
    }  # fmt: skip
    found = report(engines=race)
    found["stages"][2]["details"] = {
        "kernels": {"chosen": "fbgemm", "milliseconds": {"fbgemm": {"batch1": 0.07}}}
    }
    words = " ".join(outline(found).words.split())
    assert "onnx-int8 serves: 1.99x as fast as TorchScript at batches of 4 on 1 thread." in words
    order = [words.index(name) for name in ("0.0400 ms", "0.0700 ms", "not raced: no compiler")]
    assert order == sorted(order)
    assert "fbgemm, the fastest of those measured (fbgemm: batch1 0.0700 ms)" in words
    assert "Runtimes" not in page.render(report())


RELIABILITY = {
    key: {"ece": ece, "bins": [{"samples": 0}, {"samples": 4, "confidence": sure, "accuracy": 0.5}]}
    for key, ece, sure in (("original", 0.1234, 0.6234), ("final", 0.25, 0.25))
}


def test_reliability_is_drawn_of_both_models() -> None:
    read = outline(report(reliability=RELIABILITY))
    for words in ("calibration error 12.34%", "calibration error 25.00%", "With 4 answers",
                  "4 answers, 62.34% sure, 50.00% right"):  # fmt: skip
        assert words in read.words, words
    bars = [value for name, value in read.attributes if name == "class"]
    assert bars.count("over") == 1 and bars.count("under") == 1 and bars.count("even") == 2
    assert "Reliability" not in outline(report()).words  # nor in an older report


EXAMPLES = [
    Example("picture", "data:image/png;base64,AAAA", "cat", "cat 90%", "dog 60%", "fell by 50%"),
    Example("text", EVIL, EVIL, EVIL, EVIL, EVIL),
    Example("recording", [0, 50, 100], "hello there", "hello there", "hello", "1 word differs"),
    Example("row", "age = 3", "", "0.25", "0.5", "2 standard deviations apart"),
]


def test_examples_are_shown_as_what_they_are() -> None:
    text = page.render(report(), EXAMPLES)
    read = Outline(text)
    assert read.open == [] and "script" not in read.seen
    assert [value for name, value in read.attributes if name == "src"] == [EXAMPLES[0].content]
    assert read.seen.count("article") == 4 and read.words.count(EVIL) == 5
    assert read.words.count("Right") == 3  # a row without a target has none
    for words in ("dog 60%", "hello there", "age = 3", "2 standard deviations apart"):
        assert words in read.words, words
    assert 'height="50"' in text and 'height="100"' in text
    assert "Where the models differ most" not in outline(report()).words


@pytest.mark.parametrize("examples", [[], EXAMPLES * 2], ids=["old", "full"])
def test_it_prints_on_two_pages(examples: list[Example], tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    evidence = report(reliability=RELIABILITY, search=SEARCH) if examples else report()
    evidence["stages"][2]["details"] = {
        "sensitivity": [{"layer": f"conv{n}", "drop": 0.01} for n in range(40)]
    }
    (tmp_path / "report.html").write_text(page.render(evidence, examples), encoding="utf-8")
    subprocess.run(
        [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/c",
         f"--print-to-pdf={tmp_path / 'report.pdf'}", (tmp_path / "report.html").as_uri()],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    printed = (tmp_path / "report.pdf").read_bytes()
    assert len(re.findall(rb"/Type /Page\b(?!s)", printed)) == 2


def test_no_example_is_laid_out_as_a_row_of_bars() -> None:
    read = outline(report())
    used = {word for name, value in read.attributes if name == "class" for word in value.split()}
    shown = Outline(page.render(report(), EXAMPLES))
    kinds = [value for name, value in shown.attributes if value.startswith("of-")]
    assert len(kinds) == 4 and not used & set(kinds)
