"""Bookkeeping of convolutional networks: which inputs an output depends on, and clips computed one by one."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from vocable.synthesis.layers import ConvNeXtBlock


def span_before(network: nn.Module, first: int, last: int) -> tuple[int, int]:
    """Return the first and last input position that the outputs `first` to `last` of a network depend on.

    Counts every convolution, transposed convolution and ConvNeXt block of the network, in the order in which they are
    registered; all else is taken to work position by position. Branches beside a residual sum belong in that order too:
    the sum depends on no more than they do.
    """
    for module in reversed(list(network.modules())):
        if isinstance(module, ConvNeXtBlock):  # pads outside its convolution, which has been counted
            first, last = first - module.pad[0], last - module.pad[0]
        elif isinstance(module, nn.ConvTranspose1d):
            (stride,), (padding,), (kernel,) = module.stride, module.padding, module.kernel_size
            assert isinstance(padding, int)
            first, last = -(-(first + padding - kernel + 1) // stride), (last + padding) // stride
        elif isinstance(module, nn.Conv1d):
            (stride,), (dilation,), (kernel,) = module.stride, module.dilation, module.kernel_size
            padding = module.padding[0]
            assert isinstance(padding, int)
            first, last = first * stride - padding, last * stride - padding + dilation * (kernel - 1)
    return first, last


def one_by_one(network: Callable[[Tensor], Tensor], clips: Tensor) -> Tensor:
    """Run a network on each clip of a batch by itself, so that its result is the same to the bit in every batch."""
    if len(clips) == 1:
        return network(clips.clone())  # fresh memory: some kernels round by alignment
    return torch.cat([network(clip[None].clone()) for clip in clips])
