import json
from pathlib import Path
from xml.etree import ElementTree

import torch

from benchmarks import compress

MILLISECONDS = {"eager": 40.0, "ours": 4.0, "openvino_int8": 5.0, "openvino_bf16": 8.0}


def save_answers(work: Path, model: str) -> None:
    """Four inputs, three labels; ours says another label for one of them."""
    eager = torch.tensor([[3.0, 0, 0], [0, 3, 0], [0, 0, 3], [3, 0, 0]])
    ours = eager.clone()
    ours[3] = torch.tensor([1.0, 2, 0])
    torch.save(eager, work / f"{model}.eager.answers")
    torch.save(ours, work / f"{model}.ours.answers")


def test_a_row_holds_speeds_over_eager_and_nothing_where_one_failed(tmp_path: Path) -> None:
    save_answers(tmp_path, "bert6")
    row = compress.with_agreement(compress.row("bert6", 8, 1, MILLISECONDS), tmp_path)
    assert (row["eager"], row["ours"], row["openvino"]) == (1.0, 10.0, 8.0)
    assert row["aoti"] is None and row["onnxruntime"] is None
    assert (row["agreement"], row["agreement_inputs"]) == (0.75, 4)
    assert row["relative_error"]["eager"] == 0 < row["relative_error"]["ours"]
    assert "openvino_int8" not in row["agreements"]


def test_served_is_what_is_faster_by_enough_and_agrees(tmp_path: Path) -> None:
    times = {"ours": 10.0, "onnxruntime": 9.5, "openvino_int8": 9.0}
    assert compress.choose("bert6", times, 1.03, tmp_path) == "openvino_int8"
    assert compress.choose("bert6", times, 1.2, tmp_path) == "ours"
    # With trained weights answers count: nobody's are known, then ONNX Runtime's alone.
    assert compress.choose("minilm", times, 1.03, tmp_path) == "ours"
    answers = torch.eye(4)
    for name in ("eager", "onnxruntime"):
        torch.save(answers, tmp_path / f"minilm.{name}.answers")
    assert compress.choose("minilm", times, 1.03, tmp_path) == "onnxruntime"


def test_rows_measured_so_far_become_one_file_and_a_plot(tmp_path: Path) -> None:
    rows = tmp_path / "rows"
    rows.mkdir()
    for batch in (8, 1):
        row = compress.row("resnet50", batch, 1, MILLISECONDS)
        (rows / f"resnet50.1.{batch}.json").write_text(json.dumps(row))
    (rows / "resnet50.1.grid.json").write_text(json.dumps({"1": 2.0, "8": 1.5}))
    compress.write(tmp_path, tmp_path / "out" / "compress.json")
    written = json.loads((tmp_path / "out" / "compress.json").read_text())
    assert [row["batch"] for row in written["rows"]] == [1, 8]
    assert [row["agreement"] for row in written["rows"]] == [None, None]
    assert written["grid"][0]["ms_per_input"] == {"1": 2.0, "8": 1.5}
    plot = ElementTree.parse(tmp_path / "out" / "compress.svg").getroot()
    bars = list(plot.iter("{http://www.w3.org/2000/svg}rect"))
    assert len(bars) == 1 + 7 + 2 * 7  # the ground, the legend, a bar per contestant and row


def test_an_unfinished_row_is_measured_and_a_cached_one_is_not(tmp_path: Path) -> None:
    file = tmp_path / "row.json"
    assert compress.cached(file, fresh=False) is None
    file.write_text('{"a": 1}')
    assert compress.cached(file, fresh=False) == {"a": 1}
    assert compress.cached(file, fresh=True) is None
