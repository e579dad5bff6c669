"""What a model card says of licence and bases: the YAML between `---` at the head of a README.md.

Keys as the hub documents them (https://huggingface.co/docs/hub/model-cards): `license`, `license_name`, `base_model`.
A card is written by anybody: it is read up to a bound, and what is not understood says nothing.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_MAX_CARD_BYTES: Final = 1 << 18
_MAX_HEAD_CHARACTERS: Final = 1 << 16
_MAX_TEXT_CHARACTERS: Final = 300
_MAX_TEXTS: Final = 64


@dataclass(frozen=True, slots=True)
class ModelCard:
    """The part of a card that matters here."""

    licence: str | None = None
    licence_name: str | None = None
    base_models: tuple[str, ...] = ()


def read_model_card(path: Path) -> ModelCard:
    """A README.md; one that is not there, or has no head, says nothing."""
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_CARD_BYTES).decode("utf-8", errors="replace")
    except OSError:
        return ModelCard()
    return parse_model_card(text)


def parse_model_card(text: str) -> ModelCard:
    """The card of a text; what is not understood says nothing."""
    import yaml

    begin, _, rest = text.replace("\r\n", "\n").partition("---\n")
    head, end, _ = rest.partition("\n---")
    if begin.strip() or not end or len(head) > _MAX_HEAD_CHARACTERS:
        return ModelCard()
    try:
        fields = yaml.safe_load(head)
    except (yaml.YAMLError, ValueError, RecursionError):
        return ModelCard()
    if not isinstance(fields, dict):
        return ModelCard()
    return ModelCard(
        licence=next(iter(_texts(fields.get("license"))), None),
        licence_name=next(iter(_texts(fields.get("license_name"))), None),
        base_models=_texts(fields.get("base_model")),
    )


def _texts(value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(text[:_MAX_TEXT_CHARACTERS] for text in values[:_MAX_TEXTS] if isinstance(text, str) and text.strip())
