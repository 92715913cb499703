"""Ask a real server in every way it takes, and read its metrics."""

import base64
import re
import subprocess
import time
from pathlib import Path

import pytest
import requests

from deploy.errors import Refused
from handlers.metrics import INTERVAL
from tests.integration import quadrant
from tests.integration.torchserve import Running


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
@pytest.mark.parametrize("label", range(4))
def test_raw_bytes(served: Running, kind: str, label: int) -> None:
    body = quadrant.picture(label, kind, side=90)
    reply = served.inference.predict("quadrant", body, f"image/{kind.lower()}")
    top = reply["predictions"][0]
    assert (top["label"], top["index"]) == (quadrant.LABELS[label], label)


def test_a_parameter_of_a_raw_body_is_a_header(served: Running) -> None:
    reply = served.inference.predict(
        "quadrant", quadrant.picture(0), "image/png", params={"top_k": "2"}
    )
    assert len(reply["predictions"]) == 2


def test_multipart(served: Running) -> None:
    url = served.settings.inference + "/predictions/quadrant"
    files = {"data": ("a.png", quadrant.picture(1), "image/png")}
    reply = requests.post(
        url, files=files, data={"top_k": "1"}, headers=served.header(), timeout=10
    )
    assert reply.status_code == 200
    assert [p["label"] for p in reply.json()["predictions"]] == [quadrant.LABELS[1]]


def test_json_with_base64(served: Running) -> None:
    url = served.settings.inference + "/predictions/quadrant"
    texts = [base64.b64encode(quadrant.picture(label)).decode() for label in (3, 0)]
    reply = requests.post(
        url,
        json={"instances": [{"b64": text} for text in texts], "top_k": 1},
        headers=served.header(),
        timeout=10,
    )
    assert [one["predictions"][0]["index"] for one in reply.json()] == [3, 0]


def test_curl_sends_a_file_with_the_key_from_the_key_file(served: Running, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(quadrant.picture(2))
    key = served.header()["Authorization"]
    command = [
        *("curl", "--silent", "--show-error", "-H", f"Authorization: {key}"),
        *("-T", str(tmp_path / "a.png"), f"{served.settings.inference}/predictions/quadrant"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert '"bottom left"' in done.stdout.split("index")[0]


def test_a_bad_picture_is_refused_with_its_own_words(served: Running) -> None:
    with pytest.raises(Refused) as caught:
        served.inference.predict("quadrant", b"no picture at all", "image/png")
    assert caught.value.status == 400
    assert caught.value.kind and caught.value.detail


def test_a_body_over_the_servers_limit_is_refused_before_it_is_read(served: Running) -> None:
    limit = 33_554_432
    try:
        reply = requests.post(
            served.settings.inference + "/predictions/quadrant",
            data=b"\0" * (limit + 1),
            headers={**served.header(), "Content-Type": "image/png"},
            timeout=30,
        )
        assert reply.status_code == 413
    except requests.ConnectionError:
        pass  # the server answers and hangs up while we still send: also a refusal
    assert served.inference.predict("quadrant", quadrant.picture(0))["predictions"]


def test_the_handlers_metrics_come_out_in_prometheus_format(served: Running) -> None:
    served.inference.predict("quadrant", quadrant.picture(0), "image/png")
    with pytest.raises(Refused):
        served.inference.predict("quadrant", b"bad", "image/png")
    time.sleep(INTERVAL + 0.5)  # the worker tells once an interval
    text = requests.get(served.settings.metrics + "/metrics", timeout=10).text
    for name in ("preprocess_seconds", "inference_seconds", "postprocess_seconds", "batch_size"):
        found = re.search(rf'marpress_{name}_count{{ModelName="quadrant".*}} (\S+)', text)
        assert found and float(found.group(1)) >= 1, name
    errors = re.findall(r"marpress_errors_total{(.*)} (\S+)", text)
    assert any('ModelName="quadrant"' in labels and float(n) >= 1 for labels, n in errors)
    assert "ts_inference_requests_total" in text
