"""Speech on a real TorchServe: prompts, partial answers as they come, a foreign file as it is."""

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import requests
import soundfile

from deploy.archive import mar
from deploy.errors import Refused
from optimize.data import speech
from optimize.evaluation import word_errors
from tests.integration.service import serving
from tests.integration.torchserve import ROOT, Running, torchserve, workplace
from tests.unit.handlers import speech_artifact


def voice_activity(folder: Path, detector: Path) -> Path:
    """silero-vad's own file and a card: all that a foreign TorchScript file needs."""
    folder.mkdir(parents=True)
    shutil.copyfile(detector, folder / "model.pt")
    card = {
        "name": "voice",
        "task": "voice_activity",
        "handler": "voice_activity",
        "labels": [],
        "model": {"file": "model.pt", "quantized_engine": None, "threads": 1, "batch_sizes": [1]},
        "input": {"max_bytes": 1_000_000},
        "serving": {
            "workers": 1,
            "batch_size": 1,
            "max_batch_delay_ms": 1,
            "response_timeout_s": 30,
        },
        "files": [],
    }
    (folder / "model.json").write_text(json.dumps(card))
    # Nobody measured it here, so it is sealed with --force.
    gate = {"passed": False, "reason": "a foreign file, not measured"}
    (folder / "report.json").write_text(json.dumps({"recipe": "voice", "gate": gate}))
    return folder


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with workplace() as workdir:
        artifact = speech_artifact.make(workdir / "artifacts" / "speech")
        mar.seal(artifact, workdir / "model_store", force=True)
        foreign = voice_activity(workdir / "artifacts" / "voice", artifact / "vad.jit")
        # As docs/speech.md says: the handler goes into handlers/.
        handlers = workdir / "handlers"
        shutil.copytree(ROOT / "handlers", handlers, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "docs" / "examples" / "voice_activity.py", handlers)
        mar.seal(foreign, workdir / "model_store", force=True, handlers=handlers)
        with torchserve(workdir) as running:
            running.management.register("speech.mar")
            running.management.register("voice.mar")
            yield running


@pytest.fixture(scope="module")
def prompts() -> list[speech.Utterance]:
    found = speech.read_prompts(6)
    if not found:
        pytest.skip("needs asterisk-core-sounds-en and -wav: make setup")
    return [u for u in found if u.path.stat().st_size < 100_000]


def test_a_real_prompt_is_transcribed(server: Running, prompts: list[speech.Utterance]) -> None:
    chosen = prompts[:6]
    answers = [
        server.inference.predict("speech", u.path.read_bytes(), "audio/wav")["text"] for u in chosen
    ]
    assert word_errors.measure([u.text for u in chosen], answers).rate < 0.2


def test_bad_audio_has_its_own_words(server: Running) -> None:
    with pytest.raises(Refused) as caught:
        server.inference.predict("speech", b"no audio", "audio/wav")
    assert (caught.value.status, caught.value.kind) == (400, "undecodable_audio")


def test_partial_text_comes_segment_by_segment(
    server: Running, prompts: list[speech.Utterance]
) -> None:
    pause = np.zeros(16_000, np.float32)
    samples = np.concatenate([part for u in prompts[:16] for part in (u.samples(), pause)])
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 16_000, format="FLAC")
    url = f"{server.settings.inference}/predictions/speech"
    headers = {**server.header(), "Content-Type": "audio/flac", "X-Stream": "true"}
    reply = requests.post(url, data=buffer.getvalue(), headers=headers, stream=True, timeout=120)
    assert reply.status_code == 200
    lines = [json.loads(line) for line in reply.iter_lines() if line]
    parts, last = [line["segment"] for line in lines[:-1]], lines[-1]
    assert len(parts) >= 3
    assert last["segments"] == parts
    assert last["text"] == " ".join(part["text"] for part in parts)


def test_damage_found_while_streaming_ends_the_stream_with_its_error(
    server: Running, prompts: list[speech.Utterance]
) -> None:
    """The status has gone out with the first segment; the last line says what happened."""
    pause = np.zeros(16_000, np.float32)
    samples = np.concatenate([part for u in prompts[:16] for part in (u.samples(), pause)])
    samples[-8000] = np.nan
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 16_000, format="WAV", subtype="FLOAT")
    url = f"{server.settings.inference}/predictions/speech"
    headers = {**server.header(), "Content-Type": "audio/wav", "X-Stream": "true"}
    reply = requests.post(url, data=buffer.getvalue(), headers=headers, stream=True, timeout=120)
    lines = [json.loads(line) for line in reply.iter_lines() if line]
    assert reply.status_code == 200
    assert all("segment" in line for line in lines[:-1]) and len(lines) >= 2
    assert lines[-1]["type"] == "bad_samples"


@pytest.fixture(scope="module")
def client(server: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    """OpenAI's own client, of the service with the archive that TorchServe serves."""
    archive = server.workdir / "model_store" / "speech.mar"
    with (
        serving(tmp_path_factory.mktemp("openai"), archive) as service,
        openai.OpenAI(base_url=f"{service.address}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


def long_recording(prompts: list[speech.Utterance]) -> bytes:
    """Prompts with pauses between them: several segments."""
    pause = np.zeros(16_000, np.float32)
    samples = np.concatenate([part for u in prompts[:16] for part in (u.samples(), pause)])
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 16_000, format="FLAC")
    return buffer.getvalue()


def test_openais_client_transcribes(
    server: Running, client: openai.OpenAI, prompts: list[speech.Utterance]
) -> None:
    assert [model.id for model in client.models.list()] == ["speech"]
    recording = long_recording(prompts)
    expected = server.inference.predict("speech", recording, "audio/flac")
    assert len(expected["segments"]) >= 3

    told = client.audio.transcriptions.create(
        file=("a.flac", recording), model="speech", response_format="verbose_json", language="en"
    )
    assert (told.text, told.language) == (expected["text"], "en")
    assert told.duration == expected["duration"]
    spans = [{"start": s.start, "end": s.end, "text": s.text} for s in told.segments or []]
    assert spans == expected["segments"]
    events = list(
        client.audio.transcriptions.create(
            file=("a.flac", recording), model="speech", stream=True, temperature=0
        )
    )
    kinds = [event.type for event in events]
    assert kinds == ["transcript.text.delta"] * len(spans) + ["transcript.text.done"]
    assert "".join(event.delta for event in events[:-1]) == events[-1].text == expected["text"]


def test_openais_client_takes_every_format(
    server: Running, client: openai.OpenAI, prompts: list[speech.Utterance]
) -> None:
    recording = prompts[0].path.read_bytes()
    text = server.inference.predict("speech", recording, "audio/wav")["text"]

    def transcribe(form: Any) -> Any:
        return client.audio.transcriptions.create(
            file=("a.wav", recording), model="speech", response_format=form
        )

    assert transcribe("json").text == text
    assert transcribe("text") == text + "\n"
    number, span, said = transcribe("srt").strip().split("\n")
    assert (number, span[:16], said) == ("1", "00:00:00,000 -->", text)
    head, span, said = transcribe("vtt").strip().replace("\n\n", "\n").split("\n")
    assert (head, span[:16], said) == ("WEBVTT", "00:00:00.000 -->", text)


def test_openais_client_is_told_what_is_wrong(client: openai.OpenAI) -> None:
    create = client.audio.transcriptions.create
    with pytest.raises(openai.NotFoundError, match="Model not found: whisper-9"):
        create(file=("a.wav", b"RIFF"), model="whisper-9")
    for streams in (False, True):
        with pytest.raises(openai.BadRequestError, match="audio"):
            create(file=("a.wav", b"no audio"), model="speech", stream=streams)
    with pytest.raises(openai.BadRequestError, match="language"):
        create(file=("a.wav", b"no audio"), model="speech", language="xx")
    with pytest.raises(openai.BadRequestError, match="response_format"):
        create(file=("a.wav", b"no audio"), model="speech", response_format="diarized_json")
    with pytest.raises(openai.NotFoundError, match="Model not found: minilm"):
        client.embeddings.create(model="minilm", input="a")


def test_a_foreign_file_is_served_as_it_is(
    server: Running, prompts: list[speech.Utterance]
) -> None:
    answer = server.inference.predict("voice", prompts[0].path.read_bytes(), "audio/wav")
    assert max(answer["speech"]) > 0.9
    again = server.inference.predict("voice", prompts[0].path.read_bytes(), "audio/wav")
    assert again == answer, "one recording must not colour the next"
