"""Reads Whisper from a Hugging Face folder, without `transformers`.

Needs `config.json`, the weights (`model.safetensors`, its shards, or `pytorch_model.bin`) and
`tokenizer.json`; suppress lists and start tokens come from `generation_config.json` or, in
older folders, from `config.json`.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from optimize.errors import DataError
from optimize.models.whisper.checkpoint import Checkpoint, Spec


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file, floating-point ones as float32.

    Raises:
        DataError: missing, cut short, or not safetensors.
    """
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} is not a safetensors file that can be read: {error}") from error
    return {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in weights.items()
    }


def _weights(folder: Path) -> dict[str, Tensor]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = sorted(set(_json(index)["weight_map"].values()))
        weights: dict[str, Tensor] = {}
        for shard in shards:
            weights.update(read_safetensors(folder / shard))
        return weights
    if (folder / "model.safetensors").is_file():
        return read_safetensors(folder / "model.safetensors")
    pickled = folder / "pytorch_model.bin"
    if not pickled.is_file():
        raise DataError(f"{folder} holds neither model.safetensors nor pytorch_model.bin")
    state = torch.load(pickled, map_location="cpu", weights_only=True)
    return {name: tensor.float() for name, tensor in state.items()}


def _json(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} holds no JSON object")
    return value


def load(folder: Path, language: str = "en") -> Checkpoint:
    """Load a Hugging Face Whisper folder.

    Args:
        folder: as saved by `save_pretrained` of model and fast tokenizer.
        language: language of decoding; only multilingual weights have others than English.

    Raises:
        DataError: not a Whisper folder, incomplete, or the weights do not know the language.
    """
    try:
        config = _json(folder / "config.json")
        if config.get("model_type") != "whisper":
            raise DataError(
                f"{folder} holds a {config.get('model_type')!r} model; a Whisper folder is needed"
            )
        generation = folder / "generation_config.json"
        settings = {**config, **(_json(generation) if generation.is_file() else {})}
        tokenizer = folder / "tokenizer.json"
        if not tokenizer.is_file():
            raise DataError(
                f"{folder} lacks tokenizer.json: save it with "
                "transformers.WhisperTokenizerFast.from_pretrained(...).save_pretrained(...)"
            )
        tokens = {entry["content"]: entry["id"] for entry in _json(tokenizer)["added_tokens"]}
        languages = {name.strip("<|>"): i for name, i in (settings.get("lang_to_id") or {}).items()}
        tasks = dict(settings.get("task_to_id") or {})
        start = [int(settings["decoder_start_token_id"])]
        if settings.get("is_multilingual", bool(languages)):
            if language not in languages:
                raise DataError(f"{folder} does not know the language {language!r}")
            start += [languages[language], tasks["transcribe"]]
        else:
            languages, tasks = {}, {}
        no_timestamps = settings.get("no_timestamps_token_id") or tokens["<|notimestamps|>"]
        end = settings["eos_token_id"]
        spec = Spec(
            width=config["d_model"],
            heads=config["encoder_attention_heads"],
            encoder_layers=config["encoder_layers"],
            decoder_layers=config["decoder_layers"],
            vocabulary=config["vocab_size"],
            mels=config["num_mel_bins"],
            end=int(end[0] if isinstance(end, list) else end),
            start=[*start, int(no_timestamps)],
            suppress=list(settings.get("suppress_tokens") or []),
            suppress_first=list(settings.get("begin_suppress_tokens") or []),
            audio_positions=config["max_source_positions"],
            text_positions=config["max_target_positions"],
            languages=languages,
            tasks=tasks,
        )
        weights = _weights(folder)
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise DataError(
            f"{folder} is not a whole Hugging Face Whisper folder ({type(error).__name__}: {error})"
        ) from error
    weights.pop("proj_out.weight", None)  # tied to the embedding
    return Checkpoint(spec, weights, tokenizer, f"Hugging Face folder {folder.name}")
