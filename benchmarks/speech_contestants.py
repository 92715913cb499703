"""The contestants of the speech benchmark: each is a function from samples to text."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from optimize.data import speech
from optimize.models.whisper import checkpoint, compress
from optimize.utils import torchscript, torchvision_shim
from optimize.utils.packages import package_folder

NAMES = ("original", "faster_whisper_int8", "ours_padded", "ours")
ENGINE = compress.ENGINE
# "padded" encodes all 30 s and merges four silent positions into one after the first layer.
OURS = {
    "ours_padded": compress.CompressOptions("padded", group=4),
    "ours": compress.CompressOptions("real"),
}
Transcribe = Callable[[np.ndarray], str]


def _transformers() -> Any:
    """The module, with the class whose import fails without torchvision's operators."""
    import transformers

    _ = transformers.WhisperForConditionalGeneration
    return transformers


def original(whisper: checkpoint.Checkpoint, threads: int) -> Transcribe:
    """Hugging Face `generate`, float32, greedy, without timestamps."""
    transformers = torchvision_shim.retrying(_transformers)
    transformers.logging.set_verbosity_error()
    spec = whisper.spec
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
    weights = dict(whisper.weights)
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
    decode = _decoder(whisper)

    def transcribe(samples: np.ndarray) -> str:
        torch.set_num_threads(threads)
        inputs = features(samples, sampling_rate=16000, return_tensors="pt").input_features
        mask = torch.ones(1, inputs.shape[-1], dtype=torch.long)
        with torch.inference_mode():
            ids = model.generate(inputs, attention_mask=mask)[0].tolist()
        return decode([i for i in ids if i < spec.end])

    return transcribe


def faster_whisper(whisper: checkpoint.Checkpoint, threads: int) -> Transcribe:
    """faster-whisper on CTranslate2, int8, greedy, no fallback, no timestamps."""
    from faster_whisper import WhisperModel

    model = WhisperModel(
        str(whisper.tokenizer.parent), device="cpu", compute_type="int8", cpu_threads=threads
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


def _decoder(whisper: checkpoint.Checkpoint) -> Callable[[list[int]], str]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(whisper.tokenizer))
    return lambda ids: tokenizer.decode(ids, skip_special_tokens=True)


def load_ours(path: Path) -> Any:
    """Our TorchScript file, under the settings of the handler."""
    torch.backends.quantized.engine = ENGINE
    torch.jit.set_fusion_strategy([("STATIC", 0), ("DYNAMIC", 0)])
    return torch.jit.load(str(path))


def ours(whisper: checkpoint.Checkpoint, threads: int, path: Path) -> Transcribe:
    """Our compressed file."""
    model, decode = load_ours(path), _decoder(whisper)

    def transcribe(samples: np.ndarray) -> str:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            ids, counts, _ = model(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))
        return decode(ids[0, : int(counts[0])].tolist())

    return transcribe


def load_contestant(
    name: str, whisper: checkpoint.Checkpoint, threads: int, folder: Path
) -> Transcribe:
    """A contestant by name; ours are read from `folder`/NAME/model.pt."""
    if name == "original":
        return original(whisper, threads)
    if name == "faster_whisper_int8":
        return faster_whisper(whisper, threads)
    return ours(whisper, threads, folder / name / "model.pt")


def save(whisper: checkpoint.Checkpoint, data: speech.Speech, folder: Path) -> dict[str, int]:
    """Write both artifacts of ours as the handler reads them; their model files' sizes in bytes."""
    torch.backends.quantized.engine = ENGINE
    clips = [torch.from_numpy(u.samples()) for u in data.development]
    bases = compress.fit_screen(whisper, clips)
    sizes: dict[str, int] = {}
    for name, options in OURS.items():
        (folder / name).mkdir(exist_ok=True)
        model = compress.compress(whisper, bases, options)
        path = folder / name / "model.pt"
        sizes[name] = torchscript.save(torch.jit.script(model), path)
        shutil.copyfile(whisper.tokenizer, folder / name / "tokenizer.json")
        shutil.copyfile(
            package_folder("silero_vad") / "data/silero_vad.jit", folder / name / "vad.jit"
        )
        card = {
            "name": name,
            "task": "speech_recognition",
            "model": {"file": "model.pt", "quantized_engine": ENGINE, "threads": 1},
            "input": {"max_bytes": 1 << 26},  # an hour of FLAC
        }
        (folder / name / "model.json").write_text(json.dumps(card))
    return sizes
