"""The console in a browser: every kind of model, in front of the service and of TorchServe."""

import json
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import torch

from deploy.adopt.adopt import adopt
from deploy.archive import mar
from deploy.torchserve import config, server
from deploy.torchserve.inference import Inference
from deploy.torchserve.management import Management
from optimize.data import speech
from tests.integration import quadrant
from tests.integration.console import ask, browser, choose, console, next_link, violations
from tests.integration.service import Service, serving
from tests.integration.torchserve import Running
from tests.unit.deploy.adopt import foreign
from tests.unit.handlers import embedding_artifact, speech_artifact, text_artifact

# A detector of what is bright; its label would be a picture, were it not escaped.
LABEL = "<img src=x onerror=alert(1)>"
DETECT = f"""
import io
import numpy as np
from PIL import Image


def handle(data, context):
    answers = []
    for row in data or []:
        picture = Image.open(io.BytesIO(row.get("data") or row.get("body"))).convert("L")
        ys, xs = np.nonzero(np.asarray(picture) > 128)
        box = [int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1]
        answers.append([{{"{LABEL}": box, "score": 0.875}}])
    return answers
"""
KEY = "a key that every client must send"
PICTURE = {"name": "two.png", "mimeType": "image/png", "buffer": quadrant.picture(2, side=56)}


class Twice(torch.nn.Module):
    """float32 `[N, 2]` to twice that."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


def numbers(folder: Path) -> Path:
    """An artifact of a model of tensors."""
    artifact = quadrant.make(folder, name="numbers")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*torch\.jit\.", DeprecationWarning)
        torch.jit.save(torch.jit.script(Twice()), str(artifact / "model.pt"))
    card = json.loads((artifact / "model.json").read_text())
    card |= {"task": "tensors", "handler": "tensors", "labels": []}
    card["input"] = {"tensors": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]}
    card["model"]["outputs"] = [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}]
    quadrant.write(artifact / "model.json", card)
    return artifact


def clients(service: Service) -> tuple[Management, Inference]:
    """Of the service, as the verbs make them."""
    return server.clients(service.workdir, config.read(service.workdir / "config.properties"))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def service(chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    workdir = tmp_path_factory.mktemp("service")
    store, artifacts = workdir / "model_store", workdir / "artifacts"
    for version in ("1.0", "2.0"):
        made = quadrant.make(artifacts / version)
        mar.seal(made, store, version=version, in_use=False)
    mar.seal(text_artifact.make(artifacts / "texts"), store)
    mar.seal(embedding_artifact.make(artifacts / "vectors"), store)
    mar.seal(numbers(artifacts), store)
    assert adopt(foreign.write(workdir, "detect", "detect.py", {"detect.py": DETECT}), store)
    names = ("quadrant-1.0", "quadrant-2.0", "texts", "vectors", "numbers", "detect")
    (workdir / "key").write_text(KEY)
    (workdir / "key").chmod(0o600)
    options = ["--key-file", str(workdir / "key")]
    with serving(workdir, *(store / f"{name}.mar" for name in names), options=options) as running:
        (workdir / "config.properties").write_text(
            f"inference_address={running.address}\nmanagement_address={running.management}\n"
        )
        yield running


@pytest.fixture(scope="module")
def page(chromium: Any, service: Service) -> Iterator[Any]:
    """The page, in a browser of its own; nothing of it may be refused by its own policy."""
    settings = service.workdir / "config.properties"
    with console(service.workdir, settings, "--no-browser") as (link, process):
        context = chromium.new_context(viewport={"width": 1280, "height": 900})
        opened = context.new_page()
        said: list[str] = []
        opened.on("console", lambda message: said.append(message.text))
        opened.on("pageerror", lambda error: said.append(str(error)))
        opened.goto(link)
        opened.locator("#ask").wait_for()
        opened.again = next_link(process)
        yield opened
        assert said == []
        context.close()


@pytest.fixture(autouse=True)
def clean(request: pytest.FixtureRequest) -> None:
    """Each test begins with a fresh page."""
    if "page" in request.fixturenames:
        opened = request.getfixturevalue("page")
        opened.reload()
        opened.locator("#ask").wait_for()


def test_pictures_by_two_versions(page: Any) -> None:
    choose(page, "model", "quadrant", "1.0")
    choose(page, "other", "quadrant", "2.0")
    page.set_input_files("#file", PICTURE)
    answers = ask(page)
    assert "Both say bottom left; their probabilities are 0.0 points apart." in answers.inner_text()
    assert answers.locator("article").count() == 2
    first = answers.locator("article").first
    assert first.locator("tbody th").first.inner_text() == "bottom left"
    assert " ms from the console and back" in first.inner_text()
    width = first.locator(".bar i").first.evaluate("bar => bar.style.width")
    assert 50 < float(width.removesuffix("%")) < 100
    assert violations(page) == []


def test_boxes_are_drawn_where_they_are_and_labels_are_text(page: Any) -> None:
    choose(page, "model", "detect", "1.0")
    page.set_input_files("#file", PICTURE)
    answers = ask(page)
    assert f"{LABEL}, 88 %" in answers.locator("li").inner_text()
    svg = answers.locator(".boxed svg[viewBox='0 0 56 56']")
    svg.wait_for()
    picture, box = (answers.locator(f".boxed {part}").bounding_box() for part in ("img", "rect"))
    # The bright quarter: from half of the height on, to half of the width.
    assert box["x"] == pytest.approx(picture["x"], abs=3)
    assert box["y"] == pytest.approx(picture["y"] + picture["height"] / 2, abs=3)
    assert box["width"] == pytest.approx(picture["width"] / 2, abs=6)
    assert answers.locator("img").count() == 1  # the label made none
    assert violations(page) == []


def test_words_are_coloured_by_what_they_add(page: Any) -> None:
    choose(
        page,
        "model",
        "texts",
        page.locator("option[data-model=texts]").first.get_attribute("data-version"),
    )
    assert page.locator("#drop").is_hidden()
    text = "A touching film, not <b>dull</b>."
    page.fill("#text", text)
    page.check("#explain")
    answers = ask(page)
    assert answers.locator(".words").inner_text() == text
    strongest = answers.locator(".words .l5")
    assert strongest.count() >= 1
    drawn = strongest.first.evaluate("word => getComputedStyle(word).backgroundColor")
    assert "0.32" in drawn
    assert violations(page) == []


def test_embeddings_are_shown_by_their_first_numbers(page: Any) -> None:
    version = page.locator("option[data-model=vectors]").first.get_attribute("data-version")
    choose(page, "model", "vectors", version)
    assert page.locator("#explain-row").is_hidden()
    other = page.locator("#other option[data-model=texts]")
    assert other.is_enabled()  # it takes texts as well
    page.fill("#text", "A touching film.")
    text = ask(page).inner_text()
    numbers = [float(part) for part in text.partition(" numbers: ")[2].split(", ")[:6]]
    assert any(numbers) and all(abs(number) <= 1 for number in numbers)


def test_tensors_in_json_begin_with_an_example(page: Any) -> None:
    version = page.locator("option[data-model=numbers]").first.get_attribute("data-version")
    choose(page, "model", "numbers", version)
    assert json.loads(page.input_value("#text")) == {"x": [[0, 0]]}
    page.fill("#text", '{"x": [[1.5, -2]]}')
    assert json.loads(ask(page).locator("pre").inner_text()) == {"y": [[3.0, -4.0]]}
    page.fill("#text", '{"x": [[1.5]]}')
    assert "Refused with 4" in ask(page).inner_text()
    page.fill("#text", '{"x": ')
    assert ask(page, "that is no JSON").inner_text() == ""


def test_speech_with_its_segments_and_a_recording(page: Any, service: Service) -> None:
    prompts = speech.read_prompts(1)
    if prompts is None:
        pytest.skip("needs asterisk-core-sounds-en and -wav: make setup")
    artifact = speech_artifact.make(service.workdir / "artifacts" / "speech")
    mar.seal(artifact, service.workdir / "model_store", force=True)
    management, _ = clients(service)
    management.register("speech.mar")
    page.locator("#changed").wait_for()  # the figures noticed
    page.click("#reload")
    version = page.locator("option[data-model=speech]").first.get_attribute("data-version")
    choose(page, "model", "speech", version)
    page.set_input_files("#file", str(prompts[0].path))
    answers = ask(page)
    assert answers.locator("blockquote").inner_text()
    assert answers.locator(".segment").count() == answers.locator(".play").count() >= 1
    answers.locator(".signal[d]").wait_for(state="attached")
    assert violations(page) == []
    page.click("#record")
    page.get_by_text("Stop recording").wait_for()
    page.wait_for_timeout(1200)  # what the microphone hears in it
    page.click("#record")
    page.get_by_text("Recorded.").wait_for()
    assert "recording.wav" in page.locator("#chosen").inner_text()
    ask(page)
    management.unregister("speech")
    page.locator("#changed").wait_for()


def test_the_keyboard_alone_promotes_and_rolls_back(page: Any) -> None:
    promote = page.get_by_role("button", name="Make quadrant 2.0 the default")
    promote.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Make default: quadrant 2.0?")
    dialog.wait_for()
    assert violations(page) == []
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    assert page.locator("#promoted").inner_text() == ""
    promote.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")  # past "Leave it as it is"
    page.keyboard.press("Enter")
    page.get_by_text("quadrant 2.0 is the default now.").wait_for()
    assert page.locator("#model").inner_text().count("quadrant 2.0 (default)") == 1
    page.get_by_role("button", name="Roll quadrant back to 1.0").click()
    page.get_by_role("button", name="Roll back", exact=True).click()
    page.get_by_text("quadrant 1.0 is the default now.").wait_for()
    page.locator("#changed").wait_for(state="hidden")  # it was this page that changed them


def test_back_to_an_archive_that_is_not_loaded(page: Any, service: Service) -> None:
    management, _ = clients(service)
    made = quadrant.make(service.workdir / "artifacts" / "0.9")
    mar.seal(made, service.workdir / "model_store", version="0.9", in_use=False)
    page.reload()
    page.get_by_role("button", name="Load quadrant-0.9.mar and make it the default").click()
    page.get_by_role("dialog").get_by_text("quadrant-0.9.mar is loaded").wait_for()
    page.get_by_role("button", name="Load and make default", exact=True).click()
    page.get_by_text("quadrant 0.9 is the default now.").wait_for()
    assert management.describe("quadrant")[0]["modelVersion"] == "0.9"
    page.locator("#changed").wait_for()  # the lists above do not have it yet
    management.set_default("quadrant", "1.0")
    management.unregister("quadrant", "0.9")
    (service.workdir / "model_store" / "quadrant-0.9.mar").unlink()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_screen(page: Any, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 360, "height": 800})
    choose(page, "model", "quadrant", "1.0")
    page.set_input_files("#file", PICTURE)
    ask(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert violations(page) == []
    page.set_viewport_size({"width": 1280, "height": 900})


def test_figures_come_from_the_servers_metrics(page: Any, service: Service) -> None:
    for body, status in ((quadrant.picture(1), 200), (b"no picture", 400)):
        address = f"{service.address}/predictions/quadrant/2.0"
        header = {"Authorization": f"Bearer {KEY}"}
        answer = requests.post(address, body, headers=header, timeout=30)
        assert answer.status_code == status
    row = page.locator("#live tr", has_text="quadrant 2.0")
    errors = row.locator("td").nth(3)
    errors.and_(page.get_by_text("1", exact=True)).wait_for()
    cells = row.locator("td").all_inner_texts()
    assert cells[0] == "0" and float(cells[1]) > 0 and int(cells[4]) >= 2


def test_who_may_ask(page: Any, service: Service, chromium: Any) -> None:
    base = page.url
    keys = json.loads((service.workdir / "key_file.json").read_text())
    (cookie,) = page.context.cookies()
    sent = {"Cookie": f"{cookie['name']}={cookie['value']}"}
    token = page.locator("meta[name=console-token]").get_attribute("content")
    everything = page.content() + page.evaluate(
        "JSON.stringify([location.href, {...localStorage}, {...sessionStorage}, document.cookie])"
    )
    secrets = (keys["management"]["key"], keys["inference"]["key"], cookie["value"])
    assert KEY in secrets and not any(secret in everything for secret in secrets)
    assert cookie["httpOnly"] and cookie["sameSite"] == "Strict"
    change = f"{base}default?model=quadrant&version=2.0"
    good = {**sent, "X-Console-Token": token, "Origin": base.rstrip("/")}
    for headers in (
        {},
        {**good, "Cookie": ""},
        {**good, "X-Console-Token": "guessed"},
        {**good, "Origin": "http://evil.example"},
        {**good, "Host": "evil.example"},
        {**sent, "X-Console-Token": token},  # no origin
    ):
        assert requests.post(change, headers=headers, timeout=30).status_code == 403, headers
    assert requests.get(base, timeout=30).status_code == 403
    for path in (
        "ask?model=nobody&version=1",
        "ask?model=quadrant&version=9",
        "default?model=quadrant&version=9",
    ):
        assert requests.post(base + path, b"x", headers=good, timeout=30).status_code == 404, path
    # The link lets one browser in; the next one needs the link that was printed after it.
    other = chromium.new_context()
    opened = other.new_page()
    opened.goto(page.again)
    opened.locator("#ask").wait_for()
    opened.goto(page.again)
    assert "open the newest" in opened.content()
    other.close()


def test_it_opens_a_browser_where_there_is_a_screen(service: Service, tmp_path: Path) -> None:
    script, told = tmp_path / "browser", tmp_path / "told"
    script.write_text(f'#!/bin/sh\necho "$1" > {told}.new && mv {told}.new {told}\n')
    script.chmod(0o700)
    settings = service.workdir / "config.properties"
    for screen in ("", ":9"):
        chosen = {"BROWSER": f"{script} %s", "DISPLAY": screen, "WAYLAND_DISPLAY": ""}
        with console(service.workdir, settings, **chosen) as (link, _):
            deadline = time.monotonic() + (20 if screen else 0)
            while not told.exists() and time.monotonic() < deadline:
                time.sleep(0.05)
        assert told.exists() == bool(screen)
    assert told.read_text().strip() == link


def test_in_front_of_torchserve(chromium: Any, served: Running) -> None:
    (entry,) = served.management.describe("quadrant")
    version = entry["modelVersion"]
    made = quadrant.make(served.workdir / "artifacts" / "again")
    second = mar.seal(made, served.workdir / "model_store", version="2.0", in_use=False)
    served.management.register(second.path.name)
    try:
        with console(served.workdir, served.settings.path, "--no-browser") as (link, _):
            context = chromium.new_context()
            page = context.new_page()
            page.goto(link)
            choose(page, "model", "quadrant", version)
            choose(page, "other", "quadrant", "2.0")
            page.set_input_files("#file", PICTURE)
            assert "Both say bottom left" in ask(page).inner_text()
            keys = json.loads((served.workdir / "key_file.json").read_text())
            assert not any(entry["key"] in page.content() for entry in keys.values())
            page.get_by_role("button", name="Make quadrant 2.0 the default").click()
            page.get_by_role("button", name="Make default", exact=True).click()
            page.get_by_text("quadrant 2.0 is the default now.").wait_for()
            assert served.management.describe("quadrant")[0]["modelVersion"] == "2.0"
            page.get_by_role("button", name=f"Roll quadrant back to {version}").click()
            page.get_by_role("button", name="Roll back", exact=True).click()
            page.get_by_text(f"quadrant {version} is the default now.").wait_for()
            assert served.management.describe("quadrant")[0]["modelVersion"] == version
            # Workers tell their figures once a second.
            row = page.locator("#live tr", has_text="quadrant 2.0")
            row.locator("td").nth(1).and_(page.get_by_text(".")).wait_for()
            assert violations(page) == []
            context.close()
    finally:
        served.management.set_default("quadrant", version)
        served.management.unregister("quadrant", "2.0")
