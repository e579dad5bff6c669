"""The adapter around an engine that counts: `python scripted_adapter.py`. Two requests at a time, a token per step."""

import asyncio

from abaci.bench.http.adapter import Piece, serve


class CountingEngine:
    def __init__(self):
        self._asks = []
        self._counts = {}

    def add(self, ask):
        self._asks.append(ask)
        self._counts[ask.key] = 0

    @property
    def has_work(self):
        return bool(self._asks)

    def step(self):
        pieces = []
        for ask in self._asks[:2]:
            self._counts[ask.key] = count = self._counts[ask.key] + 1
            num_words = sum(len(message["content"].split()) for message in ask.messages)
            pieces.append(Piece(ask.key, f"{count} ", count == ask.num_tokens, num_words, 0, count))
        ended = {piece.key for piece in pieces if piece.is_last}
        self._asks = [ask for ask in self._asks if ask.key not in ended]
        return pieces


if __name__ == "__main__":
    asyncio.run(serve(CountingEngine()))
