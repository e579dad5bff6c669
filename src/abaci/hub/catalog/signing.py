"""Whether a catalog comes from whom the user trusts: signatures of minisign (https://jedisct1.github.io/minisign/).

Knows bytes and keys, nothing of what is signed.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from abaci.errors import IntegrityError, UsageError

if TYPE_CHECKING:
    import minisign


def check_signature(data: bytes, signature: bytes, key: str) -> None:
    """Raises IntegrityError unless `signature`, the contents of a `.minisig` file, is over `data` and by `key`.

    `key` is a public key as minisign prints it (`RW...`), or the path of a `.pub` file. Raises UsageError for neither.
    """
    import minisign

    public_key = _public_key(key)
    try:
        public_key.verify(data, minisign.Signature.from_bytes(signature))
    except minisign.ParseError as error:
        raise IntegrityError(f"the catalog's signature cannot be read: {error}", hint=_UNCHANGED) from error
    except minisign.VerifyError as error:
        raise IntegrityError(f"the catalog was not signed with this key: {error}", hint=_UNCHANGED) from error


_UNCHANGED = "The catalog in use was left as it is; get the new one and its .minisig again from their publisher."


def _public_key(key: str) -> "minisign.PublicKey":
    import minisign

    try:
        path = Path(key).expanduser()
        return minisign.PublicKey.from_file(path) if path.is_file() else minisign.PublicKey.from_base64(key)
    except (ValueError, OSError) as error:
        raise UsageError(
            f"{key[:200]!r} is not a public key of minisign: {error}",
            hint="Give the line that begins with RW, or the .pub file that holds it.",
        ) from error
