"""Token events to text: decodes as tokens come, holds back what may be a stop string, ends where one is found.

One assembler per sample. Knows nothing of engines; whoever drives it cancels the request when a stop string ended it.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from abaci.errors import UsageError
from abaci.formats.tokenizer import StreamingDecoder, Tokenizer
from abaci.generation import FinishReason, TokenEvent


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Text that became certain with one event. The last one of a sample carries `finish_reason`."""

    text: str
    finish_reason: FinishReason | None = None
    stopped_by_string: bool = False
    """A stop string ended the sample, and the generator does not know it yet."""
    stop_string: str | None = None
    """Which one."""


class TextAssembler:
    """Text of one sample. However its tokens are spread over events, the texts joined are the same.

    Where several stop strings could end the sample, the one that is complete first does; of two complete at once, the
    longer one. None ends in the text of the first `min_tokens` tokens, though one that begins there may end later.
    """

    __slots__ = (
        "_decoder",
        "_exempt_length",
        "_finished",
        "_held",
        "_include_stop",
        "_longest_stop",
        "_min_tokens",
        "_num_tokens",
        "_shown_special",
        "_skip_special",
        "_stop",
        "_tokenizer",
    )

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: Sequence[str] | str = (),
        *,
        include_stop: bool = False,
        skip_special: bool = True,
        shown_special: Collection[int] = (),
        continuation: bool = False,
        min_tokens: int = 0,
    ) -> None:
        """With `include_stop` the text has the stop string, and the token that ended it if that one is shown.

        `shown_special` are special tokens that are text here, even with `skip_special`: whoever reads on needs them.

        With `continuation` the text continues a prompt, so that a leading space is kept. Raises UsageError.
        """
        self._stop = (stop,) if isinstance(stop, str) else tuple(stop)
        if "" in self._stop:
            raise UsageError("stop: an empty string would end every answer at once", hint="Leave the empty string out.")
        self._longest_stop = max(map(len, self._stop), default=0)
        self._include_stop = include_stop
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._shown_special = frozenset(shown_special)
        self._decoder = StreamingDecoder(tokenizer, skip_special=False, continuation=continuation)
        self._min_tokens = min_tokens
        self._num_tokens = 0
        self._held = ""
        self._exempt_length = 0
        """How many characters of what is held are of the first `min_tokens` tokens."""
        self._finished = False

    def push(self, event: TokenEvent) -> TextDelta:
        """Text of the event's tokens. After a stop string, further events are empty: the generator had run ahead."""
        if self._finished:
            return TextDelta("")
        leaves_out_last = event.ended_by_token and not self._include_stop
        token_ids = event.token_ids[:-1] if leaves_out_last else event.token_ids
        ended = event.finish_reason is not None
        num_exempt = max(0, self._min_tokens - self._num_tokens)
        self._num_tokens += len(token_ids)
        exempt = self._decode(token_ids[:num_exempt])
        text = exempt + self._decode(token_ids[num_exempt:])
        if ended:
            text += self._decoder.flush()
        if not self._stop:
            self._finished = ended
            return TextDelta(text, event.finish_reason)
        if num_exempt:
            self._exempt_length = len(self._held) + len(exempt)
        text = self._held + text
        if found := self._find_stop(text):
            begin, end = found
            self._finished = True
            shown_end = end if self._include_stop else begin
            return TextDelta(text[:shown_end], FinishReason.STOP, stopped_by_string=True, stop_string=text[begin:end])
        self._finished = ended
        certain = len(text) if ended else self._certain_length(text)
        self._held = text[certain:]
        self._exempt_length = max(0, self._exempt_length - certain)
        return TextDelta(text[:certain], event.finish_reason)

    def _decode(self, token_ids: Sequence[int]) -> str:
        return self._decoder.push([token_id for token_id in token_ids if self._is_shown(token_id)])

    def _is_shown(self, token_id: int) -> bool:
        return not (self._skip_special and self._tokenizer.is_special(token_id)) or token_id in self._shown_special

    def _find_stop(self, text: str) -> tuple[int, int] | None:
        """Range of the stop string that is complete first, beyond the exempt characters."""
        found = []
        for stop in self._stop:
            begin = text.find(stop, max(0, self._exempt_length - len(stop) + 1))
            if begin >= 0:
                found.append((begin + len(stop), begin))
        if not found:
            return None
        end, begin = min(found)
        return begin, end

    def _certain_length(self, text: str) -> int:
        """Length of the text that no stop string can reach into any more."""
        for begin in range(max(0, len(text) - self._longest_stop + 1), len(text)):
            if any(stop.startswith(text[begin:]) for stop in self._stop):
                return begin
        return len(text)
