"""A conversation to the token ids of its prompt, such that no text of a message becomes a special token.

The chat template decides where special tokens stand, by writing their names. Text of messages may contain the same
names, so these are masked, each by one private-use character that occurs nowhere else; the template renders; the
result is split at the names that are now left, all of them the template's own; and each piece is unmasked and encoded
as mere text. Where nothing looks like a special token this gives the ids of `apply_chat_template` in `transformers`.
"""

import contextlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from abaci.chat.messages import Conversation, Message, parse_messages
from abaci.errors import AbaciError, UsageError
from abaci.formats.chat_template import CHATML, ChatTemplate
from abaci.formats.tokenizer import Tokenizer

_PRIVATE_USE: Final = range(0xF0000, 0xFFFFE)
_RESERVED: Final = frozenset({"messages", "tools", "add_generation_prompt"})
_JOINED_ARGUMENTS: Final = re.compile(r"""\barguments['"]?\]?\s*(?:[+~]|-?\}\})|[+~]\s*[\w.\[\]'"]*\barguments\b""")
_READ_ARGUMENTS: Final = re.compile(r"""\barguments['"]?\]?\s*(?:\||is\b|\.items)""")


def chat_template(source: str | None, tokenizer: Tokenizer) -> tuple[ChatTemplate, str | None]:
    """The model's template, and a note for the user if there is none and ChatML stands in."""
    bos, eos = ("" if i is None else tokenizer.token(i) for i in (tokenizer.bos_token_id, tokenizer.eos_token_id))
    note = None if source is not None else "The model brings no chat template: ChatML is used, answers may suffer."
    return ChatTemplate(CHATML if source is None else source, bos_token=bos, eos_token=eos), note


def encode_chat(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    conversation: Conversation,
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = True,
    variables: Mapping[str, Any] | None = None,
) -> list[int]:
    """Token ids of the prompt. `variables` are further names for the template (`enable_thinking`, ...).

    The beginning-of-text token comes from the template or not at all. Raises UsageError for messages that are
    malformed or that the template refuses, FileFormatError for a template beyond its limits.
    """
    options = {"tools": tools, "add_generation_prompt": add_generation_prompt, "variables": variables}
    pieces = render_chat(template, tokenizer, parse_messages(conversation), **options)  # type: ignore[arg-type]
    return tokenizer.encode_pieces(pieces, add_bos=False)


def render_chat(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = True,
    variables: Mapping[str, Any] | None = None,
) -> list[str | int]:
    """The prompt in pieces, as for `Tokenizer.encode_pieces`: mere text, and the ids of the template's special tokens.

    Raises as `encode_chat`.
    """
    given = [message.to_template() for message in messages]
    if _wants_text_arguments(template.source):
        given = [_with_text_arguments(message) for message in given]
    variables = dict(variables or {})
    if reserved := variables.keys() & _RESERVED:
        raise UsageError(
            f"template variables may not be named {', '.join(sorted(reserved))}",
            hint="Give messages, tools and add_generation_prompt beside the variables, not among them.",
        )
    options = {"tools": tools, "add_generation_prompt": add_generation_prompt, **variables}
    given = _in_parts(template, messages, given, options)
    mask = _Mask(tokenizer, [*_texts([given, tools, variables]), template.source])
    masked = {"tools": mask.cover(tools), "add_generation_prompt": add_generation_prompt, **mask.cover(variables)}
    rendered = _render(template, [mask.cover_message(message) for message in given], masked)
    return [piece if isinstance(piece, int) else mask.uncover(piece) for piece in tokenizer.split_special(rendered)]


def _in_parts(
    template: ChatTemplate,
    messages: Sequence[Message],
    given: list[dict[str, Any]],
    options: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """What is given to the template, with texts in the parts they came in if it takes them: it is tried with words."""
    if not any(message.parts for message in messages):
        return given

    def with_content(make: Callable[[tuple[str, ...]], object]) -> list[dict[str, Any]]:
        pairs = zip(given, messages, strict=True)
        return [{**one, "content": make(message.parts)} if message.parts else one for one, message in pairs]

    with contextlib.suppress(AbaciError):
        parted, joined = with_content(lambda _: _text_parts(("one", "two"))), with_content(lambda _: "onetwo")
        first, second = (template.render(tried, **options) for tried in (parted, joined))
        if "".join(first.split()) == "".join(second.split()):  # what stands between parts is the template's business
            return with_content(_text_parts)
    return given


def _text_parts(texts: Iterable[str]) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


def _render(template: ChatTemplate, messages: Sequence[Mapping[str, Any]], options: Mapping[str, Any]) -> str:
    """The prompt of the messages, or, where the template refuses them, of others that say the same."""
    try:
        return template.render(messages, **options)
    except UsageError:
        described = {**options, "tools": _with_descriptions(options["tools"])}
        for changed in (_with_content(messages, None), _with_content(messages, ""), _with_text_in_thought(messages)):
            if changed != messages or described != options:
                with contextlib.suppress(UsageError):
                    return template.render(changed, **described)
        raise


def _with_descriptions(tools: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]] | None:
    """For templates that take it for granted that every function has one."""
    return None if tools is None else [_with_description(tool) for tool in tools]


def _with_description(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = tool.get("function")
    if function is None or "description" in function:
        return {**tool}
    return {**tool, "function": {"description": "", **function}}


def _with_content(messages: Sequence[Mapping[str, Any]], default: str | None) -> list[Mapping[str, Any]]:
    """For templates that ask whether the content of calls is none, or take it that there is a text."""
    return [{**message, "content": message.get("content", default)} for message in messages]


def _with_text_in_thought(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """For gpt-oss, whose template takes one text beside a call: what was said joins what was thought."""
    return [
        {**message, "thinking": f"{message['thinking']}\n\n{message['content']}", "content": ""}
        if message.get("tool_calls") and message.get("thinking") and message.get("content")
        else {**message, "content": message.get("content", "")}
        for message in messages
    ]


def _wants_text_arguments(template_source: str) -> bool:
    """Whether a template joins the arguments of calls to other text as they are, and never makes JSON of them."""
    return bool(_JOINED_ARGUMENTS.search(template_source)) and not _READ_ARGUMENTS.search(template_source)


def _with_text_arguments(message: Mapping[str, Any]) -> dict[str, Any]:
    calls = [
        {
            **call,
            "function": {
                **call["function"],
                "arguments": json.dumps(call["function"]["arguments"], ensure_ascii=False),
            },
        }
        for call in message.get("tool_calls", ())
    ]
    return {**message, "tool_calls": calls} if calls else dict(message)


class _Mask:
    """Replaces what looks like a special token, or like the beginning of one at a text's end, and puts it back."""

    def __init__(self, tokenizer: Tokenizer, texts: Iterable[str]) -> None:
        self._tokenizer = tokenizer
        taken = set().union(*texts)
        self._free = (chr(i) for i in _PRIVATE_USE if chr(i) not in taken)
        self._placeholders: dict[str, str] = {}
        self._hidden: dict[int, str] = {}
        self._first_characters = {name[0] for name in tokenizer.special_tokens}
        self._longest = max(map(len, tokenizer.special_tokens), default=0)

    def cover_message(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Masks all but the role: it is one of ours, and templates may build special tokens from it."""
        return {key: value if key == "role" else self.cover(value) for key, value in message.items()}

    def cover(self, value: Any) -> Any:
        """A copy of `value` with every text in it masked, keys of mappings too."""
        if isinstance(value, str):
            return self._cover_text(value)
        if isinstance(value, Mapping):
            return {self.cover(key): self.cover(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.cover(item) for item in value]
        return value

    def uncover(self, text: str) -> str:
        """What `cover` was given."""
        return text.translate(self._hidden)

    def _cover_text(self, text: str) -> str:
        begin, end = self._open_end(text)
        pieces = self._tokenizer.split_special(text[:begin])
        covered = [self._placeholder(self._tokenizer.token(i)) if isinstance(i, int) else i for i in pieces]
        if begin < end:
            covered.append(self._placeholder(text[begin:end]))
        return "".join(covered) + text[end:]

    def _open_end(self, text: str) -> tuple[int, int]:
        """Range of a cut-off special token at the end (but for spaces), which a following text could complete."""
        stripped = text.rstrip()  # as templates do
        end = len(stripped)
        for begin in range(max(0, end - self._longest + 1), end):
            if stripped[begin] in self._first_characters and self._begins_name(stripped[begin:]):
                return begin, end
        return len(text), len(text)

    def _begins_name(self, text: str) -> bool:
        names = self._tokenizer.special_tokens
        return text not in names and any(name.startswith(text) for name in names)

    def _placeholder(self, hidden: str) -> str:
        if hidden not in self._placeholders:
            free = next(self._free, None)
            if free is None:
                raise UsageError("the messages use up all private-use characters", hint="Shorten the conversation.")
            self._placeholders[hidden] = free
            self._hidden[ord(free)] = hidden
        return self._placeholders[hidden]


def _texts(value: Any) -> Iterator[str]:
    """Every text in a value of mappings and lists."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(key)
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
