"""What the parsers' tests share: pieces joined into an answer, and texts cut anywhere."""

import json
from dataclasses import dataclass, field

from hypothesis import strategies as st

from abaci.chat.parsers.pieces import CallArguments, CallBegun, CallEnded, Content, Thought


@dataclass
class Answer:
    content: str = ""
    thought: str = ""
    calls: list = field(default_factory=list)
    num_ended: int = 0

    def add(self, pieces):
        for piece in pieces:
            match piece:
                case Content(text):
                    self.content += text
                case Thought(text):
                    self.thought += text
                case CallBegun(name):
                    self.calls.append((name, ""))
                case CallArguments(text):
                    name, arguments = self.calls[-1]
                    self.calls[-1] = (name, arguments + text)
                case CallEnded():
                    self.num_ended += 1
        return self

    def values(self):
        return [(name, json.loads(arguments)) for name, arguments in self.calls]


def parse(parser, *texts):
    answer = Answer()
    for text in texts:
        answer.add(parser.push(text))
    return answer.add(parser.finish())


def cuts(texts):
    """A text of `texts`, with places to cut it at."""
    places = st.lists(st.integers(0, 400), max_size=12)
    return st.tuples(texts, places).map(lambda pair: (pair[0], cut(*pair)))


def cut(text, places):
    ends = sorted(min(place, len(text)) for place in places)
    return [text[begin:end] for begin, end in zip([0, *ends], [*ends, len(text)], strict=True)]
