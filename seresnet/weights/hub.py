"""Files of the Hugging Face Hub, through huggingface_hub: its cache, its resumed downloads, its ``HF_ENDPOINT``.

huggingface_hub alone waits some 24 seconds for a network that is not there. Here one short request comes first, and
where the Hub does not answer, only the cache is used. A download that breaks off is resumed, several times.
"""

from __future__ import annotations

import queue
import re
import threading
from collections.abc import Callable
from pathlib import Path

from seresnet.common.files import given_cache
from seresnet.common.text import one_line
from seresnet.errors import WeightsError
from seresnet.version import __version__

ANSWER_SECONDS = 1.5  # for the Hub to answer the first question; HF_HUB_ETAG_TIMEOUT overrides it
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


class NotInRepository(WeightsError):
    """The Hub has the repository, but not the file."""


class HubUnavailable(WeightsError):
    """The Hub did not answer, or was not asked; ``reason`` says why."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


def is_offline() -> bool:
    """Return whether ``HF_HUB_OFFLINE`` is set."""
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def hub_url(repo: str, file: str) -> str:
    """Return the address of a file of a repository's main branch."""
    from huggingface_hub import hf_hub_url

    return hf_hub_url(repo, file)


def cached_weights(repo: str, revision: str | None = None) -> Path | None:
    """Return a repository's weights in huggingface_hub's cache, or None."""
    return next(filter(None, (_cached(repo, file, revision) for file in WEIGHT_FILES)), None)


def fetch(
    repo: str,
    file: str,
    revision: str | None = None,
    offline: bool | None = None,
    *,
    newest: bool = False,
    answer_seconds: float | None = None,
) -> Path:
    """Return the local path of one file of a repository, downloaded unless the cache has it.

    With ``newest`` the Hub is asked whether the revision has moved on, and the cache is for when it does not answer;
    otherwise a cached file is used without a request. ``offline`` makes no request; None follows ``HF_HUB_OFFLINE``.
    ``answer_seconds``: for the Hub to answer the first request. Raises WeightsError, in one line, where the file is not
    available.
    """
    cached = _cached(repo, file, revision)
    offline = is_offline() if offline is None else offline
    fixed = not newest or re.fullmatch(r"[0-9a-f]{40}", revision or "")
    if cached and (offline or fixed):
        return cached
    reason = "offline mode is on" if offline else _no_answer(repo, file, revision, answer_seconds)
    if reason is None:
        return _download(repo, file, revision)
    if cached is None:
        raise HubUnavailable(_how_to_place(repo, reason), reason)
    return cached


def fetch_weights(
    repo: str,
    revision: str | None = None,
    offline: bool | None = None,
    *,
    newest: bool = False,
    answer_seconds: float | None = None,
) -> Path:
    """Return the local path of a repository's weights: ``model.safetensors``, or else ``pytorch_model.bin``."""
    if not newest and (cached := cached_weights(repo, revision)):
        return cached
    for file in WEIGHT_FILES[:-1]:
        try:
            return fetch(repo, file, revision, offline, newest=newest, answer_seconds=answer_seconds)
        except NotInRepository:
            continue
        except WeightsError:
            if (cached := _cached(repo, WEIGHT_FILES[-1], revision)) is None:
                raise
            return cached
    return fetch(repo, WEIGHT_FILES[-1], revision, offline, newest=newest, answer_seconds=answer_seconds)


def _cached(repo: str, file: str, revision: str | None) -> Path | None:
    """Look into the cache alone: no request, and none of the headers that cost huggingface_hub a request of its own."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        path = try_to_load_from_cache(repo, file, cache_dir=given_cache(), revision=revision)
    except HFValidationError:
        raise WeightsError(f"{repo!r} is not the name of a repository; write hf-hub:user/repo") from None
    return Path(path) if isinstance(path, str) else None


def _no_answer(repo: str, file: str, revision: str | None, answer_seconds: float | None) -> str | None:
    """Request the file's headers; return why the Hub did not answer, or None. Raises WeightsError where it refuses."""
    from huggingface_hub import constants, errors, get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(repo, file, revision=revision)
    patient = constants.HF_HUB_ETAG_TIMEOUT != constants.DEFAULT_ETAG_TIMEOUT
    seconds = float(constants.HF_HUB_ETAG_TIMEOUT) if patient else (answer_seconds or ANSWER_SECONDS)
    try:
        answered = _within(seconds, lambda: get_hf_file_metadata(url, timeout=seconds))
    except errors.GatedRepoError:
        page = f"{constants.ENDPOINT}/{repo}"
        raise WeightsError(f"{repo} is gated: accept its terms at {page}, then run `hf auth login`") from None
    except errors.RepositoryNotFoundError:
        raise WeightsError(
            f"{repo}: the Hub has no such repository, or it is private (then run `hf auth login`)"
        ) from None
    except errors.RevisionNotFoundError:
        raise WeightsError(f"{repo}: the Hub has no revision {revision!r} of it; name another behind the @") from None
    except errors.EntryNotFoundError:
        raise NotInRepository(f"{repo}: the Hub has no {file} in it; name another repository") from None
    except errors.HfHubHTTPError as error:
        code = error.response.status_code
        if code in (401, 403):
            raise WeightsError(f"{repo}: the Hub forbids it ({code}); log in with `hf auth login`") from None
        return f"the Hub answers with error {code}"
    except Exception as error:  # no route, no name, a proxy, a time-out: the HTTP library's classes change
        return f"{constants.ENDPOINT} cannot be reached ({one_line(error)})"
    slow = f"{constants.ENDPOINT} does not answer within {seconds:g} s (set HF_HUB_ETAG_TIMEOUT for a slow network)"
    return None if answered else slow


def _within(seconds: float, question: Callable[[], object]) -> bool:
    """Run ``question``, which may hang in name resolution beyond its own time-out; return whether it came back in time.

    Its exceptions are raised here.
    """
    answers: queue.Queue[BaseException | None] = queue.Queue()

    def ask() -> None:
        try:
            question()
        except BaseException as error:
            answers.put(error)
        else:
            answers.put(None)

    threading.Thread(target=ask, daemon=True, name="seresnet-hub").start()
    try:
        error = answers.get(timeout=seconds)
    except queue.Empty:
        return False
    if error is not None:
        raise error
    return True


def _download(repo: str, file: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(
            hf_hub_download(
                repo,
                file,
                revision=revision,
                cache_dir=given_cache(),
                library_name="seresnet",
                library_version=__version__,
            )
        )
    except Exception as error:  # the network's and the disk's; see above
        raise WeightsError(f"{repo}: the download of {file} failed ({one_line(error)}); run it again") from None


def _how_to_place(repo: str, reason: str) -> str:
    from huggingface_hub import constants

    return (
        f"{repo} is not in the cache ({constants.HF_HUB_CACHE}) and {reason}: download config.json and "
        f"{WEIGHT_FILES[0]} from {constants.ENDPOINT}/{repo} elsewhere, put both into one folder, and give that folder "
        "as the model"
    )
