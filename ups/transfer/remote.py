"""One remote: what kind of place it is, what reaches it, and never its secrets."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ups.errors import RemoteError
from ups.transfer.rclone import Rclone

Kind = Literal["b2", "s3", "gcs", "sftp", "local", "rclone", "wandb"]
KINDS: tuple[str, ...] = get_args(Kind)

_PATTERNS = {
    "name": r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}",
    "bucket": r"[A-Za-z0-9][A-Za-z0-9._-]{1,221}",
    "endpoint": r"(https?://)?([A-Za-z0-9._-]+|\[[0-9a-f:]+\])(:\d+)?(/[A-Za-z0-9._/-]*)?",
    "region": r"[A-Za-z0-9-]+",
    "host": r"[A-Za-z0-9][A-Za-z0-9._-]*|[0-9A-Fa-f:]+",
    "user": r"[A-Za-z0-9_.][A-Za-z0-9_.@-]*",
    "key_id_env": r"[A-Za-z_][A-Za-z0-9_]*",
    "secret_env": r"[A-Za-z_][A-Za-z0-9_]*",
}
_NEEDS: dict[str, tuple[str, ...]] = {
    "s3": ("bucket",), "gcs": ("bucket",), "sftp": ("host", "folder"), "local": ("folder",),
    "rclone": ("folder",),
}  # fmt: skip
_MAY: dict[str, tuple[str, ...]] = {
    "b2": ("bucket", "prefix", "endpoint", "region", "key_id_env", "secret_env"),
    "s3": ("prefix", "endpoint", "region", "key_id_env", "secret_env"),
    "gcs": ("prefix",), "sftp": ("user", "port", "key_file", "known_hosts"), "wandb": ("folder",),
}  # fmt: skip
OF_RCLONE = re.compile(r"[\w.+@][\w.+@ -]*:", re.ASCII)
# What keys look like: AWS and B2 ids, B2 application keys, private keys; long random words.
_KEY = re.compile(
    r"(AKIA|ASIA)[A-Z0-9]{16}|\b00[0-9a-f]{23}\b|\bK00[A-Za-z0-9+/]{28}|-----BEGIN|://[^/]*@"
)
_RANDOM = re.compile(
    r"(?=[A-Za-z0-9+/]*\d)(?=[A-Za-z0-9+/]*[a-z])(?=[A-Za-z0-9+/]*[A-Z])[A-Za-z0-9+/]{31,}"
)
_NOT_KEPT = re.compile("[\x00-\x1f\x7f-\x9f\u201b\uff0f\ud800-\udfff]")
_ENV = "RCLONE_CONFIG_UPS_"
_PATHS = ("folder", "prefix", "key_file", "known_hosts")


class Remote(BaseModel):
    """A place, without its secrets.

    Attributes:
        name: What it is called in commands.
        kind: One of `KINDS`.
        bucket: Of b2, s3 and gcs.
        prefix: Folder in the bucket.
        endpoint: URL of an S3 server; none is AWS.
        folder: On the disk (`local`) or the server (`sftp`); `name:path` of the user's rclone
            config (`rclone`); `entity/project` (`wandb`).
        key_file: Private key for sftp; without one the SSH agent is asked.
        known_hosts: Keys of the servers that are trusted.
        key_id_env: Name of the environment variable that holds the key's id.
        secret_env: Name of the one that holds the secret.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: Kind
    bucket: str = ""
    prefix: str = ""
    endpoint: str = ""
    region: str = ""
    folder: str = ""
    host: str = ""
    user: str = ""
    port: int = Field(22, ge=1, le=65535)
    key_file: str = ""
    known_hosts: str = ""
    key_id_env: str = ""
    secret_env: str = ""

    @model_validator(mode="after")
    def _says_what_its_kind_needs(self) -> Remote:
        given = {name for name in self.model_fields_set if getattr(self, name)} - {"name", "kind"}
        needed = _NEEDS.get(self.kind, ())
        if missing := [name for name in needed if name not in given]:
            raise ValueError(f"kind {self.kind} needs {' and '.join(missing)}")
        if extra := sorted(given - {*needed, *_MAY.get(self.kind, ())}):
            raise ValueError(f"kind {self.kind} has no {' and no '.join(extra)}")
        for name in type(self).model_fields:
            _check_text(self.kind, name, str(getattr(self, name)))
        return self

    @property
    def is_wandb(self) -> bool:
        return self.kind == "wandb"

    @property
    def root(self) -> str:
        """Where its files are: `bucket/prefix`, a folder, or `name:path`."""
        if self.kind in ("b2", "s3", "gcs"):
            bucket = self.bucket or _variable("B2_BUCKET", self.name)
            return "/".join(part for part in (bucket, self.prefix.strip("/")) if part)
        if self.kind == "local":
            return str(Path(self.folder).expanduser().absolute())
        return self.folder

    def path(self, relative: str = "") -> str:
        """What rclone calls a file or folder of this remote.

        Args:
            relative: Below the root, parts joined by '/'.
        Raises:
            RemoteError: It leads out of the root, or its name cannot travel.
        """
        check_relative(relative, self.name)
        root = self.root if self.kind in ("local", "rclone") else f"ups:{self.root}"
        if not relative:
            return root
        return root + relative if root.endswith((":", "/")) else f"{root}/{relative}"

    def rclone(self) -> Rclone:
        """rclone for this remote, with the credentials of this moment; of W&B what reads like it.

        Raises:
            RemoteError: A variable that holds a credential is not set.
        """
        if self.is_wandb:
            from ups.transfer.wandb_artifacts import files_of

            return files_of(self)
        return Rclone(self._environment(), self.name, own_config=self.kind == "rclone")

    def check_folder(self) -> None:
        """Say so if it is a folder of this machine that does not exist; a push makes it.

        Raises:
            RemoteError: There is no such folder.
        """
        if self.kind == "local" and not Path(self.root).is_dir():
            raise RemoteError(
                f"{self.root}: there is no such folder",
                hint="check its name, and that its disk is mounted",
            )

    def credentials(self) -> list[str]:
        """Names of the environment variables that must be set."""
        if self.kind in ("b2", "s3"):
            return [self._key_id_env, self._secret_env]
        return {"gcs": ["GOOGLE_APPLICATION_CREDENTIALS"], "wandb": ["WANDB_API_KEY"]}.get(
            self.kind, []
        )

    def describe(self) -> str:
        """Where it is, for people: `s3://bucket/prefix at https://...`."""
        if self.kind in ("b2", "s3"):
            bucket = self.bucket or os.environ.get("B2_BUCKET", "$B2_BUCKET")
            place = "/".join(part for part in (bucket, self.prefix.strip("/")) if part)
            endpoint = self._endpoint(required=False)
            return f"s3://{place}" + (f" at {endpoint}" if endpoint else "")
        if self.kind == "gcs":
            return f"gs://{self.root}"
        if self.kind == "sftp":
            user = f"{self.user}@" if self.user else ""
            return f"sftp://{user}{self.host}:{self.port}/{self.folder.lstrip('/')}"
        return f"W&B {self.root}".rstrip() if self.is_wandb else self.root

    @property
    def _key_id_env(self) -> str:
        return self.key_id_env or {"b2": "B2_KEY_ID"}.get(self.kind, "AWS_ACCESS_KEY_ID")

    @property
    def _secret_env(self) -> str:
        return self.secret_env or {"b2": "B2_APP_KEY"}.get(self.kind, "AWS_SECRET_ACCESS_KEY")

    def _endpoint(self, required: bool = True) -> str:
        """With a scheme; empty for AWS itself."""
        given = self.endpoint
        if not given and self.kind == "b2":
            name = "B2_S3_ENDPOINT"
            given = _variable(name, self.name) if required else os.environ.get(name, "")
        elif not given:
            given = os.environ.get("AWS_ENDPOINT_URL", "")
        return given if not given or "://" in given else f"https://{given}"

    def _region(self) -> str:
        names = ("B2_S3_REGION",) if self.kind == "b2" else ("AWS_REGION", "AWS_DEFAULT_REGION")
        given = next((os.environ[name] for name in names if os.environ.get(name)), "")
        return self.region or given

    def _environment(self) -> dict[str, str]:
        options = {"b2": self._s3, "s3": self._s3, "gcs": self._gcs, "sftp": self._sftp}
        if self.kind == "rclone":
            own = ("RCLONE_CONFIG", "RCLONE_CONFIG_PASS", "RCLONE_PASSWORD_COMMAND",
                   "XDG_CONFIG_HOME", "GOOGLE_APPLICATION_CREDENTIALS")  # fmt: skip
            keep = [name for name in os.environ if name in own or name.startswith("AWS_")]
            return {name: os.environ[name] for name in keep}
        if self.kind == "local":
            return {}
        return {
            f"{_ENV}{name.upper()}": value for name, value in options[self.kind]().items() if value
        }

    def _s3(self) -> dict[str, str]:
        key_id, secret = self._key_id_env, self._secret_env
        endpoint = self._endpoint()
        ours = secret == "AWS_SECRET_ACCESS_KEY"
        return {
            "type": "s3", "provider": "Other" if endpoint else "AWS",
            "access_key_id": _variable(key_id, self.name),
            "secret_access_key": _variable(secret, self.name),
            "session_token": os.environ.get("AWS_SESSION_TOKEN", "") if ours else "",
            "endpoint": endpoint, "region": self._region(), "no_check_bucket": "true",
            "disable_checksum": "true", "list_url_encode": "true",
        }  # fmt: skip

    def _gcs(self) -> dict[str, str]:
        key = _variable("GOOGLE_APPLICATION_CREDENTIALS", self.name)
        return {
            "type": "google cloud storage", "service_account_file": key,
            "bucket_policy_only": "true", "no_check_bucket": "true",
        }  # fmt: skip

    def _sftp(self) -> dict[str, str]:
        known = Path(self.known_hosts or "~/.ssh/known_hosts").expanduser()
        if not known.is_file():
            raise RemoteError(
                f"remote {self.name}: {known} is not there: no SSH server is trusted yet",
                hint=f"ssh-keyscan -p {self.port} {self.host} >> {known}, and compare the key",
            )
        key = str(Path(self.key_file).expanduser()) if self.key_file else ""
        return {
            "type": "sftp", "host": self.host, "user": self.user, "port": str(self.port),
            "key_file": key, "known_hosts_file": str(known), "shell_type": "none",
            "set_modtime": "false", "disable_hashcheck": "true",
        }  # fmt: skip


def check_relative(relative: str, remote: str) -> None:
    """Refuse what leads out of the root, or what not every place can store.

    Raises:
        RemoteError: Empty parts, '.', '..', control characters, or bytes that are no text.
    """
    bad = relative and any(part in ("", ".", "..") for part in relative.split("/"))
    if bad or not travels(relative):
        raise RemoteError(
            f"remote {remote}: {relative!r} is no path on a remote",
            hint="use names without '.', '..', control characters and double slashes",
        )


def travels(text: str) -> bool:
    """Whether rclone keeps a path as it is, on every kind of place.

    No control characters, no bytes that are no text, and nothing that rclone itself writes for
    what a place cannot store: its quote U+201B, and the wide slash and dots that it turns into
    '/', '.' and '..'.
    """
    if any(part and not part.strip("\uff0e") for part in text.split("/")):
        return False
    return not _NOT_KEPT.search(text)


def _check_text(kind: str, name: str, text: str) -> None:
    """Refuse values that cannot be meant; credentials are never repeated in the message."""
    if _KEY.search(text) or (name not in _PATHS and _RANDOM.search(text)):
        raise ValueError(
            f"{name}: looks like a credential; give the name of the variable that holds it"
        )
    pattern = _PATTERNS.get(name)
    if text and pattern and not re.fullmatch(pattern, text):
        raise ValueError(f"{name}: is not valid; it must match {pattern}")
    if name in _PATHS and not travels(text):
        raise ValueError(f"{name}: has characters that rclone does not keep")
    if name == "prefix" and {".", ".."} & set(text.split("/")):
        raise ValueError("prefix: must not contain '.' and '..'")
    if name == "folder" and kind == "rclone" and not OF_RCLONE.match(text):
        raise ValueError("folder: must be name:path, with a name of rclone listremotes")


def _variable(name: str, remote: str) -> str:
    if value := os.environ.get(name, ""):
        return value
    raise RemoteError(
        f"remote {remote}: the environment variable {name} is not set",
        hint=f"export {name}=... (ups takes credentials from the environment only)",
    )
