"""Options of preparing a dataset."""

from dataclasses import dataclass

from acestep.errors import UserError
from acestep.options import option, required
from acestep.songs.song_options import SongOptions


@dataclass
class PrepareOptions(SongOptions):
    data_dir: str = required("folder with the songs")
    pretrained_model_name_or_path: str = required("folder or Hub id of the model that will be trained")
    output_dir: str = required("folder to write the dataset to")
    variant: str | None = option(None, "which model of an original bundle, such as base, sft, turbo or xl-base")
    bundle: str | None = option(None, "folder or Hub id with VAE and text encoder, where the model is one variant only")
    revision: str | None = option(None, "branch, tag or commit of a Hub model")
    overwrite: bool = option(False, "replace the dataset in --output_dir once the new one is complete")
    validation_split: float = option(
        0.0, "share of the songs, 0 to 1, that is held out as the split 'validation'; whole songs, by their hash"
    )
    validation_seed: int = option(0, "another one holds out other songs")

    cache_dir: str | None = option(None, "where encoded songs are kept; default: .acestep_cache beside --output_dir")
    clear_cache: bool = option(False, "empty --cache_dir first")
    storage_dtype: str = option("float16", "of latents and conditions in the dataset", ["float16", "float32"])
    device: str | None = option(None, "of the encoders, such as cuda or cpu; default: a GPU if there is one")
    encode_dtype: str = option("float32", "the encoders compute in this dtype", ["float32", "bfloat16"])
    vae_tile_seconds: int = option(10, "the VAE encodes this much audio at once; less needs less memory")

    push_to_hub: bool = option(False, "upload the dataset as Parquet files with a card; needs --license")
    hub_dataset_id: str | None = option(None, "where to: user/name")
    private: bool = option(False, "only you and those you let in may see it on the Hub")
    license: str | None = option(
        None, "licence that the card names, such as cc-by-4.0, or 'other'; you must have the right to give it"
    )
    include_audio: bool = option(False, "upload the songs themselves too, as FLAC without tags")

    def check(self) -> None:
        """Raise UserError for a value that makes no sense."""
        super().check()
        if not 0 <= self.validation_split < 1:
            raise UserError(f"--validation_split is {self.validation_split}; expected a share from 0 to under 1.")
        if not self.push_to_hub:
            given = ("hub_dataset_id", "private", "license", "include_audio")
            useless = [f"--{name}" for name in given if getattr(self, name)]
            if useless:
                raise UserError(f"{' '.join(useless)}: only with --push_to_hub, which is missing.")
            return
        if not self.hub_dataset_id:
            raise UserError("--push_to_hub: --hub_dataset_id is missing; expected user/name.")
        if not self.license:
            raise UserError(
                "--push_to_hub: --license is missing. Name the licence that you publish under, such as cc-by-4.0, or "
                "'other'; it is never assumed."
            )
