"""What an MP3 promises: frames that follow one another, and a Xing, Info or VBRI header that counts them."""

import math
from dataclasses import dataclass

import numpy as np

_BITRATES = {  # kbit/s by (MPEG-1?, layer)
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


@dataclass
class Frame:
    """One MPEG audio frame header."""

    size: int
    samples: int
    kind: tuple  # version, layer and rate: the same in every frame of a file
    side_info: int  # offset of a Xing header in the frame


@dataclass
class MpegStream:
    """What a walk over all frames finds.

    Attributes:
        audio: the file's bytes without ID3, APE and Lyrics3 tags.
        frames: whole frames, the Xing, Info or VBRI frame not counted.
        promised: frames that such a header promises, or None.
        lost_bytes: bytes before and between frames that are no frames.
        tail_bytes: bytes after the last whole frame.
        tail_is_frame: they begin a frame that the file's end cuts off.
        checksum_holds: whether the frames match the checksum LAME wrote; None without one.
    """

    audio: bytes
    frames: int = 0
    promised: int | None = None
    lost_bytes: int = 0
    tail_bytes: int = 0
    tail_is_frame: bool = False
    checksum_holds: bool | None = None


def parse_frame(content: bytes, offset: int) -> Frame | None:
    """Return the frame header at an offset, or None where there is none."""
    header = content[offset : offset + 4]
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    bitrate_index, rate_index, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version == 1 or layer == 4 or bitrate_index in (0, 15) or rate_index == 3:
        return None
    bitrate = _BITRATES[version == 3, layer][bitrate_index] * 1000
    rate = _RATES[version][rate_index]
    if layer == 1:
        samples, size = 384, (12 * bitrate // rate + padding) * 4
    else:
        samples = 576 if layer == 3 and version != 3 else 1152
        size = samples // 8 * bitrate // rate + padding
    mono = header[3] >> 6 == 3
    side_info = (17 if mono else 32) if version == 3 else (9 if mono else 17)
    return Frame(size, samples, (version, layer, rate), 4 + side_info)


def walk(content: bytes) -> MpegStream:
    """Walk over all frames of an MP3."""
    start, end = _without_tags(content)
    stream = MpegStream(content[start:end])
    audio, offset, kind, tag_end = stream.audio, 0, None, None
    while offset < len(audio):
        frame = parse_frame(audio, offset)
        if frame is None or (kind is not None and frame.kind != kind):
            # A new beginning counts only where a second frame, or the end, follows at the right place.
            resumed = _next_frame(audio, offset + 1, kind)
            if resumed is None:
                break
            stream.lost_bytes += resumed - offset
            offset = resumed
            continue
        if offset + frame.size > len(audio):
            stream.tail_is_frame = True
            break
        if kind is None:
            kind = frame.kind
            promise = _promise(audio[offset : offset + frame.size], frame)
            if promise is not None:
                stream.promised, tag_end = promise, offset + frame.size
                stream.frames -= 1
        stream.frames += 1
        offset += frame.size
    stream.tail_bytes = len(audio) - offset
    if tag_end is not None:
        stream.checksum_holds = _lame_checksum_holds(audio, tag_end)
    return stream


def mpeg_damage(stream: MpegStream) -> str | None:
    """Return what is wrong with an MP3 by its own structure, or None."""
    # Some encoders count the header's own frame.
    if stream.promised is not None and stream.frames < stream.promised - 1:
        return (
            f"is cut: {stream.frames} frames are there and its header promises {stream.promised}. "
            "Get an undamaged copy."
        )
    if stream.frames <= 0:
        return "holds no MPEG audio frame. Get an undamaged copy."
    if stream.tail_bytes and stream.promised is None:
        found = (
            "in the middle of a frame" if stream.tail_is_frame else f"with {stream.tail_bytes} bytes of something else"
        )
        return f"is cut or damaged: it ends {found}. Get an undamaged copy."
    return None


def mpeg_warnings(stream: MpegStream) -> list[str]:
    """Return what a person should look at in an MP3 that decodes."""
    warnings = []
    if stream.lost_bytes:
        warnings.append(f"{stream.lost_bytes} bytes between its frames are no audio: it may be damaged")
    if stream.tail_bytes and stream.promised is not None:
        warnings.append(f"{stream.tail_bytes} bytes after its last frame are no audio: it may be damaged")
    if stream.checksum_holds is False and not warnings:
        warnings.append("does not match the checksum in its LAME header: damaged, or edited (MP3Gain does that)")
    return warnings


def crc16(content: bytes) -> int:
    """Return the CRC-16 (polynomial 0x8005, bits reflected, from 0) that LAME writes.

    All blocks of the content are taken a byte at a time together, then joined: a loop over each byte takes seconds.
    """
    table = _crc_table()
    width = min(1024, max(1, math.isqrt(len(content)) // 6))  # a step of either loop costs about the same in all
    padded = bytes(-len(content) % width) + content  # leading zeros do not change a CRC that begins at 0
    rows = np.frombuffer(padded, np.uint8).reshape(-1, width)
    crcs = np.zeros(len(rows), np.uint16)
    for column in range(width):
        crcs = crcs >> 8 ^ table[(crcs ^ rows[:, column]) & 0xFF]
    # What `width` zero bytes make of a CRC is linear in its two bytes.
    low, high = np.arange(256, dtype=np.uint16), np.arange(256, dtype=np.uint16) << 8
    for _ in range(width):
        low, high = low >> 8 ^ table[low & 0xFF], high >> 8 ^ table[high & 0xFF]
    low, high, result = low.tolist(), high.tolist(), 0
    for crc in crcs.tolist():
        result = low[result & 0xFF] ^ high[result >> 8] ^ crc
    return result


def _crc_table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint16)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ 0xA001, table >> 1).astype(np.uint16)
    return table


def _without_tags(content: bytes) -> tuple[int, int]:
    """Return where the frames begin and end: ID3v2 stands before them, APE, Lyrics3 and ID3v1 after them."""
    start, end = 0, len(content)
    while content[start : start + 3] == b"ID3" and len(content) >= start + 10:
        size = content[start + 6 : start + 10]
        footer = 10 if content[start + 5] & 0x10 else 0
        start += 10 + footer + (size[0] << 21 | size[1] << 14 | size[2] << 7 | size[3])
    if content[end - 128 : end - 125] == b"TAG":
        end -= 128
    if content[end - 9 : end] == b"LYRICS200" and content[end - 15 : end - 9].isdigit():
        end -= 15 + int(content[end - 15 : end - 9])
    if content[end - 32 : end - 24] == b"APETAGEX":
        header = 32 if content[end - 9] & 0x80 else 0
        end -= header + int.from_bytes(content[end - 20 : end - 16], "little")
    # An ID3v2 tag may be followed by zeros, which are padding too.
    start = min(start, len(content))
    while start < end and content[start] == 0:
        start += 1
    return start, max(start, end)


def _next_frame(audio: bytes, offset: int, kind: tuple | None) -> int | None:
    while (offset := audio.find(b"\xff", offset)) >= 0:
        frame = parse_frame(audio, offset)
        if frame is not None and kind in (None, frame.kind):
            following = parse_frame(audio, offset + frame.size)
            if following is not None and following.kind == frame.kind:
                return offset
        offset += 1
    return None


def _promise(frame_bytes: bytes, frame: Frame) -> int | None:
    """Return the number of frames that a Xing, Info or VBRI header in the first frame promises."""
    if frame_bytes[frame.side_info : frame.side_info + 4] in (b"Xing", b"Info"):
        flags, count = frame_bytes[frame.side_info + 7], frame_bytes[frame.side_info + 8 : frame.side_info + 12]
        # A header without a count is still no audio: 0 promises nothing.
        return int.from_bytes(count, "big") if flags & 1 else 0
    if frame_bytes[36:40] == b"VBRI":
        return int.from_bytes(frame_bytes[50:54], "big")
    return None


def _lame_checksum_holds(audio: bytes, tag_end: int) -> bool | None:
    """Compare the frames with the length and checksum in LAME's part of the Info frame; None without one."""
    first = parse_frame(audio, 0)
    if first is None or first.size != tag_end:
        return None
    flags = audio[first.side_info + 7 : first.side_info + 8]
    if not flags:
        return None
    lame = first.side_info + 8 + sum(size for bit, size in ((1, 4), (2, 4), (4, 100), (8, 4)) if flags[0] & bit)
    tag = audio[lame : lame + 36]
    # LAME, and FFmpeg's muxer in the same form, write length (28) and checksum (32) behind their name.
    if len(tag) < 36 or not tag.startswith((b"LAME", b"Lavc", b"Lavf")):
        return None
    length, checksum = int.from_bytes(tag[28:32], "big"), int.from_bytes(tag[32:34], "big")
    music = audio[tag_end:]
    if length == 0 or checksum == 0:
        return None
    if not tag_end <= length <= len(audio):
        return False
    return crc16(music[: length - tag_end]) == checksum
