"""Serving texts: our archive against the fp32 teacher and two other servers, on real reviews.

    python -m benchmarks.serve_text [--artifact artifacts/sentiment_full] [--seconds 5]

Contestants, two worker processes each, one thread a worker, batches as their own defaults say:

* `ours`: the artifact's archive in TorchServe.
* `teacher_torchserve`: the uncompressed fp32 teacher, scripted, in the same TorchServe and handler.
* `onnxruntime_flask`: the teacher in ONNX Runtime, dynamic int8, in Flask under gunicorn.
* `litserve`: our TorchScript file in LitServe.

Reviews of the test split (three quarters IMDB, one Rotten Tomatoes) are sent by 1, 4 and 16
clients over persistent connections, the same ones in the same order to all; contestants take turns,
and the clients' own work is on the same processor. The engine alone is compared too: the same
windows, one thread, model against eager fp32 teacher by turns.

Peers: litserve 0.2.19 beside the product's and the tests' packages (`requirements-bench.txt`);
LITSERVE_PYTHON names another interpreter that has it. Writes benchmarks/results/serve_text.json.
"""

import argparse
import http.client
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.contestant import MALLOC, ROOT
from deploy.archive import mar
from handlers.texts import Encoder, bucket, load_tokenizer
from optimize.evaluation import environment
from optimize.pipeline.finished import Finished
from optimize.tasks.registry import read_recipe
from optimize.utils import files, torchscript
from tests.integration.torchserve import free_ports, torchserve, workplace

CLIENTS = (1, 4, 16)


@dataclass
class Target:
    """Where a contestant listens."""

    port: int
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    json: bool = False  # takes {"text": ...}, as LitServe does, not the bare text


def reviews(artifact: Path, count: int) -> list[bytes]:
    """Texts of the recipe's test split, in its own order."""
    recipe = read_recipe(ROOT / "recipes" / f"{artifact.name}.yaml")
    from optimize.data import movie_reviews
    from optimize.data.corpus import deduplicate, divide

    options = {k: v for k, v in recipe.data.options.items() if k in ("sources", "path")}
    corpus, _ = deduplicate(movie_reviews.read(**options)[0])
    test = divide(corpus, 0.1, 0.05, recipe.seed)["test"][:count]
    return [corpus.texts[i].encode() for i in test]


def teacher_of(artifact: Path) -> torch.nn.Module:
    """The fine-tuned fp32 model that the recipe's first stage saved."""
    state = Finished(artifact / "stages" / "00-train").load_state(None)
    model: torch.nn.Module = state.original.eval()
    return model


def teacher_artifact(artifact: Path, folder: Path, teacher: torch.nn.Module) -> Path:
    """The teacher as an artifact of its own: scripted, fp32, the same handler and card."""
    folder.mkdir(parents=True)
    example = torch.randint(1000, 2000, (1, 64), dtype=torch.int32)
    torchscript.save(torchscript.script(teacher, example), folder / "model.pt")
    card = json.loads((artifact / "model.json").read_text())
    card["name"] = folder.name
    card["model"] |= {"quantized_engine": None, "file": "model.pt"}
    (folder / "model.json").write_text(json.dumps(card))
    (folder / "report.json").write_text(
        json.dumps({"recipe": folder.name, "gate": {"passed": True}})
    )
    shutil.copyfile(artifact / "tokenizer.json", folder / "tokenizer.json")
    return folder


def onnx_artifact(artifact: Path, folder: Path, teacher: torch.nn.Module) -> Path:
    """The teacher in ONNX, weights in dynamic int8 as ONNX Runtime's own tool makes them."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    folder.mkdir(parents=True)
    example = torch.randint(1000, 2000, (2, 64), dtype=torch.int32)
    dynamic = {"ids": {0: "batch", 1: "length"}, "logits": {0: "batch"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            teacher,
            (example,),
            str(folder / "float.onnx"),
            input_names=["ids"],
            output_names=["logits"],
            dynamic_axes=dynamic,
            opset_version=17,
            dynamo=False,
        )
    quantize_dynamic(folder / "float.onnx", folder / "model.onnx", weight_type=QuantType.QInt8)
    (folder / "float.onnx").unlink()
    card = json.loads((artifact / "model.json").read_text())
    card["model"] |= {"quantized_engine": None, "file": "model.onnx"}
    (folder / "model.json").write_text(json.dumps(card))
    shutil.copyfile(artifact / "tokenizer.json", folder / "tokenizer.json")
    return folder


def _body(target: Target, connection: http.client.HTTPConnection, content: bytes) -> bytes:
    headers = {"Content-Type": "text/plain; charset=utf-8", **target.headers}
    if target.json:
        headers["Content-Type"] = "application/json"
        content = json.dumps({"text": content.decode()}).encode()
    connection.request("POST", target.path, content, headers)
    reply = connection.getresponse()
    answer = reply.read()
    if reply.status != 200:
        raise RuntimeError(f"{target.path}: {reply.status} {answer[:200]!r}")
    return answer


def load(target: Target, contents: list[bytes], clients: int, seconds: float) -> dict[str, float]:
    """Send for so many seconds; requests/s and percentiles of latency in milliseconds."""
    end = time.perf_counter() + seconds
    times: list[float] = []
    problems: list[BaseException] = []

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=120)
        position = number
        try:
            while (start := time.perf_counter()) < end:
                _body(target, connection, contents[position % len(contents)])
                times.append(time.perf_counter() - start)
                position += clients
        except BaseException as error:  # raised again in the main thread
            problems.append(error)
        finally:
            connection.close()

    started = time.perf_counter()
    threads = [threading.Thread(target=client, args=(n,)) for n in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - started
    if problems:
        raise problems[0]
    cuts = statistics.quantiles(times, n=100)
    return {
        "requests": len(times),
        "per_second": round(len(times) / elapsed, 1),
        "p50_ms": round(cuts[49] * 1e3, 2),
        "p99_ms": round(cuts[98] * 1e3, 2),
    }


@contextmanager
def _process(
    command: list[str], folder: Path, port: int, takes_json: bool = False
) -> Iterator[Target]:
    """A peer's server, awaited and ended with all its children."""
    environment = {
        **os.environ,
        **MALLOC,
        "FOLDER": str(folder),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    log = (folder / "server.log").open("wb")
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
    )
    target = Target(port, "/predict", json=takes_json)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                _body(target, connection, b"ready?")
                connection.close()
                break
            except (OSError, RuntimeError, http.client.HTTPException) as error:
                if process.poll() is not None or time.monotonic() > deadline:
                    tail = (folder / "server.log").read_text()[-2000:]
                    raise RuntimeError(f"{command[0]} does not answer: {tail}") from error
                time.sleep(0.5)
        yield target
    finally:
        os.killpg(process.pid, 15)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
        log.close()


@contextmanager
def contestants(artifact: Path, teacher: torch.nn.Module) -> Iterator[dict[str, Target]]:
    """All servers at once, each idle while another is measured."""
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        workdir = stack.enter_context(workplace())
        store = workdir / "model_store"
        mar.seal(artifact, store, force=True)
        mar.seal(teacher_artifact(artifact, scratch / "teacher", teacher), store, force=True)
        running = stack.enter_context(torchserve(workdir))
        port = int(running.settings.inference.rpartition(":")[2])
        targets = {}
        for title, name in (("ours", artifact.name), ("teacher_torchserve", "teacher")):
            running.management.register(f"{name}.mar")
            targets[title] = Target(port, f"/predictions/{name}", running.header())
        ports = free_ports(2)
        onnx = onnx_artifact(artifact, scratch / "onnx", teacher)
        gunicorn = [sys.executable, "-m", "gunicorn", "--workers", "2", "--log-level", "error"]
        gunicorn += ["--bind", f"127.0.0.1:{ports[0]}", "benchmarks.serve_text_peers:flask_app()"]
        targets["onnxruntime_flask"] = stack.enter_context(_process(gunicorn, onnx, ports[0]))
        unpacked = scratch / "ours"
        shutil.copytree(artifact, unpacked, ignore=shutil.ignore_patterns("stages", "exports"))
        python = os.environ.get("LITSERVE_PYTHON", sys.executable)
        command = [python, "-m", "benchmarks.serve_text_litserve", str(ports[1])]
        targets["litserve"] = stack.enter_context(_process(command, unpacked, ports[1], True))
        yield targets


def windows_of(artifact: Path, contents: list[bytes]) -> list[list[int]]:
    """The windows that the handler makes of the reviews."""
    limit = json.loads((artifact / "model.json").read_text())["input"]["max_length"]
    encode = Encoder(load_tokenizer(artifact), limit, 64)
    return [w for content in contents for w in encode(content.decode(), "body").windows]


def engines(artifact: Path, teacher: torch.nn.Module, windows: list[list[int]]) -> dict[str, Any]:
    """Both models alone, one thread, by turns: single windows as they come, then batches of 8."""
    card = json.loads((artifact / "model.json").read_text())
    torch.backends.quantized.engine = card["model"]["quantized_engine"]
    compressed = torchscript.load(artifact / "model.pt")
    models = {"teacher_eager": teacher, "ours": compressed}
    torch.set_num_threads(1)
    limit = card["input"]["max_length"]
    padded = [bucket(len(window), limit) for window in windows]
    real = sum(map(len, windows))
    results: dict[str, Any] = {
        "windows": len(windows),
        "tokens": real,
        "padding_share": round(sum(padded) / real - 1, 4),
    }
    groups = {
        1: [[i] for i in range(0, len(windows), 4)],
        8: [
            sorted(range(len(windows)), key=lambda i: padded[i])[start : start + 8]
            for start in range(0, len(windows), 32)
        ],
    }
    with torch.inference_mode():
        for size, parts in groups.items():
            times: dict[str, list[float]] = {name: [] for name in models}
            tokens = 0
            for number, part in enumerate(parts):
                ids = torch.zeros(len(part), max(padded[i] for i in part), dtype=torch.int32)
                for row, i in zip(ids, part, strict=True):
                    row[: len(windows[i])] = torch.tensor(windows[i], dtype=torch.int32)
                for name, model in models.items():
                    if number == 0:
                        for _ in range(3):
                            model(ids)
                    start = time.perf_counter()
                    model(ids)
                    times[name].append(time.perf_counter() - start)
                tokens += sum(len(windows[i]) for i in part)
            entry: dict[str, Any] = {
                name: {
                    "p50_ms": round(statistics.median(values) * 1e3, 3),
                    "tokens_per_second": round(tokens / sum(values)),
                }
                for name, values in times.items()
            }
            slow, fast = times["teacher_eager"], times["ours"]
            entry["latency_ratio"] = round(statistics.median(slow) / statistics.median(fast), 2)
            entry["throughput_ratio"] = round(sum(slow) / sum(fast), 2)
            results[f"batch{size}"] = entry
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--artifact", type=Path, default=ROOT / "artifacts" / "sentiment_full")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--reviews", type=int, default=400)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/serve_text.json")
    arguments = parser.parse_args()
    if not (arguments.artifact / "report.json").is_file():
        sys.exit(f"no artifact: python -m optimize run recipes/{arguments.artifact.name}.yaml")
    contents = reviews(arguments.artifact, arguments.reviews)
    teacher = teacher_of(arguments.artifact)
    report = json.loads((arguments.artifact / "report.json").read_text())
    evidence: dict[str, Any] = {
        "machine": environment.describe(),
        "versions": environment.versions(),
        "artifact": arguments.artifact.name,
        "digest": report["digest"],
        "reviews": len(contents),
        "engines": engines(
            arguments.artifact, teacher, windows_of(arguments.artifact, contents[:160])
        ),
        "servers": {},
    }
    print(json.dumps(evidence["engines"]), flush=True)
    with contestants(arguments.artifact, teacher) as targets:
        for target in targets.values():
            load(target, contents, 4, 1.0)
        for clients in CLIENTS:
            for name, target in targets.items():
                measured = load(target, contents, clients, arguments.seconds)
                evidence["servers"].setdefault(name, {})[f"clients{clients}"] = measured
                print(f"{name:20} {clients:3} clients  {measured}", flush=True)
    files.write_json(arguments.output, evidence)


if __name__ == "__main__":
    main()
