"""Data-parallel training: the processes `torchrun` started, and how they agree.

Every process runs every stage on its share of each batch; rank 0 decides, writes and speaks.
Without `torchrun` there is one process and every function here is a plain no-op.
"""

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import cloudpickle
import torch
import torch.distributed as dist
from torch import Tensor, nn


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def leads() -> bool:
    """Whether this process writes files and prints."""
    return rank() == 0


@contextmanager
def joined() -> Iterator[None]:
    """Join the group of processes that `torchrun` set up; leave it afterwards.

    gloo carries tensors in main memory, NCCL those on GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or "RANK" not in os.environ:
        yield
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def device() -> torch.device:
    """Where to train: this process's GPU if there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def agreed(value: Any) -> Any:
    """Rank 0's `value`, in every process. Modules and tensors travel as well."""
    if world() == 1:
        return value
    buffer = io.BytesIO()
    if leads():
        torch.save(value, buffer, pickle_module=cloudpickle)
    sent = [buffer.getvalue()]
    dist.broadcast_object_list(sent, src=0)
    if leads():
        return value
    return torch.load(io.BytesIO(sent[0]), map_location="cpu", weights_only=False)


def share(index: Tensor) -> Tensor:
    """This process's part of a batch `[N]`: contiguous, sizes differ by one at most.

    A batch of fewer items than there are processes goes to each of them whole, so that none is
    without.
    """
    return index.tensor_split(world())[rank()] if len(index) >= world() else index


def weight(count: int) -> float:
    """What a mean over this process's `count` items is to be multiplied by, so that the average
    over the processes is the mean over all their items."""
    return 1.0 if world() == 1 else count / mean(torch.tensor(float(count)))


def gathered(function: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """`function(inputs)`, each process computing its share of the rows."""
    if world() == 1:
        return function(inputs)
    parts: list[Any] = [None] * world()
    dist.all_gather_object(parts, function(inputs.tensor_split(world())[rank()]))
    return torch.cat(parts)


def merge(tensors: list[Tensor]) -> None:
    """Add up, in place and in every process, tensors that each process filled in part, the rest
    being zero."""
    for tensor in tensors if world() > 1 else []:
        dist.all_reduce(tensor)


def averaged(tensor: Tensor) -> Tensor:
    """The mean of a tensor over all processes, without gradients."""
    if world() == 1:
        return tensor
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total / world()


def mean(value: Tensor) -> float:
    """The mean of a scalar over all processes."""
    return averaged(value.detach().float()).item()


class _SyncedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation over the whole batch, not this process's share.

    `nn.SyncBatchNorm` does so on GPUs only; this one runs wherever the group does.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        return

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        x = input.float()
        axes = [axis for axis in range(x.dim()) if axis != 1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        count = torch.tensor([x.numel() / x.shape[1]], device=x.device)
        totals = _summed(torch.cat([x.sum(axes), count]))
        number = totals[-1].item()
        average = totals[:-1] / number
        centred = x - average.view(shape)
        variance = _summed(centred.square().sum(axes)) / number
        if self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked += 1
            step = self.momentum or 1.0 / float(self.num_batches_tracked)
            with torch.no_grad():
                unbiased = variance * (number / max(1.0, number - 1))
                self.running_mean.lerp_(average, step)
                self.running_var.lerp_(unbiased, step)
        result = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            result = result * self.weight.view(shape) + self.bias.view(shape)
        return result.to(input.dtype)


def _summed(tensor: Tensor) -> Tensor:
    """The sum over all processes; gradients that come back are summed likewise."""
    # Where torch's notice of deprecation sends users of torch.distributed.nn.functional.
    from torch.distributed._functional_collectives import all_reduce

    group = dist.group.WORLD
    assert group is not None
    total: Tensor = all_reduce(tensor, "sum", group)
    return total


@contextmanager
def parallel(model: nn.Module) -> Iterator[nn.Module]:
    """`model` as its processes train it together: gradients averaged, batch norm over all.

    Within the block train what is yielded; `model` shares its parameters.
    """
    if world() == 1:
        yield model
        return
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    classes = [type(m) for m in norms]
    for module in norms:
        module.__class__ = _SyncedBatchNorm
    try:
        yield nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)
    finally:
        for module, kind in zip(norms, classes, strict=True):
            module.__class__ = kind
