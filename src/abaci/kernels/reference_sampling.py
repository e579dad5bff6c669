"""From a row of logits to a token: the executable specification of sampling, in numpy.

The order is: bias, repetition penalty, frequency and presence penalties, mask, temperature, top-k, top-p, min-p, draw.
Bias before penalties is the order of vLLM and llama.cpp; truncation after temperature, top-k first, is that of
transformers.
Log-probabilities are those of the model's own logits, before any of this.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from abaci.kernels.batch import SAMPLE, StepBatch

NO_TOKEN = -1
"""Sampled where bias and mask leave no token, or the model gave no finite logit."""

_PHILOX_ROUNDS = 10
_PHILOX_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_PHILOX_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_WORD = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class SampledRow:
    """What one logit row gives: `logprob` is 0 and `top_ids` empty where none were asked for."""

    token_id: int
    logprob: float
    top_ids: NDArray[np.int64]
    top_logprobs: NDArray[np.float64]


def sample_row(logits: NDArray[np.float32], batch: StepBatch, index: int) -> SampledRow:
    """Answer logit row `index` of the batch from its `logits` (vocab,): draw a token, or look up the target."""
    nothing = SampledRow(NO_TOKEN, 0.0, np.empty(0, np.int64), np.empty(0))
    if not np.isfinite(logits.max()):
        return nothing
    row = batch.logit_rows[index]
    target, num_top = int(row["target"]), int(row["num_top"])
    token_id = target if target != SAMPLE else draw(adjust(logits, batch, index), row)
    if num_top < 0:
        return replace(nothing, token_id=token_id)
    logprobs = log_softmax(logits)
    top_ids = likeliest_first(logits)[:num_top]
    return SampledRow(token_id, float(logprobs[token_id]) if token_id >= 0 else 0.0, top_ids, logprobs[top_ids])


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Natural log-probabilities of a row of logits."""
    shifted = logits.astype(np.float64) - float(logits.max())
    logprobs: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return logprobs


def likeliest_first(logits: NDArray[np.float32]) -> NDArray[np.int64]:
    """Token ids by falling logit, equal ones by lowest id."""
    return np.argsort(-logits, kind="stable")


def adjust(logits: NDArray[np.float32], batch: StepBatch, index: int) -> NDArray[np.float32]:
    """A copy of the logits with the row's bias, penalties and mask applied, all in float32."""
    row = batch.logit_rows[index]
    adjusted = logits.copy()
    for entry in batch.bias[row["bias_begin"] : row["bias_end"]]:
        adjusted[entry["token_id"]] += entry["bias"]
    for entry in batch.history[row["history_begin"] : row["history_end"]]:
        logit, count = adjusted[entry["token_id"]], np.float32(entry["output_count"])
        logit = logit / row["repetition_penalty"] if logit > 0 else logit * row["repetition_penalty"]
        if count > 0:
            logit -= row["presence_penalty"] + row["frequency_penalty"] * count
        adjusted[entry["token_id"]] = logit
    if row["mask_row"] >= 0:
        adjusted[~allowed_tokens(batch.masks[row["mask_row"]], logits.size)] = -np.inf
    return adjusted


def allowed_tokens(mask: NDArray[np.uint32], vocab_size: int) -> NDArray[np.bool_]:
    """The mask's bits as booleans, token by token."""
    return np.unpackbits(mask.view(np.uint8), bitorder="little")[:vocab_size].astype(bool)


def draw(logits: NDArray[np.float32], row: np.void) -> int:
    """Choose a token by the row's temperature, truncation and seed; NO_TOKEN where every logit is -inf."""
    if logits.max() == -np.inf:
        return NO_TOKEN
    if row["temperature"] == 0:
        return int(logits.argmax())
    candidates, weights = truncate(
        logits / row["temperature"], int(row["top_k"]), float(row["top_p"]), float(row["min_p"])
    )
    cumulative = np.cumsum(weights)
    threshold = uniform(int(row["seed"]), int(row["token_index"]), int(row["sample_index"])) * cumulative[-1]
    return int(candidates[np.searchsorted(cumulative, threshold, side="right")])


def truncate(
    logits: NDArray[np.float32], top_k: int, top_p: float, min_p: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The tokens that may be drawn, in the order of the draw, and their weights (probabilities up to a factor).

    Without truncation all tokens by id; else by falling probability, equal ones by lowest id. top-k keeps the first k;
    top-p the shortest run of these that holds at least top_p of their sum; min-p those of at least min_p times the
    likeliest, a min-p too small for a normal float32 counting as none.
    """
    weights = np.exp(logits.astype(np.float64) - float(logits.max()))
    if not 0 < top_k < logits.size and top_p >= 1 and min_p < np.finfo(np.float32).tiny:
        return np.arange(logits.size), weights
    candidates = likeliest_first(logits)
    if top_k > 0:
        candidates = candidates[:top_k]
    weights = weights[candidates]
    if top_p < 1:
        cumulative = np.cumsum(weights)
        num_kept = 1 + int(np.searchsorted(cumulative[:-1], top_p * cumulative[-1]))
        candidates, weights = candidates[:num_kept], weights[:num_kept]
    is_kept = weights >= min_p * weights[0]
    return candidates[is_kept], weights[is_kept]


def uniform(seed: int, token_index: int, sample_index: int) -> float:
    """The draw's number in [0, 1): 53 bits of Philox, keyed by the seed and counted by token and sample."""
    first, second, _, _ = philox((token_index, sample_index, 0, 0), (seed & _WORD, seed >> 32))
    return ((first >> 5) * 67108864 + (second >> 6)) / 9007199254740992


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Philox4x32-10 (Salmon et al. 2011): four random 32-bit words from a counter and a key."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_PHILOX_ROUNDS):
        product0, product1 = _PHILOX_MULTIPLIERS[0] * c0, _PHILOX_MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = product1 >> 32 ^ c1 ^ k0, product1 & _WORD, product0 >> 32 ^ c3 ^ k1, product0 & _WORD
        k0, k1 = k0 + _PHILOX_KEY_STEPS[0] & _WORD, k1 + _PHILOX_KEY_STEPS[1] & _WORD
    return c0, c1, c2, c3
