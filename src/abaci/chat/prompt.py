"""A conversation to the token ids of its prompt, such that no text of a message becomes a special token.

The chat template decides where special tokens stand, by writing their names. Text of messages may contain the same
names, or become one when a template takes something out of it or joins it with other text. So the rendered prompt knows
of each character whether it was given or the template's own, and is split only at names of which the template wrote
every character; each piece is encoded as mere text. Where nothing looks like a special token this gives the ids of
`apply_chat_template` in `transformers`.
"""

import contextlib
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from abaci.chat.messages import Conversation, Message, parse_messages
from abaci.errors import AbaciError, UsageError
from abaci.formats.chat_template import CHATML, ChatTemplate
from abaci.formats.given_text import runs
from abaci.formats.tokenizer import Tokenizer

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
    return list(_pieces(_render(template, given, options), tokenizer))


def _pieces(rendered: str, tokenizer: Tokenizer) -> Iterator[str | int]:
    """The prompt cut at the special tokens of which the template wrote the whole name."""
    cut = (
        piece for text, is_given in runs(rendered) for piece in ([text] if is_given else tokenizer.split_special(text))
    )
    for is_text, group in itertools.groupby(cut, key=lambda piece: isinstance(piece, str)):
        pieces = list(group)
        yield from ["".join(map(str, pieces))] if is_text else pieces


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
