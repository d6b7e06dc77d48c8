"""What WAV, AIFF and FLAC files promise: a length in the header, and for FLAC a checksum of the decoded audio."""

import struct
from dataclasses import dataclass
from pathlib import Path

_STREAMED = {0xFFFFFFFF, 0xFFFFFFFE, 0x7FFFFFFF, 0x7FFFF000, 0x80000000}  # written where the length was not known


@dataclass
class FlacPromise:
    """FLAC's STREAMINFO: frames (0: unknown), bits a sample, MD5 of the decoded samples (zeros: unknown)."""

    frames: int
    bits: int
    md5: bytes


def chunk_damage(path: Path) -> tuple[str | None, str | None]:
    """Return (damage, warning) of a RIFF, RF64, RIFX or AIFF file, each None where there is nothing to say.

    libsndfile takes the audio that is there and says nothing when the header promises more.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        magic, _, kind = struct.unpack("4s4s4s", file.read(12).ljust(12, b"\0"))
        if magic in (b"RIFF", b"RF64", b"RIFX") and kind == b"WAVE":
            wanted, order = b"data", ">" if magic == b"RIFX" else "<"
        elif magic == b"FORM" and kind in (b"AIFF", b"AIFC"):
            wanted, order = b"SSND", ">"
        else:
            return None, None
        long_size, offset = None, 12
        while offset + 8 <= size:
            file.seek(offset)
            name, length = struct.unpack(order + "4sI", file.read(8))
            if name == b"ds64":
                long_size = struct.unpack("<8xQ", file.read(16).ljust(16, b"\0"))[0]
            if name == wanted:
                if length == 0xFFFFFFFF and long_size is not None:
                    length = long_size
                held = size - offset - 8
                if length in _STREAMED and length > held:
                    return None, "its header gives no length (a streamed file), so a cut could not be noticed"
                damage = None
                if length > held:
                    damage = (
                        f"is cut: its header promises {length} bytes of audio and has {held}. Get an undamaged copy."
                    )
                elif length == 0 and held > 8:
                    damage = f"is unfinished: its header promises 0 bytes of audio, {held} follow. Save it again."
                return damage, None
            offset += 8 + length + length % 2
    return f'is cut: it has no "{wanted.decode()}" chunk. Get an undamaged copy.', None


def flac_promise(path: Path) -> FlacPromise | None:
    """Return what a FLAC file promises, or None if it does not begin with STREAMINFO (as in Ogg)."""
    with path.open("rb") as file:
        start = file.read(10)
        while start[:3] == b"ID3" and len(start) == 10:  # some taggers put ID3 before FLAC
            skip = start[6] << 21 | start[7] << 14 | start[8] << 7 | start[9]
            file.seek(skip, 1)
            start = file.read(10)
        content = start + file.read(32)
    if content[:4] != b"fLaC" or len(content) < 42 or content[4] & 0x7F:
        return None
    packed = int.from_bytes(content[18:26], "big")  # rate 20, channels 3, bits 5, frames 36
    return FlacPromise(frames=packed & (1 << 36) - 1, bits=(packed >> 36 & 31) + 1, md5=content[26:42])
