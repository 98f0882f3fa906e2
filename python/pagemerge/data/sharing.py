"""``share``: an equal object on merged copies of its buffers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from pagemerge.data.collecting import Collector, Left, collected, refuse_left
from pagemerge.data.parts import Block, copied, laid_out
from pagemerge.data.rebuilding import Watch, rebuilt
from pagemerge.data.room import Room
from pagemerge.data.words import type_name
from pagemerge.errors import UsageError

T = TypeVar("T")


def shared(obj: T, strict: bool) -> T:
    """See ``pagemerge.share``."""
    stream, collector = collected(obj, keep=True, lenient=not strict)
    if strict:
        refuse_left(collector.left)
    blocks, places = laid_out(collector.parts)
    room = Room()
    made = [copied(block, room) for block in blocks]
    room.close()
    watch = Watch(made)
    result = rebuilt(stream, places, made, collector.buffers, collector.kept)
    del made
    if strict:
        refuse_left(_dropped(watch, blocks, collector))
    if type(result) is not type(obj):
        raise UsageError(
            f"a copy of a {type_name(type(obj))} would be a {type_name(type(result))}, as its type "
            "says how it is copied: give its arrays and tables one by one"
        )
    return result


def _dropped(watch: Watch, blocks: Sequence[Block], collector: Collector) -> list[Left]:
    """What types have copied to memory of their own while they were put together."""
    found = []
    for index in watch.dropped():
        block = blocks[index]
        owner = collector.parts[block.parts[0]].owner
        what = collector.holder.get(id(owner), type_name(type(owner)))
        found.append(Left(what, block.nbytes, "its type copies them to memory of its own"))
    return found
