"""Progress of encoding audio, by its length rather than by songs."""

import time

from tqdm import tqdm

from acestep.songs import Song


class AudioProgress:
    """Songs done, hours of audio done an hour, and the time left by audio, not by songs.

    Args:
        songs: that this process encodes.
        shown: whether there is a bar; one process of several shows its own.
    """

    def __init__(self, songs: list[Song], shown: bool = True):
        self.began = time.monotonic()
        self.done, self.total, self.songs, self.count = 0.0, sum(song.duration for song in songs), len(songs), 0
        self.bar = tqdm(
            total=round(self.total, 1),
            desc="audio",
            unit="s",
            bar_format="{desc} {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}]",
            disable=not shown,
        )

    def step(self, song: Song) -> None:
        """Count a song that is done."""
        self.count += 1
        self.done += song.duration
        speed = self.done / max(time.monotonic() - self.began, 1e-6)  # seconds of audio a second = hours an hour
        self.bar.set_description_str(f"audio: {self.count}/{self.songs} songs, {speed:.1f} h of audio/h", refresh=False)
        self.bar.update(round(min(song.duration, self.total - self.done + song.duration), 1))

    def close(self) -> None:
        self.bar.close()
