"""The records of section "ram" in a stream of QEMU: list of blocks, pages, end.

A record starts with 8 bytes: an address, and flags in the bits below the page size. Sources: QEMU
migration/ram.c (``RAM_SAVE_FLAG_*``, ``ram_load_precopy``), docs/devel/migration/mapped-ram.rst.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pagemerge.find.images.blocks import Block, Blocks
from pagemerge.find.images.layout import FILLED, ZERO_PAGE
from pagemerge.find.images.stream import Stream
from pagemerge.model import PAGE_SIZE

ZERO, MEM_SIZE, PAGE, EOS, CONTINUE = 0x02, 0x04, 0x08, 0x10, 0x20
MULTIFD_FLUSH = 0x200
REFUSED = {
    0x40: ("XBZRLE", "xbzrle"),
    0x80: ("RDMA", "rdma-pin-all"),
    0x100: ("compressed pages", "compress"),
    MULTIFD_FLUSH: ("multifd", "multifd"),
}
"""Flag -> what it stands for, and the capability of QEMU that must be off."""

MAPPED_HEADER_BYTES = 28
MAPPED_VERSION = 1
BITMAP_STEP = 1 << 16
"""Bytes of a bitmap that are read at a time."""
STREAK = 32
"""After so many records of one kind, the next ones are looked at in rows."""
MOST_ROW = 1 << 16
"""Records that one row has at most."""


@dataclass(slots=True, eq=False)
class Ram:
    """Section "ram", as far as it was read."""

    stream: Stream
    page_bytes: int = PAGE_SIZE
    """Size of a page of the guest."""
    ignore_shared: bool = False
    """The list of blocks has an address for each block."""
    mapped: bool = False
    """The pages lie at fixed offsets (capability mapped-ram)."""
    blocks: Blocks = field(default_factory=Blocks)
    _block: Block | None = None

    def read(self) -> None:
        """Read records up to the end of this part of the section.

        Raises ``UsageError`` for records that cannot be read, ``stream.CutError`` at the end of
        the file.
        """
        stream, mask = self.stream, self.page_bytes - 1
        last, streak = -1, 0
        while True:
            at = stream.at
            head = stream.number(8)
            flags = head & mask
            kind = flags & ~CONTINUE
            if kind in (ZERO, PAGE):
                self._page(kind, flags, head & ~mask, at)
                streak = streak + 1 if flags == last else 0
                last = flags
                if streak >= STREAK and flags & CONTINUE:
                    self._rows(flags)
            elif flags == EOS:
                return
            elif flags == MEM_SIZE:
                self._list(head & ~mask, at)
            elif not (flags == MULTIFD_FLUSH and self.mapped):
                self._refuse(flags, at)

    def _page(self, kind: int, flags: int, address: int, at: int) -> None:
        """Read the rest of the record of one page."""
        stream = self.stream
        if not flags & CONTINUE:
            name = stream.text()
            self._block = self.blocks.blocks.get(name)
        block = self._block
        if block is None:
            raise stream.file.malformed("a page of a RAM block that was not listed", at)
        if address + self.page_bytes > block.length:
            raise stream.file.malformed(f"page {address:#x} is outside of its RAM block", at)
        if kind == ZERO:
            byte = stream.number(1)
            place = FILLED - byte if byte else ZERO_PAGE
        else:
            place = stream.at
            stream.skip(self.page_bytes)
        self.blocks.put(block.first + address // PAGE_SIZE, place, self.page_bytes // PAGE_SIZE)

    def _rows(self, flags: int) -> None:
        """Read all records that follow and are like the last one, many at a time."""
        block, stream, size = self._block, self.stream, self.page_bytes
        assert block is not None
        is_page = flags & PAGE
        stride = 8 + size if is_page else 9
        number = 2 * STREAK
        while True:
            heads = stream.heads(stride, number)
            if not len(heads):  # the buffer ends here
                return
            addresses = heads & np.uint64(~(size - 1) & (1 << 64) - 1)
            alike = heads - addresses == flags
            alike &= addresses <= np.uint64(max(block.length - size, 0))
            if not is_page:
                alike &= stream.bytes_at(8, stride, len(heads)) == 0
            same = len(heads) if alike.all() else int(np.argmin(alike))
            pages = block.first + (addresses[:same] // PAGE_SIZE).astype(np.int64)
            places = stream.at + 8 + np.arange(same) * stride
            for part in range(size // PAGE_SIZE):
                here = places + part * PAGE_SIZE if is_page else ZERO_PAGE
                self.blocks.put_all(pages + part, here)
            stream.skip(same * stride)
            if same < number:
                return
            number = min(2 * number, MOST_ROW)

    def _list(self, total: int, at: int) -> None:
        """Read the list of blocks, whose lengths add up to ``total``."""
        stream, blocks = self.stream, self.blocks
        if blocks.blocks:
            raise stream.file.malformed("a second list of RAM blocks", at)
        stream.file.check_claim(total / PAGE_SIZE)
        mapped: list[tuple[Block, int, int]] = []
        while total > 0:
            at = stream.at
            name = stream.text()
            length = stream.number(8)
            if not name or name in blocks.blocks or not 0 < length <= total:
                raise stream.file.malformed(
                    "the list of RAM blocks does not add up (if QEMU saved it with capability "
                    "postcopy-ram, save it without)",
                    at,
                )
            if length % self.page_bytes:
                raise stream.file.malformed(f"a RAM block of {length} bytes is not whole pages", at)
            if self.ignore_shared:
                stream.skip(8)
            block = blocks.add(name, length)
            if self.mapped:
                mapped += self._mapped_header(block)
            total -= length
        blocks.make_room(stream.file)
        for block, bitmap, pages in mapped:
            self._bitmap(block, bitmap, pages)

    def _mapped_header(self, block: Block) -> list[tuple[Block, int, int]]:
        """Read where the bitmap and the pages of a block lie, and go on behind the pages.

        Returns them with the block, or nothing if the block was left out.
        """
        stream, at = self.stream, self.stream.at
        version, size = stream.number(4), stream.number(8)
        bitmap, pages = stream.number(8), stream.number(8)
        if version > MAPPED_VERSION or size != self.page_bytes:
            raise stream.file.malformed(f"mapped-ram version {version}, pages of {size} bytes", at)
        if not bitmap and not pages:
            return []
        room = -(-block.length // size // 64) * 8
        if not stream.at <= bitmap <= bitmap + room <= pages:
            raise stream.file.malformed("mapped-ram bitmap and pages overlap", at)
        if pages > stream.file.size:
            raise stream.file.malformed("mapped-ram pages are beyond the end of the file", at)
        stream.at = pages + block.length
        return [(block, bitmap, pages)]

    def _bitmap(self, block: Block, bitmap: int, pages: int) -> None:
        """Note the pages that a bitmap tells to be in the file."""
        number = block.length // self.page_bytes
        parts = self.page_bytes // PAGE_SIZE
        for first in range(0, -(-number // 8), BITMAP_STEP):
            size = min(BITMAP_STEP, -(-number // 8) - first)
            data = np.frombuffer(self.stream.file.read(bitmap + first, size), np.uint8)
            found = np.flatnonzero(np.unpackbits(data, bitorder="little")) + first * 8
            found = found[found < number]
            for part in range(parts if len(found) else 0):
                here = block.first + found * parts + part
                self.blocks.put_all(here, pages + found * self.page_bytes + part * PAGE_SIZE)

    def _refuse(self, flags: int, at: int) -> None:
        file = self.stream.file
        for flag, (what, capability) in REFUSED.items():
            if flags & flag:
                raise file.usage(
                    f"has {what} at byte {at}, which pagemerge does not read: save the guest "
                    f"after `migrate_set_capability {capability} off`"
                )
        raise file.malformed(f"flags {flags:#x} of a RAM record are not known", at)
