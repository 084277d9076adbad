"""A Hugging Face Hub with one repository, on two servers of this machine."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants
from tests.file_server import Server, file_ranges, plain, ranges, redirect, serving

COMMIT = "5a" * 20
TOKEN = "hf_" + "x" * 34
REPO = "org/model"


@dataclass
class Hub:
    """The site, and the host where it keeps large files."""

    site: Server
    far: Server
    files: list[dict[str, object]] = field(default_factory=list)

    def put(self, name: str, content: bytes | Path, *, large: bool = False) -> None:
        """Add a file; a path is served as large files are."""
        size = content.stat().st_size if isinstance(content, Path) else len(content)
        self.files.append({"rfilename": name, "size": size})
        listing = json.dumps({"id": REPO, "sha": COMMIT, "siblings": self.files}).encode()
        for path in ("", "/revision/main", f"/revision/{COMMIT}", "/revision/v1"):
            self.site.add(f"/api/models/{REPO}{path}", plain(listing, Content_Type="application/json"))
        etag = hashlib.sha256(name.encode()).hexdigest()
        linked = {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"', "X-Linked-Size": str(size)}
        if isinstance(content, Path) or large:
            kept = file_ranges(content) if isinstance(content, Path) else ranges(content)
            route = redirect(self.far.add(f"/{etag}", kept), **linked)
        else:
            route = ranges(content, **linked)
        for revision in (COMMIT, "main"):
            self.site.add(f"/{REPO}/resolve/{revision}/{name}", route)


@contextmanager
def hub_served(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Point the client at servers of ours, an empty cache in ``folder`` and a token of ours."""
    with serving() as site, serving() as far:
        for name, value in {
            "ENDPOINT": site.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": site.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(folder / "hub"),
            "HF_TOKEN_PATH": str(folder / "token"),
        }.items():
            monkeypatch.setattr(constants, name, value)
        for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield Hub(site, far)
        huggingface_hub.close_session()
