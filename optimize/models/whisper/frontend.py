"""Log-mel spectrogram of 16 kHz samples, as in Whisper's training.

The filter bank is Slaney's (mel scale linear to 1 kHz, logarithmic above; triangles of equal
area), 0 to 8 kHz; windows of 25 ms every 10 ms.
"""

import math
from typing import Final

import torch
from torch import Tensor, nn

from optimize.models.whisper.checkpoint import CHUNK_SECONDS, SAMPLE_RATE

WINDOW = 400
HOP = 160


def mel_filters(mels: int, bins: int = WINDOW // 2 + 1, rate: int = SAMPLE_RATE) -> Tensor:
    """Slaney mel filter bank, float32 `[mels, bins]`."""
    knee, step = 1000.0, 200.0 / 3
    log_step = math.log(6.4) / 27

    def to_hertz(mel: Tensor) -> Tensor:
        linear = mel * step
        above = knee * torch.exp(log_step * (mel - knee / step))
        return torch.where(mel < knee / step, linear, above)

    top = knee / step + math.log(rate / 2 / knee) / log_step
    edges = to_hertz(torch.linspace(0, top, mels + 2, dtype=torch.float64))
    frequencies = torch.linspace(0, rate / 2, bins, dtype=torch.float64)
    slopes = edges[:, None] - frequencies[None, :]
    widths = edges.diff()
    rising = -slopes[:-2] / widths[:-1, None]
    falling = slopes[2:] / widths[1:, None]
    triangles = torch.minimum(rising, falling).clamp(min=0)
    return (triangles * (2.0 / (edges[2:] - edges[:-2]))[:, None]).float()


class LogMel(nn.Module):
    """Log-mel features of the first frames of one clip.

    Frames past the end of the samples have the value of digital silence, as if the clip had been
    padded to 30 s, but are not computed.
    """

    window_length: Final[int] = WINDOW
    hop: Final[int] = HOP
    chunk: Final[int] = SAMPLE_RATE * CHUNK_SECONDS

    def __init__(self, mels: int) -> None:
        super().__init__()
        self.register_buffer("filters", mel_filters(mels))
        self.register_buffer("window", torch.hann_window(WINDOW))

    def forward(self, samples: Tensor, frames: int) -> tuple[Tensor, float]:
        """Features of one clip.

        Args:
            samples: float32 `[n]`, 16 kHz.
            frames: number of frames of 10 ms to return.

        Returns:
            Features float32 `[frames, mels]`, clipped 8 decades below the loudest and scaled,
            and the value that digital silence has on that scale.
        """
        # A window centred on frame i reaches 200 samples past it: frames later than
        # (n + 200) / 160 see zeros only.
        computed = min(frames, (samples.shape[0] + self.window_length // 2) // self.hop + 1)
        padded = torch.zeros(computed * self.hop + self.window_length // 2)
        count = min(samples.shape[0], padded.shape[0])
        padded[:count] = samples[:count]
        # Centring reflects both ends of the 30 s; an earlier end is followed by real zeros.
        start = padded[1 : self.window_length // 2 + 1].flip(0)
        if computed * self.hop == self.chunk:
            end = padded[
                computed * self.hop - self.window_length // 2 - 1 : computed * self.hop - 1
            ].flip(0)
            padded = torch.cat([start, padded[: computed * self.hop], end])
        else:
            padded = torch.cat([start, padded])
        spectrum = torch.stft(
            padded,
            self.window_length,
            self.hop,
            window=self.window,
            center=False,
            return_complex=True,
        )
        parts = torch.view_as_real(spectrum[:, :computed])
        power = parts[:, :, 0].square() + parts[:, :, 1].square()
        decades = torch.matmul(self.filters, power).clamp(min=1e-10).log10()
        floor = decades.max() - 8.0
        features = (torch.maximum(decades, floor) + 4.0) / 4.0
        silence = (max(-10.0, float(floor)) + 4.0) / 4.0
        if computed < frames:
            rest = torch.full((features.shape[0], frames - computed), silence)
            features = torch.cat([features, rest], dim=1)
        return features.t(), silence
