"""Let several processes of one `torch.distributed` group agree on a value; without a group, everything is a no-op."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch.distributed as dist
from torch import Tensor

from vocable.errors import VocableError

T = TypeVar("T")


class Attempt(NamedTuple):
    """A value, or the error that stands in its way: so that one process's error reaches all, and none waits forever."""

    value: Any
    error: VocableError | None


def num_processes() -> int:
    """Size of the process group; 1 without one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's place in the group; 0 without one."""
    return dist.get_rank() if num_processes() > 1 else 0


def attempt(function: Callable[[], Any]) -> Attempt:
    """Call `function`, keeping an error that a user can cause."""
    try:
        return Attempt(function(), None)
    except VocableError as error:
        return Attempt(None, error)


def decide(share: Attempt, choose: Callable[[list[Any]], T]) -> T:
    """Hand every process's share to the first one, which chooses; all get its choice, or all raise the error."""
    shares: list[Attempt] = [share]
    if num_processes() > 1:
        shares = [share] * num_processes()
        dist.gather_object(share, shares if rank() == 0 else None, dst=0)
    decision = Attempt(None, None)
    if rank() == 0:
        error = next((other.error for other in shares if other.error is not None), None)
        decision = Attempt(None, error) if error else attempt(lambda: choose([other.value for other in shares]))
    if num_processes() > 1:
        box = [decision]
        dist.broadcast_object_list(box, src=0)
        decision = box[0]
    if decision.error is not None:
        raise decision.error
    return decision.value


def add_up(tensor: Tensor) -> Tensor:
    """Add a tensor over all processes."""
    return _through_group(tensor, dist.all_reduce)


def from_first(tensor: Tensor) -> Tensor:
    """Return the first process's tensor."""
    return _through_group(tensor, lambda moved: dist.broadcast(moved, src=0))


def _through_group(tensor: Tensor, exchange: Callable[[Tensor], Any]) -> Tensor:
    if num_processes() == 1:
        return tensor
    moved = tensor if dist.get_backend() == "nccl" else tensor.cpu()
    moved = moved.contiguous()
    exchange(moved)
    return moved.to(tensor.device)
