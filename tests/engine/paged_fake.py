"""An executor without a model whose tokens depend on every bit of bookkeeping.

A position's "key" is a hash of its token, its position and of all keys it sees, read back through the page tables; the
next token is a hash of the key and of the sampling row. A wrong page, a stale one, a wrong position, window, seed,
counter, history or bias changes the answer, which `expected_tokens` knows without any paging.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from abaci.generation import GenerationRequest, Pooling
from abaci.kernels.batch import PAGE_TOKENS, SAMPLE, StepBatch, StepOutput

VOCAB_SIZE = 97
_MODULUS = (1 << 61) - 1


def mix(*values: int) -> int:
    """A hash of integers that is the same in every process."""
    state = 0x9E3779B97F4A7C15
    for value in values:
        state = (state * 6364136223846793005 + value + 1442695040888963407) % _MODULUS
        state ^= state >> 29
    return state % _MODULUS


def key_of(token_id: int, position: int, seen: Sequence[Sequence[int]]) -> int:
    """The key of a position, from the keys that it sees in each cache group."""
    return mix(token_id, position, *(sum(keys) for keys in seen))  # a key knows its position: no order is lost


def draw(
    key: int,
    sampling: tuple[int, int, int, int],
    history: Counter[tuple[int, bool]],
    banned: frozenset[int],
    bias: dict[int, float],
) -> int:
    """A token. `sampling` is (seed, sample index, token index, hash of the parameters)."""
    marks = sorted((token, in_prompt, count) for (token, in_prompt), count in history.items())
    state = mix(
        key,
        *sampling,
        *(mix(token, int(in_prompt), count) for token, in_prompt, count in marks),
        *(mix(token, int(value * 100)) for token, value in sorted(bias.items())),
    )
    while state % VOCAB_SIZE in banned:
        state = mix(state)
    return state % VOCAB_SIZE


def logprob_of(key: int, token_id: int) -> float:
    """A number in (-1, 0] that tells a key and a token apart from others."""
    return -float(np.float32((mix(key, token_id) % 65536) / 65536))


def top_of(key: int, num_top: int) -> tuple[tuple[int, float], ...]:
    """The tokens an imagined distribution likes best."""
    ids = [mix(key, rank) % VOCAB_SIZE for rank in range(num_top)]
    return tuple((token_id, logprob_of(key, token_id)) for token_id in ids)


def hidden_of(key: int) -> tuple[float, float]:
    """An imagined hidden state."""
    return key % 9973 / 97, key % 8887 / 89


def expected_embedding(request: GenerationRequest, windows: Sequence[int | None]) -> tuple[float, ...]:
    """What a request for an embedding must give, whatever else runs."""
    states = [np.array(hidden_of(key), np.float32) for key in keys_of(request.prompt_token_ids, windows)]
    if request.pooling is Pooling.LAST:
        return tuple(float(value) for value in states[-1])
    total = np.zeros(2)
    for state in states:
        total += state
    return tuple(float(value) for value in total / len(states))


def keys_of(token_ids: Sequence[int], windows: Sequence[int | None]) -> list[int]:
    """The keys of a whole sequence, computed in one go."""
    return extend_keys([], token_ids, windows)


def extend_keys(keys: list[int], token_ids: Sequence[int], windows: Sequence[int | None]) -> list[int]:
    """Append the keys that are missing."""
    for position in range(len(keys), len(token_ids)):
        begins = [0 if window is None else max(0, position - window + 1) for window in windows]
        keys.append(key_of(token_ids[position], position, [keys[begin:position] for begin in begins]))
    return keys


def expected_tokens(request: GenerationRequest, sample_index: int, windows: Sequence[int | None]) -> tuple[int, ...]:
    """What a sample must give, whatever else runs."""
    token_ids = list(request.prompt_token_ids)
    num_prompt = len(token_ids)
    keys: list[int] = []
    has_penalties = bool(request.repetition_penalty != 1 or request.presence_penalty or request.frequency_penalty)
    while len(token_ids) - num_prompt < request.max_tokens:
        num_generated = len(token_ids) - num_prompt
        history: Counter[tuple[int, bool]] = Counter()
        if has_penalties:
            in_prompt, in_output = set(token_ids[:num_prompt]), Counter(token_ids[num_prompt:])
            for token in set(token_ids):
                history[token, token in in_prompt] = in_output[token]
        sampling = (request.seed, sample_index, num_generated, parameters_hash(request))
        banned = request.end_token_ids if num_generated < request.min_tokens else frozenset()
        bias = {t: b for t, b in request.logit_bias if t not in banned}
        token_ids.append(draw(extend_keys(keys, token_ids, windows)[-1], sampling, history, banned, bias))
        if token_ids[-1] in request.end_token_ids:
            break
    return tuple(token_ids[num_prompt:])


def parameters_hash(request: GenerationRequest) -> int:
    """Of the parameters that a logit row carries as they are."""
    values = (request.temperature, request.top_p, request.min_p, request.repetition_penalty)
    penalties = (request.presence_penalty, request.frequency_penalty)
    return mix(request.top_k, *(round(float(np.float32(v)) * 1000) for v in (*values, *penalties)))


class PagedFake:
    """An `Executor` of imagined keys in paged memory, with every check that a batch allows."""

    def __init__(self, windows: Sequence[int | None]) -> None:
        self.windows = tuple(windows)
        self.fail_at_step: int | None = None
        self.num_steps = 0
        self.is_closed = False
        self._memory: list[list[list[int | None]]] = []
        self._states: list[tuple[int, int] | None] = []
        """Positions seen and the key of the last one, which is a hash of all of them."""

    def page_bytes(self, group: int) -> int:
        return PAGE_TOKENS * 8

    @property
    def state_bytes(self) -> int:
        return 8

    def allocate_cache(self, num_pages: tuple[int, ...], num_states: int = 0) -> None:
        self._memory = [[[None] * PAGE_TOKENS for _ in range(count)] for count in num_pages]
        self._states = [None] * num_states

    def close(self) -> None:
        self.is_closed = True

    def step(self, batch: StepBatch) -> StepOutput:
        if self.num_steps == self.fail_at_step:
            self.fail_at_step = None
            raise RuntimeError("the executor was told to fail")
        self.num_steps += 1
        self._check_writers(batch)
        keys: list[int] = []
        if self._states:
            self._check_states(batch)
        for index in range(len(batch.first_positions)):
            begin, end = batch.sequence_offsets[index : index + 2].tolist()
            first = int(batch.first_positions[index])
            for row in range(begin, end):
                keys.append(self._write(batch, index, int(batch.token_ids[row]), first + row - begin))
            if self._states:
                self._states[batch.states[index, 1]] = first + end - begin, keys[-1]
        return self._sample(batch, keys)

    def _check_writers(self, batch: StepBatch) -> None:
        assert batch.token_ids.dtype == batch.sequence_offsets.dtype == batch.first_positions.dtype == np.int32
        assert batch.sequence_offsets[0] == 0 and batch.sequence_offsets[-1] == len(batch.token_ids)
        assert np.all(np.diff(batch.sequence_offsets) > 0)
        assert np.all(np.diff(batch.logit_rows["row"]) > 0)
        assert all(table.flags.c_contiguous for table in batch.page_tables)
        for group, table in enumerate(batch.page_tables):
            written: list[int] = []
            for index, first in enumerate(batch.first_positions.tolist()):
                count = int(batch.sequence_offsets[index + 1] - batch.sequence_offsets[index])
                pages = table[index, first // PAGE_TOKENS : (first + count - 1) // PAGE_TOKENS + 1].tolist()
                assert all(0 <= page < len(self._memory[group]) for page in pages)
                written.extend(pages)
            assert len(set(written)) == len(written), "two sequences write to one page"

    def _check_states(self, batch: StepBatch) -> None:
        """Each sequence continues the state after just what is in its pages, and writes where nobody else reads."""
        reads, writes = batch.states.T.tolist()
        assert len(reads) == len(batch.first_positions) and len(set(writes)) == len(writes)
        for index, (read, write) in enumerate(zip(reads, writes, strict=True)):
            assert 0 <= write < len(self._states)
            assert all(other == index or reads[other] != write for other in range(len(reads)))
            first = int(batch.first_positions[index])
            if read < 0:
                assert first == 0, "a state is missing"
                continue
            state = self._states[read]
            assert state is not None and state[0] == first, "a state of other positions"
            last = first - 1
            page = batch.page_tables[0][index, last // PAGE_TOKENS]
            if page >= 0:
                assert self._memory[0][page][last % PAGE_TOKENS] == state[1], "a state of other tokens"

    def _write(self, batch: StepBatch, index: int, token_id: int, position: int) -> int:
        seen: list[list[int]] = []
        for group, window in enumerate(self.windows):
            row = batch.page_tables[group][index]
            begin = 0 if window is None else max(0, position - window + 1)
            slots: list[int | None] = []
            for number in range(begin // PAGE_TOKENS, -(-position // PAGE_TOKENS)):
                assert row[number] >= 0, "a visible page is missing"
                first = number * PAGE_TOKENS
                slots += self._memory[group][row[number]][max(0, begin - first) : position - first]
            assert None not in slots, "a page is read before it was written"
            seen.append(slots)  # type: ignore[arg-type]
        key = key_of(token_id, position, seen)
        for group in range(len(self.windows)):
            page = batch.page_tables[group][index][position // PAGE_TOKENS]
            self._memory[group][page][position % PAGE_TOKENS] = key
        return key

    def _sample(self, batch: StepBatch, keys: list[int]) -> StepOutput:
        num_rows = len(batch.logit_rows)
        width = max((int(n) for n in batch.logit_rows["num_top"]), default=0)
        token_ids = np.zeros(num_rows, np.int32)
        logprobs = np.zeros(num_rows, np.float32)
        top_ids = np.full((num_rows, max(0, width)), -1, np.int32)
        top_logprobs = np.zeros((num_rows, max(0, width)), np.float32)
        for index, row in enumerate(batch.logit_rows):
            key = keys[row["row"]]
            target = int(row["target"])
            token_ids[index] = target if target != SAMPLE else self._draw(batch, row, key)
            if row["num_top"] >= 0:
                logprobs[index] = logprob_of(key, int(token_ids[index]))
                for rank, (token_id, value) in enumerate(top_of(key, int(row["num_top"]))):
                    top_ids[index, rank], top_logprobs[index, rank] = token_id, value
        hidden = np.array([hidden_of(keys[row]) for row in batch.hidden_rows], np.float32).reshape(-1, 2)
        return StepOutput(token_ids, logprobs, top_ids, top_logprobs, hidden)

    def _draw(self, batch: StepBatch, row: np.void, key: int) -> int:
        assert row["mask_row"] == -1
        history: Counter[tuple[int, bool]] = Counter()
        for entry in batch.history[row["history_begin"] : row["history_end"]]:
            mark = (int(entry["token_id"]), bool(entry["in_prompt"]))
            assert mark not in history, "a token comes once"
            history[mark] = int(entry["output_count"])
        biases = batch.bias[row["bias_begin"] : row["bias_end"]]
        banned = frozenset(int(entry["token_id"]) for entry in biases if np.isneginf(entry["bias"]))
        bias = {int(entry["token_id"]): float(entry["bias"]) for entry in biases if np.isfinite(entry["bias"])}
        values = (row["temperature"], row["top_p"], row["min_p"], row["repetition_penalty"])
        penalties = (row["presence_penalty"], row["frequency_penalty"])
        parameters = mix(int(row["top_k"]), *(round(float(v) * 1000) for v in (*values, *penalties)))
        sampling = (int(row["seed"]), int(row["sample_index"]), int(row["token_index"]), parameters)
        return draw(key, sampling, history, banned, bias)
