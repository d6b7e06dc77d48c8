"""What a person has in a folder: audio, lyrics, captions, tables; read, checked and explained. No model is needed."""

from acestep.songs.decode import decode_songs
from acestep.songs.scan import scan_songs
from acestep.songs.song import Scan, SkippedSong, Song
from acestep.songs.song_options import SongOptions
from acestep.songs.table import song_table

__all__ = ["Scan", "SkippedSong", "Song", "SongOptions", "decode_songs", "scan_songs", "song_table"]
