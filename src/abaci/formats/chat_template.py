"""Chat templates: the Jinja program a model ships that turns messages into its prompt format.

Templates come from strangers. They run in a sandbox (`template_sandbox.py`) with an allow-list of filters and of what
each type of value offers (`template_values.py`), and on a meter (`template_meter.py`), so that a template can neither
run long nor grow large. The environment offers what `apply_chat_template` of `transformers` does: trimmed blocks,
`break` and `continue`, `raise_exception`, `strftime_now`, `tojson` without escapes, `generation` blocks.

Knows nothing of tokens; messages are plain mappings here.
"""

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

from jinja2 import TemplateError
from jinja2.exceptions import SecurityError

from abaci.errors import FileFormatError, UsageError
from abaci.formats.given_text import given
from abaci.formats.template_meter import LimitError, TemplateLimits
from abaci.formats.template_sandbox import RefusedError, TemplateEnvironment

MAX_SOURCE_CHARACTERS: Final = 1 << 17
CHATML: Final = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""For a model that ships no template: what most would understand."""

_HINT: Final = "Give another chat template, or send the prompt as plain text."
_MOST_SAID_CHARACTERS: Final = 1000


class ChatTemplate:
    """A compiled template. May be used from any thread; renderings of one template take turns."""

    __slots__ = ("_environment", "_lock", "_template", "_variables", "source")

    def __init__(
        self, source: str, *, bos_token: str = "", eos_token: str = "", limits: TemplateLimits | None = None
    ) -> None:
        """Compile. Raises FileFormatError if it is not a template we can run."""
        if len(source) > MAX_SOURCE_CHARACTERS:
            raise FileFormatError(f"the chat template is {len(source)} characters long, over the limit", hint=_HINT)
        self.source = source
        self._variables = {"bos_token": bos_token, "eos_token": eos_token}
        self._environment = TemplateEnvironment(limits or TemplateLimits())
        self._lock = threading.Lock()
        try:
            self._template = self._environment.from_string(source)
        except (
            LimitError,
            TemplateError,
            RecursionError,
            SyntaxError,
            ValueError,
            OverflowError,
            MemoryError,
        ) as error:
            number = getattr(error, "lineno", None)
            line = "" if number is None else f" (line {number})"
            raise FileFormatError(f"the chat template does not compile: {_short(error)}{line}", hint=_HINT) from None

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The prompt of a conversation. `variables` are further names the template may ask for.

        The prompt knows which of its characters came from what is given here and which the template wrote
        (`given_text.runs`). Roles count as the template's: they are ours, and templates build special tokens from them.
        Raises UsageError where the template refuses the messages, FileFormatError where it exceeds its limits.
        """
        marked = {name: given(value) for name, value in variables.items()} | {
            "messages": [_marked(message) for message in messages],
            "tools": given(tools),
            "add_generation_prompt": add_generation_prompt,
        }
        with self._lock:
            self._environment.meter.restart()
            try:
                return self._environment.meter.join("", self._template.generate({**self._variables, **marked}))
            except LimitError as error:
                raise FileFormatError(f"the chat template {error}", hint=_HINT) from None
            except RefusedError as error:
                raise UsageError(
                    f"the chat template refuses the messages: {_short(error)}", hint="Change the messages."
                ) from None
            except SecurityError as error:
                raise FileFormatError(f"the chat template does what it must not: {_short(error)}", hint=_HINT) from None
            except RecursionError:
                raise FileFormatError("the chat template calls itself too deeply", hint=_HINT) from None
            except Exception as error:  # whatever a template's own mistake raises
                raise UsageError(
                    f"the chat template cannot render these messages: {type(error).__name__}: {_short(error)}",
                    hint=_HINT,
                ) from None


def _marked(message: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value if key == "role" else given(value) for key, value in message.items()}


def _short(error: Exception) -> str:
    """What the error says, which a template may have chosen."""
    return str(error)[:_MOST_SAID_CHARACTERS]
