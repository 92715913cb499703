"""XNNPACK's quantizer for PT2E, with clamps as part of the layer before them."""

from typing import Any

_CLAMPS = ("aten.hardtanh.default", "aten.hardtanh_.default")


def clamped(quantizer: Any) -> Any:
    """A `torchao` quantizer that from now on observes a layer behind its ReLU6, not before it.

    ExecuTorch's `XNNPACKQuantizer` does that for ReLU alone. It gives a ReLU6 the scale of the
    layer before it: where a convolution answers -40 to 40, what lies in 0 to 6 has 19 of 255
    steps. XNNPACK runs both as one operator.
    """
    plain = quantizer.annotate

    def annotate(model: Any) -> Any:
        plain(model)
        for node in model.graph.nodes:
            if str(node.target) in _CLAMPS and len(node.args[0].users) == 1:
                _hand_over(node.args[0], node)
        return model

    quantizer.annotate = annotate
    return quantizer


def _hand_over(layer: Any, clamp: Any) -> None:
    """Let the clamp's answer have the range that the layer's would."""
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation
    from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

    found = layer.meta.get(Q_ANNOTATION_KEY)
    if found is not None and found.output_qspec is not None:
        clamp.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(
            output_qspec=found.output_qspec, _annotated=True
        )
        found.output_qspec = None
