"""Files of the Hugging Face Hub, through huggingface_hub: its cache, its resumed downloads, its ``HF_ENDPOINT``.

huggingface_hub alone waits some 24 seconds for a network that is not there. Here one short question comes first, and
where nobody answers, the cache is all there is.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from seresnet.errors import WeightsError

log = logging.getLogger("seresnet")

PROBE_SECONDS = 1.5  # for the Hub to answer the first question


def fetch(repo: str, file: str, revision: str | None = None, offline: bool | None = None) -> Path:
    """Return the local path of one file of a repository, downloaded unless the cache has it.

    ``offline=None`` follows ``HF_HUB_OFFLINE``. Raises WeightsError, in one line, where the file cannot be had.
    """
    from huggingface_hub import constants, errors, hf_hub_download

    if offline is None:
        offline = constants.is_offline_mode()
    reason = "offline" if offline else _unreachable(repo, file, revision)
    try:
        return Path(hf_hub_download(repo, file, revision=revision, local_files_only=bool(reason)))
    except errors.LocalEntryNotFoundError:
        raise WeightsError(_how_to_place(repo, file, reason or "the connection broke off")) from None
    except (errors.HfHubHTTPError, OSError) as error:
        raise WeightsError(f"{repo}: the download of {file} failed ({_short(error)}); run it again to resume") from None


def _unreachable(repo: str, file: str, revision: str | None) -> str | None:
    """Ask the Hub for the file; return why it did not answer, or None where it did. Raises WeightsError for a no."""
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(repo, file, revision=revision)
    try:
        get_hf_file_metadata(url, timeout=PROBE_SECONDS)
    except errors.GatedRepoError:
        raise WeightsError(
            f"{repo} asks for consent first: accept its terms on the Hub, then run `hf auth login`"
        ) from None
    except errors.RepositoryNotFoundError:
        raise WeightsError(
            f"{repo}: the Hub has no such repository, or it is private (then run `hf auth login`)"
        ) from None
    except errors.RevisionNotFoundError:
        raise WeightsError(f"{repo}: the Hub has no revision {revision!r} of it") from None
    except errors.EntryNotFoundError:
        raise WeightsError(f"{repo}: the Hub has no file {file} in it; name another repository") from None
    except errors.HFValidationError:
        raise WeightsError(f"{repo!r} is no repository name; write hf-hub:user/repo") from None
    except errors.HfHubHTTPError as error:
        return f"the Hub answered {error.response.status_code}"
    except Exception as error:  # no route, no name, a proxy, a time-out: the HTTP library's classes change
        return f"the Hub cannot be reached: {_short(error)}"
    return None


def _how_to_place(repo: str, file: str, reason: str) -> str:
    from huggingface_hub import constants

    endpoint = os.environ.get("HF_ENDPOINT", constants.ENDPOINT).rstrip("/")
    return (
        f"{repo} is not in the cache and {reason}; get {endpoint}/{repo}/resolve/main/{file} on a machine with a "
        f"connection and give its path as the model, or copy that machine's cache to {constants.HF_HUB_CACHE}"
    )


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return (text if len(text) <= 100 else text[:99] + "…") or type(error).__name__
