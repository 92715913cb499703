"""Speech: our compressed Whisper against the original and faster-whisper, same weights.

    python benchmarks/speech.py [--limit N] [--threads 1 2]

Every utterance is transcribed by every contestant in turn, in one process, so that a noisy
machine slows all alike; memory is measured in a process of its own for each. Besides the
product's packages this needs `transformers` and `faster-whisper`. Writes
benchmarks/results/speech.json.
"""

import argparse
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# The handlers set the same with mallopt; every contestant gets it.
MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}
MALLOC["MALLOC_TOP_PAD_"] = "268435456"

import numpy as np  # noqa: E402
import torch  # noqa: E402

from optimize import machine, torchscript, wer  # noqa: E402
from optimize.data import package_folder, speech  # noqa: E402
from optimize.whisper import checkpoint, compress  # noqa: E402

warnings.filterwarnings("ignore")
CONTESTANTS = ("original", "faster_whisper_int8", "ours_padded", "ours")
ENGINE = compress.ENGINE
# Padded, every one of the 1500 positions is encoded; attention sees four silent ones as one.
OURS = {
    "ours_padded": compress.CompressOptions("padded", group=4),
    "ours": compress.CompressOptions("real"),
}
Transcribe = Callable[[np.ndarray], str]


def _original(found: checkpoint.Checkpoint, threads: int) -> Transcribe:
    """Hugging Face `generate`, float32, greedy, without timestamps."""
    import transformers

    transformers.logging.set_verbosity_error()
    spec = found.spec
    config = transformers.WhisperConfig(
        vocab_size=spec.vocabulary,
        d_model=spec.width,
        encoder_layers=spec.encoder_layers,
        decoder_layers=spec.decoder_layers,
        encoder_attention_heads=spec.heads,
        decoder_attention_heads=spec.heads,
        encoder_ffn_dim=4 * spec.width,
        decoder_ffn_dim=4 * spec.width,
        num_mel_bins=spec.mels,
        decoder_start_token_id=spec.start[0],
        eos_token_id=spec.end,
        bos_token_id=spec.end,
        pad_token_id=spec.end,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    model = transformers.WhisperForConditionalGeneration(config).eval()
    weights = dict(found.weights)
    weights["proj_out.weight"] = weights["model.decoder.embed_tokens.weight"]
    model.load_state_dict(weights, strict=True)
    model.generation_config = transformers.GenerationConfig(
        decoder_start_token_id=spec.start[0],
        eos_token_id=spec.end,
        bos_token_id=spec.end,
        pad_token_id=spec.end,
        suppress_tokens=spec.suppress,
        begin_suppress_tokens=spec.suppress_first,
        no_timestamps_token_id=spec.start[-1],
        is_multilingual=False,
        max_length=spec.text_positions // 2,
        num_beams=1,
        do_sample=False,
        return_timestamps=False,
    )
    features = transformers.WhisperFeatureExtractor(feature_size=spec.mels)
    decode = _decoder(found)

    def transcribe(samples: np.ndarray) -> str:
        torch.set_num_threads(threads)
        inputs = features(samples, sampling_rate=16000, return_tensors="pt").input_features
        mask = torch.ones(1, inputs.shape[-1], dtype=torch.long)
        with torch.inference_mode():
            ids = model.generate(inputs, attention_mask=mask)[0].tolist()
        return decode([i for i in ids if i < spec.end])

    return transcribe


def _faster_whisper(found: checkpoint.Checkpoint, threads: int) -> Transcribe:
    """faster-whisper on CTranslate2, int8, greedy, no fallback, no timestamps."""
    from faster_whisper import WhisperModel

    model = WhisperModel(
        str(found.tokenizer.parent), device="cpu", compute_type="int8", cpu_threads=threads
    )

    def transcribe(samples: np.ndarray) -> str:
        segments, _ = model.transcribe(
            samples,
            beam_size=1,
            temperature=0.0,
            without_timestamps=True,
            condition_on_previous_text=False,
            language="en",
        )
        return "".join(segment.text for segment in segments)

    return transcribe


def _decoder(found: checkpoint.Checkpoint) -> Callable[[list[int]], str]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(found.tokenizer))
    return lambda ids: tokenizer.decode(ids, skip_special_tokens=True)


def _ours(found: checkpoint.Checkpoint, threads: int, path: Path) -> Transcribe:
    torch.backends.quantized.engine = ENGINE
    model, decode = torch.jit.load(str(path)), _decoder(found)

    def transcribe(samples: np.ndarray) -> str:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            ids, counts = model(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))
        return decode(ids[0, : int(counts[0])].tolist())

    return transcribe


def _contestant(name: str, found: checkpoint.Checkpoint, threads: int, folder: Path) -> Transcribe:
    if name == "original":
        return _original(found, threads)
    if name == "faster_whisper_int8":
        return _faster_whisper(found, threads)
    return _ours(found, threads, folder / name / "model.pt")


def _save(found: checkpoint.Checkpoint, data: speech.Speech, folder: Path) -> dict[str, int]:
    """Both artefacts of ours, as the handler takes them; the sizes of their model files."""
    torch.backends.quantized.engine = ENGINE
    clips = [torch.from_numpy(u.samples()) for u in data.development]
    bases = compress.fit_screen(found, clips)
    sizes = {}
    for name, options in OURS.items():
        (folder / name).mkdir()
        model = compress.compress(found, bases, options)
        path = folder / name / "model.pt"
        sizes[name] = torchscript.save(torch.jit.script(model), path)
        shutil.copyfile(found.tokenizer, folder / name / "tokenizer.json")
        shutil.copyfile(
            package_folder("silero_vad") / "data/silero_vad.jit", folder / name / "vad.jit"
        )
        card = {
            "name": name,
            "task": "speech_recognition",
            "model": {"file": "model.pt", "quantized_engine": ENGINE, "threads": 1},
            "input": {},
        }
        (folder / name / "model.json").write_text(json.dumps(card))
    return sizes


def _memory(name: str, folder: Path, utterances: list[speech.Utterance]) -> dict[str, float]:
    """Resident memory of a fresh process after it transcribed ten utterances.

    Ours is the whole handler as TorchServe's worker runs it, with the voice detector; the
    others are the bare library.
    """
    if name.startswith("ours"):
        script = Path(__file__).with_name("speech_memory.py")
        command = [str(script), str(folder / name), *[str(u.path) for u in utterances[:10]]]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    else:
        command, environment = [__file__, "--memory", name], dict(os.environ)
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", *command],
        capture_output=True,
        text=True,
        check=True,
        env={**environment, "OMP_NUM_THREADS": "1"},
    )
    return json.loads(ran.stdout.strip().splitlines()[-1])


def _memory_child(name: str) -> None:
    found = checkpoint.find()
    transcribe = _contestant(name, found, 1, Path())
    del found
    gc.collect()
    for utterance in speech.load().test[:10]:
        transcribe(utterance.samples())
    status = Path("/proc/self/status").read_text()
    lines = dict(line.split(":", 1) for line in status.splitlines())
    now, peak = (round(int(lines[key].split()[0]) / 1024, 1) for key in ("VmRSS", "VmHWM"))
    print(json.dumps({"rss_mb": now, "peak_rss_mb": peak}))


def _batches(path: Path, clips: list[np.ndarray], rounds: int = 3) -> dict[str, float]:
    """Utterances per second of our file, one by one and eight at a time, by turns, one thread."""
    torch.set_num_threads(1)
    torch.backends.quantized.engine = ENGINE
    model = torch.jit.load(str(path))
    clips = clips[: len(clips) // 8 * 8]

    def run(size: int) -> float:
        start = time.perf_counter()
        for first in range(0, len(clips), size):
            rows = clips[first : first + size]
            batch = torch.zeros(len(rows), max(map(len, rows)))
            for i, row in enumerate(rows):
                batch[i, : len(row)] = torch.from_numpy(row)
            with torch.inference_mode():
                model(batch, torch.tensor([len(row) for row in rows]))
        return time.perf_counter() - start

    run(8), run(1)
    ones, eights = [], []
    for _ in range(rounds):
        ones.append(run(1))
        eights.append(run(8))
    count = len(clips)
    return {
        "utterances_per_second_batch1": round(count / min(ones), 2),
        "utterances_per_second_batch8": round(count / min(eights), 2),
        "batch8_over_batch1": round(
            float(np.median([one / eight for one, eight in zip(ones, eights, strict=True)])), 2
        ),
    }


def _race(
    utterances: list[speech.Utterance],
    found: checkpoint.Checkpoint,
    threads: int,
    folder: Path,
) -> tuple[dict[str, list[float]], dict[str, list[str]]]:
    """Seconds and texts of every contestant on every utterance, in turns."""
    racers = {name: _contestant(name, found, threads, folder) for name in CONTESTANTS}
    warm = [u.samples() for u in utterances[:2]]
    for transcribe in racers.values():
        for samples in warm:
            transcribe(samples)
    times: dict[str, list[float]] = {name: [] for name in racers}
    texts: dict[str, list[str]] = {name: [] for name in racers}
    for number, utterance in enumerate(utterances):
        samples = utterance.samples()
        order = list(racers)[number % 4 :] + list(racers)[: number % 4]
        for name in order:
            start = time.perf_counter()
            text = racers[name](samples)
            times[name].append(time.perf_counter() - start)
            texts[name].append(text)
        if number % 20 == 19:
            print(f"  {threads} threads: {number + 1}/{len(utterances)}", file=sys.stderr)
    return times, texts


def _ratio(slow: list[float], fast: list[float]) -> tuple[float, float, float]:
    """Ratio of total times with a 95% bootstrap interval over utterances."""
    a, b = np.array(slow), np.array(fast)
    picks = np.random.default_rng(0).integers(0, len(a), (2000, len(a)))
    ratios = a[picks].sum(1) / b[picks].sum(1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return round(float(a.sum() / b.sum()), 2), round(float(low), 2), round(float(high), 2)


def run(limit: int | None, threads: list[int], second: int) -> dict[str, Any]:
    """The whole benchmark; see the module."""
    data, found = speech.load(), checkpoint.find()
    step = max(1, len(data.test) // limit) if limit else 1
    utterances = data.test[::step][:limit] if limit else data.test
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        sizes = _save(found, data, folder)
        results: dict[str, Any] = {name: {} for name in CONTESTANTS}
        ratios: dict[str, Any] = {}
        references = [u.text for u in utterances]
        for count in threads:
            subset = (
                utterances
                if count == threads[0]
                else utterances[:: max(1, len(utterances) // second)]
            )
            times, texts = _race(subset, found, count, folder)
            for name in CONTESTANTS:
                seconds = round(float(np.mean(times[name])), 4)
                results[name][f"seconds_per_utterance_threads{count}"] = seconds
                if count != threads[0]:
                    continue
                measured = wer.measure(references, texts[name])
                against = wer.difference(references, texts["original"], texts[name])
                results[name].update(
                    wer=round(measured.rate, 4),
                    ci95=[round(v, 4) for v in measured.ci95],
                    utterances=measured.utterances,
                    words=measured.words,
                    seconds_per_utterance=seconds,
                    wer_minus_original=round(against[0], 4),
                    wer_minus_original_ci95=[round(against[1], 4), round(against[2], 4)],
                    same_words_as_original=round(
                        float(
                            np.mean(
                                [
                                    wer.normalise(a) == wer.normalise(b)
                                    for a, b in zip(texts["original"], texts[name], strict=True)
                                ]
                            )
                        ),
                        4,
                    ),
                    by_collection={
                        c: round(
                            wer.measure(
                                [u.text for u in utterances if u.collection == c],
                                [
                                    t
                                    for u, t in zip(utterances, texts[name], strict=True)
                                    if u.collection == c
                                ],
                            ).rate,
                            4,
                        )
                        for c in sorted({u.collection for u in utterances})
                    },
                )
            ratios[f"threads{count}"] = {
                f"{fast}_over_{slow}": _ratio(times[slow], times[fast])
                for fast in ("ours_padded", "ours")
                for slow in ("original", "faster_whisper_int8")
            }
            ratios[f"threads{count}"]["utterances"] = len(subset)
        for name in CONTESTANTS:
            results[name].update(_memory(name, folder, utterances))
        for name, size in sizes.items():
            results[name]["bytes"] = size
        clips = [u.samples() for u in utterances[: 64 if len(utterances) > 64 else None]]
        batching = _batches(folder / "ours/model.pt", clips)
    versions = machine.versions()
    import importlib.metadata

    for package in ("transformers", "faster-whisper", "ctranslate2", "jiwer", "soundfile", "soxr"):
        versions[package] = importlib.metadata.version(package)
    return {
        **results,
        "speedup": ratios,
        "batching": batching,
        "data": {"source": data.source, "fingerprint": data.fingerprint()},
        "weights": found.source,
        "machine": machine.describe(),
        "versions": versions,
    }


def table(results: dict[str, Any], threads: list[int]) -> list[str]:
    """The result for a terminal."""
    lines = [
        f"{'':<22}{'WER':>7}{'95% interval':>16}"
        + "".join(f"{f's, {t} thr':>9}" for t in threads)
        + f"{'RSS MB':>8}"
    ]
    for name in CONTESTANTS:
        row = results[name]
        interval = f"{row['ci95'][0]:.3f}-{row['ci95'][1]:.3f}"
        seconds = "".join(f"{row[f'seconds_per_utterance_threads{t}']:>9.3f}" for t in threads)
        lines.append(f"{name:<22}{row['wer']:>7.4f}{interval:>16}{seconds}{row['rss_mb']:>8.0f}")
    for count in threads:
        for name, value in results["speedup"][f"threads{count}"].items():
            if name != "utterances":
                lines.append(
                    f"{count} thread(s) {name:<36}{value[0]:>7.2f}x ({value[1]}-{value[2]})"
                )
    lines.append(f"batch 8 over batch 1: {results['batching']['batch8_over_batch1']}x")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, help="use only so many utterances")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--second", type=int, default=60, help="utterances for later thread counts")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/speech.json")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        _memory_child(arguments.memory)
        return
    if any(os.environ.get(key) != value for key, value in MALLOC.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **MALLOC})
    results = run(arguments.limit, arguments.threads, arguments.second)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(results, indent=2) + "\n")
    print("\n".join(table(results, arguments.threads)))


if __name__ == "__main__":
    main()
