"""Files of a question set or corpus: fetched from the Hugging Face hub by its own client, or found in a user's folder.

The client keeps what it fetches in its cache, and reads HF_TOKEN, HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE itself.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from qr_jax.errors import UserError
from qr_jax.search.bm25_index import file_hash
from qr_jax.sets.official import MAIN, SOURCE, File


@dataclass(frozen=True)
class Found:
    """A file on this machine and its SHA-256; of a file of the hub also its repository and commit."""

    path: Path
    sha256: str
    repo: str = ""
    commit: str = ""

    def source(self) -> dict[str, str]:
        """Return what is recorded beside data made of the file."""
        of_hub = {"repository": self.repo, "commit": self.commit} if self.repo else {}
        return {"file": self.path.name, "sha256": self.sha256} | of_hub


def fetch(repo: str, name: str, revision: str = MAIN) -> Found:
    """Fetch a file of a data set repository into the hub's cache, or find it there.

    UserError if it cannot be had, OSError if the hub cannot be reached.

    The client checks the size alone, so a file of Git LFS is checked here against the SHA-256 that is its ETag.
    """
    from huggingface_hub import constants, errors, hf_hub_download

    broken_off: type[Exception] = errors.HfHubHTTPError.__mro__[1]  # HTTPError of the client's HTTP library
    page, token = f"{constants.ENDPOINT}/datasets/{repo}", "set HF_TOKEN to a token that may read it"
    try:
        path = Path(hf_hub_download(repo, name, repo_type="dataset", revision=revision))
    except errors.GatedRepoError as error:
        raise UserError(f"{repo} is gated: accept its terms on {page}, and {token}") from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(f"the hub shows no data set repository {repo!r}; if it is private, {token}") from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{repo} has no revision {revision!r}; {page} lists those there are") from error
    except errors.LocalEntryNotFoundError as error:
        told = f"the hub gave: {_told(error.__cause__ or error)}"
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else told
        refused = constants.HF_HUB_OFFLINE or isinstance(error.__cause__, errors.HfHubHTTPError)
        kind = UserError if refused else OSError  # a network may be back
        raise kind(f"{name} of {repo} at {revision!r} is not in the hub's cache, and {why}") from error
    except errors.EntryNotFoundError as error:
        raise UserError(f"{repo} has no file {name!r} at {revision!r}; {page}/tree/{revision} lists them") from error
    except (OSError, ValueError, broken_off) as error:
        kind = UserError if isinstance(error, ValueError) else OSError
        raise kind(f"{name} of {repo} cannot be fetched from the hub: {_told(error)}") from error
    found, etag = file_hash(path), Path(os.readlink(path)).name if path.is_symlink() else ""
    if re.fullmatch("[0-9a-f]{64}", etag) and found != etag:
        path.resolve().unlink()
        path.unlink()
        todo = "it was removed from the hub's cache: the same command fetches it anew"
        raise UserError(f"{name} of {repo} came altered: its SHA-256 is {found}, and {etag} is wanted; {todo}")
    return Found(path, found, repo, path.parents[len(PurePosixPath(name).parts) - 1].name)


def _told(error: BaseException) -> str:
    """Return the first line of an error's message; of one without a message its type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def own(file: File, folder: Path) -> Found:
    """Find an official file in the user's folder; UserError if it is not there or not the published one."""
    path = folder / file.name
    if not path.is_file():
        below = sorted(one for one in folder.rglob(file.name) if one.is_file())
        if len(below) > 1:
            raise UserError(f"{folder} has {len(below)} files {file.name}; name the folder that the wanted one is in")
        if not below:
            raise UserError(f"{folder} has no {file.name}; put it there, unpacked")
        path = below[0]
    found = Found(path, file_hash(path))
    if file.sha256 and found.sha256 != file.sha256:
        other = f"its SHA-256 is {found.sha256}, and {file.sha256} is wanted (published by {file.attested})"
        raise UserError(f"{path} is not the official file: {other}; it is cut short or altered: get it again")
    return found


def record(folder: Path, source: Mapping[str, Any]) -> None:
    """Write into the folder which file, or file of the hub, its data are of."""
    with beside(folder / SOURCE) as opened:
        opened.write(json.dumps(source, indent=1).encode())


@contextmanager
def beside(place: Path) -> Iterator[IO[bytes]]:
    """Open a file beside `place` that gets its name at the end, and is deleted where that is not reached."""
    part = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as opened:
            yield opened
        os.replace(part, place)
    finally:
        part.unlink(missing_ok=True)
