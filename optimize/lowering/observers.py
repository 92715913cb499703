"""Activation ranges from calibration data: by default the clip that loses least in squared
error."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, fx

from optimize.lowering.blame import blamed
from optimize.lowering.graphs import layer_name
from optimize.lowering.inputs import Inputs, as_tuple
from optimize.lowering.passes.unpad import Packing
from optimize.lowering.qparams import EPS, QParams

_BINS = 2048
_SAMPLE = 1 << 20
_STEPS = 24

# mse: the clip of least squared error; entropy: of least Kullback-Leibler divergence (Migacz
# 2017, "8-bit Inference with TensorRT"); minmax: all of the observed range.
Ranges = Literal["mse", "entropy", "minmax"]


@dataclass
class Histogram:
    """Range of one tensor over all batches, then its histogram over that range."""

    low: float = float("inf")
    high: float = float("-inf")
    counts: Tensor = field(default_factory=lambda: torch.zeros(_BINS))

    def widen(self, x: Tensor) -> None:
        low, high = torch.aminmax(x)
        self.low, self.high = min(self.low, low.item()), max(self.high, high.item())

    def count(self, x: Tensor) -> None:
        flat = x.detach().reshape(-1)
        flat = flat[:: max(1, flat.numel() // _SAMPLE)]
        self.counts += torch.histc(flat, _BINS, min=self.low, max=max(self.high, self.low + EPS))

    def chosen(self, method: Ranges) -> QParams:
        """The range by one of the methods."""
        if method == "minmax":
            return QParams.covering(self.low, self.high)
        return self.entropy() if method == "entropy" else self.best()

    def entropy(self) -> QParams:
        """Search clipped ranges for the least divergence of the quantized distribution.

        Both ends are clipped by one factor; what lies beyond is counted at the ends.
        """
        best, least = QParams.covering(self.low, self.high), float("inf")
        width = max(self.high - self.low, EPS) / _BINS
        centres = self.low + (torch.arange(_BINS) + 0.5) * width
        counts = self.counts.double()
        # Zero is held exactly, and ReLU makes it so common that it would hide all the rest.
        zero = min(_BINS - 1, max(0, int(-self.low / width)))
        counts[zero] = counts[max(0, zero - 1) : zero + 2].min()
        for shrink in (1.0 - 0.9 * step / (4 * _STEPS) for step in range(4 * _STEPS)):
            candidate = QParams.covering(self.low * shrink, self.high * shrink)
            stored = ((centres / candidate.scale).round() + candidate.zero_point).long()
            inside = (stored >= 0) & (stored <= 255)
            stored = stored.clamp(0, 255)
            clipped = torch.zeros(256, dtype=torch.float64)
            clipped.index_add_(0, stored[~inside], counts[~inside])
            # P: inside bins as they are, the clipped mass in the outermost inside bin.
            p = torch.where(inside, counts, 0.0)
            bins = inside.nonzero().flatten()
            p[bins[0]] += clipped[0]
            p[bins[-1]] += clipped[255]
            # Q: the mass of each step spread evenly over its nonempty bins.
            filled = inside & (counts > 0)
            mass = torch.zeros(256, dtype=torch.float64)
            mass.index_add_(0, stored[filled], counts[filled])
            number = torch.zeros(256, dtype=torch.float64)
            number.index_add_(0, stored[filled], torch.ones_like(counts[filled]))
            q = torch.where(filled, (mass / number.clamp(min=1))[stored], 0.0)
            p, q = p / p.sum(), q / q.sum().clamp(min=1e-12)
            some = p > 0
            divergence = (p[some] * (p[some] / q[some].clamp(min=1e-12)).log()).sum().item()
            if divergence < least:
                best, least = candidate, divergence
        return best

    def best(self) -> QParams:
        """Search clipped ranges for the least mean squared error (rounding plus clipping).

        Both ends are shrunk independently on a grid, so a one-sided tensor (after ReLU) keeps
        its zero end and a clamped one never reaches beyond its clamp.
        """
        width = max(self.high - self.low, EPS) / _BINS
        centres = self.low + (torch.arange(_BINS) + 0.5) * width
        best, least = QParams.covering(self.low, self.high), float("inf")
        shrink = [1.0 - 0.7 * (step / _STEPS) ** 1.5 for step in range(_STEPS)]
        for low in [self.low * s for s in shrink] if self.low < 0 else [0.0]:
            for high in [self.high * s for s in shrink] if self.high > 0 else [0.0]:
                candidate = QParams.covering(low, high)
                stored = (centres / candidate.scale).round() + candidate.zero_point
                back = (stored.clamp(0, 255) - candidate.zero_point) * candidate.scale
                # Inside the range the error is the rounding step's, whatever the bin width.
                error = (back - centres).square()
                inside = (stored >= 0) & (stored <= 255)
                error = torch.where(inside, candidate.scale**2 / 12.0, error)
                total = (error * self.counts).sum().item()
                if total < least:
                    best, least = candidate, total
        return best


class _Observing(fx.Interpreter):
    """Shows the values of some nodes to their histograms, padding left out."""

    def __init__(
        self,
        module: fx.GraphModule,
        histograms: dict[fx.Node, Histogram],
        packing: Packing | None,
        first: bool,
    ) -> None:
        super().__init__(module)
        self.histograms, self.packing, self.first = histograms, packing, first
        self.mask: Tensor | None = None
        self.extra_traceback = False  # errors are sentences already

    def run_node(self, n: fx.Node) -> Any:
        with blamed(layer_name(n), "fails on the calibration data"):
            result = super().run_node(n)
        if self.packing is not None and n is self.packing.mask:
            self.mask = result
        histogram = self.histograms.get(n)
        if histogram is not None:
            values = result
            if self.packing is not None and n in self.packing.nodes:
                assert self.mask is not None  # `find_packing` moved it to the front
                values = result[self.mask.reshape(result.shape[:2])]
            (histogram.widen if self.first else histogram.count)(values)
        return result


def calibrate(
    module: fx.GraphModule,
    nodes: Iterable[fx.Node],
    batches: Sequence[Inputs],
    method: Ranges = "mse",
    packing: Packing | None = None,
) -> dict[fx.Node, QParams]:
    """Run float `batches` through `module`; the uint8 parameters of each of `nodes`.

    Args:
        packing: where padding is left out, hence not to be observed.
    """
    histograms = {node: Histogram() for node in nodes}
    with torch.no_grad():
        for first in (True, False):
            for batch in batches:
                _Observing(module, histograms, packing, first).run(*as_tuple(batch))
    return {node: histogram.chosen(method) for node, histogram in histograms.items()}
