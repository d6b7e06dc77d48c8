"""An adapter on the Hub: only what belongs there, private first, checkpoints in the background."""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from acestep.adapters.card import CARD, PICTURE, WEIGHTS, preview_clips
from acestep.dataset.hub import check_hub_id, first_line, on_hub
from acestep.errors import UserError


class AdapterPublisher:
    """Uploads a run's adapter.

    Made before the run, so that a refused token is known before the long work; the repository is made private unless
    `public`, and one that exists keeps what it is.

    Args:
        repo_id: user/name.
        folder: of the run.
        public: make a new repository public.

    Raises:
        UserError: for a wrong id or a refused token.
    """

    def __init__(self, repo_id: str, folder: Path, public: bool = False):
        from huggingface_hub import CommitOperationAdd, HfApi

        self.repo_id, self.folder, self.what = repo_id, folder, f"--hub_model_id {repo_id}"
        check_hub_id(repo_id, self.what)
        self.api, advice = HfApi(), "Check the connection and start again."
        on_hub(lambda: self.api.create_repo(repo_id, private=not public, exist_ok=True), self.what, advice)
        # An existing repository is found with a token that only reads: ask as a writer, without writing anything.
        probe = CommitOperationAdd(CARD, b"#")
        on_hub(lambda: self.api.preupload_lfs_files(repo_id, [probe]), self.what, advice)
        self._pool = ThreadPoolExecutor(1)  # one after the other, in their order
        self._pending: list[tuple[str, Future]] = []

    def checkpoint_saved(self, path: Path) -> None:
        """Upload a checkpoint's adapter in the background; its optimizer's state stays here.

        The file is read now: the checkpoint may be removed for newer ones before its turn comes.
        """
        content = (path / WEIGHTS).read_bytes()
        self._pending.append((path.name, self._pool.submit(self._upload_checkpoint, path.name, content)))

    def finish(self) -> list[str]:
        """Upload the finished run in one commit, after the checkpoints.

        Returns:
            What of the checkpoints could not be uploaded, a line each.

        Raises:
            UserError: when the adapter itself cannot be.
        """
        from huggingface_hub import CommitOperationAdd

        failed = []
        for name, upload in self._pending:
            try:
                upload.result()
            except UserError as error:
                failed.append(f"{name} was not uploaded: {first_line(error)}")
        self._pool.shutdown()
        operations = [CommitOperationAdd(name, str(self.folder / name)) for name in public_files(self.folder)]
        on_hub(
            lambda: self.api.create_commit(self.repo_id, operations, commit_message="The adapter and its card"),
            self.what,
            f"The adapter is whole in {self.folder.name}; upload it later with "
            f"`hf upload {self.repo_id} {self.folder.name}/{WEIGHTS} {WEIGHTS}`.",
        )
        return failed

    def _upload_checkpoint(self, name: str, content: bytes) -> None:
        on_hub(
            lambda: self.api.upload_file(
                path_or_fileobj=content,
                path_in_repo=f"{name}/{WEIGHTS}",
                repo_id=self.repo_id,
                commit_message=f"The adapter at {name}",
            ),
            self.what,
            "Later checkpoints are tried again.",
        )


def public_files(folder: Path) -> list[str]:
    """What of a run's folder belongs on the Hub: the adapter, its best and its mean, card, picture and previews."""
    names = [CARD, WEIGHTS, f"best/{WEIGHTS}", f"ema/{WEIGHTS}", PICTURE]
    names += [clip["file"] for clip in preview_clips(folder)]
    return [name for name in names if (folder / name).is_file()]
