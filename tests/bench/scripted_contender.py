"""A contender whose speed is written down: it keeps a record of what it was asked."""

from abaci.bench.contender import Description, Timing


class ScriptedContender:
    """`speed(settings)` says how many tokens per second it does; every call is noted in `calls`, shared or its own."""

    def __init__(self, name, options=None, speed=lambda settings: 100.0, calls=None):
        self.name = name
        self.calls = [] if calls is None else calls
        self.settings = {}
        self._options = options or {}
        self._speed = speed

    def open(self, path, num_threads, kv_type=None):
        return Description("1.0", {"threads": str(num_threads)}, 1000)

    def options(self, num_streams, num_new_tokens):
        return self._options

    def configure(self, settings):
        self.settings = dict(settings)

    def prefill(self, token_ids):
        self.calls.append((self.name, [tuple(token_ids)], self.settings))
        return Timing(len(token_ids), len(token_ids) / self._speed(self.settings))

    def decode(self, prompts, num_tokens, limit_seconds):
        self.calls.append((self.name, [tuple(prompt) for prompt in prompts], self.settings))
        count = num_tokens * len(prompts)
        return Timing(count, count / self._speed(self.settings))
