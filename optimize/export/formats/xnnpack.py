"""XNNPACK's quantizer for PT2E, treating a clamp as part of the layer before it."""

from typing import Any

_CLAMPS = ("aten.hardtanh.default", "aten.hardtanh_.default")


def clamped(quantizer: Any) -> Any:
    """Make a `torchao` quantizer observe layers after their ReLU6, not before it; returns it.

    ExecuTorch's `XNNPACKQuantizer` does so only for ReLU. A ReLU6 gets the scale of the layer
    before it: if a convolution's outputs range from -40 to 40, the values from 0 to 6 have only 19
    of 255 steps. XNNPACK runs both as one operator.
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
    """Move the output range from the layer to the clamp."""
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation
    from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

    annotation = layer.meta.get(Q_ANNOTATION_KEY)
    if annotation is not None and annotation.output_qspec is not None:
        clamp.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(
            output_qspec=annotation.output_qspec, _annotated=True
        )
        annotation.output_qspec = None
