"""Reads Whisper from a CTranslate2 folder (`model.bin`, `config.json`, `tokenizer.json`).

The binary layout is that of CTranslate2's `ModelSpec.save`, version 6: little-endian, each
name a uint16 length and a NUL-terminated string, each variable a rank, a shape, a type and
its bytes. Attention projections are stored fused; they are split into Hugging Face's names.
"""

import json
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from optimize.errors import DataError
from optimize.models.whisper.checkpoint import Checkpoint, Spec

_TYPES: dict[int, Any] = {
    0: np.float32,
    1: np.int8,
    2: np.int16,
    3: np.int32,
    4: np.float16,
}
_VERSION = 6


def _number(stream: BinaryIO, code: str) -> int:
    size = struct.calcsize("<" + code)
    return int(struct.unpack("<" + code, stream.read(size))[0])


def _name(stream: BinaryIO) -> str:
    return stream.read(_number(stream, "H"))[:-1].decode("utf-8")


def read_variables(path: Path) -> dict[str, Tensor]:
    """Every variable of a CTranslate2 `model.bin`; floating-point and int8 ones as float32.

    Raises:
        DataError: missing, cut short, or not a Whisper model of version 6.
    """
    try:
        with path.open("rb") as stream:
            version, spec = _number(stream, "I"), _name(stream)
            if version != _VERSION or spec != "WhisperSpec":
                raise ValueError(f"a {spec or 'nameless'} of version {version}")
            _number(stream, "I")  # revision of the specification
            variables: dict[str, Tensor] = {}
            for _ in range(_number(stream, "I")):
                name = _name(stream)
                shape = [_number(stream, "I") for _ in range(_number(stream, "B"))]
                dtype = _TYPES[_number(stream, "B")]
                raw = stream.read(_number(stream, "I"))
                variables[name] = torch.from_numpy(np.frombuffer(raw, dtype).reshape(shape).copy())
    except (
        OSError,
        ValueError,
        KeyError,
        IndexError,
        struct.error,
        UnicodeDecodeError,
    ) as error:
        raise DataError(
            f"{path} is not a CTranslate2 Whisper model that can be read ({error}); "
            "convert it again with ct2-transformers-converter, or name the Hugging Face folder"
        ) from error
    for name in [n for n in variables if n.endswith("weight_scale")]:
        weight, scale = variables[name.removesuffix("_scale")], variables.pop(name).float()
        variables[name.removesuffix("_scale")] = weight.float() / scale.reshape(
            -1, *[1] * (weight.dim() - 1)
        )
    return {n: t.float() if t.is_floating_point() else t for n, t in variables.items()}


def _linear(out: dict[str, Tensor], name: str, variables: dict[str, Tensor], source: str) -> None:
    out[f"{name}.weight"] = variables[f"{source}/weight"]
    out[f"{name}.bias"] = variables[f"{source}/bias"]


def _norm(out: dict[str, Tensor], name: str, variables: dict[str, Tensor], source: str) -> None:
    out[f"{name}.weight"] = variables[f"{source}/gamma"]
    out[f"{name}.bias"] = variables[f"{source}/beta"]


def _fused(
    out: dict[str, Tensor],
    name: str,
    variables: dict[str, Tensor],
    source: str,
    parts: str,
) -> None:
    """Split a fused projection into `q_proj`, `k_proj`, `v_proj`; keys have no bias."""
    weights = variables[f"{source}/weight"].chunk(len(parts))
    biases = variables[f"{source}/bias"].chunk(len(parts))
    for part, weight, bias in zip(parts, weights, biases, strict=True):
        out[f"{name}.{part}_proj.weight"] = weight
        if part != "k":
            out[f"{name}.{part}_proj.bias"] = bias


def _state_dict(variables: dict[str, Tensor], layers: dict[str, int]) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for side, count in layers.items():
        for i in range(count):
            to, of = f"model.{side}.layers.{i}", f"{side}/layer_{i}"
            _fused(
                out,
                f"{to}.self_attn",
                variables,
                f"{of}/self_attention/linear_0",
                "qkv",
            )
            _linear(
                out,
                f"{to}.self_attn.out_proj",
                variables,
                f"{of}/self_attention/linear_1",
            )
            _norm(
                out,
                f"{to}.self_attn_layer_norm",
                variables,
                f"{of}/self_attention/layer_norm",
            )
            _linear(out, f"{to}.fc1", variables, f"{of}/ffn/linear_0")
            _linear(out, f"{to}.fc2", variables, f"{of}/ffn/linear_1")
            _norm(out, f"{to}.final_layer_norm", variables, f"{of}/ffn/layer_norm")
            if side == "decoder":
                cross = f"{to}.encoder_attn"
                _linear(out, f"{cross}.q_proj", variables, f"{of}/attention/linear_0")
                _fused(out, cross, variables, f"{of}/attention/linear_1", "kv")
                _linear(out, f"{cross}.out_proj", variables, f"{of}/attention/linear_2")
                _norm(out, f"{cross}_layer_norm", variables, f"{of}/attention/layer_norm")
        _norm(out, f"model.{side}.layer_norm", variables, f"{side}/layer_norm")
        positions = variables[f"{side}/position_encodings/encodings"]
        out[f"model.{side}.embed_positions.weight"] = positions
    _linear(out, "model.encoder.conv1", variables, "encoder/conv1")
    _linear(out, "model.encoder.conv2", variables, "encoder/conv2")
    out["model.decoder.embed_tokens.weight"] = variables["decoder/embeddings/weight"]
    return out


def _special_tokens(tokenizer: Path) -> dict[str, int]:
    added = json.loads(tokenizer.read_text(encoding="utf-8"))["added_tokens"]
    return {token["content"]: token["id"] for token in added}


def load(folder: Path, language: str = "en") -> Checkpoint:
    """Load a CTranslate2 Whisper folder.

    Args:
        folder: holds `model.bin`, `config.json` and `tokenizer.json`.
        language: language of decoding; only multilingual weights have others than English.

    Raises:
        DataError: a file is missing or damaged, or the weights do not know the language.
    """
    variables = read_variables(folder / "model.bin")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tokens = _special_tokens(folder / "tokenizer.json")
        sides = {
            side: len(
                {n.split("/")[1] for n in variables if n.startswith(f"{side}/layer_")}
                - {"layer_norm"}
            )
            for side in ("encoder", "decoder")
        }
        weights = _state_dict(variables, sides)
        # English-only vocabularies are one token shorter, so their end token differs.
        multilingual = tokens["<|endoftext|>"] == 50257
        languages = {}
        if multilingual:
            ids = set(config.get("lang_ids", []))
            languages = {name.strip("<|>"): i for name, i in tokens.items() if i in ids}
            if language not in languages:
                raise DataError(f"{folder} does not know the language {language!r}")
        tasks = {"transcribe": 0, "translate": 0} if multilingual else {}
        tasks = {name: tokens[f"<|{name}|>"] for name in tasks}
        start = [tokens["<|startoftranscript|>"]]
        start += [languages[language], tasks["transcribe"]] if multilingual else []
        conv, embedding = (
            weights["model.encoder.conv1.weight"],
            "model.decoder.embed_tokens.weight",
        )
        spec = Spec(
            width=conv.shape[0],
            heads=int(variables["encoder/num_heads"]),
            encoder_layers=sides["encoder"],
            decoder_layers=sides["decoder"],
            vocabulary=weights[embedding].shape[0],
            mels=conv.shape[1],
            end=tokens["<|endoftext|>"],
            start=[*start, tokens["<|notimestamps|>"]],
            suppress=list(config["suppress_ids"]),
            suppress_first=list(config["suppress_ids_begin"]),
            audio_positions=weights["model.encoder.embed_positions.weight"].shape[0],
            text_positions=weights["model.decoder.embed_positions.weight"].shape[0],
            languages=languages,
            tasks=tasks,
        )
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise DataError(
            f"{folder} is not a whole CTranslate2 Whisper folder ({type(error).__name__}: {error})"
        ) from error
    return Checkpoint(spec, weights, folder / "tokenizer.json", f"CTranslate2 folder {folder.name}")
