"""Samples to tokens in one scripted module: front end, encoder, greedy decoding."""

import math
from typing import Final

import torch
from torch import Tensor, nn

from optimize.models.whisper.checkpoint import CHUNK_SECONDS, SAMPLE_RATE, Spec
from optimize.models.whisper.decoder import Decoder
from optimize.models.whisper.encoder import Encoder
from optimize.models.whisper.frontend import LogMel


def batch(clips: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Samples `[batch, n]`, padded with zeros, and lengths `[batch]`."""
    rows = torch.zeros(len(clips), max(len(clip) for clip in clips))
    for row, clip in zip(rows, clips, strict=True):
        row[: len(clip)] = clip
    return rows, torch.tensor([len(clip) for clip in clips])


class Transcriber(nn.Module):
    """Greedy Whisper over a batch of clips of up to 30 s.

    Without a fill every clip is padded to 30 s, as in Whisper's training; the silent positions
    are merged after the encoder's first layers. With a fill the encoder runs only over the real
    audio, rounded up to `step` positions. Cached encodings of silence replace the positions that
    padding would have added: self-attention in every encoder layer and cross-attention both
    attend to the keys and values of the silence. Neighbouring silent positions are averaged in
    groups of `group`, and `merged` real positions are averaged into one for the decoder. The
    score of a group is raised by the logarithm of its count, so that it weighs as much as all
    its members.
    """

    traceable = False  # the loop over tokens is scripted, see `scripted`

    silent: Final[int] = 4  # positions of silence that are convolved; repeated for all others
    frames_per_position: Final[int] = 2
    longest: Final[int] = SAMPLE_RATE * CHUNK_SECONDS
    heads: Final[int]
    head_width: Final[int]
    encoder_layers: Final[int]
    decoder_layers: Final[int]
    audio_positions: Final[int]
    samples_per_position: Final[int]
    max_tokens: Final[int]
    end: Final[int]
    step: Final[int]
    margin: Final[int]
    merged: Final[int]

    def __init__(
        self,
        spec: Spec,
        encoder: Encoder,
        decoder: Decoder,
        vocabulary: nn.Module,
        *,
        step: int = 16,
        margin: int = 4,
        merged: int = 1,
    ) -> None:
        super().__init__()
        self.heads, self.head_width = spec.heads, spec.head_width
        self.encoder_layers, self.decoder_layers = spec.encoder_layers, spec.decoder_layers
        self.audio_positions = spec.audio_positions
        self.samples_per_position = spec.samples_per_position
        self.max_tokens, self.end = spec.text_positions // 2, spec.end
        self.step, self.margin, self.merged = step, margin, merged
        self.frontend = LogMel(spec.mels)
        self.encoder, self.decoder, self.vocabulary = encoder, decoder, vocabulary
        first = torch.zeros(spec.vocabulary)
        first[spec.suppress_first] = -1e9
        self.register_buffer("first", first)
        self.register_buffer("start", torch.tensor(spec.start))
        shape = (0, 2, spec.heads, 0, spec.head_width)
        self.register_buffer("fill_levels", torch.zeros(0))
        self.register_buffer("fill_bias", torch.zeros(0))
        own = torch.zeros(0, spec.encoder_layers, *shape[1:])
        self.register_buffer("fill_encoder", own.bfloat16())  # as the encoder's attention takes it
        self.register_buffer("fill_cross", torch.zeros(0, spec.decoder_layers, *shape[1:]).half())
        self.group = 1

    def scripted(self) -> torch.jit.ScriptModule:
        """The transcriber as TorchScript."""
        return torch.jit.script(self)  # type: ignore[no-any-return]

    def _positions(self, samples: int) -> int:
        """Encoder positions for a clip of `samples` samples, and the margin."""
        real = (samples + self.samples_per_position - 1) // self.samples_per_position
        if self.fill_levels.shape[0] > 0:
            rounded = (real + self.margin + self.step - 1) // self.step * self.step
            return min(self.audio_positions, rounded)
        if self.group == 1:
            return self.audio_positions
        rest = max(0, self.audio_positions - real - self.margin)
        return self.audio_positions - rest // self.group * self.group

    def _encode(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-attention keys and values of one clip, and the bias of their scores.

        Returns:
            `[layers, 2, heads, keys, head width]` and `[keys]`.
        """
        groups, width = self.fill_bias.shape[0], self.head_width
        real = self._positions(samples.shape[0])
        silent = (self.audio_positions - real) // self.group
        encoded, frames = real, real + self.silent
        filled = max(0, groups - real // self.group) if real < self.audio_positions else 0
        if groups == 0:
            encoded = self.audio_positions
        elif filled > 0:
            frames = real + 1
        frames = min(frames, self.audio_positions)
        features, silence = self.frontend(samples, frames * self.frames_per_position)
        if filled == 0:
            own = torch.zeros(self.encoder_layers, 2, self.heads, 0, width)
            cross = torch.zeros(self.decoder_layers, 2, self.heads, 0, width)
            bias = torch.full([silent], math.log(self.group))
        else:
            level = int((self.fill_levels - silence).abs().argmin())
            own = self.fill_encoder[level, :, :, :, groups - filled :]
            cross = self.fill_cross[level, :, :, :, groups - filled :]
            bias = self.fill_bias[groups - filled :].clone()
            # The first group may begin before the real positions end.
            bias[0] = math.log(math.exp(float(bias[0])) - real % self.group)
        computed = self.encoder(features, encoded, own, bias, real, self.group, self.merged)
        keys, layers = computed.shape[0], self.decoder_layers
        audio = torch.empty([layers, 2, self.heads, keys + filled, width])
        computed = computed.view([keys, layers, 2, self.heads, width])
        audio[:, :, :, :keys] = computed.permute(1, 2, 3, 0, 4)
        if filled > 0:
            audio[:, :, :, keys:] = cross
        merged = torch.full([real // self.merged], math.log(self.merged))
        return audio, torch.cat([merged, bias])

    def _decode(
        self, audio: list[list[Tensor]], bias: list[Tensor], start: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Greedy decoding; rows that produce the end token leave the batch.

        Args:
            audio: per layer and row, see `_encode`.
            bias: per row.
            start: int64 `[k]`.
        """
        rows, prompt = len(bias), start.shape[0]
        ids = torch.full([rows, self.max_tokens], self.end)
        counts = torch.zeros(rows, dtype=torch.long)
        chances = [0.0 for _ in range(rows)]
        alive = list(range(rows))
        shape = [2, rows, self.heads, prompt + self.max_tokens, audio[0][0].shape[3]]
        cache = [torch.empty(shape) for _ in range(self.decoder_layers)]
        tokens = start.unsqueeze(0).expand(rows, prompt)
        past = 0
        for produced in range(self.max_tokens):
            embedded = self.vocabulary.embed(tokens)
            hidden = self.decoder(embedded, cache, past, audio, bias)
            best, chance = self.vocabulary(hidden, self.first if produced == 0 else None)
            past += tokens.shape[1]
            ended: list[int] = []
            for i in range(len(alive)):
                token = int(best[i])
                chances[alive[i]] += float(chance[i])
                if token == self.end:
                    ended.append(i)
                else:
                    ids[alive[i], produced] = token
                    counts[alive[i]] += 1
            if len(ended) == len(alive):
                break
            for i in ended[::-1]:  # the last row takes the place of one that ended
                last = len(alive) - 1
                best[i] = best[last]
                alive[i] = alive[last]
                bias[i] = bias[last]
                for layer in range(self.decoder_layers):
                    audio[layer][i] = audio[layer][last]
                    if i < last:
                        cache[layer][:, i, :, :past] = cache[layer][:, last, :, :past]
                    cache[layer] = cache[layer][:, :last]
                    audio[layer] = audio[layer][:last]
                alive, bias, best = alive[:last], bias[:last], best[:last]
            tokens = best.unsqueeze(1)
        # Whisper's average: over the tokens and the end token; none where it never came.
        steps = (counts + 1).clamp(max=self.max_tokens)
        return ids[:, : int(counts.max())], counts, torch.tensor(chances) / steps

    def forward(
        self, samples: Tensor, lengths: Tensor, start: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Transcribe a batch.

        Args:
            samples: float32 `[batch, n]`, 16 kHz, -1 to 1, n at most 480,000 (30 s).
            lengths: int64 `[batch]`, how many samples of each row are real, 1 to n.
            start: int64 `[k]`, tokens to decode from, for another language or task; by default
                the checkpoint's.

        Returns:
            Token ids int64 `[batch, t]`, padded with the end token, their counts int64 `[batch]`,
            and the average logarithm of their probabilities, float32 `[batch]`. The start and end
            tokens are left out; the average counts the end token.
        """
        assert samples.dim() == 2 and lengths.shape[0] == samples.shape[0], "one length per row"
        assert samples.shape[1] <= self.longest, "a clip is at most 30 s: split it first"
        audio: list[list[Tensor]] = []
        for _ in range(self.decoder_layers):
            rows: list[Tensor] = []
            audio.append(rows)
        biases: list[Tensor] = []
        for row in range(samples.shape[0]):
            keys_values, bias = self._encode(samples[row, : int(lengths[row])])
            for layer in range(self.decoder_layers):
                audio[layer].append(keys_values[layer])
            biases.append(bias)
        return self._decode(audio, biases, self.start if start is None else start)
