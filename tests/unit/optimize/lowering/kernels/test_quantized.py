import torch

from optimize.lowering.kernels import quantized
from optimize.lowering.qparams import QParams


def test_joined_tensors_have_one_scale_scripted_too() -> None:
    """A network that chooses between kernels is scripted, and so is what joins in it."""
    values = [torch.tensor([[0.0, 0.5, 1.0]]), torch.tensor([[2.0, 1.5]])]
    parts = [torch.quantize_per_tensor(v, 2 / 255, 0, torch.quint8) for v in values]
    join = quantized.Concatenate(1, QParams.covering(0.0, 2.0))
    expected = torch.cat(values, 1)
    for joined in (join(parts), torch.jit.script(join)(parts)):
        assert (joined.dequantize() - expected).abs().max() <= 2 / 255
