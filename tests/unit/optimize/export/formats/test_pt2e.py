"""PT2E quantization: a table that is looked up and multiplied with is int8 in both places."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from optimize.export.formats import pt2e


class Tied(nn.Module):
    """A token's row through one layer, then scored against every row."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(32, 200)
        self.inner = nn.Linear(32, 32)

    def forward(self, ids: Tensor) -> Tensor:
        scores: Tensor = self.head(self.inner(functional.embedding(ids, self.head.weight)))
        return scores


def test_a_tied_table_is_int8_and_its_float_copy_is_gone(needs: Callable[[str], None]) -> None:
    needs("aoti")
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    torch.manual_seed(0)
    module, ids = Tied().eval(), torch.randint(200, (6,))
    with torch.no_grad():
        module.head.weight[::2] *= 50  # rows of their own scale
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    with pt2e.quiet():
        found = pt2e.quantize(torch.export.export(module, (ids,)), quantizer, [(ids,)])
    kept = [*found.named_parameters(), *found.named_buffers()]
    large = [tensor.dtype for _, tensor in kept if tensor.numel() >= 200 * 32]
    assert large == [torch.int8, torch.int8]
    wanted = module(ids)
    assert (found(ids) - wanted).norm() < 0.05 * wanted.norm()
    rows = next(tensor for name, tensor in kept if name.endswith("rows"))
    scales = next(tensor for name, tensor in kept if name.endswith("scales"))
    error = (rows * scales - module.head.weight).abs() / module.head.weight.abs().amax(1)[:, None]
    assert error.max() < 0.5 / 127 + 1e-6
