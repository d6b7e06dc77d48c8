"""What an Ogg file (Vorbis, Opus, FLAC in Ogg) promises: pages with checksums, numbered, the last one marked."""

import hashlib
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

_HEADER = struct.Struct("<4sBBqIIIB")  # "OggS", version, flags, granule position, serial, sequence, checksum, segments
_LAST_PAGE = 4
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass
class Page:
    """One page: its place in the file, its header and its packets' pieces."""

    offset: int
    end: int
    flags: int
    granule: int
    serial: int
    sequence: int
    checksum_holds: bool
    lacing: bytes
    body: bytes


def pages(content: bytes) -> Iterator[Page]:
    """Yield the pages of a file up to the first place where no whole page stands."""
    offset = 0
    while offset + _HEADER.size <= len(content):
        capture, version, flags, granule, serial, sequence, checksum, count = _HEADER.unpack_from(content, offset)
        lacing = content[offset + _HEADER.size : offset + _HEADER.size + count]
        end = offset + _HEADER.size + count + sum(lacing)
        if capture != b"OggS" or version != 0 or len(lacing) != count or end > len(content):
            return
        cleared = content[offset : offset + 22] + bytes(4) + content[offset + 26 : end]
        body = content[offset + _HEADER.size + count : end]
        yield Page(offset, end, flags, granule, serial, sequence, ogg_checksum(cleared) == checksum, lacing, body)
        offset = end


def ogg_checksum(content: bytes) -> int:
    """Return Ogg's CRC-32: the polynomial of zlib's, but with bits in the other order and nothing inverted."""
    reflected = zlib.crc32(content.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{reflected:032b}"[::-1], 2)


def ogg_damage(content: bytes) -> str | None:
    """Return what is wrong with a file by its own page structure, or None."""
    end, sequences, ended = 0, {}, {}
    for page in pages(content):
        where = f"at byte {page.offset} of {len(content)}"
        if not page.checksum_holds:
            return f"is damaged: an Ogg page {where} does not match its checksum. Get an undamaged copy."
        expected = sequences.get(page.serial, page.sequence - 1) + 1
        if page.sequence != expected and not page.flags & 2:
            return f"is damaged: Ogg page {page.sequence} {where} instead of page {expected}. Get an undamaged copy."
        sequences[page.serial] = page.sequence
        ended[page.serial] = bool(page.flags & _LAST_PAGE)
        end = page.end
    if not sequences:
        return "is no Ogg file. Get an undamaged copy."
    if end < len(content):
        return (
            f"is damaged or cut: {len(content) - end} of its {len(content)} bytes, from byte {end} on, are no whole "
            "Ogg page. Get an undamaged copy."
        )
    if not all(ended.values()):
        return "is cut: its end-of-stream page is missing. Get an undamaged copy."
    return None


def hash_packets(content: bytes) -> "hashlib._Hash":
    """Return a SHA-256 over the packets, without the comment header, so that editing tags changes nothing."""
    digest, packet = hashlib.sha256(), []
    for page in pages(content):
        start = 0
        for length in page.lacing:
            packet.append(page.body[start : start + length])
            start += length
            if length < 255:  # a packet ends with a piece shorter than 255 bytes
                whole = b"".join(packet)
                packet.clear()
                if not whole.startswith((b"\x03vorbis", b"OpusTags")):
                    digest.update(len(whole).to_bytes(4, "little") + whole)
    return digest
