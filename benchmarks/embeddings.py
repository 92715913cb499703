"""Embeddings from text to vector: our artifact, its fp32 original, and two peers, by turns.

    .venv-bench/bin/python -m benchmarks.embeddings [--artifact artifacts/embeddings] [--rounds 20]

Contestants, all on one thread and in one process:

* `ours`: the artifact's TorchScript file behind the handler's windows.
* `eager`: the original in eager fp32, in the same way.
* `onnxruntime_int8`: the original in ONNX Runtime, dynamic int8 (its own `quantize_dynamic`).
* `sentence_transformers`: the same folder in sentence-transformers, fp32.

The test queries whose numbers of tokens are nearest to the median are embedded one by one and in
batches of eight, every contestant in every round: from text to vector (`batch1`, `batch8`), and the
model alone on the same token ids (`batch1_ids`), padded as the handler pads them. Then all queries
and documents once, for recall@10 and the overlap of the ten nearest with the original's. `make
bench-embeddings` brings sentence-transformers (`requirements-bench.txt`).
Writes benchmarks/results/embeddings.json.
"""

import argparse
import importlib
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.contestant import ROOT
from handlers.texts import Encoder, bucket, load_tokenizer, outputs
from handlers.windows import mean_direction
from optimize.data.corpus import lengths
from optimize.data.text_pairs import PairDataset
from optimize.evaluation import environment, retrieval
from optimize.evaluation.retrieval import Embedded
from optimize.models.sources import bert
from optimize.tasks.embedding import TextEmbedding
from optimize.tasks.registry import read_recipe
from optimize.utils import files
from optimize.utils.torchvision_shim import retrying

Embed = Callable[[list[str]], NDArray[np.float32]]
Predict = Callable[[torch.Tensor], torch.Tensor]
BATCHES = (1, 8)
CALLS = 10  # of a contestant in a round, after two that are not timed


def through_windows(predict: Predict, data: PairDataset) -> Embed:
    """Texts to vectors `[N, width]` as the handler makes them."""
    encode = Encoder(load_tokenizer(data.encoder), data.max_length, 64)
    width = bert.read_config(data.encoder)["hidden_size"]

    def embed(texts: list[str]) -> NDArray[np.float32]:
        encoded = [encode(text, "") for text in texts]
        windows = [window for text in encoded for window in text.windows]
        owner = torch.tensor([i for i, text in enumerate(encoded) for _ in text.windows])
        with torch.inference_mode():
            rows = outputs(predict, windows, data.max_length, width)
        vectors: NDArray[np.float32] = mean_direction(rows, owner, len(texts)).numpy()
        return vectors

    return embed


def onnxruntime_int8(
    model: torch.nn.Module, data: PairDataset, folder: Path
) -> tuple[Predict, int]:
    """The original in ONNX Runtime, dynamic int8, and its file's bytes."""
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    free = {"ids": {0: "batch", 1: "tokens"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (data.test.asked.inputs[:2],), folder / "f.onnx", input_names=["ids"],
            dynamic_axes=free, dynamo=False, opset_version=17,
        )  # fmt: skip
    quantize_dynamic(folder / "f.onnx", folder / "q.onnx", weight_type=QuantType.QInt8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(folder / "q.onnx", options, ["CPUExecutionProvider"])

    def predict(ids: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(session.run(None, {"ids": ids.numpy()})[0])

    return predict, (folder / "q.onnx").stat().st_size


def sentence_transformers(data: PairDataset) -> Embed:
    """The folder in sentence-transformers, as its readme says."""
    # With transformers first, whose torchvision may be of another torch.
    retrying(lambda: importlib.import_module("transformers").PreTrainedModel)
    package = importlib.import_module("sentence_transformers")
    model = package.SentenceTransformer(str(data.encoder), device="cpu")
    model.max_seq_length = data.max_length

    def embed(texts: list[str]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = model.encode(texts, normalize_embeddings=True)
        return found

    return embed


def middle(data: PairDataset, count: int) -> list[int]:
    """Positions of the test queries of about the median length, in random order."""
    order = lengths(data.test.asked.inputs).argsort(stable=True)
    first = max(0, (len(order) - count) // 2)
    chosen = order[first : first + count]
    mixed = chosen[torch.randperm(len(chosen), generator=torch.Generator().manual_seed(0))]
    return mixed.tolist()


def race(
    contestants: dict[str, Embed], models: dict[str, Predict], data: PairDataset, rounds: int
) -> dict[str, Any]:
    """Of the milliseconds a call, every contestant in every round: median and 95th percentile, and
    the median of the processor's time, which other work beside does not lengthen."""
    times: dict[str, dict[str, list[tuple[float, float]]]] = {name: {} for name in contestants}

    def time_burst(name: str, load: str, call: Callable[[], object]) -> None:
        for _ in range(2):  # its weights are in the caches again, as where it serves alone
            call()
        for _ in range(CALLS):
            began, used = time.perf_counter(), time.process_time()
            call()
            passed = time.perf_counter() - began, time.process_time() - used
            times[name].setdefault(load, []).append(passed)

    chosen = middle(data, rounds * max(BATCHES))
    for turn in range(rounds):
        start = turn * max(BATCHES)
        for batch in BATCHES:
            texts = [data.test.queries[i] for i in chosen[start : start + batch]]
            for name, embed in contestants.items():
                time_burst(name, f"batch{batch}", lambda e=embed, t=texts: e(t))
        row = data.test.asked.inputs[chosen[start] : chosen[start] + 1]
        ids = row[:, : bucket(int(lengths(row)), data.max_length)]
        for name, predict in models.items():
            with torch.inference_mode():
                time_burst(name, "batch1_ids", lambda p=predict, i=ids: p(i))
    return {
        name: {load: _summary(found[CALLS:]) for load, found in by_load.items()}
        for name, by_load in times.items()  # without the first round, which warms up
    }


def _summary(seconds: list[tuple[float, float]]) -> dict[str, float]:
    wall = sorted(1000 * passed for passed, _ in seconds)
    return {
        "p50_ms": round(statistics.median(wall), 4),
        "p95_ms": round(wall[int(0.95 * len(wall))], 4),
        "cpu_ms": round(statistics.median(1000 * used for _, used in seconds), 4),
    }


def embedded(embed: Embed, data: PairDataset) -> Embedded:
    """All held-out queries and documents."""
    parts = []
    for texts in (data.test.queries, data.test.documents):
        rows = [embed(texts[i : i + 32]) for i in range(0, len(texts), 32)]
        parts.append(torch.from_numpy(np.concatenate(rows)))
    return Embedded(*parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--artifact", type=Path, default=ROOT / "artifacts" / "embeddings")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/embeddings.json")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    data = TextEmbedding().load_data(read_recipe(ROOT / "recipes" / "embeddings.yaml"))
    card = json.loads((asked.artifact / "model.json").read_text())["model"]
    if card["quantized_engine"]:
        torch.backends.quantized.engine = card["quantized_engine"]
    served = torch.jit.load(asked.artifact / card["file"])
    original = bert.build_embedder(str(data.encoder)).eval()
    weights = next(data.encoder.glob("*.safetensors")).stat().st_size
    with tempfile.TemporaryDirectory() as scratch:
        peer, size = onnxruntime_int8(original, data, Path(scratch))
        models: dict[str, Predict] = {
            "ours": served, "eager": original, "onnxruntime_int8": peer
        }  # fmt: skip
        contestants = {name: through_windows(model, data) for name, model in models.items()}
        contestants["sentence_transformers"] = sentence_transformers(data)
        sizes = {
            "ours": (asked.artifact / card["file"]).stat().st_size,
            "eager": weights,
            "onnxruntime_int8": size,
            "sentence_transformers": weights,
        }
        speeds = race(contestants, models, data, asked.rounds)
        answers = {name: embedded(embed, data) for name, embed in contestants.items()}
    results = {
        name: {
            **speeds[name],
            "bytes": sizes[name],
            **retrieval.score(found, data.test.relevant),
            "overlap_with_eager": retrieval.overlap(found, answers["eager"]),
        }
        for name, found in answers.items()
    }
    written = {"environment": environment.describe(), "rounds": asked.rounds, "results": results}
    files.write_json(asked.output, written)
    for name, row in results.items():
        times = [row[load]["cpu_ms"] for load in ("batch1_ids", "batch1", "batch8") if load in row]
        print(
            f"{name:<22} {' '.join(f'{used:8.2f} ms' for used in times)} "
            f"{row['bytes'] / 1e6:6.1f} MB  recall@10 {row['recall_at_10']:.4f}  "
            f"overlap {row['overlap_with_eager']:.3f}"
        )


if __name__ == "__main__":
    main()
