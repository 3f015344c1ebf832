import copy
import errno
import math
import os
import pickle
from itertools import permutations
from multiprocessing.reduction import ForkingPickler
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cutmix_zoo.mixing import memory
from cutmix_zoo.mixing.memory import LARGE, Buffers, Output, empty_batch, empty_like

SMALL_SHAPE, LARGE_SHAPE = (4, 3, 6, 5), (8, 3, 420, 430)
DTYPES = [
    torch.bool,
    torch.uint8,
    torch.int16,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
    torch.complex128,
]
assert math.prod(SMALL_SHAPE) < LARGE < math.prod(LARGE_SHAPE)

shapes = pytest.mark.parametrize("shape", [SMALL_SHAPE, LARGE_SHAPE], ids=["small", "large"])


@pytest.fixture
def _worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "get_worker_info", lambda: SimpleNamespace(id=0))


def _fill(output: Output) -> Tensor:
    """Write through the array and return the tensor, which must be the same memory."""
    output.array[...] = np.arange(output.array.size).reshape(output.array.shape) % 251
    tensor = output.tensor()
    assert tensor.shape == output.array.shape
    assert tuple(stride * tensor.element_size() for stride in tensor.stride()) == output.array.strides
    assert np.array_equal(tensor.numpy(), output.array)
    output.array[-1, -1, -1, -1] = 0
    assert tensor[-1, -1, -1, -1] == 0
    return tensor


@shapes
@pytest.mark.parametrize("order", [(0, *order) for order in permutations((1, 2, 3))], ids=str)
def test_the_axes_of_a_batch_lie_in_memory_in_order(order: tuple[int, ...], shape: tuple[int, ...]) -> None:
    tensor = _fill(empty_batch(shape, order, np.uint8))
    assert tensor.permute(order).is_contiguous()
    assert not tensor.is_shared()


@shapes
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1)], ids=str)
@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "int64", "bool"])
@pytest.mark.usefixtures("_worker")
def test_in_a_worker_memory_is_shared(dtype: str, order: tuple[int, ...], shape: tuple[int, ...]) -> None:
    tensor = _fill(empty_batch(shape, order, dtype))
    assert tensor.is_shared()
    assert tensor.dtype == getattr(torch, dtype)
    assert tensor.permute(order).is_contiguous()


@pytest.mark.parametrize("strategy", ["file_descriptor", "file_system"])
@pytest.mark.usefixtures("_worker")
def test_the_pages_of_large_shared_memory_are_got_at_once(strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, real = [], memory._populated
    monkeypatch.setattr(memory, "_populated", lambda size: made.append(size) or real(size))
    monkeypatch.setattr(memory, "get_sharing_strategy", lambda: strategy)
    for shape in (SMALL_SHAPE, LARGE_SHAPE):
        empty_batch(shape, (0, 1, 2, 3), np.uint8)
    # the other strategy sends no open files
    assert made == ([math.prod(LARGE_SHAPE)] if strategy == "file_descriptor" else [])


def _refuse(*_: Any) -> int:
    raise OSError(errno.ENOSYS, "an old kernel")


@pytest.mark.parametrize("lack", ["no memfd_create", "refused memfd_create", "no madvise"])
@pytest.mark.usefixtures("_worker")
def test_systems_without_it_share_as_torch_does(lack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = _open_files()
    if lack == "no memfd_create":
        monkeypatch.delattr(os, "memfd_create", raising=False)
    elif lack == "refused memfd_create":
        monkeypatch.setattr(os, "memfd_create", _refuse, raising=False)
    else:
        monkeypatch.setattr(memory, "_POPULATE_WRITE", 12345)
    tensor = _fill(empty_batch(LARGE_SHAPE, (0, 2, 3, 1), np.uint8))
    assert tensor.is_shared()
    del tensor
    assert _open_files() == opened


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0  # noqa: PTH208, PTH112


@pytest.mark.usefixtures("_worker")
def test_no_file_stays_open() -> None:
    opened = _open_files()
    for _ in range(5):
        tensor = _fill(empty_batch(LARGE_SHAPE, (0, 1, 2, 3), np.uint8))
        del tensor
    assert _open_files() == opened


@pytest.mark.usefixtures("_worker")
def test_memory_stays_while_either_side_is_used() -> None:
    output = empty_batch(LARGE_SHAPE, (0, 1, 2, 3), np.uint8)
    array = output.array
    array[...] = 7
    del output
    assert (array == 7).all()
    output = empty_batch(LARGE_SHAPE, (0, 1, 2, 3), np.uint8)
    output.array[...] = 8
    tensor = output.tensor()
    del output
    assert bool((tensor == 8).all())


@pytest.mark.usefixtures("_worker")
def test_a_batch_without_a_byte() -> None:
    assert empty_batch((0, 3, 4, 5), (0, 1, 2, 3), np.uint8).tensor().shape == (0, 3, 4, 5)


class _Batches(Dataset):
    """Whole batches, written in the worker; the numbers of the second one differ."""

    def __init__(self, shape: tuple[int, ...], buffers: Buffers | None = None) -> None:
        self.shape, self.buffers = shape, buffers

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Tensor:
        allocate = empty_batch if self.buffers is None else self.buffers.next
        output = allocate(self.shape, (0, 2, 3, 1), np.uint8)
        output.array[...] = _numbers(self.shape, index)
        assert output.tensor().is_shared()
        return output.tensor()


def _numbers(shape: tuple[int, ...], index: int) -> np.ndarray:
    return (np.arange(math.prod(shape)).reshape(shape) + index) % 251


@shapes
@pytest.mark.parametrize("buffers", [None, Buffers(2)], ids=["fresh", "buffers"])
def test_batches_travel_from_a_worker(buffers: Buffers | None, shape: tuple[int, ...]) -> None:
    if buffers is not None:
        buffers.next(shape, (0, 2, 3, 1), np.uint8)  # the parent's, which the worker must not take for its own
    loader = DataLoader(_Batches(shape, buffers), batch_size=None, num_workers=1)
    for index, batch in enumerate(loader):
        assert batch.is_contiguous(memory_format=torch.channels_last)
        assert np.array_equal(batch.numpy(), _numbers(shape, index))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("large", [True, False])
def test_empty_like_keeps_dtype_and_layout(large: bool, dtype: torch.dtype) -> None:
    height = math.ceil(LARGE / (2 * 3 * 64) / dtype.itemsize) if large else 4
    images = torch.zeros(2, 3, height, 64, dtype=dtype)
    assert (images.nbytes >= LARGE) == large
    for batch in (
        images,
        images.contiguous(memory_format=torch.channels_last),
        images.permute(0, 3, 1, 2),
        images[:1].expand(2, 3, height, 64),
        images.new_zeros(2, 3, height, 65)[..., :64],
    ):
        empty, expected = empty_like(batch), torch.empty_like(batch)
        assert (empty.dtype, empty.shape, empty.stride()) == (dtype, batch.shape, expected.stride())
        empty.copy_(torch.ones_like(batch))
        assert bool((empty == 1).all())


def test_empty_like_of_clips() -> None:
    frames_inside = torch.zeros(2, 3, 8, 420, 430, dtype=torch.uint8)
    clips = frames_inside.contiguous(memory_format=torch.channels_last_3d).transpose(1, 2)
    assert empty_like(clips).stride() == clips.stride()


LAYOUT: Any = ((2, 3, 4, 5), (0, 1, 2, 3), np.uint8)


def _address(output: Output) -> int:
    return output.array.__array_interface__["data"][0]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_buffers_are_handed_out_in_turn(count: int) -> None:
    buffers = Buffers(count)
    addresses = [_address(buffers.next(*LAYOUT)) for _ in range(3 * count)]
    assert len(set(addresses)) == count
    assert addresses == addresses[:count] * 3


def test_a_buffer_is_allocated_when_it_is_first_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    made, real = [], memory.empty_batch
    monkeypatch.setattr(memory, "empty_batch", lambda *layout: made.append(layout) or real(*layout))
    shape, order, dtype = LAYOUT
    buffers = Buffers(3)
    counts = []
    for size in (2, 2, 1, 2, 2, 1):
        buffers.next((size, *shape[1:]), order, dtype)
        counts.append(len(made))
    assert counts == [1, 2, 3, 4, 4, 5]


def test_layouts_have_buffers_of_their_own() -> None:
    shape, order, dtype = LAYOUT
    buffers = Buffers(1)
    layouts: list[Any] = [
        LAYOUT,
        (shape, (0, 2, 3, 1), dtype),
        (shape, order, np.int8),
        ((1, *shape[1:]), order, dtype),
    ]
    outputs = [buffers.next(*layout) for layout in layouts]
    for output, (size, axes, kind) in zip(outputs, layouts, strict=True):
        assert output.array.shape == size
        assert output.array.dtype == kind
        assert output.tensor().permute(axes).is_contiguous()
    assert len({_address(output) for output in outputs}) == 4
    # however the same layout is written
    assert _address(buffers.next(list(shape), list(order), "uint8")) == _address(outputs[0])


def test_another_process_gets_buffers_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    buffers = Buffers(1)
    first = buffers.next(*LAYOUT)
    parent = os.getpid()
    monkeypatch.setattr(memory.os, "getpid", lambda: parent + 1)
    second = buffers.next(*LAYOUT)
    assert _address(second) != _address(first)
    assert _address(buffers.next(*LAYOUT)) == _address(second)


def test_buffers_pickle_without_their_memory() -> None:
    buffers = Buffers(2)
    large = buffers.next(LARGE_SHAPE, (0, 1, 2, 3), np.uint8)
    pickled = pickle.dumps(buffers)
    assert len(pickled) < 1000
    copy = pickle.loads(pickled)
    outputs = [copy.next(*LAYOUT) for _ in range(3)]
    assert [_address(output) == _address(outputs[0]) for output in outputs] == [True, False, True]
    assert _address(copy.next(LARGE_SHAPE, (0, 1, 2, 3), np.uint8)) != _address(large)


class _Values(Dataset):
    """Says how a tensor travelled: what arrives, and whether it was in shared memory."""

    def __init__(self, dtype: torch.dtype, size: int) -> None:
        self.dtype, self.size = dtype, size

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Tensor:
        return torch.full((self.size,), float(index)).to(self.dtype)


def _first_by_value(samples: list[Tensor]) -> Tensor:
    return memory.by_value(samples[0])


@pytest.mark.parametrize(
    ("dtype", "size", "shared"),
    [(torch.float32, 100, False), (torch.int64, 7, False), (torch.bfloat16, 100, True), (torch.float32, 1 << 17, True)],
)
def test_small_tensors_travel_by_value(dtype: torch.dtype, size: int, shared: bool) -> None:
    loader = DataLoader(_Values(dtype, size), batch_size=1, num_workers=1, collate_fn=_first_by_value)
    for index, tensor in enumerate(loader):
        assert type(tensor) is Tensor
        assert tensor.is_shared() == shared
        assert torch.equal(tensor, torch.full((size,), float(index)).to(dtype))


@pytest.mark.usefixtures("_worker")
def test_what_is_computed_from_a_small_tensor_is_a_plain_one() -> None:
    sent = memory.by_value(torch.tensor([1.0, 2.0, 3.0]))
    assert type(sent) is not Tensor
    for value in (sent.bfloat16(), sent[:2], sent + 1, sent.clone(), torch.stack([sent, sent]), copy.deepcopy(sent)):
        assert type(value) is Tensor
        assert torch.equal(pickle.loads(ForkingPickler.dumps(value)), value)
    copied = copy.deepcopy(sent)
    copied += 1
    assert sent.tolist() == [1.0, 2.0, 3.0]


def _as_bfloat16(samples: list[Tensor]) -> Tensor:
    return memory.by_value(samples[0]).bfloat16()


def test_small_tensors_may_change_their_dtype_in_the_worker() -> None:
    # an error of the thread that sends would leave the loader waiting for ever
    loader = DataLoader(_Values(torch.float32, 7), batch_size=1, num_workers=1, collate_fn=_as_bfloat16, timeout=60)
    for index, tensor in enumerate(loader):
        assert torch.equal(tensor, torch.full((7,), float(index)).bfloat16())


@pytest.mark.usefixtures("_worker")
def test_on_an_accelerator_a_tensor_stays_as_it_is() -> None:
    tensor = torch.zeros(3, device="meta")
    assert memory.by_value(tensor) is tensor


def test_outside_a_worker_a_tensor_stays_as_it_is() -> None:
    tensor = torch.zeros(3)
    assert memory.by_value(tensor) is tensor
