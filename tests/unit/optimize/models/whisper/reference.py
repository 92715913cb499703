"""A second, plain implementation of Whisper to test against: no cache, no fusing, no scripts.

Also a tiny random checkpoint, and writers of the two file formats that checkpoints come in.
"""

import json
import struct
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from optimize.models.whisper.checkpoint import Spec

SPEC = Spec(
    width=64,
    heads=2,
    encoder_layers=2,
    decoder_layers=2,
    vocabulary=96,
    mels=80,
    end=90,
    start=[91, 92],
    suppress=[3, 5, 91, 92],
    suppress_first=[7, 90],
    text_positions=24,
)
SPECIAL = {"<|endoftext|>": 90, "<|startoftranscript|>": 91, "<|notimestamps|>": 92}


def random_weights(spec: Spec = SPEC, seed: int = 0) -> dict[str, Tensor]:
    """Weights under Hugging Face's names, large enough that answers vary with the input."""
    generator = torch.Generator().manual_seed(seed)
    width = spec.width

    def normal(*shape: int, scale: float = 0.2) -> Tensor:
        return torch.randn(shape, generator=generator) * scale

    weights = {
        "model.encoder.conv1.weight": normal(width, spec.mels, 3),
        "model.encoder.conv1.bias": normal(width),
        "model.encoder.conv2.weight": normal(width, width, 3),
        "model.encoder.conv2.bias": normal(width),
        "model.encoder.embed_positions.weight": normal(spec.audio_positions, width).half().float(),
        "model.decoder.embed_positions.weight": normal(spec.text_positions, width),
        "model.decoder.embed_tokens.weight": normal(spec.vocabulary, width, scale=0.5),
    }
    for side, layers in (("encoder", spec.encoder_layers), ("decoder", spec.decoder_layers)):
        for i in range(layers):
            of = f"model.{side}.layers.{i}"
            attentions = ["self_attn"] + ["encoder_attn"] * (side == "decoder")
            for attention in attentions:
                for part in ("q", "k", "v", "out"):
                    weights[f"{of}.{attention}.{part}_proj.weight"] = normal(width, width)
                    if part != "k":
                        weights[f"{of}.{attention}.{part}_proj.bias"] = normal(width)
                weights[f"{of}.{attention}_layer_norm.weight"] = 1 + normal(width)
                weights[f"{of}.{attention}_layer_norm.bias"] = normal(width)
            weights[f"{of}.fc1.weight"] = normal(4 * width, width)
            weights[f"{of}.fc1.bias"] = normal(4 * width)
            weights[f"{of}.fc2.weight"] = normal(width, 4 * width)
            weights[f"{of}.fc2.bias"] = normal(width)
            weights[f"{of}.final_layer_norm.weight"] = 1 + normal(width)
            weights[f"{of}.final_layer_norm.bias"] = normal(width)
        weights[f"model.{side}.layer_norm.weight"] = 1 + normal(width)
        weights[f"model.{side}.layer_norm.bias"] = normal(width)
    return weights


class Reference:
    """Greedy Whisper, recomputing everything at every token."""

    def __init__(self, weights: dict[str, Tensor], spec: Spec = SPEC) -> None:
        self.w, self.spec = weights, spec

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return functional.linear(x, self.w[f"{name}.weight"], self.w.get(f"{name}.bias"))

    def _norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self.w[f"{name}.weight"], self.w[f"{name}.bias"]
        return functional.layer_norm(x, (self.spec.width,), weight, bias)

    def _attention(self, x: Tensor, memory: Tensor, name: str, causal: bool) -> Tensor:
        heads, width = self.spec.heads, self.spec.head_width
        q, k, v = (
            self._linear(source, f"{name}.{part}_proj").view(len(source), heads, width)
            for part, source in (("q", x), ("k", memory), ("v", memory))
        )
        scores = torch.einsum("qhd,khd->hqk", q, k) * width**-0.5
        if causal:
            scores = scores + torch.full(scores.shape[1:], float("-inf")).triu(1)
        mixed = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).reshape(len(x), -1)
        return self._linear(mixed, f"{name}.out_proj")

    def _block(self, x: Tensor, name: str, memory: Tensor | None) -> Tensor:
        normed = self._norm(x, f"{name}.self_attn_layer_norm")
        x = x + self._attention(normed, normed, f"{name}.self_attn", memory is not None)
        if memory is not None:
            normed = self._norm(x, f"{name}.encoder_attn_layer_norm")
            x = x + self._attention(normed, memory, f"{name}.encoder_attn", False)
        inner = functional.gelu(
            self._linear(self._norm(x, f"{name}.final_layer_norm"), f"{name}.fc1")
        )
        return x + self._linear(inner, f"{name}.fc2")

    def encode(self, features: Tensor) -> Tensor:
        """Hidden states `[positions, width]` of features `[mels, frames]`."""
        side, x = "model.encoder", features[None]
        for conv, stride in (("conv1", 1), ("conv2", 2)):
            weight, bias = self.w[f"{side}.{conv}.weight"], self.w[f"{side}.{conv}.bias"]
            x = functional.gelu(functional.conv1d(x, weight, bias, stride=stride, padding=1))
        hidden = x[0].T + self.w[f"{side}.embed_positions.weight"][: x.shape[2]]
        for i in range(self.spec.encoder_layers):
            hidden = self._block(hidden, f"{side}.layers.{i}", None)
        return self._norm(hidden, f"{side}.layer_norm")

    def decode(self, memory: Tensor) -> list[int]:
        """Greedy tokens for an encoded clip."""
        side, table = "model.decoder", self.w["model.decoder.embed_tokens.weight"]
        tokens = list(self.spec.start)
        for produced in range(self.spec.text_positions // 2):
            x = table[tokens] + self.w[f"{side}.embed_positions.weight"][: len(tokens)]
            for i in range(self.spec.decoder_layers):
                x = self._block(x, f"{side}.layers.{i}", memory)
            logits = table @ self._norm(x[-1], f"{side}.layer_norm")
            logits[self.spec.suppress] = float("-inf")
            if produced == 0:
                logits[self.spec.suppress_first] = float("-inf")
            best = int(logits.argmax())
            if best == self.spec.end:
                break
            tokens.append(best)
        return tokens[len(self.spec.start) :]


def write_tokenizer(path: Path) -> None:
    """The part of tokenizer.json that is read: special tokens."""
    added = [{"id": i, "content": name} for name, i in SPECIAL.items()]
    path.write_text(json.dumps({"added_tokens": added}))


def write_huggingface(folder: Path, weights: dict[str, Tensor], spec: Spec = SPEC) -> None:
    """A Hugging Face folder, in half precision."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder / "tokenizer.json")
    config = {
        "model_type": "whisper",
        "d_model": spec.width,
        "encoder_layers": spec.encoder_layers,
        "decoder_layers": spec.decoder_layers,
        "encoder_attention_heads": spec.heads,
        "decoder_attention_heads": spec.heads,
        "num_mel_bins": spec.mels,
        "vocab_size": spec.vocabulary,
        "max_source_positions": spec.audio_positions,
        "max_target_positions": spec.text_positions,
        "decoder_start_token_id": spec.start[0],
        "eos_token_id": spec.end,
    }
    (folder / "config.json").write_text(json.dumps(config))
    generation = {
        "suppress_tokens": spec.suppress,
        "begin_suppress_tokens": spec.suppress_first,
        "no_timestamps_token_id": spec.start[-1],
        "is_multilingual": False,
    }
    (folder / "generation_config.json").write_text(json.dumps(generation))
    header, body = {}, b""
    for name, tensor in weights.items():
        data = tensor.half().contiguous().numpy().tobytes()
        offsets = [len(body), len(body) + len(data)]
        header[name] = {"dtype": "F16", "shape": list(tensor.shape), "data_offsets": offsets}
        body += data
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + body)


def write_ctranslate2(folder: Path, weights: dict[str, Tensor], spec: Spec = SPEC) -> None:
    """A CTranslate2 folder, in half precision, with projections fused as it fuses them."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder / "tokenizer.json")
    lists = {"suppress_ids": spec.suppress, "suppress_ids_begin": spec.suppress_first}
    (folder / "config.json").write_text(json.dumps({**lists, "lang_ids": []}))
    out: dict[str, Tensor] = {}
    zeros = torch.zeros(spec.width)

    def fused(to: str, of: str, parts: str) -> None:
        out[f"{to}/weight"] = torch.cat([weights[f"{of}.{p}_proj.weight"] for p in parts])
        out[f"{to}/bias"] = torch.cat([weights.get(f"{of}.{p}_proj.bias", zeros) for p in parts])

    def plain(to: str, of: str, names: tuple[str, str] = ("weight", "bias")) -> None:
        for name, part in zip(names, ("weight", "bias"), strict=True):
            out[f"{to}/{name}"] = weights[f"{of}.{part}"]

    norm = ("gamma", "beta")
    for side, layers in (("encoder", spec.encoder_layers), ("decoder", spec.decoder_layers)):
        for i in range(layers):
            to, of = f"{side}/layer_{i}", f"model.{side}.layers.{i}"
            fused(f"{to}/self_attention/linear_0", f"{of}.self_attn", "qkv")
            plain(f"{to}/self_attention/linear_1", f"{of}.self_attn.out_proj")
            plain(f"{to}/self_attention/layer_norm", f"{of}.self_attn_layer_norm", norm)
            plain(f"{to}/ffn/linear_0", f"{of}.fc1")
            plain(f"{to}/ffn/linear_1", f"{of}.fc2")
            plain(f"{to}/ffn/layer_norm", f"{of}.final_layer_norm", norm)
            if side == "decoder":
                fused(f"{to}/attention/linear_0", f"{of}.encoder_attn", "q")
                fused(f"{to}/attention/linear_1", f"{of}.encoder_attn", "kv")
                plain(f"{to}/attention/linear_2", f"{of}.encoder_attn.out_proj")
                plain(f"{to}/attention/layer_norm", f"{of}.encoder_attn_layer_norm", norm)
        plain(f"{side}/layer_norm", f"model.{side}.layer_norm", norm)
        positions = weights[f"model.{side}.embed_positions.weight"]
        out[f"{side}/position_encodings/encodings"] = positions
    plain("encoder/conv1", "model.encoder.conv1")
    plain("encoder/conv2", "model.encoder.conv2")
    out["decoder/embeddings/weight"] = weights["model.decoder.embed_tokens.weight"]

    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    data = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, len(out) + 1)
    for name, tensor in out.items():
        raw = tensor.half().contiguous().numpy().tobytes()
        shape = struct.pack(f"<{tensor.dim()}I", *tensor.shape)
        data += text(name) + struct.pack("<B", tensor.dim()) + shape
        data += struct.pack("<BI", 4, len(raw)) + raw
    data += text("encoder/num_heads") + struct.pack("<BBIh", 0, 2, 2, spec.heads)
    (folder / "model.bin").write_bytes(data + struct.pack("<I", 0))
