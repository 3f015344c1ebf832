from collections.abc import Sequence
from itertools import permutations
from typing import Any

import numpy as np
import pytest

from cutmix_zoo.mixing.rows import batch_order, blocks, empty_in_order, gather, stack

SHAPE = (6, 3, 4, 5)
ROWS: list[Sequence[int]] = [range(6), range(2, 5), range(0), range(1, 6, 2), [4, 0, 2], [3], []]
ORDERS = [(0, *order) for order in permutations((1, 2, 3))]


def _batch(order: Sequence[int] = (0, 1, 2, 3)) -> np.ndarray:
    """Numbers that all differ, whose axes lie in memory in this order."""
    batch = empty_in_order(SHAPE, order, np.int32)
    batch[...] = np.arange(batch.size).reshape(SHAPE)
    return batch


@pytest.mark.parametrize("order", list(permutations(range(4))), ids=str)
def test_axes_lie_in_memory_in_order(order: Sequence[int]) -> None:
    array = empty_in_order(SHAPE, order, np.int16)
    assert array.shape == SHAPE
    assert array.dtype == np.int16
    strides, size = {}, array.itemsize
    for axis in reversed(order):
        strides[axis] = size
        size *= SHAPE[axis]
    assert array.strides == tuple(strides[axis] for axis in range(4))


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_the_order_of_a_sample_is_found(order: Sequence[int]) -> None:
    batch = _batch(order)
    assert batch_order(batch[0]) == order
    # cropped, flipped and padded alike
    assert batch_order(batch[0, :, 1:3, 1:]) == order
    assert batch_order(batch[0, ::-1, ::-1, ::-1]) == order


def test_the_order_of_samples_of_other_axes() -> None:
    assert batch_order(np.zeros(())) == (0,)
    assert batch_order(np.zeros((4, 5))) == (0, 1, 2)
    assert batch_order(np.zeros((4, 5)).T) == (0, 2, 1)
    assert batch_order(np.zeros((2, 4, 5, 3)).transpose(0, 3, 1, 2)) == (0, 1, 3, 4, 2)
    # axes that are all alike stay as they are
    assert batch_order(np.broadcast_to(np.zeros(()), (3, 4, 5))) == (0, 1, 2, 3)


@pytest.mark.parametrize("rows", ROWS, ids=str)
@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("stacked", [True, False])
def test_stack_copies_the_rows_and_leaves_the_others(stacked: bool, order: Sequence[int], rows: Sequence[int]) -> None:
    batch, out = _batch(order), np.full(SHAPE, -1, np.int32)
    samples: Any = batch if stacked else list(batch)
    stack(samples, out, rows)
    for i in range(len(batch)):
        assert np.array_equal(out[i], batch[i] if i in rows else np.full(SHAPE[1:], -1))


@pytest.mark.parametrize("rows", [rows for rows in ROWS if len(rows)] + [[1, 1, 5, 1]], ids=str)
@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("stacked", [True, False])
def test_gather_keeps_the_order_in_memory(stacked: bool, order: Sequence[int], rows: Sequence[int]) -> None:
    batch = _batch(order)
    samples: Any = batch if stacked else list(batch)
    gathered = gather(samples, rows)
    assert gathered.dtype == batch.dtype
    assert gathered.shape == (len(rows), *SHAPE[1:])
    for row, i in zip(gathered, rows, strict=True):
        assert np.array_equal(row, batch[i])
    assert gathered[0].strides == batch[0].strides
    assert np.shares_memory(gathered, batch) == (len(rows) == 1)


def test_gather_makes_views_dense() -> None:
    batch = _batch()
    for view in (batch[..., 1:4], batch[..., ::-1], batch[:, :, ::2]):
        samples: list[Any] = [view, list(view)]
        for sample in samples:
            gathered = gather(sample, [5, 0, 3])
            assert np.array_equal(gathered, np.stack([view[5], view[0], view[3]]))
            assert gathered.flags.c_contiguous


@pytest.mark.parametrize("rows", ROWS, ids=str)
@pytest.mark.parametrize("images", [0, 1, 2, 4, 100])
def test_blocks_split_rows_in_order(images: int, rows: Sequence[int]) -> None:
    out = _batch()
    # a byte less than one image more
    split = list(blocks(rows, out, (images + 1) * out[0].nbytes - 1))
    assert [i for block in split for i in block] == list(rows)
    size = max(1, images)
    assert all(len(block) == size for block in split[:-1])
    assert all(0 < len(block) <= size for block in split)
    assert all(type(block) is type(rows) for block in split)


def test_blocks_of_images_without_bytes() -> None:
    assert [list(block) for block in blocks(range(3), np.empty((3, 0, 4, 5)), 2)] == [[0, 1], [2]]
