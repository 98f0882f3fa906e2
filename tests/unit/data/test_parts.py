"""Where the buffers of an object lie in their copy. No memory is merged here."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pagemerge.data.parts import Block, elements, laid_out, part_of, raw

Array = np.ndarray[Any, Any]


def copy_of(block: Block) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The block's bytes as ``copied`` makes them, in ordinary memory."""
    made = np.zeros(block.nbytes, np.uint8)
    if block.dense is None:
        made[:] = raw(block)
    else:
        write = elements(block.dense)
        for start in range(0, len(made), 100):  # odd pieces: elements are split between two
            write(made[start : start + 100])
    return made


def copies(arrays: list[Array]) -> tuple[list[Array], list[Block]]:
    """Copies of arrays, as an object that holds them all would have them."""
    blocks, places = laid_out([part_of(array) for array in arrays])
    data = [copy_of(block) for block in blocks]
    made = []
    for place in places:
        assert place.form is not None
        part = data[place.block][place.offset : place.offset + place.nbytes]
        made.append(place.form.on(part))
    return made, blocks


@st.composite
def views(draw: st.DrawFn) -> list[Array]:
    shape = draw(st.sampled_from([(), (0,), (7,), (12, 9), (4, 5, 6)]))
    dtype = np.dtype(draw(st.sampled_from(["u1", ">i4", "f8", "S3", [("a", "u1"), ("b", "f8")]])))
    count = int(np.prod(shape, dtype=int)) * dtype.itemsize
    base = np.frombuffer(bytearray(i % 251 % 2 for i in range(count)), dtype).reshape(shape)
    found = [base]
    for _ in range(draw(st.integers(0, 4))):
        steps = [draw(st.sampled_from([1, 2, 3, -1, -2])) for _ in shape]
        starts = [draw(st.integers(0, 8)) for _ in shape]
        cut = tuple(slice(start, None, step) for start, step in zip(starts, steps, strict=True))
        view = base[cut] if shape else base[...]
        found.append(view.T if draw(st.booleans()) else view)
    return draw(st.lists(st.sampled_from(found), min_size=1, max_size=5))


@given(views())
def test_copies_are_equal_and_overlap_as_their_originals_do(arrays: list[Array]) -> None:
    made, _ = copies(arrays)
    for number, (array, copy) in enumerate(zip(arrays, made, strict=True)):
        assert (copy.dtype, copy.shape) == (array.dtype, array.shape)
        assert copy.tobytes() == array.tobytes()
        assert not np.may_share_memory(array, copy)
        for other, its in zip(arrays[:number], made[:number], strict=True):
            assert np.may_share_memory(copy, its) == np.may_share_memory(array, other)


def test_a_write_to_one_view_shows_in_the_other() -> None:
    base = np.arange(100.0)
    (left, right), blocks = copies([base[10:60], base[59:9:-1]])
    left[3] = -1
    assert right[-4] == -1 and len(blocks) == 1 and blocks[0].nbytes == 400


def test_what_no_array_names_is_not_copied() -> None:
    base = np.zeros((1000, 10))
    (column,), blocks = copies([base[:, 3]])
    assert [block.nbytes for block in blocks] == [8000] and column.strides == (8,)
    (rows, wide), blocks = copies([base[10:20], np.broadcast_to(np.arange(5.0), (10**6, 5))])
    assert sorted(block.nbytes for block in blocks) == [40, 800]
    assert rows.shape == (10, 10) and wide.shape == (10**6, 5) and wide.strides == (0, 8)


def test_order_in_memory_stays() -> None:
    array = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    (fortran, swapped, gaps), _ = copies(
        [
            np.asfortranarray(array),
            array.transpose(1, 0, 2).copy("K"),
            array.repeat(2, 2)[:, :, ::2].T,
        ]
    )
    assert fortran.flags.f_contiguous and fortran.tolist() == array.tolist()
    assert swapped.tolist() == array.transpose(1, 0, 2).tolist()
    assert gaps.flags.f_contiguous and gaps.tolist() == array.T.tolist()
