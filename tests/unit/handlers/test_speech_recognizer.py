"""The speech handler: real weights, real recordings, TorchServe's own wire format around it."""

import base64
import io
import json
import struct
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile
import soxr

from benchmarks import silence
from handlers.audio import SAMPLE_RATE, decode
from handlers.errors import ModelError, RequestError
from handlers.payload import Input, Request
from handlers.speech_recognizer import SpeechRecognizer
from handlers.vad import Segment
from optimize.data import speech
from optimize.evaluation import word_errors
from tests.unit.handlers import speech_artifact
from tests.unit.handlers.archive import Answer, Worker, body

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Worker:
    folder = speech_artifact.make(tmp_path_factory.mktemp("speech") / "artifact")
    return Worker(SpeechRecognizer(), folder, batch_size=2)


@pytest.fixture(scope="module")
def prompts() -> list[speech.Utterance]:
    """Prompts of a sentence or so, in a fixed order."""
    found = [u for u in speech.read_prompts(6) if u.path.stat().st_size < 100_000]
    if not found:
        pytest.skip("needs asterisk-core-sounds-en and -wav: make setup")
    return found


def wav(samples: np.ndarray, rate: int = SAMPLE_RATE, form: str = "WAV") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=form)
    return buffer.getvalue()


def ask(worker: Worker, data: bytes, kind: str = "audio/wav", **headers: str) -> Answer:
    (answer,) = worker.predict(body(data, kind, **headers))
    return answer


def text(answer: Answer) -> str:
    assert answer.status == 200, answer.body
    return str(answer.json()["text"])


def test_prompts_are_understood(worker: Worker, prompts: list[speech.Utterance]) -> None:
    chosen = prompts[::12][:12]
    texts = [text(ask(worker, u.path.read_bytes())) for u in chosen]
    assert word_errors.measure([u.text for u in chosen], texts).rate < 0.15


def test_answer_has_text_segments_and_duration(
    worker: Worker, prompts: list[speech.Utterance]
) -> None:
    samples = prompts[0].samples()
    answer = ask(worker, wav(samples)).json()
    assert set(answer) == {"text", "segments", "duration"}
    assert answer["duration"] == pytest.approx(len(samples) / SAMPLE_RATE, abs=0.01)
    assert answer["segments"][0]["start"] == 0.0
    assert " ".join(s["text"] for s in answer["segments"]) == answer["text"]


@pytest.mark.parametrize(
    ("form", "rate", "stereo"),
    [("FLAC", 16_000, False), ("OGG", 44_100, True), ("MP3", 48_000, False), ("WAV", 8000, True)],
)
def test_formats_rates_and_channels_say_the_same(
    worker: Worker, prompts: list[speech.Utterance], form: str, rate: int, stereo: bool
) -> None:
    samples = soxr.resample(prompts[0].samples(), SAMPLE_RATE, rate)
    data = np.stack([samples] * 2, axis=1) if stereo else samples
    answer = ask(worker, wav(data, rate, form), f"audio/{form.lower()}")
    assert word_errors.measure([prompts[0].text], [text(answer)]).rate <= 0.2


def test_headerless_samples_in_json(worker: Worker, prompts: list[speech.Utterance]) -> None:
    samples = prompts[0].samples()
    pcm = base64.b64encode((samples * 32_767).astype("<i2").tobytes()).decode()
    request = {"b64": pcm, "encoding": "pcm_s16le", "sample_rate": 16_000}
    answer = ask(worker, json.dumps(request).encode(), "application/json")
    assert text(answer) == text(ask(worker, wav(samples)))


@pytest.mark.parametrize("level", [0.0, 1e-4, 0.02])
@pytest.mark.parametrize("seconds", [0.5, 5.0, 40.0])
def test_silence_and_noise_give_no_text(worker: Worker, level: float, seconds: float) -> None:
    noise = np.random.default_rng(0).normal(0, 1, int(seconds * SAMPLE_RATE)) * level
    answer = ask(worker, wav(noise.astype(np.float32)))
    assert answer.status == 200
    assert answer.json()["text"] == "" and answer.json()["segments"] == []


def test_long_recordings_are_split_and_joined(
    worker: Worker, prompts: list[speech.Utterance]
) -> None:
    chosen = prompts[:24]
    pause = np.zeros(SAMPLE_RATE, np.float32)
    samples = np.concatenate([part for u in chosen for part in (u.samples(), pause)])
    assert len(samples) > 60 * SAMPLE_RATE
    answer = ask(worker, wav(samples, form="FLAC"), "audio/flac").json()
    reference = " ".join(u.text for u in chosen)
    assert word_errors.measure([reference], [answer["text"]]).rate < 0.2
    starts = [s["start"] for s in answer["segments"]]
    assert len(starts) >= 4 and starts == sorted(starts)
    assert all(0 < s["end"] - s["start"] <= 30 for s in answer["segments"])


def at_once(samples: np.ndarray) -> np.ndarray:
    """A recording from 10 ms before its first word on, as of a button that is held to talk."""
    loud = np.nonzero(np.abs(samples) > 0.05 * np.abs(samples).max())[0]
    return samples[max(0, loud[0] - 160) : loud[-1] + 160]


WORDS = ["hours", "minutes", "hello", "seconds"]


@pytest.mark.parametrize("after", [0.0, 33.0])
def test_a_word_that_is_spoken_at_once_is_heard(worker: Worker, after: float) -> None:
    paths = [speech.PROMPTS / f"{word}.wav" for word in WORDS]
    found = [decode(path.read_bytes()) for path in paths if path.is_file()]
    if not found:
        pytest.skip("needs asterisk-core-sounds-en-wav: make setup")
    rest = np.zeros(int(after * SAMPLE_RATE), np.float32)
    for samples in found:
        assert text(ask(worker, wav(np.concatenate([at_once(samples), rest])))) != ""


SOUNDS = [
    ("melody", 4),
    ("melody", 10),
    ("chords", 0),
    ("chords", 2),
    ("hum", 2),
    ("hum", 14),
    ("siren", 33),
    ("clicks", 3),
]


@pytest.mark.parametrize(("kind", "seed"), SOUNDS)
def test_music_and_noise_that_sound_like_a_voice_give_no_text(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, kind: str, seed: int
) -> None:
    samples = silence.sound(kind, seed)
    assert text(ask(worker, wav(samples))) == ""


def test_music_would_give_text_if_nobody_asked_whether_it_is_speech(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker.handler, "_is_speech", lambda *_: True)
    assert any(text(ask(worker, wav(silence.sound(*each)))) for each in SOUNDS)


def test_words_are_heard_over_music(worker: Worker, prompts: list[speech.Utterance]) -> None:
    chosen = prompts[5::16][:8]
    texts = [
        text(ask(worker, wav(silence.under(u.samples(), kind, 1))))
        for u, kind in zip(chosen, silence.KINDS, strict=False)
    ]
    assert word_errors.measure([u.text for u in chosen[: len(texts)]], texts).rate < 0.35


def test_a_text_that_repeats_itself_is_none(worker: Worker) -> None:
    segment = Segment(0.0, 1.0, np.zeros(SAMPLE_RATE, np.float32))
    assert worker.handler._is_speech(segment, "Please hold the line.", -0.1)
    assert not worker.handler._is_speech(segment, "Mm-" * 80, -0.05)
    assert not worker.handler._is_speech(segment, "you", -0.9)


def test_what_a_request_costs_is_known_before_it_is_decoded(worker: Worker) -> None:
    hour = wav(np.zeros(500 * 8000, np.float32), 8000, "FLAC")
    (transcript,) = worker.handler.preprocess(Request([Input(hour)], {}))
    assert worker.handler.cost(transcript) == pytest.approx(500, abs=0.5)


@pytest.mark.parametrize("name", ["language", "task", "encoding", "sample_rate", "stream"])
@pytest.mark.parametrize("value", [["en"], {"a": 1}, [], 1.5, True, "\u00fc"])
def test_parameters_of_any_json_type_are_refused_with_a_sentence(
    worker: Worker, name: str, value: object
) -> None:
    sound = base64.b64encode(wav(np.zeros(1600, np.float32))).decode()
    request = json.dumps({"b64": sound, name: value}).encode()
    answer = ask(worker, request, "application/json")
    assert answer.status in (400, 501)
    assert name in answer.json()["message"] or answer.status == 501


def telephone(samples: np.ndarray) -> np.ndarray:
    """What a telephone leaves: 300 to 3400 Hz, 8 kHz, mu-law."""
    spectrum = np.fft.rfft(samples)
    hertz = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE)
    spectrum[(hertz < 300) | (hertz > 3400)] = 0
    band = np.fft.irfft(spectrum, len(samples)).astype(np.float32)
    data = io.BytesIO()
    narrow = soxr.resample(band, SAMPLE_RATE, 8000)
    soundfile.write(data, narrow, 8000, format="WAV", subtype="ULAW")
    return soxr.resample(
        soundfile.read(io.BytesIO(data.getvalue()), dtype="float32")[0], 8000, 16000
    )


CONDITIONS = {
    "as it is": (lambda s: s, 0.1),
    "loud and clipped": (lambda s: np.clip(s * 8, -1, 1), 0.25),
    "quiet, 40 dB down": (lambda s: s * np.float32(0.01), 0.15),
    "noise 20 dB below": (
        lambda s: s + np.random.default_rng(0).normal(0, 0.1 * s.std(), len(s)).astype("f4"),
        0.25,
    ),
    "telephone band": (telephone, 0.2),
}


@pytest.mark.parametrize("condition", CONDITIONS)
def test_words_are_heard_under_every_condition(
    worker: Worker, prompts: list[speech.Utterance], condition: str
) -> None:
    change, limit = CONDITIONS[condition]
    chosen = prompts[3::14][:10]
    texts = [text(ask(worker, wav(change(u.samples())))) for u in chosen]
    assert word_errors.measure([u.text for u in chosen], texts).rate <= limit


@pytest.mark.parametrize("seconds", [0.5, 1, 3, 8, 15, 29.5, 30])
@pytest.mark.parametrize("gain", [1.0, 0.01])
def test_clips_of_any_length_give_their_words_once(
    worker: Worker, prompts: list[speech.Utterance], seconds: float, gain: float
) -> None:
    """Prompts one after the other, cut where the clip ends: no loops, no invented sentences."""
    parts: list[np.ndarray] = []
    said: list[str] = []
    end = int(seconds * SAMPLE_RATE)
    length = 0
    for utterance in prompts:
        samples = utterance.samples()
        length += len(samples)
        if length > end:
            parts.append(samples)
            break
        parts.append(samples)
        said.append(utterance.text)
    clip = np.concatenate(parts)[:end] * np.float32(gain)
    found = word_errors.normalise(text(ask(worker, wav(clip)))).split()
    assert len(found) <= 5 * seconds + 2  # nobody speaks faster
    if said:
        whole = word_errors.normalise(" ".join(said)).split()
        rate = word_errors.measure([" ".join(whole)], [" ".join(found[: len(whole)])]).rate
        assert rate <= 0.2, found


@pytest.mark.slow
def test_memory_does_not_grow_with_the_recording(
    worker: Worker, prompts: list[speech.Utterance]
) -> None:
    """A quarter of an hour takes no more than a few minutes do; the benchmark does the hour."""
    pause = np.zeros(SAMPLE_RATE, np.float32)
    once = np.concatenate([part for u in prompts[:12] for part in (u.samples(), pause)])
    process = psutil.Process()
    used = []
    for minutes in (2, 8):
        silence = np.zeros(60 * minutes * SAMPLE_RATE - 2 * len(once), np.float32)
        data = wav(np.concatenate([once, silence, once]), form="FLAC")
        answer = ask(worker, data, "audio/flac").json()
        assert answer["duration"] == pytest.approx(60 * minutes, abs=0.1)
        assert answer["segments"][-1]["start"] > 60 * minutes - len(once) / SAMPLE_RATE - 1
        del data
        used.append(process.memory_info().rss)
    assert used[1] - used[0] < 30_000_000


def damaged(samples: np.ndarray) -> dict[str, tuple[bytes, int, str]]:
    """Every way for a recording to be bad: its bytes, status and error type."""
    good = wav(samples)
    long = bytearray(good)
    struct.pack_into("<I", long, long.find(b"data") + 4, 2 * SAMPLE_RATE * 600)
    poisoned = samples.copy()
    poisoned[1000] = np.nan
    broken = io.BytesIO()
    soundfile.write(broken, poisoned, SAMPLE_RATE, format="WAV", subtype="FLOAT")
    flac = wav(np.tile(samples, 20), form="FLAC")  # long: decoded while it is transcribed
    return {
        "garbage": (b"no audio at all", 400, "undecodable_audio"),
        "nothing": (b"", 400, "empty_input"),
        "no samples": (wav(samples[:0]), 400, "empty_input"),
        "wav cut in half": (good[: len(good) // 2], 400, "truncated_audio"),
        "long flac cut": (flac[: len(flac) * 3 // 4], 400, "truncated_audio"),
        "header of ten minutes": (bytes(long), 400, "truncated_audio"),
        "longer than the limit": (wav(np.zeros(601 * 8000, "f4"), 8000), 413, "too_long"),
        "more bytes than the limit": (bytes(33_554_433), 413, "too_many_bytes"),
        "not a number": (broken.getvalue(), 400, "bad_samples"),
        "rate too low": (wav(samples, 2000), 400, "unsupported_audio"),
    }


def test_recordings_are_charged_together_before_any_is_decoded(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silence packs well: minutes of it are kilobytes."""
    monkeypatch.setattr(worker.handler, "inference", lambda inputs: pytest.fail("transcribed"))
    part = base64.b64encode(wav(np.zeros(301 * 4000, "f4"), 4000, "FLAC")).decode()
    request = json.dumps({"instances": [{"b64": part}] * 2}).encode()
    (answer,) = worker.predict(body(request, "application/json"))
    assert (answer.status, answer.json()["type"]) == (413, "too_costly")
    assert "602 seconds in one request, the limit is 600" in answer.json()["message"]


def test_a_url_in_place_of_a_recording_is_not_fetched(worker: Worker) -> None:
    for answer in (
        ask(worker, b"https://example.org/a.wav"),
        ask(worker, b'{"audio": "https://example.org/a.wav"}', "application/json"),
    ):
        assert (answer.status, answer.json()["type"]) == (400, "url_not_fetched")


@pytest.mark.parametrize("kind", damaged(np.zeros(4000, "f4")))
def test_a_bad_recording_fails_alone(
    worker: Worker, prompts: list[speech.Utterance], kind: str
) -> None:
    """Each kind of damage gets its own answer; the good request beside it gets its text."""
    samples = prompts[0].samples()
    data, status, error = damaged(samples)[kind]
    bad, fine = worker.predict(
        body(data, "application/octet-stream"), body(wav(samples), "audio/wav")
    )
    assert (bad.status, bad.json()["type"]) == (status, error)
    assert text(fine) == text(ask(worker, wav(samples)))


@pytest.mark.parametrize(
    ("request_body", "error"),
    [
        (b'{"b64": "not base64!"}', "bad_base64"),
        (b'{"b64": 5}', "bad_base64"),
        (b'{"audio": [0.1, 0.2]}', "wrong_type"),
        (b'{"b64": "", "encoding": "pcm_s16le"}', "empty_input"),
        (b'{"b64": "AAAA", "encoding": "pcm_s16le", "sample_rate": 1}', "bad_parameter"),
        (b'{"instances": []}', "bad_json"),
        (b'{"b64": "AAAA"', "bad_json"),
    ],
)
def test_bad_json_is_refused(worker: Worker, request_body: bytes, error: str) -> None:
    answer = ask(worker, request_body, "application/json")
    assert (answer.status, answer.json()["type"]) == (400, error)


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"X_Language": "de"}, "English only"),
        ({"X_Task": "translate"}, "cannot translate"),
        ({"X_Encoding": "opus"}, "encoding must be one of"),
        ({"X_Sample_Rate": "8000"}, "sample_rate goes with encoding"),
        ({"X_Stream": "maybe"}, "stream must be true or false"),
    ],
)
def test_parameters_that_cannot_be_are_refused(
    worker: Worker, headers: dict[str, str], message: str
) -> None:
    answer = ask(worker, wav(np.zeros(1600, np.float32)), **headers)
    assert answer.status == 400
    assert message in answer.json()["message"]


def test_a_server_that_cannot_stream_refuses(worker: Worker) -> None:
    answer = ask(worker, wav(np.zeros(1600, np.float32)), X_Stream="true")
    assert (answer.status, answer.json()["type"]) == (501, "cannot_stream")


def test_segments_are_streamed_once_even_if_their_batch_is_retried(
    worker: Worker, prompts: list[speech.Utterance]
) -> None:
    lines: list[dict[str, dict[str, object]]] = []
    request = Request([Input(prompts[0].path.read_bytes())], {}, partial_sender=lines.append)
    transcripts = worker.handler.preprocess(request)
    (first,) = worker.handler.inference(transcripts)
    assert worker.handler.inference(transcripts) == [first]
    assert [line["segment"] for line in lines] == first["segments"] != []


@pytest.mark.parametrize(
    ("parameters", "tokens"),
    [
        ({}, None),
        ({"language": "de"}, [1, 20, 30, 4]),
        ({"task": "translate"}, [1, 10, 31, 4]),
        ({"language": "de", "task": "translate"}, [1, 20, 31, 4]),
    ],
)
def test_multilingual_weights_start_from_what_is_asked(
    worker: Worker,
    monkeypatch: pytest.MonkeyPatch,
    parameters: dict[str, str],
    tokens: list[int] | None,
) -> None:
    monkeypatch.setattr(worker.handler, "languages", {"en": 10, "de": 20})
    monkeypatch.setattr(worker.handler, "tasks", {"transcribe": 30, "translate": 31})
    monkeypatch.setattr(worker.handler, "start", [1, 10, 30, 4])
    data = Input(wav(np.zeros(1600, np.float32)))
    (transcript,) = worker.handler.preprocess(Request([data], parameters))
    assert (None if transcript.start is None else transcript.start.tolist()) == tokens
    with pytest.raises(RequestError, match="language must be one of de, en"):
        worker.handler.preprocess(Request([data], {"language": ["de"]}))


def test_a_handler_keeps_nothing_of_a_request(
    worker: Worker, prompts: list[speech.Utterance]
) -> None:
    before = dict(vars(worker.handler))
    streamed = body(prompts[0].path.read_bytes(), "audio/wav", X_Stream="true")
    partial, whole = worker.stream(streamed)
    assert partial.json()["segment"] == whole.json()["segments"][0]
    after = vars(worker.handler)
    assert set(after) == set(before)
    assert all(after[name] is before[name] for name in before)


def test_what_english_weights_do_may_be_said(
    worker: Worker, prompts: list[speech.Utterance]
) -> None:
    data = prompts[0].path.read_bytes()
    assert text(ask(worker, data, X_Language="en", X_Task="transcribe")) == text(ask(worker, data))


def test_several_recordings_in_one_request(worker: Worker, prompts: list[speech.Utterance]) -> None:
    chosen = prompts[:3]
    instances = [base64.b64encode(u.path.read_bytes()).decode() for u in chosen]
    request = json.dumps({"instances": [{"b64": i} for i in instances]}).encode()
    answer = ask(worker, request, "application/json")
    assert answer.status == 200
    alone = [text(ask(worker, u.path.read_bytes())) for u in chosen]
    assert [part["text"] for part in answer.json()] == alone


@pytest.mark.parametrize("missing", ["tokenizer.json", "vad.jit"])
def test_an_archive_without_its_files_does_not_start(
    worker: Worker, tmp_path: Path, missing: str
) -> None:
    for path in worker.handler.folder.iterdir():
        if path.name != missing:
            (tmp_path / path.name).symlink_to(path)
    with pytest.raises(ModelError, match=missing):
        Worker(SpeechRecognizer(), tmp_path)


def test_the_warm_up_reaches_the_model(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its noise is no speech: the detector must not keep it from the model."""
    handler, sizes = worker.handler, []
    predict = handler.predict
    monkeypatch.setattr(handler, "predict", lambda *a: (sizes.append(len(a[0])), predict(*a))[1])
    handler.inference([handler.example()] * 2)
    assert sizes == [2]
