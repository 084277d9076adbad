"""Repositories of the Hugging Face Hub, through its own client, which knows tokens, caches, mirrors and being offline.

Of weights only the headers are read, by ranges; small JSON files go through the client's cache.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from msgspec import Struct

from vramcalc.errors import AppError, BadInputError, MissingError, UnavailableError, UsageError
from vramcalc.sources._waiting import Patience, Waiting
from vramcalc.sources.byte_source import ByteSource, FileSource
from vramcalc.sources.range_source import Answer, Ask, RangeSource, refusal

_T = TypeVar("_T")
_NAME = re.compile(
    r"hf:(?P<repo>[A-Za-z0-9][\w.-]{0,95}/[\w.-]{1,96})(@(?P<revision>[\w./-]{1,200}))?(:(?P<file>.{1,300}))?", re.ASCII
)
_MOST_JSON_BYTES = 8 << 20
_AT_ONCE = 8  # requests, where a repository holds many shards
_LOGIN = "accept the model's terms on its page where it asks for that, then `hf auth login` or set HF_TOKEN"
_OFFLINE = "HF_HUB_OFFLINE is set"


class HubName(Struct, frozen=True):
    """What follows ``-m hf:`` - a repository, perhaps a revision, perhaps a file or a part of a file's name."""

    repo: str
    revision: str | None
    file: str | None

    def __str__(self) -> str:
        """Return the name as people type it."""
        at = f"@{self.revision}" if self.revision else ""
        return f"hf:{self.repo}{at}{f':{self.file}' if self.file else ''}"


def parse_hub_name(text: str) -> HubName:
    """Return the parts of ``hf:org/name[@revision][:file]``. Raises ``UsageError``."""
    match = _NAME.fullmatch(text)
    if match is None:
        raise UsageError(f"{text[:200]!r} names no repository", "write hf:org/name, hf:org/name@revision or ...:file")
    return HubName(match["repo"], match["revision"], match["file"])


class HubRepository:
    """One revision of a repository: the names of its files, and each file by ranges or from the client's cache."""

    def __init__(self, wanted: HubName, patience: Patience | None = None) -> None:
        """List the files. Raises ``UnavailableError``, ``MissingError`` where there is no such repository."""
        self.wanted = wanted
        self.name = f"hf:{wanted.repo}"
        self._hub = _client()
        self._patience = patience or Patience()
        self._waiting = Waiting(str(wanted), self._patience)
        self._ahead: dict[str, ByteSource] = {}
        self.revision, self._sizes = self._listed()

    @property
    def names(self) -> tuple[str, ...]:
        """All files, by their paths in the repository."""
        return tuple(self._sizes)

    def open(self, name: str) -> ByteSource:
        """Return a file. Raises ``MissingError`` where the repository has none of that name."""
        if name not in self._ahead:
            self._ahead[name] = self._opened(name)
        return self._ahead[name]

    def open_ahead(self, names: Iterable[str]) -> None:
        """Open several files at once; what fails is told when it is asked for."""
        wanted = [name for name in names if name in self._sizes and name not in self._ahead]
        if len(wanted) > 1:
            self._ahead |= self._waiting.run(lambda: self._opened_together(wanted))

    def fetch(self, names: Iterable[str]) -> Path:
        """Return the folder of the client's cache that now holds these small files, as far as there are such.

        Raises ``MissingError`` where there is none of them, ``BadInputError`` where one is larger than 8 MiB.
        """
        found = [self._fetched(name) for name in names if name in self._sizes]
        if not found:
            raise self._missing(", ".join(names))
        return found[0].parent

    def _opened(self, name: str) -> ByteSource:
        if name not in self._sizes:
            raise self._missing(name)
        kept = self._hub.try_to_load_from_cache(self.wanted.repo, name, revision=self.revision)
        if isinstance(kept, str):
            return FileSource(Path(kept))
        if self._is_offline():
            raise UnavailableError(f"{self.name}/{name} is not in the cache, and {_OFFLINE}", f"unset it, or {_GET}")
        return RangeSource(f"{self.name}/{name}", self._asking(name), self._waiting, login=_LOGIN)

    def _opened_together(self, names: Sequence[str]) -> dict[str, ByteSource]:
        def opened(name: str) -> tuple[str, ByteSource | None]:
            try:
                return name, self._opened(name)
            except AppError:
                return name, None

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return {name: source for name, source in pool.map(opened, names) if source is not None}

    def _fetched(self, name: str) -> Path:
        if (self._sizes[name] or 0) > _MOST_JSON_BYTES:
            raise BadInputError(f"{self.name}/{name} is larger than {_MOST_JSON_BYTES >> 20} MiB", "check the name")
        return Path(
            self._asked(
                lambda: self._hub.hf_hub_download(
                    self.wanted.repo,
                    name,
                    revision=self.wanted.revision,  # not the commit: so that the name is known when offline
                    tqdm_class=self._no_bar(),
                    etag_timeout=self._silence_s,
                )
            )
        )

    @property
    def _silence_s(self) -> float:
        return self._patience.silence_s

    def _listed(self) -> tuple[str, dict[str, int | None]]:
        if self._is_offline():
            return self._cached()
        ask = self._hub.HfApi().model_info
        revision = self.wanted.revision
        info = self._asked(
            lambda: ask(self.wanted.repo, revision=revision, files_metadata=True, timeout=self._silence_s)
        )
        return info.sha, {sibling.rfilename: sibling.size for sibling in info.siblings or ()}

    def _cached(self) -> tuple[str, dict[str, int | None]]:
        """Return the revision and the files that the cache holds of it."""
        try:
            repos = self._hub.scan_cache_dir(self._hub.constants.HF_HUB_CACHE).repos
        except self._hub.errors.CacheNotFound:
            repos = frozenset()
        for repo in repos:
            if (repo.repo_type, repo.repo_id) != ("model", self.wanted.repo):
                continue
            asked = self.wanted.revision or "main"
            for revision in repo.revisions:
                if asked in revision.refs or revision.commit_hash == asked:
                    root = revision.snapshot_path
                    sizes = {file.file_path.relative_to(root).as_posix(): file.size_on_disk for file in revision.files}
                    return revision.commit_hash, sizes
        raise MissingError(f"{self.wanted} is not in the cache, and {_OFFLINE}", f"unset it, or {_GET}")

    def _is_offline(self) -> bool:
        constants = self._hub.constants
        asked = getattr(constants, "is_offline_mode", None)  # a function since 1.2, before it a constant
        return bool(asked() if asked else constants.HF_HUB_OFFLINE)

    def _asked(self, ask: Callable[[], _T]) -> _T:
        def work() -> _T:
            with self._told():
                return ask()

        return self._waiting.run(work)

    def _asking(self, name: str) -> Ask:
        client = self._hub.utils
        url = self._hub.hf_hub_url(self.wanted.repo, name, revision=self.revision)

        @contextmanager
        def ask(first: int, last: int) -> Iterator[Answer]:
            wanted = {"Range": f"bytes={first}-{last}", "Accept-Encoding": "identity"}
            headers = {**client.build_hf_headers(library_name="vramcalc"), **wanted}
            session = client.get_session()  # it sends no token to another host that it is redirected to
            with self._told(), session.stream("GET", url, headers=headers, timeout=self._silence_s) as answer:
                yield _HubAnswer(answer)

        return ask

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn what the client raises into our own words."""
        errors = self._hub.errors
        try:
            yield
        except errors.GatedRepoError as error:
            raise UnavailableError(f"{self.name} is gated: its publisher wants to know who asks", _LOGIN) from error
        except errors.RepositoryNotFoundError as error:
            raise MissingError(
                f"the Hub knows no {self.wanted.repo}, or does not show it to you",
                "check the spelling; for a private one `hf auth login` or set HF_TOKEN",
            ) from error
        except errors.RevisionNotFoundError as error:
            raise MissingError(
                f"{self.name} has no revision {self.wanted.revision}", "name a branch, a tag or a commit"
            ) from error
        except errors.EntryNotFoundError as error:
            raise UnavailableError(f"{self.name}: {_line(error.__cause__ or error)}", "try again later") from error
        except errors.HfHubHTTPError as error:
            raise refusal(self.name, _HubAnswer(error.response), _LOGIN) from error
        except errors.HFValidationError as error:
            raise UsageError(f"{self.wanted} names no repository: {_line(error)}", "write hf:org/name") from error
        except (errors.HTTPError, OSError) as error:  # httpx's or httpx2's, by release
            if "Timeout" in type(error).__name__:
                raise UnavailableError(f"{self.name}: no answer within {self._silence_s:g} s", "try again") from error
            raise UnavailableError(
                f"{self.name} cannot be reached: {_line(error)}",
                "check the network, HF_ENDPOINT and the proxy; HF_HUB_OFFLINE=1 reads what is in the cache",
            ) from error

    def _no_bar(self) -> type:
        class NoBar(self._hub.utils.tqdm):  # type: ignore[name-defined,misc]
            def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401
                super().__init__(*args, **options | {"disable": True})

        return NoBar

    def _missing(self, name: str) -> MissingError:
        return MissingError(f"{self.name} holds no file {name}", "check the spelling, or name another revision")


_GET = "fetch it first with `hf download`"


class _HubAnswer:
    """An answer of the client's session."""

    def __init__(self, answer: Any) -> None:  # noqa: ANN401 - httpx's or httpx2's, by release
        self._headers: Mapping[str, str] = answer.headers
        self.status: int = answer.status_code
        self._pieces: Iterator[bytes] | None = None
        self._answer = answer
        self._left = b""

    def header(self, name: str) -> str | None:
        return self._headers.get(name)

    def read(self, n_bytes: int) -> bytes:
        if self._pieces is None:
            self._pieces = self._answer.iter_raw()
        piece = self._left or next(self._pieces, b"")
        self._left = piece[n_bytes:]
        return piece[:n_bytes]


def _client() -> ModuleType:
    try:
        import huggingface_hub.constants  # noqa: PLC0415 - an extra
        import huggingface_hub.errors  # noqa: PLC0415
        import huggingface_hub.utils  # noqa: PLC0415
    except ImportError as error:
        raise UsageError(
            "reading from the Hugging Face Hub takes its client, which is not installed",
            "pip install 'vramcalc-cli[hub]'",
        ) from error
    return huggingface_hub


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
