"""A model's files, in a folder or on the Hub; only the files that are asked for are downloaded."""

from pathlib import Path

from acestep.errors import UserError


class Repository:
    """A folder on disk or a repository on the Hub, opened alike.

    Args:
        name: a folder, or a Hub id such as `ACE-Step/Ace-Step1.5`.
        revision: branch, tag or commit of a Hub repository.

    Raises:
        UserError: when `name` is neither a folder nor a valid Hub id, or `revision` is given for a folder.
    """

    def __init__(self, name: str, revision: str | None = None):
        self.name = str(name)
        self.local = Path(name).expanduser()
        self.is_local = self.local.is_dir()
        self.commit: str | None = None
        if self.is_local and revision:
            raise UserError(f"--revision {revision}: {name} is a folder; a revision belongs to a Hub repository.")
        if self.local.is_file():
            raise UserError(f"{name}: is a file; expected the folder of a model, or a Hub id.")
        if not self.is_local:
            _check_hub_id(self.name)
        self.revision = revision

    def fetch(self, *patterns: str) -> Path:
        """The folder that holds the files matching `patterns`, downloaded first where they are not here yet.

        A pattern that matches nothing is no error: whoever asks looks for what is needed and says what is missing.

        Raises:
            UserError: when the repository, the revision or the network is not to be had.
        """
        if self.is_local:
            return self.local
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            GatedRepoError,
            HfHubHTTPError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        try:
            # The commit of the first download holds for all later ones: a branch may move in between.
            folder = snapshot_download(self.name, revision=self.commit or self.revision, allow_patterns=list(patterns))
        except GatedRepoError:
            raise UserError(
                f"{self.name}: the repository is gated. Ask for access on its page, then run `hf auth login`."
            ) from None
        except RepositoryNotFoundError:
            raise UserError(
                f"{self.name}: neither a folder here nor a repository that the Hub shows you. Check the spelling; "
                "for a private one run `hf auth login` first."
            ) from None
        except RevisionNotFoundError:
            raise UserError(f"--revision {self.revision}: {self.name} has no such branch, tag or commit.") from None
        except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
            raise UserError(
                f"{self.name}: could not be downloaded ({_first_line(error)}), and the files needed are not in the "
                "cache. Check the connection and start again: what has been downloaded is kept."
            ) from error
        self.commit = Path(folder).name
        return Path(folder)


def _check_hub_id(name: str) -> None:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") > 1 or name.endswith("/")
    if not looks_like_path:
        try:
            validate_repo_id(name)
            return
        except HFValidationError:
            pass
    raise UserError(f"{name}: no such folder, and not a Hub id of the form `user/name` either.")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
