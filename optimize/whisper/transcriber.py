"""Samples to tokens in one scripted module: front end, encoder, greedy decoding."""

from typing import Final

import torch
from torch import Tensor, nn

from optimize.whisper.checkpoint import CHUNK_SECONDS, SAMPLE_RATE, Spec
from optimize.whisper.decoder import Decoder
from optimize.whisper.encoder import Encoder
from optimize.whisper.frontend import HOP, LogMel


class Transcriber(nn.Module):
    """Greedy Whisper over a batch of clips of up to 30 s.

    Without a fill every clip is padded to 30 s, as Whisper was trained. With one, the encoder
    runs over the real audio alone, rounded up to `step` positions, and the positions that
    padding would have added are stood in for by what the encoder makes of pure silence: its
    self-attention sees the silence's keys and values in every layer, and so does the
    cross-attention. Neighbouring silent positions are merged into groups whose scores are
    raised by the logarithm of their count, so that they weigh as much as all their members.
    """

    hop: Final[int] = HOP
    longest: Final[int] = SAMPLE_RATE * CHUNK_SECONDS
    heads: Final[int]
    encoder_layers: Final[int]
    decoder_layers: Final[int]
    audio_positions: Final[int]
    samples_per_position: Final[int]
    max_tokens: Final[int]
    end: Final[int]
    step: Final[int]
    margin: Final[int]

    def __init__(
        self,
        spec: Spec,
        encoder: Encoder,
        decoder: Decoder,
        vocabulary: nn.Module,
        *,
        step: int = 32,
        margin: int = 8,
    ) -> None:
        super().__init__()
        self.heads = spec.heads
        self.encoder_layers, self.decoder_layers = spec.encoder_layers, spec.decoder_layers
        self.audio_positions = spec.audio_positions
        self.samples_per_position = spec.samples_per_position
        self.max_tokens, self.end = spec.text_positions // 2, spec.end
        self.step, self.margin = step, margin
        self.frontend = LogMel(spec.mels)
        self.encoder, self.decoder, self.vocabulary = encoder, decoder, vocabulary
        first = torch.zeros(spec.vocabulary)
        first[spec.suppress_first] = -1e9
        self.register_buffer("first", first)
        self.register_buffer("start", torch.tensor(spec.start))
        shape = (0, 2, spec.heads, 0, spec.head_width)
        self.register_buffer("fill_levels", torch.zeros(0))
        self.register_buffer("fill_bias", torch.zeros(0))
        self.register_buffer("fill_encoder", torch.zeros(0, spec.encoder_layers, *shape[1:]).half())
        self.register_buffer("fill_cross", torch.zeros(0, spec.decoder_layers, *shape[1:]).half())
        self.group = 1

    def _positions(self, samples: int) -> int:
        """Encoder positions to compute for a clip of so many samples."""
        if self.fill_levels.shape[0] == 0:
            return self.audio_positions
        real = (samples + self.samples_per_position - 1) // self.samples_per_position
        rounded = (real + self.margin + self.step - 1) // self.step * self.step
        return min(self.audio_positions, rounded)

    def _listen(self, samples: Tensor, lengths: list[int]) -> tuple[list[Tensor], Tensor]:
        """Cross-attention keys and values per layer, and the bias of their positions."""
        groups = self.fill_bias.shape[0]
        real = [self._positions(length) for length in lengths]
        filled = [max(0, groups - (t + self.group - 1) // self.group) for t in real]
        total = max([t + f for t, f in zip(real, filled)])
        rows, width = len(lengths), self.fill_cross.shape[5]
        audio = [torch.zeros(2, rows, self.heads, total, width) for _ in range(self.decoder_layers)]
        bias = torch.full([rows, 1, 1, total], -1e9)
        nothing = torch.zeros(self.encoder_layers, 2, self.heads, 0, width)
        for row in range(rows):
            t, f = real[row], filled[row]
            features, silence = self.frontend(
                samples[row, : lengths[row]], t * self.samples_per_position // self.hop
            )
            level = 0
            if f > 0:
                level = int((self.fill_levels - silence).abs().argmin())
                fill = self.fill_encoder[level, :, :, :, groups - f :]
                heard = self.encoder(features, fill, self.fill_bias[groups - f :])
            else:
                heard = self.encoder(features, nothing, self.fill_bias[:0])
            heard = heard.view(t, self.decoder_layers, 2, self.heads, width).permute(1, 2, 3, 0, 4)
            bias[row, :, :, :t] = 0.0
            bias[row, :, :, t : t + f] = self.fill_bias[groups - f :]
            for layer in range(self.decoder_layers):
                audio[layer][:, row, :, :t] = heard[layer]
                if f > 0:
                    fill = self.fill_cross[level, layer, :, :, groups - f :]
                    audio[layer][:, row, :, t : t + f] = fill
        return audio, bias

    def _decode(self, audio: list[Tensor], bias: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """Greedy decoding; rows that reach the end leave the batch."""
        rows, prompt = bias.shape[0], start.shape[0]
        ids = torch.full([rows, self.max_tokens], self.end)
        counts = torch.zeros(rows, dtype=torch.long)
        alive = [row for row in range(rows)]
        capacity = prompt + self.max_tokens
        shape = [2, rows, self.heads, capacity, audio[0].shape[4]]
        cache = [torch.empty(shape) for _ in range(self.decoder_layers)]
        tokens = start.unsqueeze(0).expand(rows, prompt)
        past = 0
        for produced in range(self.max_tokens):
            embedded = self.vocabulary.embed(tokens)
            hidden = self.decoder(embedded, cache, past, audio, bias)
            logits = self.vocabulary(hidden)
            if produced == 0:
                logits = logits + self.first
            best = logits.argmax(-1)
            past += tokens.shape[1]
            kept: list[int] = []
            for i in range(len(alive)):
                token = int(best[i])
                if token != self.end:
                    ids[alive[i], produced] = token
                    counts[alive[i]] += 1
                    kept.append(i)
            if len(kept) == 0:
                break
            if len(kept) < len(alive):
                alive = [alive[i] for i in kept]
                index = torch.tensor(kept)
                cache = [c.index_select(1, index) for c in cache]
                audio = [a.index_select(1, index) for a in audio]
                bias = bias.index_select(0, index)
                best = best.index_select(0, index)
            tokens = best.unsqueeze(1)
        return ids[:, : int(counts.max())], counts

    def forward(
        self, samples: Tensor, lengths: Tensor, start: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Transcribe a batch.

        Args:
            samples: float32 `[batch, n]`, 16 kHz, -1 to 1, n at most 480,000 (30 s).
            lengths: int64 `[batch]`, how many samples of each row are real, 1 to n.
            start: int64 `[k]`, tokens to decode from, for another language or task; the
                checkpoint's own otherwise.

        Returns:
            Token ids int64 `[batch, t]`, padded with the end token, and their counts int64
            `[batch]`. The start and end tokens are left out.
        """
        assert samples.dim() == 2 and lengths.shape[0] == samples.shape[0], "one length per row"
        assert samples.shape[1] <= self.longest, "a clip is at most 30 s: split it first"
        counted: list[int] = []
        for row in range(samples.shape[0]):
            counted.append(int(lengths[row]))
        audio, bias = self._listen(samples, counted)
        return self._decode(audio, bias, self.start if start is None else start)
