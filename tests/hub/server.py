"""A server that speaks the part of the Hub's HTTP interface that txzoo uses, for tests.

It keeps everything on disk below one folder and listens on 127.0.0.1. The interface answers under
`127.0.0.1` and the storage of large files under `localhost`, so that a token sent to storage is
noticed: storage refuses it and counts it in `leaks`.

What it does not claim: to be the Hub. It was written from what the client sends and expects, so
that the client agrees with it proves nothing about the public Hub; `TXZOO_TEST_HUB=namespace` runs
the same suite against that one. It has models only, no pull requests, no discussions, no Xet
storage, no multipart uploads, no rate limits, no organisations beside a user's own name; it checks
the front matter of a card only for the shapes that are written in `card_errors`; its commits are
hashes of its own making, not git objects.
"""

import base64
import hashlib
import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

PAGE = 2  # entries of a listing a page, few so that paging is tried
LARGE = 100_000  # bytes from which a file is large whatever its name


@dataclass
class Fault:
    """Something that shall go wrong.

    Attributes:
        match: a pattern for `"METHOD /path"`.
        kind: "status", "slow", "drop", "truncate", "alter", "longer", "shorter", or "meanwhile"
            for a commit of somebody else just before.
        times: how often; then all is well again.
        value: the status, the seconds, or the bytes after which the connection is dropped or the
            content ends.
    """

    match: str
    kind: str
    times: int = 1
    value: float = 0


@dataclass
class Reply:
    """What a handler answers."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class Refusal(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(message or code)
        self.reply = Reply(status, json.dumps({"error": message or code}).encode())
        self.reply.headers["Content-Type"] = "application/json"
        if code:
            self.reply.headers["X-Error-Code"] = code
        if message:
            self.reply.headers["X-Error-Message"] = message


@dataclass
class User:
    """Who a token belongs to, and whether it may write."""

    name: str
    write: bool


class Repository:
    """One repository on disk: `state.json` with commits and refs, `objects/` with contents."""

    def __init__(self, root: Path, name: str) -> None:
        self.root = root
        self.name = name
        self.state: dict[str, Any] = json.loads((root / "state.json").read_text())

    @classmethod
    def create(cls, root: Path, name: str, private: bool) -> "Repository":
        (root / "objects").mkdir(parents=True)
        state = {"private": private, "gated": False, "allowed": [], "commits": {}, "order": []}
        state |= {"branches": {}, "tags": {}}
        (root / "state.json").write_text(json.dumps(state))
        repository = cls(root, name)
        content = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
        repository.commit("main", {".gitattributes": repository.store(content)}, "initial commit")
        return repository

    def save(self) -> None:
        beside = self.root / "state.json.tmp"
        beside.write_text(json.dumps(self.state))
        beside.replace(self.root / "state.json")

    def store(self, content: bytes, *, large: bool = False) -> dict[str, Any]:
        """Keep a content; returns its entry in a commit."""
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        entry: dict[str, Any] = {"size": len(content), "oid": git}
        if large:
            entry["sha256"] = hashlib.sha256(content).hexdigest()
        (self.root / "objects" / entry.get("sha256", git)).write_bytes(content)
        return entry

    def content(self, entry: dict[str, Any]) -> bytes:
        return (self.root / "objects" / entry.get("sha256", entry["oid"])).read_bytes()

    def commit(self, branch: str, files: dict[str, Any], message: str) -> str:
        parent = self.state["branches"].get(branch)
        source = json.dumps([parent, files, message, len(self.state["order"])])
        oid = hashlib.sha1(source.encode()).hexdigest()
        self.state["commits"][oid] = {"files": files, "message": message, "parent": parent}
        self.state["order"].append(oid)
        self.state["branches"][branch] = oid
        self.save()
        return oid

    def resolve(self, revision: str) -> str:
        state = self.state
        for refs in (state["branches"], state["tags"]):
            if revision in refs:
                return str(refs[revision])
        if revision in state["commits"]:
            return revision
        raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")

    def files(self, revision: str) -> dict[str, Any]:
        files: dict[str, Any] = self.state["commits"][self.resolve(revision)]["files"]
        return files

    def card(self, revision: str) -> dict[str, Any]:
        entry = self.files(revision).get("README.md")
        match = (
            re.match(r"---\n(.*?)^---", self.content(entry).decode(), re.S | re.M)
            if entry
            else None
        )
        data = yaml.safe_load(match[1]) if match else {}
        return data if isinstance(data, dict) else {}

    def info(self, revision: str, blobs: bool = True) -> dict[str, Any]:
        card = self.card(revision)
        tags = [*card.get("tags", [])]
        tags += [value for key in ("library_name", "pipeline_tag") if (value := card.get(key))]
        tags += [f"license:{card['license']}"] if card.get("license") else []
        siblings = [
            {"rfilename": path, **({"size": e["size"], "blobId": e["oid"]} if blobs else {})}
            for path, e in self.files(revision).items()
        ]
        return {
            "_id": hashlib.md5(self.name.encode()).hexdigest()[:24],
            "id": self.name,
            "modelId": self.name,
            "author": self.name.split("/")[0],
            "sha": self.resolve(revision),
            "private": self.state["private"],
            "gated": "manual" if self.state["gated"] else False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": list(dict.fromkeys(tags)),
            "pipeline_tag": card.get("pipeline_tag"),
            "library_name": card.get("library_name"),
            "cardData": card,
            "siblings": siblings,
        }


def card_errors(content: str) -> list[str]:
    """What is wrong with a card's front matter, as far as this server looks."""
    match = re.match(r"---\n(.*?)^---", content, re.S | re.M)
    if match is None:
        return []
    try:
        data = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        return [f"not YAML: {error}"]
    if not isinstance(data, dict):
        return ["the front matter must be a mapping"]
    texts = {"pipeline_tag": str, "library_name": str, "license": (str, list)}
    errors = [
        f'"{k}" must be a string'
        for k, kind in texts.items()
        if not isinstance(data.get(k, ""), kind)
    ]
    for key in ("tags", "datasets", "base_model", "language"):
        values = data.get(key, [])
        if not all(
            isinstance(value, str) for value in (values if isinstance(values, list) else [values])
        ):
            errors.append(f'"{key}" must be a list of strings')
    if data.get("license") == "other" and not (
        data.get("license_name") and data.get("license_link")
    ):
        errors.append('"license: other" needs "license_name" and "license_link"')
    for model in data.get("model-index", []):
        for result in model.get("results", []):
            for path in ("task.type", "dataset.type", "dataset.name"):
                key, part = path.split(".")
                if not isinstance(result.get(key, {}).get(part), str):
                    errors.append(f'"model-index.results.{path}" is required')
            for metric in result.get("metrics", []):
                if not isinstance(metric.get("type"), str) or "value" not in metric:
                    errors.append('"model-index.results.metrics" needs type and value')
        if not isinstance(model.get("name"), str):
            errors.append('"model-index.name" is required')
    return errors


class Hub:
    """The server; use `Hub.running(folder)`.

    Attributes:
        tokens: token to user.
        faults: what shall go wrong, in the order in which it is looked for.
        log: `"METHOD /path"` of every request.
        leaks: how many requests to storage carried a token.
        ranges: the Range header of every request that had one.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tokens: dict[str, User] = {}
        self.faults: list[Fault] = []
        self.log: list[str] = []
        self.leaks = 0
        self.ranges: list[str] = []
        self.lock = threading.RLock()
        hub = self

        class Handler(_Handler):
            owner = hub

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.port = self.http.server_address[1]

    @classmethod
    @contextmanager
    def running(cls, root: Path) -> Iterator["Hub"]:
        hub = cls(root)
        thread = threading.Thread(target=hub.http.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.http.shutdown()
            hub.http.server_close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def fail(self, match: str, kind: str, *, times: int = 1, value: float = 0) -> None:
        """Let something go wrong from now on."""
        self.faults.append(Fault(match, kind, times, value))

    def repository(self, name: str) -> Repository:
        if not re.fullmatch(r"[A-Za-z0-9._-]+/[A-Za-z0-9._-]+", name) or ".." in name:
            raise Refusal(404, "RepoNotFound", "Repository not found")
        if not (self.root / name / "state.json").exists():
            raise Refusal(404, "RepoNotFound", "Repository not found")
        return Repository(self.root / name, name)

    def repositories(self) -> list[Repository]:
        return [
            Repository(path.parent, f"{path.parent.parent.name}/{path.parent.name}")
            for path in sorted(self.root.glob("*/*/state.json"))
        ]

    def set(self, name: str, **state: Any) -> None:
        """Change `private`, `gated` or `allowed` of a repository, as its settings page would."""
        with self.lock:
            repository = self.repository(name)
            repository.state.update(state)
            repository.save()

    def commit_meanwhile(self, path: str) -> None:
        """Add a commit to the repository that a request is about, as somebody else would."""
        with self.lock:
            match = re.match(MODEL, path)
            assert match is not None
            repository = self.repository(match[1])
            files = {**repository.files("main"), "other.txt": repository.store(b"other")}
            repository.commit("main", files, "somebody else's")

    def take_fault(self, request: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.match, request):
                    fault.times -= 1
                    return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    owner: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def handle_any(self) -> None:
        request = f"{self.command} {self.path}"
        self.owner.log.append(request)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.owner.ranges += self.headers.get_all("Range") or []
        fault = self.owner.take_fault(request)
        if fault is not None and fault.kind == "meanwhile":
            self.owner.commit_meanwhile(self.path)
        if fault is not None and fault.kind == "slow":
            time.sleep(fault.value)
        if fault is not None and fault.kind == "status":
            return self.send(Reply(int(fault.value), b'{"error": "on request"}'), None)
        try:
            with self.owner.lock:
                reply = self.answer(body)
        except Refusal as refusal:
            reply = refusal.reply
        self.send(reply, fault)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any

    def send(self, reply: Reply, fault: Fault | None) -> None:
        body, headers, drop = reply.body, dict(reply.headers), None
        kind = fault.kind if fault is not None else ""
        value = int(fault.value) if fault is not None else 0
        if kind == "alter" and body:
            body = body[:-1] + bytes([body[-1] ^ 1])
        elif kind == "truncate":  # a whole and consistent answer with less in it
            body = body[:value]
        length = headers.pop("Content-Length", str(len(body)))
        if kind == "drop":
            drop = value
        elif kind == "longer":  # claims more than it sends, then closes
            length, drop = str(len(body) + 7), len(body)
        elif kind == "shorter":  # claims less than there is
            length = str(max(0, len(body) - 7))
        self.send_response(reply.status)
        for name, text in headers.items():
            self.send_header(name, text)
        self.send_header("Content-Length", length)
        if drop is not None:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if self.command != "HEAD":
            try:
                self.wfile.write(body if drop is None else body[:drop])
            except OSError:
                self.close_connection = True
        if kind in ("drop", "longer", "shorter"):
            self.close_connection = True

    def answer(self, body: bytes) -> Reply:
        url = urlsplit(self.path)  # the path stays quoted: a branch may be feature%2Fx
        self.query = parse_qs(url.query)
        for pattern, method, handler in ROUTES:
            match = re.fullmatch(pattern, url.path)
            if match and method in (self.command, "GET" if self.command == "HEAD" else ""):
                return handler(
                    self, body, *(unquote(part) for part in match.groups() if part is not None)
                )
        raise Refusal(404, "", f"no such route: {self.command} {url.path}")

    # -- who asks, and may they ------------------------------------------------------------

    def user(self) -> User | None:
        words = self.headers.get("Authorization", "").split()
        if not words:
            return None
        if words[0] != "Bearer" or words[-1] not in self.owner.tokens:
            raise Refusal(401, "", "Invalid credentials in Authorization header")
        return self.owner.tokens[words[-1]]

    def reading(self, name: str, *, content: bool = False) -> Repository:
        """A repository that the asker may see; with `content`, whose files they may have."""
        user = self.user()
        try:
            repository = self.owner.repository(name)
        except Refusal as refusal:
            raise (
                refusal if user else Refusal(401, "RepoNotFound", "Repository not found")
            ) from None
        mine = user is not None and user.name == name.split("/")[0]
        if repository.state["private"] and not mine:
            raise Refusal(404 if user else 401, "RepoNotFound", "Repository not found")
        allowed = mine or (user is not None and user.name in repository.state["allowed"])
        if content and repository.state["gated"] and not allowed:
            raise Refusal(403 if user else 401, "GatedRepo", "Access to this model is restricted")
        return repository

    def writing(self, name: str) -> Repository:
        repository = self.reading(name)
        self.check_writer(name.split("/")[0])
        return repository

    def check_writer(self, namespace: str) -> None:
        user = self.user()
        if user is None:
            raise Refusal(401, "", "Authentication is needed")
        if not user.write or user.name != namespace:
            raise Refusal(403, "", f"This token may not write to {namespace}")

    # -- the interface ---------------------------------------------------------------------

    def whoami(self, body: bytes) -> Reply:
        user = self.user()
        if user is None:
            raise Refusal(401, "", "Authentication is needed")
        role = "write" if user.write else "read"
        return reply_json(
            {"type": "user", "name": user.name, "orgs": [], "auth": {"accessToken": {"role": role}}}
        )

    def create(self, body: bytes) -> Reply:
        wanted = json.loads(body)
        user = self.user()
        namespace = wanted.get("organization") or (user.name if user else "")
        self.check_writer(namespace)
        name = f"{namespace}/{wanted['name']}"
        url = {"url": f"{self.owner.endpoint}/{name}", "name": name}
        root = self.owner.root / name
        if root.exists():
            return reply_json({**url, "error": "You already created this model repo"}, 409)
        Repository.create(
            root, name, wanted.get("visibility") == "private" or bool(wanted.get("private"))
        )
        return reply_json(url)

    def delete(self, body: bytes) -> Reply:
        wanted = json.loads(body)
        name = f"{wanted.get('organization')}/{wanted['name']}"
        shutil.rmtree(self.writing(name).root)
        return reply_json({})

    def validate(self, body: bytes) -> Reply:
        errors = card_errors(json.loads(body)["content"])
        report = {"errors": [{"message": error} for error in errors], "warnings": []}
        return reply_json(report, 400 if errors else 200)

    def preupload(self, body: bytes, name: str, revision: str) -> Reply:
        repository = self.writing(name)
        known = repository.files(revision)
        files = []
        for file in json.loads(body)["files"]:
            large = file["path"].endswith(".safetensors") or file["size"] > LARGE
            entry = known.get(file["path"], {})
            answer = {"path": file["path"], "uploadMode": "lfs" if large else "regular"}
            answer |= {"shouldIgnore": False}
            if oid := entry.get("sha256" if large else "oid"):
                answer["oid"] = oid
            files.append(answer)
        return reply_json({"files": files})

    def batch(self, body: bytes, name: str) -> Reply:
        repository = self.writing(name)
        objects = []
        for wanted in json.loads(body)["objects"]:
            entry = {"oid": wanted["oid"], "size": wanted["size"]}
            if not (repository.root / "objects" / wanted["oid"]).exists():
                place = f"{name}/{wanted['oid']}"
                entry["actions"] = {
                    "upload": {"href": f"http://localhost:{self.owner.port}/storage/{place}"},
                    "verify": {"href": f"{self.owner.endpoint}/verify/{place}"},
                }
            objects.append(entry)
        return reply_json({"transfer": "basic", "objects": objects})

    def put(self, body: bytes, name: str, oid: str) -> Reply:
        self.refuse_token()
        if hashlib.sha256(body).hexdigest() != oid:
            raise Refusal(400, "", "the content has another sha256")
        self.owner.repository(name).store(body, large=True)
        return Reply()

    def verify(self, body: bytes, name: str, oid: str) -> Reply:
        path = self.writing(name).root / "objects" / oid
        if not path.exists() or path.stat().st_size != json.loads(body)["size"]:
            raise Refusal(404, "", "no such object")
        return Reply()

    def commit(self, body: bytes, name: str, revision: str) -> Reply:
        repository = self.writing(name)
        if revision not in repository.state["branches"]:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        lines = [json.loads(line) for line in body.splitlines() if line]
        header = next(line["value"] for line in lines if line["key"] == "header")
        parent = header.get("parentCommit")
        if parent and repository.resolve(revision) != parent:
            raise Refusal(412, "", "A commit has happened since. Please refresh and try again.")
        files = dict(repository.files(revision))
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = repository.store(base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                if not (repository.root / "objects" / value["oid"]).exists():
                    raise Refusal(400, "", f"no content was uploaded for {value['path']}")
                pointer = f"oid sha256:{value['oid']}\nsize {value['size']}\n".encode()
                oid = hashlib.sha1(pointer).hexdigest()
                files[value["path"]] = {"size": value["size"], "oid": oid, "sha256": value["oid"]}
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        oid = repository.commit(revision, files, header["summary"])
        url = f"{self.owner.endpoint}/{name}/commit/{oid}"
        return reply_json({"success": True, "commitUrl": url, "commitOid": oid, "hookOutput": ""})

    def tag(self, body: bytes, name: str, revision: str) -> Reply:
        repository = self.writing(name)
        return self.add_ref(
            repository, "tags", json.loads(body)["tag"], repository.resolve(revision)
        )

    def branch(self, body: bytes, name: str, branch: str) -> Reply:
        repository = self.writing(name)
        start = json.loads(body or b"{}").get("startingPoint") or "main"
        return self.add_ref(repository, "branches", branch, repository.resolve(start))

    def add_ref(self, repository: Repository, kind: str, name: str, commit: str) -> Reply:
        if name in repository.state[kind]:
            raise Refusal(409, "", f"{name} already exists")
        repository.state[kind][name] = commit
        repository.save()
        return reply_json({})

    def delete_tag(self, body: bytes, name: str, tag: str) -> Reply:
        repository = self.writing(name)
        if repository.state["tags"].pop(tag, None) is None:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {tag}")
        repository.save()
        return reply_json({})

    def refs(self, body: bytes, name: str) -> Reply:
        state = self.reading(name).state
        shown = {
            kind: [
                {"name": n, "ref": f"{ref}/{n}", "targetCommit": c} for n, c in state[kind].items()
            ]
            for kind, ref in (("branches", "refs/heads"), ("tags", "refs/tags"))
        }
        return reply_json({**shown, "converts": []})

    def commits(self, body: bytes, name: str, revision: str) -> Reply:
        repository = self.reading(name)
        oid: str | None = repository.resolve(revision)
        found = []
        while oid:
            commit = repository.state["commits"][oid]
            date = "2026-01-01T00:00:00.000Z"
            found.append(
                {"id": oid, "title": commit["message"], "message": "", "date": date, "authors": []}
            )
            oid = commit["parent"]
        return reply_json(found)

    def info(self, body: bytes, name: str, revision: str = "main") -> Reply:
        return reply_json(self.reading(name).info(revision, "blobs" in self.query))

    def listing(self, body: bytes) -> Reply:
        user = self.user()
        wanted = self.query.get("filter", [])
        found = []
        for repository in self.owner.repositories():
            entry = repository.info("main")
            hidden = repository.state["private"] and not (user and user.name == entry["author"])
            right = set(wanted) <= set(entry["tags"])
            right = right and self.query.get("author", [entry["author"]])[0] == entry["author"]
            if (
                right
                and not hidden
                and self.query.get("search", [""])[0].lower() in entry["id"].lower()
            ):
                found.append(entry)
        start = int(self.query.get("cursor", ["0"])[0])
        reply = reply_json(found[start : start + PAGE])
        if start + PAGE < len(found):
            path = re.sub(r"&?cursor=\d+", "", self.path)
            following = f"{self.owner.endpoint}{path}&cursor={start + PAGE}"
            reply.headers["Link"] = f'<{following}>; rel="next"'
        return reply

    def tree(self, body: bytes, name: str, revision: str) -> Reply:
        return reply_json(entries(self.reading(name).files(revision)))

    def paths_info(self, body: bytes, name: str, revision: str) -> Reply:
        wanted = parse_qs(body.decode()).get("paths", [])
        files = self.reading(name).files(revision)
        return reply_json(entries({path: files[path] for path in wanted if path in files}))

    def resolve(self, body: bytes, name: str, revision: str, path: str) -> Reply:
        repository = self.reading(name, content=True)
        commit = repository.resolve(revision)
        entry = repository.files(commit).get(path)
        if entry is None:
            refusal = Refusal(404, "EntryNotFound", "Entry not found")
            refusal.reply.headers["X-Repo-Commit"] = commit
            raise refusal
        headers = {"X-Repo-Commit": commit}
        if "sha256" not in entry:
            content = repository.content(entry)
            return Reply(
                200, content, {**headers, "ETag": f'"{entry["oid"]}"', "Accept-Ranges": "bytes"}
            )
        headers |= {"X-Linked-Size": str(entry["size"]), "X-Linked-ETag": f'"{entry["sha256"]}"'}
        place = f"storage/{name}/{entry['sha256']}"
        return Reply(
            302, b"", {**headers, "Location": f"http://localhost:{self.owner.port}/{place}"}
        )

    def fetch(self, body: bytes, name: str, oid: str) -> Reply:
        self.refuse_token()
        content = (self.owner.repository(name).root / "objects" / oid).read_bytes()
        headers = {"Accept-Ranges": "bytes", "ETag": f'"{oid}"'}
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if match is None:
            return Reply(200, content, headers)
        start, stop = int(match[1]), min(int(match[2] or len(content)), len(content) - 1)
        if start >= len(content):
            raise Refusal(416, "", "no such range")
        headers["Content-Range"] = f"bytes {start}-{stop}/{len(content)}"
        return Reply(206, content[start : stop + 1], headers)

    def refuse_token(self) -> None:
        if self.headers.get("Authorization"):
            self.owner.leaks += 1
            raise Refusal(400, "", "storage takes no token")


def reply_json(value: Any, status: int = 200) -> Reply:
    return Reply(status, json.dumps(value).encode(), {"Content-Type": "application/json"})


def entries(files: dict[str, Any]) -> list[dict[str, Any]]:
    """Files of a commit, as a listing of a tree shows them."""
    found = []
    for path, entry in files.items():
        shown = {"type": "file", "path": path, "size": entry["size"], "oid": entry["oid"]}
        if "sha256" in entry:
            shown["lfs"] = {"oid": entry["sha256"], "size": entry["size"], "pointerSize": 134}
        found.append(shown)
    return found


MODEL = r"/api/models/([^/]+/[^/]+)"
STORED = r"([^/]+/[^/]+)/([0-9a-f]{64})"
ROUTES: list[tuple[str, str, Callable[..., Reply]]] = [
    (r"/api/whoami-v2", "GET", _Handler.whoami),
    (r"/api/repos/create", "POST", _Handler.create),
    (r"/api/repos/delete", "DELETE", _Handler.delete),
    (r"/api/validate-yaml", "POST", _Handler.validate),
    (r"/api/models", "GET", _Handler.listing),
    (rf"{MODEL}/preupload/([^/]+)", "POST", _Handler.preupload),
    (rf"{MODEL}/commit/([^/]+)", "POST", _Handler.commit),
    (rf"{MODEL}/tag/([^/]+)", "POST", _Handler.tag),
    (rf"{MODEL}/tag/([^/]+)", "DELETE", _Handler.delete_tag),
    (rf"{MODEL}/branch/([^/]+)", "POST", _Handler.branch),
    (rf"{MODEL}/refs", "GET", _Handler.refs),
    (rf"{MODEL}/commits/([^/]+)", "GET", _Handler.commits),
    (rf"{MODEL}/tree/([^/]+)", "GET", _Handler.tree),
    (rf"{MODEL}/paths-info/([^/]+)", "POST", _Handler.paths_info),
    (rf"{MODEL}/revision/([^/]+)", "GET", _Handler.info),
    (MODEL, "GET", _Handler.info),
    (r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", "POST", _Handler.batch),
    (rf"/storage/{STORED}", "PUT", _Handler.put),
    (rf"/storage/{STORED}", "GET", _Handler.fetch),
    (rf"/verify/{STORED}", "POST", _Handler.verify),
    (r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", "GET", _Handler.resolve),
]
