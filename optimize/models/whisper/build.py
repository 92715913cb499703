"""Builds a transcriber from a checkpoint, in float32 or compressed."""

import torch
from torch import Tensor, nn

from handlers.backend import settle_quantized_notice
from optimize.lowering.kernels.quantized import SharedRangeLinear
from optimize.lowering.kernels.vocabulary import Int8Vocabulary, SvdSoftmaxVocabulary
from optimize.models.whisper.checkpoint import Checkpoint, Spec
from optimize.models.whisper.decoder import Decoder
from optimize.models.whisper.encoder import Encoder
from optimize.models.whisper.transcriber import Transcriber
from optimize.models.whisper.vocabulary import FloatVocabulary


def _copy(module: nn.Module, weights: dict[str, Tensor], *names: str, scale: float = 1.0) -> None:
    """Copy one or more projections, stacked; the first is multiplied by `scale`."""
    weight = [weights[f"{name}.weight"] for name in names]
    bias = [weights.get(f"{name}.bias", torch.zeros(len(weight[0]))) for name in names]
    weight[0], bias[0] = weight[0] * scale, bias[0] * scale
    module.weight.data.copy_(torch.cat(weight))  # type: ignore[union-attr]
    module.bias.data.copy_(torch.cat(bias))  # type: ignore[union-attr]


def _encoder(spec: Spec, weights: dict[str, Tensor], bf16_attention: bool) -> Encoder:
    encoder = Encoder(spec, bf16_attention)
    side, scale = "model.encoder", spec.head_width**-0.5
    for name in ("conv1", "conv2"):
        kernel = weights[f"{side}.{name}.weight"].permute(0, 2, 1).flatten(1)
        getattr(encoder, name).weight.data.copy_(kernel)
        getattr(encoder, name).bias.data.copy_(weights[f"{side}.{name}.bias"])
    encoder.positions.copy_(weights[f"{side}.embed_positions.weight"])
    for i, layer in enumerate(encoder.layers):
        of = f"{side}.layers.{i}"
        _copy(layer.norm1, weights, f"{of}.self_attn_layer_norm")
        qkv = [f"{of}.self_attn.{part}_proj" for part in "qkv"]
        _copy(layer.qkv, weights, *qkv, scale=scale)
        _copy(layer.out, weights, f"{of}.self_attn.out_proj")
        _copy(layer.norm2, weights, f"{of}.final_layer_norm")
        _copy(layer.fc1, weights, f"{of}.fc1")
        _copy(layer.fc2, weights, f"{of}.fc2")
    _copy(encoder.norm, weights, f"{side}.layer_norm")
    cross = [
        f"model.decoder.layers.{i}.encoder_attn.{part}_proj"
        for i in range(spec.decoder_layers)
        for part in "kv"
    ]
    _copy(encoder.cross, weights, *cross)
    return encoder


def _decoder(spec: Spec, weights: dict[str, Tensor]) -> Decoder:
    decoder = Decoder(spec)
    side, scale = "model.decoder", spec.head_width**-0.5
    decoder.positions.copy_(weights[f"{side}.embed_positions.weight"])
    for i, layer in enumerate(decoder.layers):
        of = f"{side}.layers.{i}"
        _copy(layer.norm1, weights, f"{of}.self_attn_layer_norm")
        qkv = [f"{of}.self_attn.{part}_proj" for part in "qkv"]
        _copy(layer.qkv, weights, *qkv, scale=scale)
        _copy(layer.out, weights, f"{of}.self_attn.out_proj")
        _copy(layer.norm_cross, weights, f"{of}.encoder_attn_layer_norm")
        _copy(layer.query, weights, f"{of}.encoder_attn.q_proj", scale=scale)
        _copy(layer.out_cross, weights, f"{of}.encoder_attn.out_proj")
        _copy(layer.norm2, weights, f"{of}.final_layer_norm")
        _copy(layer.fc1, weights, f"{of}.fc1")
        _copy(layer.fc2, weights, f"{of}.fc2")
    _copy(decoder.norm, weights, f"{side}.layer_norm")
    return decoder


def _to_int8(module: nn.Module) -> None:
    """Replace every `nn.Linear` below `module`, in place."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Linear):
            bias = None if child.bias is None else child.bias.detach()
            setattr(module, name, SharedRangeLinear(child.weight.detach(), bias))
        else:
            _to_int8(child)


def build(
    checkpoint: Checkpoint,
    *,
    int8: bool = True,
    screen: tuple[Tensor, Tensor] | None = None,
    step: int = 16,
    margin: int = 4,
    merged: int = 1,
) -> Transcriber:
    """An eager transcriber that pads to 30 s, in eval mode and without gradients.

    Args:
        checkpoint: the weights.
        int8: linear layers and the vocabulary in int8, encoder attention in bf16; float32
            otherwise.
        screen: bases from `screen.fit` for an SVD-softmax over the int8 vocabulary.
        step: the encoder's length is rounded up to this, if there is a fill.
        margin: positions encoded past the end of the audio, if there is a fill.
        merged: positions that are averaged into one for the decoder; divides `step`.
    """
    spec, weights = checkpoint.spec, checkpoint.weights
    encoder = _encoder(spec, weights, bf16_attention=int8)
    decoder = _decoder(spec, weights)
    table = weights["model.decoder.embed_tokens.weight"]
    # The suppress list is a bias of the output head: it costs nothing per token.
    bias = torch.zeros(spec.vocabulary)
    bias[spec.suppress] = -1e9
    vocabulary: nn.Module = FloatVocabulary(table, bias)
    if int8:
        settle_quantized_notice()
        _to_int8(encoder)
        _to_int8(decoder)
        vocabulary = Int8Vocabulary(table, bias)
        if screen is not None:
            vocabulary = SvdSoftmaxVocabulary(table, bias, *screen)
    model = Transcriber(spec, encoder, decoder, vocabulary, step=step, margin=margin, merged=merged)
    return model.eval().requires_grad_(False)
