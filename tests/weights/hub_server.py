"""A server on this machine that speaks as much of the Hugging Face Hub's protocol as a download takes.

Of the account ``timm`` it answers only the repositories that the installed timm names.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from functools import cache, partial

from tests.weights.file_server import Handler, serve_files

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER_COMMIT = "89abcdef0123456789abcdef0123456789abcdef"


@cache
def timm_repositories() -> frozenset[str]:
    """Return the repositories that timm downloads from."""
    from tests.timm_import import timm

    configurations = (timm.get_pretrained_cfg(name) for name in timm.list_pretrained())
    return frozenset(f"{cfg.hf_hub_id}" for cfg in configurations if cfg is not None and cfg.hf_hub_id)


@dataclass
class Hub:
    """What the server has, and what it was asked. Files of ``large`` are redirected, as the Hub's LFS files are."""

    files: dict[tuple[str, str], bytes] = field(default_factory=dict)  # (repository, file) -> content
    large: set[str] = field(default_factory=set)
    branches: dict[str, str] = field(default_factory=lambda: {"main": COMMIT, "v2": OTHER_COMMIT})
    private: set[str] = field(default_factory=set)  # answers 401
    gated: set[str] = field(default_factory=set)
    status: int | None = None  # answer everything with this
    break_after: int | None = None  # bytes of the next body, after which the connection breaks, once
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)  # method, path, range
    url: str = ""

    def asked(self, method: str) -> list[str]:
        return [path for verb, path, _ in self.requests if verb == method and "agent" not in path]


class HubHandler(Handler):
    server_state: Hub

    def answer(self, body: bool) -> None:
        hub = self.server_state
        hub.requests.append((self.command, self.path, self.headers.get("Range")))
        if hub.status:
            return self.refuse(hub.status)
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        if self.path.startswith("/storage/"):
            return self.send_file(*self.path.removeprefix("/storage/").rsplit("/", 1), body)
        if not match:
            return self.refuse(404)
        repo, revision, file = match.groups()
        if repo in hub.gated:
            return self.refuse(403, "GatedRepo")
        unknown = repo.startswith("timm/") and repo not in timm_repositories()
        if unknown or repo in hub.private or not any(known == repo for known, _ in hub.files):
            return self.refuse(401, "RepoNotFound")
        commit = hub.branches.get(revision, revision if revision in hub.branches.values() else None)
        if commit is None:
            return self.refuse(404, "RevisionNotFound")
        if (repo, file) not in hub.files:
            return self.refuse(404, "EntryNotFound", commit)
        if file in hub.large:
            return self.redirect(repo, file, commit)
        return self.send_file(repo, file, body, commit)

    def refuse(self, status: int, code: str = "", commit: str = "") -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def redirect(self, repo: str, file: str, commit: str) -> None:
        content = self.server_state.files[repo, file]
        self.send_response(302)
        self.send_header("Location", f"http://localhost:{self.server.server_address[1]}/storage/{repo}/{file}")
        self.send_header("X-Repo-Commit", commit)
        self.send_header("X-Linked-Etag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send_file(self, repo: str, file: str, body: bool, commit: str = "") -> None:
        content = self.server_state.files[repo, file]
        start = int(match[1]) if (match := re.match(r"bytes=(\d+)-", self.headers.get("Range") or "")) else 0
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.end_headers()
        if not body:
            return
        limit, self.server_state.break_after = self.server_state.break_after, None
        self.wfile.write(content[start:] if limit is None else content[start : start + limit])
        if limit is not None:
            self.wfile.flush()
            self.close_connection = True


serve = partial(serve_files, answered_by=HubHandler)
