"""Turns a plan into the arrays of a step, runs it, and reads the result back. It decides nothing.

A step's Python must be lost in the noise of even a small model's step, so the arrays are made once and only what
changed is written: a row of the batch remembers whose it is, and is rebuilt only when another sequence takes it over.
"""

from dataclasses import replace
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from abaci.engine.guide import Guide, needs_guide
from abaci.engine.kv_cache import NO_PAGE, PageTable
from abaci.engine.pooling import Pool
from abaci.engine.step import Sequence, StepPlan, StepResult
from abaci.errors import AbaciError, UsageError
from abaci.generation import GenerationRequest, TokenLogprob
from abaci.kernels.batch import BIAS, HISTORY, LOGIT_ROW, PAGE_TOKENS, SAMPLE, Executor, StepBatch, StepOutput

NOTHING_DRAWN = 0
"""Token id of a prompt that is finished and was not to be continued."""
AFTER_PROMPT = -1
"""Token id of the entry of prompt log-probabilities that holds only what is likely to follow the prompt."""

_TOP_K_OF_ALL = int(np.iinfo(np.int32).max)
"""More than any vocabulary has; a row has no room for more."""


class _SampleState:
    """What the runner knows of a sequence: its logit row but for the moving parts, its biases, history and guide."""

    __slots__ = ("bans", "biases", "guide", "has_lists", "history", "is_plain", "pool", "template")

    def __init__(self, sequence: Sequence) -> None:
        request = sequence.request
        self.template = _logit_row(request, sequence.sample_index)
        self.biases = _bias_entries(dict(request.logit_bias))
        self.bans = _bias_entries(dict(request.logit_bias) | dict.fromkeys(request.end_token_ids, float("-inf")))
        self.history = _History(sequence) if _has_penalties(request) else None
        self.pool = None if request.pooling is None else Pool(request.pooling)
        self.guide = Guide(request, sequence.grammar) if needs_guide(request) else None
        self.has_lists = bool(self.history is not None or request.logit_bias or request.min_tokens)
        """Whether its rows refer to a history or to biases."""
        self.is_plain = self.guide is None and not self.has_lists
        """Whether nothing but position and token index changes from step to step."""


class _History:
    """Distinct tokens of a sequence with their counts, kept up to date as it grows."""

    __slots__ = ("_entries", "_index_of", "_num_seen")

    def __init__(self, sequence: Sequence) -> None:
        self._entries = np.zeros(len(set(sequence.token_ids)) + 64, HISTORY)
        self._index_of: dict[int, int] = {}
        self._num_seen = 0

    def entries(self, sequence: Sequence) -> NDArray[np.void]:
        """The history up to the last token: (distinct tokens,) of HISTORY, in order of first appearance."""
        for position in range(self._num_seen, len(sequence.token_ids)):
            self._count(sequence.token_ids[position], position < sequence.num_prompt)
        self._num_seen = len(sequence.token_ids)
        return self._entries[: len(self._index_of)]

    def _count(self, token_id: int, in_prompt: bool) -> None:
        index = self._index_of.setdefault(token_id, len(self._index_of))
        if index == len(self._entries):
            self._entries = np.concatenate([self._entries, np.zeros(index, HISTORY)])
        entry = self._entries[index]
        entry["token_id"] = token_id
        if in_prompt:
            entry["in_prompt"] = 1
        else:
            entry["output_count"] += 1


class Runner:
    """Runs plans on an executor. Belongs to one thread; the arrays are reused from step to step."""

    def __init__(
        self,
        executor: Executor,
        *,
        num_groups: int,
        vocab_size: int,
        context_length: int,
        max_sequences: int,
        max_step_tokens: int,
        has_states: bool = False,
    ) -> None:
        self.step_seconds = 0.0
        """Time spent inside the executor, in all."""
        self._executor = executor
        width = -(-context_length // PAGE_TOKENS) + 1
        self._token_ids = np.zeros(max_step_tokens, np.int32)
        self._offsets = np.zeros(max_sequences + 1, np.int32)
        self._positions = np.zeros(max_sequences, np.int32)
        self._state_slots = np.zeros((max_sequences if has_states else 0, 2), np.int32)
        self._page_tables = tuple(np.full((max_sequences, width), NO_PAGE, np.int32) for _ in range(num_groups))
        self._logit_rows = np.zeros(max_step_tokens, LOGIT_ROW)
        self._row_of_step = self._logit_rows["row"]
        self._token_index = self._logit_rows["token_index"]
        self._row_numbers = np.arange(max_step_tokens, dtype=np.int32)
        self._masks = np.zeros((0, -(-vocab_size // 32)), np.uint32)
        """A row for every sequence from the first on that needs one."""
        self._no_history = np.zeros(0, HISTORY)
        self._no_bias = np.zeros(0, BIAS)
        self._no_rows = np.zeros(0, np.int32)
        self._states: dict[Sequence, _SampleState] = {}
        self._tables: list[PageTable | None] = [None] * max_sequences
        self._table_versions = [0] * max_sequences
        self._row_owners: list[Sequence | None] = [None] * max_step_tokens
        self._shape = (0, 0, 0, 0)
        self._batch: StepBatch | None = None

    def run(self, plan: StepPlan) -> StepResult:
        """One step. Whatever the executor raises comes through."""
        asked: list[int] = []
        errors: dict[int, AbaciError] = {}
        pooled: list[tuple[int, Pool, int]] = []
        batch = self._build(plan, asked, errors, pooled)
        begin = perf_counter()
        output = self._executor.step(batch)
        self.step_seconds += perf_counter() - begin
        result = _read(plan, output, asked, errors)
        return _with_embeddings(result, output, pooled) if pooled else result

    def _build(
        self,
        plan: StepPlan,
        asked: list[int],
        errors: dict[int, AbaciError],
        pooled: list[tuple[int, Pool, int]],
    ) -> StepBatch:
        """The batch; appends to `asked` how many logit rows each sequence has, and notes whose constraint failed.

        `pooled` gets the index, the pool and the number of wanted states of each sequence that has a pool.
        """
        if len(self._states) > 2 * len(self._tables):
            self._states = {sequence: state for sequence, state in self._states.items() if not sequence.is_finished}
        histories: list[NDArray[np.void]] = []
        biases: list[NDArray[np.void]] = []
        hidden_rows: list[int] = []
        token = row = num_masks = 0
        for index, sequence in enumerate(plan.sequences):
            start, count = plan.starts[index], plan.counts[index]
            state = self._states.get(sequence)
            if state is None:
                state = self._states[sequence] = _SampleState(sequence)
            self._copy_pages(index, sequence.table)
            self._positions[index] = start
            token_ids = sequence.token_ids
            end = start + count
            if count == 1:
                self._token_ids[token] = token_ids[start]
            else:
                self._token_ids[token : token + count] = token_ids[start:end]
            first_row = row
            if sequence.prompt_logprobs is not None:
                row += self._add_prompt_rows(sequence, row, token, start, min(end, sequence.num_prompt - 1))
            token += count
            self._offsets[index + 1] = token
            if state.pool is not None:
                wanted = state.pool.begin(start, end, sequence.num_prompt)
                hidden_rows.extend(range(token - end + wanted.start, token))
                pooled.append((index, state.pool, len(wanted)))
            elif end == len(token_ids):
                self._add_sample_row(sequence, state, row, token - 1)
                if not state.is_plain:
                    is_masked = False
                    if state.guide is not None:
                        try:
                            is_masked = self._add_mask(sequence, state.guide, row, num_masks)
                        except UsageError as error:
                            errors[index] = error
                            is_masked = self._forbid_all(row, num_masks)
                        num_masks += is_masked
                    if state.has_lists:
                        self._add_penalties(sequence, state, row, histories, biases, is_masked=is_masked)
                row += 1
            asked.append(row - first_row)
        return self._view((len(plan.sequences), token, row, num_masks), histories, biases, hidden_rows)

    def _copy_pages(self, index: int, table: PageTable | None) -> None:
        assert table is not None
        if len(self._state_slots):
            self._state_slots[index] = table.state_read, table.state_write
        is_same = self._tables[index] is table
        if is_same and self._table_versions[index] == table.version:
            return
        for array, pages in zip(self._page_tables, table.pages, strict=True):
            if not is_same:
                array[index].fill(NO_PAGE)
            array[index, : len(pages)] = pages
        self._tables[index] = table
        self._table_versions[index] = table.version

    def _add_sample_row(self, sequence: Sequence, state: _SampleState, row: int, row_of_step: int) -> None:
        if self._row_owners[row] is not sequence:
            self._logit_rows[row] = state.template
            self._row_owners[row] = sequence
        self._row_of_step[row] = row_of_step
        self._token_index[row] = len(sequence.token_ids) - sequence.num_prompt
        if sequence.prompt_logprobs is not None:
            wanted = sequence.request.num_prompt_logprobs
            assert wanted is not None
            self._logit_rows["num_top"][row] = max(wanted, state.template["num_top"])
            self._row_owners[row] = None

    def _add_prompt_rows(self, sequence: Sequence, row: int, token: int, start: int, end: int) -> int:
        """Rows asking for the log-probability of what follows positions start..end of the prompt; how many."""
        skipped = max(0, sequence.request.prompt_logprobs_begin - 1 - start)
        token, start = token + skipped, start + skipped
        count = max(0, end - start)
        rows = self._logit_rows[row : row + count]
        rows[:] = _prompt_row(sequence.request)
        rows["row"] = self._row_numbers[token : token + count]
        rows["target"] = sequence.token_ids[start + 1 : start + 1 + count]
        self._row_owners[row : row + count] = [None] * count
        return count

    def _add_mask(self, sequence: Sequence, guide: Guide, row: int, index: int) -> bool:
        """Write which tokens the row may draw into mask `index`; False where all may, and the mask is free."""
        if not len(self._masks):
            self._masks = np.zeros((len(self._positions), self._masks.shape[1]), np.uint32)
        is_masked = guide.allow(sequence.token_ids, sequence.num_prompt, self._masks[index])
        self._logit_rows["mask_row"][row] = index if is_masked else -1
        return is_masked

    def _forbid_all(self, row: int, index: int) -> bool:
        """The row cannot draw, and the executor will say so; nobody else notices."""
        self._masks[index] = 0
        self._logit_rows["mask_row"][row] = index
        return True

    def _add_penalties(
        self,
        sequence: Sequence,
        state: _SampleState,
        row: int,
        histories: list[NDArray[np.void]],
        biases: list[NDArray[np.void]],
        *,
        is_masked: bool,
    ) -> None:
        """Append the row's history and biases, and write their ranges into it. A mask has banned ends already."""
        entry = self._logit_rows[row]
        if state.history is not None:
            history = state.history.entries(sequence)
            entry["history_begin"] = sum(map(len, histories))
            entry["history_end"] = entry["history_begin"] + len(history)
            histories.append(history)
        num_generated = len(sequence.token_ids) - sequence.num_prompt
        has_bans = num_generated < sequence.request.min_tokens and not is_masked
        bias = state.bans if has_bans else state.biases
        entry["bias_begin"] = sum(map(len, biases))
        entry["bias_end"] = entry["bias_begin"] + len(bias)
        biases.append(bias)

    def _view(
        self,
        shape: tuple[int, int, int, int],
        histories: list[NDArray[np.void]],
        biases: list[NDArray[np.void]],
        hidden_rows: list[int],
    ) -> StepBatch:
        """The filled part of the arrays, which is the view of the step before where the sizes are the same.

        `shape` counts sequences, tokens, logit rows and masks.
        """
        num_sequences, num_tokens, num_rows, num_masks = shape
        batch = self._batch
        is_plain = not histories and not biases and not hidden_rows
        if batch is not None and shape == self._shape and is_plain:
            return batch
        batch = StepBatch(
            token_ids=self._token_ids[:num_tokens],
            sequence_offsets=self._offsets[: num_sequences + 1],
            first_positions=self._positions[:num_sequences],
            page_tables=tuple(array[:num_sequences] for array in self._page_tables),
            logit_rows=self._logit_rows[:num_rows],
            history=np.concatenate(histories) if histories else self._no_history,
            bias=np.concatenate(biases) if biases else self._no_bias,
            masks=self._masks[:num_masks],
            hidden_rows=np.array(hidden_rows, np.int32) if hidden_rows else self._no_rows,
            states=self._state_slots[:num_sequences],
        )
        self._batch = batch if is_plain else None
        self._shape = shape
        return batch


def _read(plan: StepPlan, output: StepOutput, asked: list[int], errors: dict[int, AbaciError]) -> StepResult:
    drawn: list[int] = output.token_ids.tolist()
    if len(drawn) == len(asked) and 0 not in asked and not _wants_logprobs(plan):
        return StepResult(plan, drawn, {}, {}, errors=errors)
    return _read_rows(plan, output, drawn, asked, errors)


def _wants_logprobs(plan: StepPlan) -> bool:
    for sequence in plan.sequences:  # a loop, as this runs every step and `any` costs a generator
        if sequence.request.num_logprobs is not None or sequence.prompt_logprobs is not None:
            return True
    return False


def _read_rows(
    plan: StepPlan, output: StepOutput, drawn: list[int], asked: list[int], errors: dict[int, AbaciError]
) -> StepResult:
    token_ids: list[int | None] = []
    logprobs: dict[int, TokenLogprob] = {}
    prompt_logprobs: dict[int, list[TokenLogprob]] = {}
    row = 0
    for index, sequence in enumerate(plan.sequences):
        rows = range(row, row + asked[index])
        row = rows.stop
        is_drawn = plan.starts[index] + plan.counts[index] == len(sequence.token_ids)
        request = sequence.request
        if request.pooling is not None:
            token_ids.append(NOTHING_DRAWN if is_drawn else None)
            continue
        token_ids.append(drawn[rows[-1]] if is_drawn else None)
        if is_drawn and request.num_logprobs is not None:
            logprobs[index] = _logprob(output, rows[-1], drawn[rows[-1]], request.num_logprobs)
        if sequence.prompt_logprobs is not None:
            num_top = request.num_prompt_logprobs
            assert num_top is not None
            first = max(plan.starts[index] + 1, request.prompt_logprobs_begin)
            targets = sequence.token_ids[first : sequence.num_prompt]
            entries = [_logprob(output, r, t, num_top) for r, t in zip(rows, targets, strict=False)]
            if is_drawn:
                entries.append(TokenLogprob(AFTER_PROMPT, 0.0, _logprob(output, rows[-1], AFTER_PROMPT, num_top).top))
            prompt_logprobs[index] = entries
    return StepResult(plan, token_ids, logprobs, prompt_logprobs, errors=errors)


def _with_embeddings(result: StepResult, output: StepOutput, pooled: list[tuple[int, Pool, int]]) -> StepResult:
    embeddings: dict[int, tuple[float, ...]] = {}
    row = 0
    for index, pool, count in pooled:
        pool.add(output.hidden[row : row + count])
        row += count
        if result.token_ids[index] is not None:
            embeddings[index] = pool.vector()
    return replace(result, embeddings=embeddings)


def _logprob(output: StepOutput, row: int, token_id: int, num_top: int) -> TokenLogprob:
    ids = output.top_ids[row, :num_top].tolist()
    values = output.top_logprobs[row, :num_top].tolist()
    return TokenLogprob(token_id, float(output.logprobs[row]), tuple(zip(ids, values, strict=True)))


def _has_penalties(request: GenerationRequest) -> bool:
    return bool(request.repetition_penalty != 1 or request.presence_penalty or request.frequency_penalty)


def _logit_row(request: GenerationRequest, sample_index: int) -> np.void:
    row: np.void = np.zeros(1, LOGIT_ROW)[0]
    row["seed"] = request.seed
    row["target"] = SAMPLE
    row["sample_index"] = sample_index
    row["temperature"] = request.temperature
    row["top_p"] = request.top_p
    row["min_p"] = request.min_p
    row["repetition_penalty"] = request.repetition_penalty
    row["presence_penalty"] = request.presence_penalty
    row["frequency_penalty"] = request.frequency_penalty
    row["top_k"] = min(request.top_k, _TOP_K_OF_ALL)
    row["num_top"] = -1 if request.num_logprobs is None else request.num_logprobs
    row["mask_row"] = -1
    return row


def _prompt_row(request: GenerationRequest) -> np.void:
    """A row that reads a log-probability off the model's own distribution."""
    row = _logit_row(GenerationRequest(request.request_id, (), 0, num_logprobs=request.num_prompt_logprobs), 0)
    row["target"] = 0
    return row


def _bias_entries(biases: dict[int, float]) -> NDArray[np.void]:
    return np.array(sorted(biases.items()), BIAS) if biases else np.zeros(0, BIAS)
