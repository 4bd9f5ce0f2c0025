"""Checkpoints by hub id: small files as a whole, large ones by byte range.

Environment as in huggingface_hub: HF_ENDPOINT, HF_TOKEN, HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE and the proxies.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from huggingface_hub import (
    HfApi,
    constants,
    get_hf_file_metadata,
    get_session,
    hf_hub_download,
    hf_hub_url,
    hf_raise_for_status,
    try_to_load_from_cache,
)
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    are_progress_bars_disabled,
    build_hf_headers,
    disable_progress_bars,
    enable_progress_bars,
    validate_repo_id,
)

from visprobe.errors import CheckpointError
from visprobe.io.atomic import write_json
from visprobe.io.cache import cache_folder
from visprobe.io.containers.folder import ByteFile, Folder, LocalFile, LocalFolder
from visprobe.io.hub.errors import offline, retry, translate_hub_errors
from visprobe.io.hub.range_cache import RangeCache, has_address
from visprobe.io.hub.remote_file import RemoteAddress, RemoteFile, plain_etag

_HUB_ID = re.compile(r"(?P<repo>[^/@\s]+/[^/@\s]+)(@(?P<revision>\S+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_MOST_PAGES = 1000  # of a thousand models each
_NOT_NEEDED = {"tokenizer.json", "vocab.json"}  # megabytes that no vision encoder needs


def open_folder(spec: str | Path) -> Folder:
    """Open the folder of a checkpoint that a user names.

    Args:
        spec: Folder on this machine, or `org/name` or `org/name@revision` (branch, tag or commit) on the hub. A path
            that exists on this machine comes first.

    Raises:
        CheckpointError: If it is neither, or the hub does not have it or refuses it.
    """
    path = os.path.expanduser(spec)
    if os.path.exists(path):  # not Path's: it raises for names that no file can have
        return open_local(Path(path))
    if (match := _HUB_ID.fullmatch(str(spec))) and _may_be_id(match["repo"]):
        return HubFolder(str(spec), match["repo"], match["revision"] or constants.DEFAULT_REVISION)
    raise CheckpointError(
        f"{spec} does not exist", hint="Give a checkpoint's folder, or a hub id: org/name or org/name@revision."
    )


def _may_be_id(repo: str) -> bool:
    try:
        validate_repo_id(repo)
    except ValueError:
        return False
    return True


def list_models(author: str) -> list[str]:
    """List the ids of all visible models of a user or an organisation on the hub, in the hub's order.

    Raises:
        CheckpointError: If the hub cannot be asked, or its pages lead to another server or never end.
    """
    ids: list[str] = []
    url = f"{constants.ENDPOINT}/api/models?author={quote(author, safe='')}"
    asked: set[str] = set()
    with translate_hub_errors(f"the list of models of {author}", author):
        while url:
            asked.add(url)
            page = retry(lambda url=url: _get(url), time.sleep)  # type: ignore[misc]
            ids += [str(model["id"]) for model in page.json()]
            url = _next_page(author, url, page.links.get("next", {}).get("url"), asked)
    return ids


def _next_page(author: str, url: str, link: str | None, asked: Collection[str]) -> str:
    """Return the URL of the page that follows `url`, or "" after the last one."""
    # each request carries the token, so no answer may choose the server that receives it
    following = urljoin(url, link) if link else ""
    if following and _origin(following) != _origin(constants.ENDPOINT):
        raise CheckpointError(
            f"{constants.ENDPOINT} continues the list of models of {author} on another server, "
            f"{urlsplit(following).netloc.rpartition('@')[2]}, which is not asked",
            hint="Name the models one by one, or set HF_ENDPOINT to the hub itself if it is a mirror.",
        )
    if following in asked or len(asked) >= _MOST_PAGES:
        raise CheckpointError(
            f"{constants.ENDPOINT} gives a list of models of {author} that does not end: after {len(asked)} pages it "
            f"leads to {'a page that was there already' if following in asked else 'yet another one'}",
            hint="Name the models one by one, and check HF_ENDPOINT.",
        )
    return following


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _get(url: str) -> Any:
    """Send one request; `HfApi.list_models` would retry a dead network for half a minute."""
    _api()
    headers = build_hf_headers(library_name="visprobe")
    answer = get_session().get(url, headers=headers, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    hf_raise_for_status(answer)
    return answer


def list_collection(slug: str) -> list[str]:
    """List the ids of the models in a collection, in its order.

    Args:
        slug: End of the collection's address: "org/title-0123456789abcdef01234567".

    Raises:
        CheckpointError: If there is no such collection, or the hub cannot be asked.
    """
    with translate_hub_errors(f"the collection {slug}", f"collections/{slug}"):
        items = retry(lambda: _api().get_collection(slug).items, time.sleep)
        return [str(item.item_id) for item in items if item.item_type == "model"]


@dataclass(frozen=True)
class _Listing:
    """Files of one commit: name to (size, etag), empty where the hub gave none."""

    commit: str
    files: dict[str, list[object]] = field(default_factory=dict)


class HubFolder:
    """Files of a model at one commit on the hub; only their list is downloaded at first.

    Args:
        spec: Spec that the user typed.
        repo: Model id, `org/name`.
        revision: Branch, tag or commit.

    Attributes:
        commit: Commit that `revision` means now; all reading is from it.
        notes: Warnings for the reader, one sentence each.

    Raises:
        CheckpointError: If the hub does not have it or refuses it.
    """

    def __init__(self, spec: str, repo: str, revision: str) -> None:
        self.notes: list[str] = []
        self._spec = spec
        self._repo = repo
        self._compared: set[Path] = set()
        with translate_hub_errors(spec, repo):
            self._listing = _list_files(spec, repo, revision)
        self.commit = self._listing.commit

    def __str__(self) -> str:
        return self._spec

    @cached_property
    def path(self) -> Path:
        """Local folder of all `*.json` of the checkpoint itself, without tokenizer tables.

        Raises:
            CheckpointError: If it has none.
        """
        small = [n for n in self.names() if n.endswith(".json") and "/" not in n and n not in _NOT_NEEDED]
        if not small:
            raise CheckpointError(f"{self} has no config.json", hint="Give a model in the layout of transformers.")
        with _no_progress_bars(), ThreadPoolExecutor(4) as pool:
            fetched = list(pool.map(self.fetch, small))
        return fetched[0].parent

    def names(self) -> list[str]:
        """Return the names of all files of the commit, sorted."""
        return sorted(self._listing.files)

    def open(self, name: str) -> ByteFile:
        """Open file `name` for reading ranges of it; huggingface_hub's cache is used if it holds the whole file."""
        self._check(name)
        whole = try_to_load_from_cache(self._repo, name, revision=self.commit)
        if isinstance(whole, str):
            return LocalFile(Path(whole))
        with translate_hub_errors(f"{name} of {self}", self._repo):
            address = self._address(name)
        key = (
            address.etag
            if _HASH.fullmatch(address.etag)
            else sha256(f"{address.url} {address.etag}".encode()).hexdigest()
        )
        return RemoteFile(
            f"{name} of {self}", address, RangeCache(cache_folder("hub") / "files" / key, address.size), self.notes
        )

    def fetch(self, name: str) -> Path:
        """Download file `name` into huggingface_hub's cache and return its path."""
        self._check(name)
        with translate_hub_errors(f"{name} of {self}", self._repo):
            _api()
            path = Path(hf_hub_download(self._repo, name, revision=self.commit, library_name="visprobe"))
        self._compare(name, path)
        return path

    def _compare(self, name: str, path: Path) -> None:
        """Refuse a whole file whose hash differs from the listing of its commit: damaged, or changed by a mirror."""
        _, address = self._listing.files[name] or (None, "")
        known = path in self._compared or not _HASH.fullmatch(str(address))
        if not known and not has_address(path, str(address)):
            raise CheckpointError(
                f"{path} is not {name} of {self} as the hub lists it: its content has another hash",
                hint="Remove that file, so that it is fetched again; a mirror (HF_ENDPOINT) may send files of its own.",
            )
        self._compared.add(path)

    def _check(self, name: str) -> None:
        if name not in self._listing.files:
            raise CheckpointError(f"{self} has no file {name}", hint=f"It has: {', '.join(self.names()[:20])}")

    def _address(self, name: str) -> RemoteAddress:
        size, etag = self._listing.files[name] or (None, None)
        url = hf_hub_url(self._repo, name, revision=self.commit)
        if not isinstance(size, int) or not isinstance(etag, str):
            if constants.HF_HUB_OFFLINE:
                raise offline(f"{name} of {self}")
            _api()
            asked = retry(lambda: get_hf_file_metadata(url, library_name="visprobe"), time.sleep)
            size, etag = asked.size, asked.etag
        if not isinstance(size, int) or not isinstance(etag, str):
            raise ValueError(f"no size or no ETag for {name}")
        return RemoteAddress(self._repo, url, self.commit, plain_etag(etag), size)


def _api() -> HfApi:
    # huggingface_hub would add versions and the calling program to each request, and may ask for a list of such
    # programs: nothing but the requests themselves is to be sent.
    constants.HF_HUB_DISABLE_TELEMETRY = True
    return HfApi(library_name="visprobe")


def _list_files(spec: str, repo: str, revision: str) -> _Listing:
    folder = cache_folder("hub") / "models" / repo.replace("/", "--")
    kept = folder / f"{quote(revision, safe='')}.json"
    if _COMMIT.fullmatch(revision) or constants.HF_HUB_OFFLINE:  # the content of a commit never changes
        if kept.is_file():
            return _Listing(**json.loads(kept.read_bytes()))
        if constants.HF_HUB_OFFLINE:
            return _in_hub_cache(spec, repo, revision)
    ask = _api().model_info
    timeout = constants.HF_HUB_ETAG_TIMEOUT
    info = retry(lambda: ask(repo, revision=revision, files_metadata=True, timeout=timeout), time.sleep)
    if info.sha is None or not _COMMIT.fullmatch(info.sha):
        raise ValueError(f"{info.sha!r} is no commit")
    listing = _Listing(info.sha)
    for file in info.siblings or ():
        etag = file.lfs.sha256 if file.lfs else file.blob_id
        listing.files[file.rfilename] = [file.size, etag] if file.size is not None and etag else []
    for name in {kept.name, f"{info.sha}.json"}:
        with suppress(PermissionError):  # another user's cache can still be read
            _write_new(folder / name, asdict(listing))
    return listing


def _write_new(path: Path, content: dict[str, Any]) -> None:
    """Write a file unless it has this content already: a cache may be on a disk that cannot be written."""
    if not path.is_file() or json.loads(path.read_bytes()) != content:
        write_json(path, content)


def _in_hub_cache(spec: str, repo: str, revision: str) -> _Listing:
    for file in ("config.json", "adapter_config.json"):
        found = try_to_load_from_cache(repo, file, revision=revision)
        if isinstance(found, str):
            snapshot = Path(found).parent
            return _Listing(snapshot.name, {name: [] for name in LocalFolder(snapshot).names()})
    raise offline(spec)


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


_MODEL, _SNAPSHOTS = "models--", "snapshots"
_OTHERS = {"datasets--": "a dataset", "spaces--": "a space"}


def open_local(path: Path) -> LocalFolder:
    """Open the folder `path`; a model's folder in the hub's cache, or its `snapshots`, stands for its snapshot.

    Of several snapshots, that of the branch main is taken, as for the model's id, and a note says so.

    Raises:
        CheckpointError: If there are several and none is main's, none at all, or `path` is no model's.
    """
    if (path / "config.json").is_file():
        return LocalFolder(path)
    if repositories := sorted(place.parent for pattern in _REPOSITORIES for place in path.glob(pattern)):
        raise _several(path, "the hub's cache", repositories)
    repository = path.parent if path.name == _SNAPSHOTS else path
    for prefix, what in _OTHERS.items():
        if any(part.startswith(prefix) for part in path.absolute().parts[-3:]):
            raise CheckpointError(f"{path} is {what} in the hub's cache", hint="Give the folder of a model: models--…")
    if not repository.name.startswith(_MODEL) or not repository.is_dir():
        return LocalFolder(path)
    return _snapshot(path, repository)


_REPOSITORIES = tuple(f"{above}{_MODEL}*/{_SNAPSHOTS}" for above in ("", "hub/"))


def _snapshot(path: Path, repository: Path) -> LocalFolder:
    main = repository / "refs" / "main"
    named = main.read_text().strip() if main.is_file() else None
    found = sorted(place for place in repository.glob(f"{_SNAPSHOTS}/*") if place.is_dir())
    taken = [place for place in found if place.name == named or len(found) == 1]
    if not taken:
        raise _several(path, "a model in the hub's cache", found)
    folder = LocalFolder(taken[0])
    if others := [str(place) for place in found if place != taken[0]]:
        folder.notes.append(f"of the snapshots in {path} that of main is read, {named}, and not {', '.join(others)}")
    return folder


def _several(path: Path, what: str, found: list[Path]) -> CheckpointError:
    shown = f"{', '.join(map(str, found[:5]))}{f' and {len(found) - 5} more' if len(found) > 5 else ''}"
    return CheckpointError(
        f"{path} is {what}, with {len(found)} to choose from",
        hint=f"Give one of them: {shown}." if found else "Download the model again: no snapshot is there.",
    )
