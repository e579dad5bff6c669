"""Objects of S3 and of stores that speak as it does, as a source: `s3://bucket/path/to/file`.

`AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL` names the store, else it is Amazon's in `AWS_REGION`. With
`AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY` (and `AWS_SESSION_TOKEN`) requests are signed, else the object must be
public. (AWS Signature Version 4: docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html.)
"""

import hashlib
import hmac
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final
from urllib.parse import SplitResult, quote

from abaci.errors import UsageError
from abaci.hub.http_source import checked_http_url
from abaci.hub.network import Request
from abaci.hub.ranged import fetch_ranges
from abaci.hub.sources import Transfer

_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_REGION: Final = re.compile(r"[a-z0-9-]{1,40}")
_EMPTY_HASH: Final = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True, slots=True)
class S3Source:
    """One object, or the objects below a key that ends with a slash."""

    bucket: str
    key: str

    def __post_init__(self) -> None:
        sound = _BUCKET.fullmatch(self.bucket) and ".." not in self.bucket and self.key and self.key.isprintable()
        if not sound or any(part in (".", "..") for part in self.key.split("/")):
            raise UsageError(
                f"s3://{self.bucket}/{self.key} is not the address of an object",
                hint="For example: s3://bucket/folder/model.gguf",
            )

    @classmethod
    def read(cls, address: str) -> "S3Source":
        """Out of `s3://bucket/key`. Raises UsageError."""
        bucket, _, key = address.removeprefix("s3://").partition("/")
        return cls(bucket, key)

    @property
    def label(self) -> str:
        return f"s3://{self.bucket}"

    def request(self, file_name: str) -> Request:
        key = quote(self.key + file_name if self.key.endswith("/") else self.key, safe="/-_.~")
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if endpoint:
            url = f"{checked_http_url(endpoint).rstrip('/')}/{self.bucket}/{key}"
        else:
            url = f"https://{self.bucket}.s3.{_region()}.amazonaws.com/{key}"
        signer = Signer.from_environment()
        return Request(url, sign=None if signer is None else signer.headers)

    def fetch(self, transfer: Transfer) -> None:
        fetch_ranges((self,), transfer)


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs GET requests without a body. The range is not signed: each connection asks for its own."""

    access_key: str
    secret_key: str = field(repr=False)
    region: str
    session_token: str | None = field(default=None, repr=False)

    @classmethod
    def from_environment(cls) -> "Signer | None":
        """As the environment has it; None where it has no key."""
        access_key, secret_key = os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY")
        if not access_key or not secret_key:
            return None
        return cls(access_key, secret_key, _region(), os.environ.get("AWS_SESSION_TOKEN") or None)

    def headers(self, url: SplitResult) -> Mapping[str, str]:
        """For a request now."""
        return self.headers_at(url, datetime.now(UTC))

    def headers_at(self, url: SplitResult, now: datetime, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """For a request at a moment; `extra` headers, with names in lower case, are signed too."""
        timestamp = now.strftime("%Y%m%dT%H%M%SZ")
        signed = {"x-amz-content-sha256": _EMPTY_HASH, "x-amz-date": timestamp} | dict(extra or {})
        if self.session_token is not None:
            signed["x-amz-security-token"] = self.session_token
        everything = sorted((signed | {"host": url.netloc}).items())
        names = ";".join(name for name, _ in everything)
        lines = "".join(f"{name}:{value.strip()}\n" for name, value in everything)
        request = f"GET\n{url.path or '/'}\n{url.query}\n{lines}\n{names}\n{_EMPTY_HASH}"
        scope = f"{timestamp[:8]}/{self.region}/s3/aws4_request"
        to_sign = f"AWS4-HMAC-SHA256\n{timestamp}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
        key = f"AWS4{self.secret_key}".encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        signature = hmac.new(key, to_sign.encode(), "sha256").hexdigest()
        signed["Authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self.access_key}/{scope},SignedHeaders={names},Signature={signature}"
        )
        return signed


def _region() -> str:
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    if not _REGION.fullmatch(region):
        raise UsageError(f"AWS_REGION: {region[:60]!r} is not a region", hint="Set it to one such as us-east-1.")
    return region
