"""A network on several processes (torchrun): what each one computes, and how they speak with one another.

The global batch is cut into rows, and every process weighs its loss by its share of them, so that gradients and losses
are those of one process whatever their number. Data parallel by `DistributedDataParallel`, or spread by
`mmdit.parallel`, whose tensor and context parallel processes share their rows.

Gradients and weights go over NCCL on GPUs. What the host has to know goes over gloo on any device: it notices at once
that another process has ended, where NCCL would wait.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mmdit.config import build
from mmdit.options import ModelOptions
from mmdit_cli.errors import CheckFailed, UserError
from mmdit_cli.model_parts.tensor_bytes import local
from mmdit_cli.request.spreading import read_spreading

if TYPE_CHECKING:
    from mmdit.parallel.cuts import Cut

T = TypeVar("T")
Sizes = tuple[int, ...]
PATIENCE = timedelta(minutes=10)  # for a process that does not answer
BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}


class Group:
    """One process alone; also what several have in common.

    Attributes:
        rank, size: this process's number, and how many there are.
        main: whether this is the one that writes and prints.
        place: which part of a batch this process computes, of how many.
    """

    rank, size = 0, 1

    @property
    def main(self) -> bool:
        return self.rank == 0

    @property
    def place(self) -> tuple[int, int]:
        return self.rank, self.size

    def rows(self, batch: int) -> slice:
        """This process's rows of a batch. The parts differ by one at most."""
        part, parts = self.place
        return slice(part * batch // parts, (part + 1) * batch // parts)

    def share(self, batch: int) -> float:
        """This process's share of a batch."""
        rows = self.rows(batch)
        return (rows.stop - rows.start) / batch

    @property
    def sharded(self) -> bool:
        """Whether a process has a part of the weights alone."""
        return False

    @property
    def parallel(self) -> str:
        """How the processes are spread, as a user says it; empty where it is data parallel alone."""
        return ""

    def check(self, config: ModelOptions) -> None:
        """Raises UserError where a network can't be spread as was asked for."""

    def shard(self, model: nn.Module, *, param_dtype: torch.dtype | None = None) -> None:
        """Keep a part of each weight, where weights are sharded. `param_dtype`: see `mmdit.parallel.parallelize`."""

    def cuts(self, model: nn.Module) -> Mapping[str, Cut]:
        """How each weight is cut by heads, where weights are; what `whole` and `fill` have to know."""
        return {}

    def network(self, model: nn.Module, some_unused: Callable[[], bool]) -> nn.Module:
        """What is called in the model's place, so that gradients come out averaged over the processes. `some_unused`
        says whether a weight gets no gradient in this process."""
        return model

    def total(self, x: Tensor) -> Tensor:
        """The sum over all parts of the batch."""
        return x

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process."""
        return flag

    def gathered(self, own: T) -> list[T]:
        """What every process has of it, by rank."""
        return [own]

    def first_text(self, text: str | None) -> str | None:
        """The text of the first process that has one."""
        return text

    def on_main(self, make: Callable[[], T]) -> T:
        """What the main process makes of it; a UserError or OSError of its is one in every process."""
        return make()

    def full(self, model: nn.Module) -> nn.Module:
        """A model with whole weights, to be called in the main process alone; every process has to ask."""
        return model

    def wait(self) -> None:
        """Until all are here."""

    def broken_by(self, error: RuntimeError) -> bool:
        """Whether this is what a collective raises when another process has ended."""
        return False


ALONE = Group()


class Processes(Group):
    """One of several processes, spread as `asked` (`fsdp`, `tp=2`, ...). `layout`: the sizes of a `MeshLayout`.

    Raises:
        UserError: the processes do not divide so.
    """

    def __init__(self, asked: str, device: torch.device) -> None:
        self.device, self.spreading = device, read_spreading(asked)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.mesh, self._place = None, (self.rank, self.size)
        self.layout = self.spreading.over(self.size, _machines(self.size))
        if not self.spreading.is_plain:
            from mmdit.parallel import MeshLayout, data_place

            self.mesh = MeshLayout(**self.layout).mesh(device.type)
            self._place = data_place(self.mesh)

    @property
    def place(self) -> tuple[int, int]:
        return self._place

    @property
    def sharded(self) -> bool:
        return self.mesh is not None

    @property
    def parallel(self) -> str:
        return "" if self.spreading.is_plain else self.spreading.text

    def check(self, config: ModelOptions) -> None:
        if self.mesh is not None:
            from mmdit.parallel.parallelize import check_layout

            with torch.device("meta"):
                model = build(config)
            with self._naming_the_flag():
                check_layout(model, self.mesh)

    def shard(self, model: nn.Module, *, param_dtype: torch.dtype | None = None) -> None:
        if self.mesh is not None:
            from mmdit.parallel import parallelize

            with self._naming_the_flag():
                parallelize(model, self.mesh, param_dtype=param_dtype)

    def cuts(self, model: nn.Module) -> Mapping[str, Cut]:
        if self.mesh is None:
            return {}
        from mmdit.parallel.whole_weights import cuts_by_name

        return cuts_by_name(model)

    def network(self, model: nn.Module, some_unused: Callable[[], bool]) -> nn.Module:
        if self.mesh is not None:
            return model
        from torch.nn.parallel import DistributedDataParallel

        # some designs keep weights that nothing reads, as checkpoints do; to look for those costs time in every step
        return DistributedDataParallel(model, find_unused_parameters=self.any(some_unused()))

    def total(self, x: Tensor) -> Tensor:
        host = x.to("cpu", copy=True)
        dist.all_reduce(host)
        return host.to(x.device) * (self.place[1] / self.size)  # as many processes share a part

    def any(self, flag: bool) -> bool:
        return bool(self.total(torch.tensor(float(flag))).item())

    def gathered(self, own: T) -> list[T]:
        each: list[Any] = [None] * self.size
        dist.all_gather_object(each, own)
        return each

    def first_text(self, text: str | None) -> str | None:
        return next((each for each in self.gathered(text) if each is not None), None)

    def on_main(self, make: Callable[[], T]) -> T:
        told: list[Any] = [None, None]
        if self.main:
            try:
                told[0] = make()
            except (UserError, OSError) as error:
                told[1] = error
        dist.broadcast_object_list(told, src=0)
        if told[1] is not None:
            raise told[1]
        return cast(T, told[0])

    def full(self, model: nn.Module) -> nn.Module:
        if self.mesh is None:
            return model
        from mmdit.parallel import whole_state

        state, config = whole_state(model, keep=self.main), cast(ModelOptions, model.config)
        if not self.main:  # where nobody calls it
            with torch.device("meta"):
                return build(config)
        plain = build(config).to(self.device)
        plain.load_state_dict(state)
        return plain

    def wait(self) -> None:
        self.any(False)  # a barrier would take NCCL, and wait there for a process that has ended

    def broken_by(self, error: RuntimeError) -> bool:
        return is_of_collective(error)

    @contextmanager
    def _naming_the_flag(self) -> Iterator[None]:
        try:
            yield
        except ValueError as problem:
            raise UserError(f"--parallel {self.spreading.text}: {problem}") from None


def is_of_collective(error: RuntimeError) -> bool:
    """Whether the processes could not speak with one another; gloo's errors are plain RuntimeErrors."""
    signs = ("gloo", "Connection", "Broken pipe", "NCCL")
    return isinstance(error, dist.DistError) or any(sign in str(error) for sign in signs)


def whole(x: Tensor, cut: Cut | None = None) -> Tensor:
    """A tensor with all its parts; where it is sharded, every process has to ask. `cut`: that of its weight."""
    if not hasattr(x, "full_tensor"):
        return x
    from mmdit.parallel import whole_weights

    return whole_weights.whole(x, cut)


def fill(target: Tensor, box: Callable[[Sizes, Sizes], Tensor], cut: Cut | None = None) -> None:
    """Copy into a tensor that may be sharded what this process holds of it. `box`: makes a part of the whole one, from
    where it begins and its shape."""
    with torch.no_grad():
        if not hasattr(target, "full_tensor"):
            target.detach().copy_(box((0,) * target.ndim, tuple(target.shape)))
            return
        from mmdit.parallel.own_pieces import own_pieces

        for piece in own_pieces(target, cut):
            local(target.detach())[piece.place].copy_(box(piece.start, piece.shape))


def _number(name: str, default: int) -> int:
    """A number of torchrun's environment. Raises UserError where it is none."""
    text = os.environ.get(name) or str(default)
    if not (text.isascii() and text.isdecimal()):
        raise UserError(f"{name}={text!r} in the environment: expected a number, as torchrun sets it; else unset it")
    return int(text)


def _machines(size: int) -> int:
    """Of so many processes, by torchrun's environment."""
    here = _number("LOCAL_WORLD_SIZE", size)
    return size // here if here and size % here == 0 else 1


@contextmanager
def processes(device: torch.device, asked: str) -> Iterator[tuple[Group, torch.device]]:
    """This process's group, spread as `asked`, and its device: those of torchrun's environment, or alone where there is
    none.

    Raises:
        UserError: there are fewer CUDA devices than processes on this machine, or the environment is not torchrun's; or
            the processes can't be arranged as asked.
    """
    size, spreading = _number("WORLD_SIZE", 1), read_spreading(asked)
    if size > 1 or spreading.tensor * spreading.context > 1:
        spreading.over(size, _machines(size))
    if size == 1:
        yield ALONE, device
        return
    if device.type == "cuda":
        local_rank = _number("LOCAL_RANK", 0)
        # all of the machine's processes find it, for the first one is to say so
        if max(local_rank + 1, _number("LOCAL_WORLD_SIZE", 1)) > torch.cuda.device_count():
            raise UserError(
                f"--device cuda: {torch.cuda.device_count()} devices are fewer than the processes of this machine; "
                "start fewer by torchrun --nproc-per-node"
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    _meet(device)
    try:
        yield Processes(asked, device), device
    except BaseException as problem:
        _leave(device)
        if isinstance(problem, RuntimeError) and is_of_collective(problem):
            raise CheckFailed("another process of this run has ended; start all of them again") from None
        raise
    dist.destroy_process_group()


def _meet(device: torch.device) -> None:
    """Make the group of all processes.

    Raises:
        UserError: they do not find one another.
    """
    on_gpu = device.type == "cuda"
    # that gathering a weight along two dimensions takes two steps is no news to a user
    logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")  # which nobody changes
    if on_gpu:  # of a collective that breaks or takes too long, NCCL would end the process without a word of ours
        os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "2")  # end the collective; gloo then says why
    try:
        dist.init_process_group(BACKENDS[device.type], timeout=PATIENCE, device_id=device if on_gpu else None)
    except (RuntimeError, ValueError) as problem:  # a ValueError: a variable of the environment is missing
        why = str(problem).strip().splitlines()[0]
        raise UserError(f"the processes of this run did not find one another ({why}); start them by torchrun") from None


def _leave(device: torch.device) -> None:
    """Leave the group after an error, without waiting for what another process may never join."""
    abort = getattr(dist.distributed_c10d, "_abort_process_group", None)
    if device.type == "cuda" and abort is not None:
        abort()
    else:
        dist.destroy_process_group()
