"""A Hugging Face Hub on loopback, in memory, for tests of the real client over HTTP.

Covers, for model repos: create, info, tree, paths, resolve (HEAD and GET, with ranges), preupload, LFS upload, commit
(files, deletions, parent, pull request), branches, refs, README from `Hub.edit`, tokens that may read or write and the
check of that, private, gated and renamed repos, and the error headers that the client reads. Datasets and Spaces are
repos of the same kind; a Space has an SDK and hardware, which `Hub.hardware` limits, and is never started. Jobs run
their command in a process of this machine, with the datasets that they mount in a folder. With `Hub.xet`, uploads and
downloads by hf_xet go through the store of `xet_store` under `/cas`. Left out: redirects to a CDN, multipart uploads,
discussions, quotas, and git itself. `Hub.fail` is the switch for faults.
"""

import base64
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from helpers.xet_store import XetStore

WRITER, READER, STRANGER = "hf_writer", "hf_reader", "hf_stranger"  # tokens; the first two are of the user "user"


@dataclass
class Fault:
    pattern: str  # of "METHOD /path"
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    times: int = 10**9
    seconds: float = 0  # to wait before the response
    body: bytes | None = None  # sent in place of the file
    pace: int | None = None  # bytes per second that are received and sent
    flip: bool = False  # flip the last bit of the file
    cut: int | None = None  # bytes of the response that are sent before the connection is closed
    hold: float = 0  # seconds of silence before it is closed there
    lost: bool = False  # the request is carried out, but gets no response
    page: bytes = b"{}"  # body of the response with `status`
    first: Callable[[], object] | None = None  # called before the response


@dataclass
class Job:
    spec: dict  # as the client sent it
    owner: str
    stage: str = "RUNNING"
    log: list[str] = field(default_factory=list)
    status: str | None = None

    @property
    def volume(self) -> dict:
        (volume,) = self.spec["volumes"]
        return volume

    def run(self, files: Mapping[str, bytes]) -> None:
        """Run the command as a machine of the Hub does, with this Python in place of `uv run --with ...`.

        `files` are those of the mounted dataset, read in the request, since the next test may reset the Hub meanwhile.
        """
        with tempfile.TemporaryDirectory() as home:
            folder = Path(home, "input")
            for name, content in files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
            command = self.spec["command"]
            arguments = [sys.executable, *command[command.index("python") + 1 :]]
            arguments = [
                argument.replace(self.volume["mountPath"], str(folder)).replace("/tmp/run", f"{home}/run")
                for argument in arguments
            ]
            env = {**os.environ, **self.spec["environment"], **self.spec["secrets"]}
            env |= {"PYTHONPATH": str(folder), "HF_HOME": f"{home}/hub"}
            pipes: dict = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
            with subprocess.Popen(arguments, cwd=home, env=env, **pipes) as process:
                self.log += ["===== Job started", *(line.rstrip("\n") for line in process.stdout or ())]
        self.stage = "ERROR" if process.returncode else "COMPLETED"

    def to_dict(self, job_id: str) -> dict:
        status = {"stage": self.stage, "message": self.status}
        return {"id": job_id, "owner": {"id": "1", "name": self.owner, "type": "user"}, "status": status}


@dataclass
class Repo:
    private: bool = False
    gated: bool = False
    downloads: int = 0
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)  # id -> path -> content
    refs: dict[str, str] = field(default_factory=dict)  # branch or refs/pr/N -> commit id
    log: list[str] = field(default_factory=list)  # a line a commit: "ref: message"
    sdk: str | None = None  # of a Space
    hardware: str | None = None  # of a Space: what was last requested

    def commit(self, ref: str, files: dict[str, bytes], message: str) -> str:
        tree = sorted((path, _git_oid(content)) for path, content in files.items())
        digest = hashlib.sha1(f"{len(self.commits)} {ref} {message} {tree}".encode()).hexdigest()
        self.commits[digest] = files
        self.refs[ref] = digest
        self.log.append(f"{ref}: {message}")
        return digest

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return self.commits[self.refs.get(revision, revision)]


class RefusalError(Exception):
    def __init__(self, status: int, message: str, code: str = "", url: str = "", **headers: str):
        self.status, self.body = status, {"error": message, "url": url}
        self.headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **headers}


class Hub:
    """Start it with `with Hub() as hub`; `hub.url` goes into HF_ENDPOINT before huggingface_hub is imported."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.reset()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def reset(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}  # sha256 -> content
        self.tokens = {WRITER: ("user", True), READER: ("user", False), STRANGER: ("stranger", True)}
        self.orgs: list[dict] = []  # that every user is in, as `whoami` lists them
        self.faults: list[Fault] = []
        self.requests: list[str] = []  # "METHOD /path" of each
        self.jobs: dict[str, Job] = {}
        self.hardware = {"cpu-basic", "zero-a10g", "t4-small"}  # that Spaces may have
        self.xet: XetStore | None = None  # set it to serve files by Xet too
        self.only_xet = False  # no LFS and no plain download of files in the store
        self.moved: dict[str, str] = {}  # repos that were renamed: old and new id
        self.heard: Callable[[str, Mapping[str, str], bytes], object] | None = None  # request, headers, body of each

    def __enter__(self) -> "Hub":
        Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def fail(self, pattern: str, status: int = 0, **fault) -> None:
        """Respond to requests whose "METHOD /path" matches with `status`, late, or with other bytes; see `Fault`."""
        self.faults.append(Fault(pattern, status, **fault))

    def edit(self, repo_id: str, path: str, content: bytes | str, branch: str = "main") -> None:
        """A commit as a person makes it on the web page."""
        repo = self.repos[repo_id]
        files = repo.files(branch) | {path: content if isinstance(content, bytes) else content.encode()}
        repo.commit(branch, files, f"Edit {path}")

    # Routes: the result is sent as JSON, or unchanged if it is a pair of bytes and headers.

    def user(self, token: str | None, *, write: bool = False) -> str | None:
        if token is None:
            if write:
                raise RefusalError(401, "Invalid username or password.")
            return None
        if token not in self.tokens:
            raise RefusalError(401, "Invalid credentials in Authorization header")
        name, may_write = self.tokens[token]
        if write and not may_write:
            raise RefusalError(403, "Forbidden: you must use a write token")
        return name

    def repo(self, repo_id: str, token: str | None, *, write: bool = False) -> Repo:
        user = self.user(token)
        repo = self.repos.get(repo_id)
        owner = re.sub("^(datasets|spaces)/", "", repo_id).split("/")[0] == user
        if repo is None or (repo.private and not owner):
            raise RefusalError(404 if user else 401, "Repository not found", "RepoNotFound")
        if write:
            self.user(token, write=True)
            if not owner:
                raise RefusalError(403, f"Forbidden: you have no write access to {repo_id}")
        return repo

    def revision(self, repo: Repo, revision: str) -> str:
        revision = unquote(revision)
        commit = repo.refs.get(revision, revision)
        if commit not in repo.commits:
            raise RefusalError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def whoami(self, token, query, body):
        name = self.user(token, write=token is None)
        role = "write" if self.tokens[token][1] else "read"
        auth = {"type": "access_token", "accessToken": {"displayName": "", "role": role}}
        return {"type": "user", "name": name, "fullname": "", "orgs": self.orgs, "auth": auth}

    def auth_check(self, token, query, body, repo_id, write=None):
        repo = self.repo(repo_id, token, write=write is not None)
        self.check_gate(repo, repo_id, token)
        return {}

    def check_gate(self, repo: Repo, repo_id: str, token: str | None) -> None:
        if repo.gated and repo_id.split("/")[0] != self.user(token):
            raise RefusalError(403 if token else 401, f"Access to model {repo_id} is restricted", "GatedRepo")

    def validate(self, token, query, body):
        try:
            front = re.match(r"---\n(.*?)\n---", body["content"], re.S)
            good = front is None or isinstance(yaml.safe_load(front[1]), dict | None)
        except yaml.YAMLError:
            good = False
        if not good:
            raise RefusalError(400, "Invalid metadata")
        return {"errors": [], "warnings": []}

    def create(self, token, query, body):
        user = self.user(token, write=True)
        owner = body.get("organization") or user
        if owner != user:
            raise RefusalError(403, f"Forbidden: you have no rights to create a model under the namespace {owner}")
        folder = {"dataset": "datasets/", "space": "spaces/"}.get(body.get("type"), "")
        repo_id = f"{folder}{owner}/{body['name']}"
        if repo_id in self.repos:
            raise RefusalError(409, "You already created this model repo", url=f"{self.url}/{repo_id}")
        repo = Repo(private=body.get("visibility") == "private" or bool(body.get("private")))
        files = {".gitattributes": b"*.safetensors filter=lfs\n"}
        if folder == "spaces/":
            repo.sdk = body["sdk"]
            self.set_hardware(repo, body.get("hardware") or "cpu-basic")
            files["README.md"] = f"---\ntitle: {body['name']}\nsdk: {repo.sdk}\n---\nAbout the front matter\n".encode()
        self.repos[repo_id] = repo
        repo.commit("main", files, "initial commit")
        return {"url": f"{self.url}/{repo_id}", "name": repo_id, "id": repo_id}

    def delete(self, token, query, body):
        repo_id = f"{body.get('organization') or self.user(token, write=True)}/{body['name']}"
        self.repo(repo_id, token, write=True)
        del self.repos[repo_id]
        return {}

    def info(self, token, query, body, repo_id, revision="main"):
        repo = self.repo(repo_id, token)
        commit = self.revision(repo, revision)
        sized = "true" in [value.lower() for value in query.get("blobs", [])]
        siblings = [
            {"rfilename": path} | ({"size": len(content)} if sized else {})
            for path, content in repo.commits[commit].items()
        ]
        name = re.sub("^(datasets|spaces)/", "", repo_id)
        return {
            "id": name, "modelId": name, "sha": commit, "private": repo.private, "siblings": siblings,
            "gated": "manual" if repo.gated else False, "tags": [], "downloads": 0, "likes": 0,
            **({"sdk": repo.sdk, "runtime": self.runtime(repo)} if repo.sdk else {}),
            **({"library_name": name} if (name := self._metadata(repo, commit).get("library_name")) else {}),
            **({"pipeline_tag": tag} if (tag := self._metadata(repo, commit).get("pipeline_tag")) else {}),
        }  # fmt: skip

    def models(self, token, query, body):
        user, results = self.user(token), []
        for repo_id, repo in self.repos.items():
            about = self._metadata(repo, repo.refs["main"])
            tags = [*about.get("tags", []), about.get("library_name"), about.get("pipeline_tag")]
            required = [*query.get("filter", []), *query.get("pipeline_tag", [])]
            visible = not repo.private or repo_id.split("/")[0] == user
            if visible and query["search"][0].lower() in repo_id.lower() and set(required) <= set(tags):
                results.append({"id": repo_id, "downloads": repo.downloads, "tags": tags})
        return sorted(results, key=lambda model: -model["downloads"])[: int(query["limit"][0])]

    def _metadata(self, repo: Repo, commit: str) -> dict:
        front = re.match(r"---\n(.*?)\n---", repo.commits[commit].get("README.md", b"").decode(), re.S)
        return yaml.safe_load(front[1]) if front else {}

    def tree(self, token, query, body, repo_id, revision, folder=""):
        repo = self.repo(repo_id, token)
        commit = self.revision(repo, revision)
        prefix = f"{unquote(folder).strip('/')}/".lstrip("/")
        files = {path: content for path, content in repo.commits[commit].items() if path.startswith(prefix)}
        folders = {path[:end] for path in files for end, sign in enumerate(path) if sign == "/" and end > len(prefix)}
        listed = [{"type": "directory", "path": path, "size": 0, "oid": _git_oid(path.encode())} for path in folders]
        listed += [
            {
                "type": "file", "path": path, "size": len(content), "oid": _git_oid(content),
                **({"lfs": {"oid": sha256_hex(content), "size": len(content), "pointerSize": 134}} if _lfs(path) else {}),  # noqa: E501
            }
            for path, content in files.items()
        ]  # fmt: skip
        if query.get("recursive", ["false"])[0].lower() != "true":
            listed = [entry for entry in listed if "/" not in entry["path"].removeprefix(prefix)]
        return sorted(listed, key=lambda entry: entry["path"])

    def paths_info(self, token, query, body, repo_id, revision):
        paths = parse_qs(body.decode())["paths"]
        tree = self.tree(token, {"recursive": ["true"]}, body, repo_id, revision)
        return [entry for entry in tree if entry["path"] in paths]

    def refs(self, token, query, body, repo_id):
        repo = self.repo(repo_id, token)
        branches = {name: commit for name, commit in repo.refs.items() if not name.startswith("refs/")}
        listed = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": oid} for name, oid in branches.items()]
        return {"branches": listed, "tags": [], "converts": []}

    def branch(self, token, query, body, repo_id, name):
        repo = self.repo(repo_id, token, write=True)
        name = unquote(name)
        if name in repo.refs:
            raise RefusalError(409, "Reference already exists")
        repo.refs[name] = self.revision(repo, (body or {}).get("startingPoint", "main"))
        return {}

    def preupload(self, token, query, body, repo_id, revision):
        repo = self.repo(repo_id, token, write="create_pr" not in query)
        files = repo.commits[self.revision(repo, revision)]
        return {
            "files": [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if _lfs(file["path"]) else "regular",
                    "shouldIgnore": False,
                    "oid": _oid(file["path"], files[file["path"]]) if file["path"] in files else None,
                }
                for file in body["files"]
            ]
        }

    def batch(self, token, query, body, repo_id):
        self.repo(repo_id, token)
        self.user(token, write=True)
        if self.only_xet:
            raise RefusalError(501, "This repo takes large files by Xet alone")
        objects = []
        for blob in body["objects"]:
            actions = {"upload": {"href": f"{self.url}/lfs/{blob['oid']}", "header": {}}}
            objects.append({**blob, **({} if blob["oid"] in self.blobs else {"actions": actions})})
        return {"transfer": "basic", "objects": objects}

    def lfs_put(self, token, query, body, oid):
        if sha256_hex(body) != oid:
            raise RefusalError(400, "The content is not what its digest says")
        self.blobs[oid] = body
        return {}

    def commit(self, token, query, body, repo_id, revision):
        proposal = "create_pr" in query
        repo = self.repo(repo_id, token, write=not proposal)
        self.user(token, write=True)
        revision = unquote(revision)
        if revision not in repo.refs:
            raise RefusalError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        lines = [json.loads(line) for line in body.splitlines() if line]
        header = lines[0]["value"]
        with self.lock:
            if header.get("parentCommit", repo.refs[revision]) != repo.refs[revision] and not proposal:
                raise RefusalError(412, "A commit has happened since. Please refresh and try again.")
            files = dict(repo.files(revision))
            for line in lines[1:]:
                path = line["value"]["path"]
                match line["key"]:
                    case "file":
                        files[path] = base64.b64decode(line["value"]["content"])
                    case "lfsFile":
                        files[path] = self.blob(line["value"]["oid"])
                    case "deletedFile":
                        if files.pop(path, None) is None:
                            raise RefusalError(404, "A file with this name doesn't exist", "EntryNotFound")
                    case "deletedFolder":
                        files = {name: content for name, content in files.items() if not name.startswith(path)}
            number = sum(ref.startswith("refs/pr/") for ref in repo.refs) + 1
            oid = repo.commit(f"refs/pr/{number}" if proposal else revision, files, header["summary"])
        answer = {"success": True, "commitOid": oid, "commitUrl": f"{self.url}/{repo_id}/commit/{oid}"}
        return answer | ({"pullRequestUrl": f"{self.url}/{repo_id}/discussions/{number}"} if proposal else {})

    def resolve(self, token, query, body, repo_id, revision, path):
        repo = self.repo(repo_id, token)
        self.check_gate(repo, repo_id, token)
        commit = self.revision(repo, revision)
        files, path = repo.commits[commit], unquote(path)
        if path not in files:
            raise RefusalError(404, "Entry not found", "EntryNotFound", **{"X-Repo-Commit": commit})
        headers = {"X-Repo-Commit": commit, "ETag": f'"{_oid(path, files[path])}"'}
        if self.xet and (xet_hash := self.xet.hashes.get(sha256_hex(files[path]))):
            kind = "datasets" if repo_id.startswith("datasets/") else "models"
            route = f"{self.url}/api/{kind}/{repo_id.removeprefix('datasets/')}/xet-read-token/{commit}"
            headers |= {"X-Xet-Hash": xet_hash, "Link": f'<{route}>; rel="xet-auth"'}
        return files[path], headers

    def blob(self, oid: str) -> bytes:
        if oid not in self.blobs and self.xet:
            return self.xet.read(oid)
        return self.blobs[oid]

    def xet_token(self, token, query, body, repo_id, kind, revision):
        self.repo(repo_id, token, write=kind == "write" and "create_pr" not in query)
        if not self.xet:
            raise RefusalError(404, "This Hub has no Xet")
        url, expiry = f"{self.url}/cas", int(time.time()) + 3600
        content = json.dumps({"casUrl": url, "exp": expiry, "accessToken": "xet"}).encode()
        headers = {"X-Xet-Cas-Url": url, "X-Xet-Access-Token": "xet", "X-Xet-Token-Expiration": str(expiry)}
        return content, {**headers, "Content-Type": "application/json"}

    def store(self) -> XetStore:
        if not self.xet:
            raise RefusalError(404, "This Hub has no Xet")
        return self.xet

    def put_xorb(self, token, query, body, xorb_hash):
        self.store().xorbs[xorb_hash] = body
        return {"was_inserted": True}

    def put_shard(self, token, query, body):
        self.store().add_shard(body)
        return {"result": 1}

    def reconstruction(self, token, query, body, file_hash):
        return self.store().describe(file_hash, f"{self.url}/cas/xorbs/"), {"Content-Type": "application/json"}

    def get_xorb(self, token, query, body, xorb_hash):
        return self.store().xorbs[xorb_hash], {}

    def set_hardware(self, repo: Repo, hardware: str) -> None:
        if hardware not in self.hardware:
            raise RefusalError(402, f"A payment method is required for {hardware}")
        repo.hardware = hardware

    def runtime(self, repo: Repo) -> dict:
        return {"stage": "BUILDING", "hardware": {"current": None, "requested": repo.hardware}}

    def request_hardware(self, token, query, body, repo_id):
        repo = self.repo(f"spaces/{repo_id}", token, write=True)
        self.set_hardware(repo, body["flavor"])
        return self.runtime(repo)

    def start_job(self, token, query, body, owner):
        if self.user(token, write=True) != owner:
            raise RefusalError(403, "Forbidden: you have no rights to run jobs there")
        job_id = f"job{len(self.jobs)}"
        job = self.jobs[job_id] = Job(body, owner)
        mounted = self.repos[f"datasets/{job.volume['source']}"].files(job.volume["revision"])
        Thread(target=job.run, args=[mounted], daemon=True).start()
        return job.to_dict(job_id)

    def job(self, token, query, body, owner, job_id):
        if self.user(token) != owner or job_id not in self.jobs:
            raise RefusalError(404, "Job not found")
        return self.jobs[job_id].to_dict(job_id)

    def cancel_job(self, token, query, body, owner, job_id):
        self.job(token, query, body, owner, job_id)
        self.jobs[job_id].stage = "CANCELED"
        return {}

    def job_log(self, token, query, body, owner, job_id):
        """All lines, once the job has ended."""
        while self.job(token, query, body, owner, job_id)["status"]["stage"] == "RUNNING":
            time.sleep(0.05)
        stamp = {"timestamp": "2026-01-01T00:00:00.000Z"}
        lines = [json.dumps({"data": line, **stamp}) for line in self.jobs[job_id].log]
        return "".join(f"data: {line}\n\n" for line in lines).encode(), {"Content-Type": "text/event-stream"}


def _for_dataset(route: Callable) -> Callable:
    """The route of a model repo, for the dataset of the same name."""
    return lambda hub, token, query, body, name, *parts: route(hub, token, query, body, f"datasets/{name}", *parts)


def _for_space(route: Callable) -> Callable:
    """The route of a model repo, for the Space of the same name."""
    return lambda hub, token, query, body, name, *parts: route(hub, token, query, body, f"spaces/{name}", *parts)


_ID = r"([\w.-]+/[\w.-]+)"
_ROUTES = [
    (r"GET /api/whoami-v2", Hub.whoami),
    (r"POST /api/validate-yaml", Hub.validate),
    (r"POST /api/repos/create", Hub.create),
    (r"DELETE /api/repos/delete", Hub.delete),
    (r"GET /api/models", Hub.models),
    (rf"GET /api/models/{_ID}", Hub.info),
    (rf"GET /api/models/{_ID}/auth-check(/write)?", Hub.auth_check),
    (rf"GET /api/models/{_ID}/revision/([^/]+)", Hub.info),
    (rf"GET /api/models/{_ID}/tree/([^/]+)(/.*)?", Hub.tree),
    (rf"POST /api/models/{_ID}/paths-info/([^/]+)", Hub.paths_info),
    (rf"GET /api/models/{_ID}/refs", Hub.refs),
    (rf"POST /api/models/{_ID}/branch/([^/]+)", Hub.branch),
    (rf"POST /api/models/{_ID}/preupload/([^/]+)", Hub.preupload),
    (rf"POST /api/models/{_ID}/commit/([^/]+)", Hub.commit),
    (rf"POST /{_ID}\.git/info/lfs/objects/batch", Hub.batch),
    (rf"GET /api/datasets/{_ID}(?:/revision/([^/]+))?", _for_dataset(Hub.info)),
    (rf"GET /api/datasets/{_ID}/tree/([^/]+)(/.*)?", _for_dataset(Hub.tree)),
    (rf"POST /api/datasets/{_ID}/paths-info/([^/]+)", _for_dataset(Hub.paths_info)),
    (rf"POST /api/datasets/{_ID}/preupload/([^/]+)", _for_dataset(Hub.preupload)),
    (rf"POST /api/datasets/{_ID}/commit/([^/]+)", _for_dataset(Hub.commit)),
    (rf"POST /datasets/{_ID}\.git/info/lfs/objects/batch", _for_dataset(Hub.batch)),
    (rf"GET /api/spaces/{_ID}(?:/revision/([^/]+))?", _for_space(Hub.info)),
    (rf"GET /api/spaces/{_ID}/auth-check(/write)?", _for_space(Hub.auth_check)),
    (rf"POST /api/spaces/{_ID}/hardware", Hub.request_hardware),
    (rf"POST /api/spaces/{_ID}/preupload/([^/]+)", _for_space(Hub.preupload)),
    (rf"POST /api/spaces/{_ID}/commit/([^/]+)", _for_space(Hub.commit)),
    (rf"POST /spaces/{_ID}\.git/info/lfs/objects/batch", _for_space(Hub.batch)),
    (r"POST /api/jobs/([\w-]+)", Hub.start_job),
    (r"GET /api/jobs/([\w-]+)/(\w+)", Hub.job),
    (r"GET /api/jobs/([\w-]+)/(\w+)/logs", Hub.job_log),
    (r"POST /api/jobs/([\w-]+)/(\w+)/cancel", Hub.cancel_job),
    (r"PUT /lfs/([0-9a-f]{64})", Hub.lfs_put),
    (rf"GET /api/models/{_ID}/xet-(read|write)-token/([^/]+)", Hub.xet_token),
    (rf"GET /api/datasets/{_ID}/xet-(read|write)-token/([^/]+)", _for_dataset(Hub.xet_token)),
    (r"POST /cas/v1/xorbs/default/([0-9a-f]{64})", Hub.put_xorb),
    (r"POST /cas/v1/shards", Hub.put_shard),
    (r"GET /cas/v1/reconstructions/([0-9a-f]{64})", Hub.reconstruction),
    (r"GET /cas/xorbs/([0-9a-f]{64})", Hub.get_xorb),
    (rf"(?:GET|HEAD) /datasets/{_ID}/resolve/([^/]+)/(.+)", _for_dataset(Hub.resolve)),
    (rf"(?:GET|HEAD) /spaces/{_ID}/resolve/([^/]+)/(.+)", _for_space(Hub.resolve)),
    (rf"(?:GET|HEAD) /{_ID}/resolve/([^/]+)/(.+)", Hub.resolve),
]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet
    disable_nagle_algorithm = True

    def answer(self) -> None:
        url = urlsplit(self.path)
        request = f"{self.command} {url.path}"
        self.hub.requests.append(request)
        fault = next((f for f in self.hub.faults if f.times > 0 and re.search(f.pattern, request)), None)
        if fault and fault.pace:  # else most of a body would wait here, and the client could not know that it is slow
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**14)
        raw = self.content(fault.pace if fault else None)
        if self.hub.heard:
            self.hub.heard(f"{self.command} {self.path}", dict(self.headers), raw)
        if fault:
            fault.times -= 1
            time.sleep(fault.seconds)
            if fault.first:
                fault.first()
            if fault.status:
                return self.send(fault.status, fault.page, {"Content-Type": "application/json", **fault.headers})
        for old, new in self.hub.moved.items():
            if re.search(rf"/{old}(?=[/.]|$)", url.path):
                target = url._replace(path=url.path.replace(f"/{old}", f"/{new}", 1)).geturl()
                return self.send(307, b"", {"Location": target})
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        kind = self.headers.get("Content-Type", "")
        parsed = json.loads(raw) if kind.endswith("json") and "ndjson" not in kind else raw
        try:
            for pattern, route in _ROUTES:
                if match := re.fullmatch(pattern, request):
                    result = route(self.hub, token if scheme == "Bearer" else None, parse_qs(url.query), parsed,
                                  *(group for group in match.groups() if group is not None))  # fmt: skip
                    break
            else:
                raise RefusalError(404, f"This Hub has no {request}")
        except RefusalError as refusal:
            body = json.dumps(refusal.body).encode()
            return self.send(refusal.status, body, {"Content-Type": "application/json", **refusal.headers})
        if fault and fault.lost:
            self.close_connection = True
            return None
        if isinstance(result, tuple):
            content, headers = result
            if fault and fault.body is not None:
                content = fault.body
            if fault and fault.flip:
                content = content[:-1] + bytes([content[-1] ^ 1])
            return self.send_file(content, headers, fault)
        return self.send(200, json.dumps(result).encode(), {"Content-Type": "application/json"}, fault)

    def content(self, pace: int | None) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            size = int(self.headers.get("Content-Length") or 0)
            return b"".join(self.rfile.read(part) for part in _paced(size, pace))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer  # noqa: N815

    def send_file(self, content: bytes, headers: dict[str, str], fault: Fault | None = None) -> None:
        byte_range = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not byte_range:
            return self.send(200, content, headers, fault)
        start, end = int(byte_range[1]), int(byte_range[2] or len(content) - 1)
        headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        return self.send(206, content[start : end + 1], headers, fault)

    def send(self, status: int, body: bytes, headers: Mapping[str, str], fault: Fault | None = None) -> None:
        cut = fault.cut if fault else None
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            body, position = body[:cut], 0
            for part in _paced(len(body), fault and fault.pace):
                self.wfile.write(body[position : position + part])
                self.wfile.flush()
                position += part
            self.close_connection |= cut is not None
        if fault and fault.hold:
            self.wfile.flush()
            time.sleep(fault.hold)

    def log_message(self, *_: object) -> None:
        pass


def _paced(size: int, pace: int | None) -> Iterator[int]:
    """Lengths of parts of `size` bytes, with a pause before each so that `pace` bytes pass in a second."""
    step = max(pace // 10, 1) if pace else max(size, 1)
    for start in range(0, size, step):
        part = min(step, size - start)
        time.sleep(part / pace if pace else 0)
        yield part


def _lfs(path: str) -> bool:
    return path.endswith((".safetensors", ".onnx", ".png", ".zip"))


def _oid(path: str, content: bytes) -> str:
    return sha256_hex(content) if _lfs(path) else _git_oid(content)


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256_hex(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
