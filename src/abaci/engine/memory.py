"""How much memory the KV cache gets: sizes in, pages out. Knows no tensors."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from abaci.engine.cgroups import group_folders, read_words
from abaci.errors import ResourceError, UsageError

DEFAULT_SHARE = 0.25
"""Of the memory available, for a cache nobody asked a size of."""
REQUESTED_SHARE = 0.75
"""Of the memory available, for a context that was asked for."""
NUM_FULL_CONTEXTS = 2
MIN_CACHE_TOKENS = 32768
MIN_WINDOWS = 4
"""For which a group with a window has room: one sequence runs, and of others the ends are kept."""

_ROOT = Path("/")
_UNLIMITED_BYTES = 1 << 60


@dataclass(frozen=True, slots=True)
class CacheSize:
    """Pages of a KV cache, per cache group, and the longest sequence it is meant for."""

    context_length: int
    num_pages: tuple[int, ...]
    num_bytes: int
    """When all pages are in use; untouched ones take no memory."""
    num_states: int = 0
    """Slots for recurrent states, beside the pages."""


def size_cache(
    *,
    windows: Sequence[int | None],
    page_bytes: Sequence[int],
    page_tokens: int,
    model_context: int,
    requested_context: int | None,
    max_sequences: int,
    max_step_tokens: int,
    available_bytes: int,
    cache_bytes: int | None = None,
) -> CacheSize:
    """Room for two sequences of full length or MIN_CACHE_TOKENS, within a share of the memory available.

    With `cache_bytes` it is instead as much as that holds, up to what `max_sequences` of full length can use. Groups
    with a window get what `max_sequences` windows take, if that is less. Without a request the context is the model's,
    or what fits. Raises UsageError for a context beyond the model's, ResourceError for one beyond memory.
    """
    context = model_context if requested_context is None else requested_context
    if not 1 <= context <= model_context:
        raise UsageError(
            f"a context of {context} tokens is not possible: the model allows 1 to {model_context}",
            hint=f"Give at most {model_context}.",
        )
    limits = [window_pages(window, page_tokens, max_sequences, max_step_tokens) for window in windows]

    def pages_of(count: int) -> tuple[int, ...]:
        return tuple(count if limit is None else min(count, limit) for limit in limits)

    def bytes_of(count: int) -> int:
        return sum(pages * size for pages, size in zip(pages_of(count), page_bytes, strict=True))

    needed = -(-context // page_tokens)
    if cache_bytes is None:
        wanted = max(NUM_FULL_CONTEXTS * needed, MIN_CACHE_TOKENS // page_tokens)
        limit_bytes = int(available_bytes * DEFAULT_SHARE)
    else:
        wanted = max_sequences * needed
        limit_bytes = min(cache_bytes, available_bytes)
    fitting = bisect_right(range(wanted + 1), limit_bytes, key=bytes_of) - 1
    if fitting < needed and requested_context is not None:
        if cache_bytes is not None:
            raise ResourceError(
                f"a context of {context} tokens takes {bytes_of(needed):,} bytes of KV cache, which may have "
                f"{limit_bytes:,}",
                hint="Ask for a shorter context, or give the KV cache more memory.",
            )
        if bytes_of(needed) > available_bytes * REQUESTED_SHARE:
            raise ResourceError(
                f"a context of {context} tokens takes {bytes_of(needed):,} bytes of KV cache; "
                f"{available_bytes:,} bytes of memory are available, of which it may have {REQUESTED_SHARE:.0%}",
                hint="Ask for a shorter context.",
            )
        fitting = needed
    if fitting < 1:
        raise ResourceError(
            f"no memory for a KV cache: a page takes {bytes_of(1):,} bytes, {available_bytes:,} are available"
            + ("" if cache_bytes is None else f", {cache_bytes:,} were granted"),
            hint="Close other programs, choose a smaller model, or give the KV cache more memory.",
        )
    return CacheSize(min(context, fitting * page_tokens), pages_of(fitting), bytes_of(fitting))


def check_weights(weight_bytes: int, available_bytes: int, *, are_floats: bool) -> None:
    """Raise ResourceError for weights that memory cannot hold, before any is read. `are_floats` if most are."""
    if weight_bytes > available_bytes:
        raise ResourceError(
            f"the weights take {weight_bytes:,} bytes of memory; {available_bytes:,} bytes are available, "
            f"{weight_bytes - available_bytes:,} too few",
            hint="Use a smaller model or a file of fewer bits"
            + ("; float weights can be loaded with --quantize q4_k_m." if are_floats else "."),
        )


def count_states(state_bytes: int, max_sequences: int, available_bytes: int, cache_bytes: int | None = None) -> int:
    """Slots for recurrent states: two for each sequence that may run and as many snapshots again, within half of what
    the cache may take. 0 for a model that has none; ResourceError where not even two fit.
    """
    if state_bytes == 0:
        return 0
    limit_bytes = int((available_bytes * DEFAULT_SHARE if cache_bytes is None else cache_bytes) / 2)
    num_states = min(4 * max_sequences, limit_bytes // state_bytes)
    if num_states < 2:
        raise ResourceError(
            f"no memory for recurrent states: a sequence takes {state_bytes:,} bytes, two of them must fit into "
            f"{limit_bytes:,}",
            hint="Close other programs, or give the cache more memory.",
        )
    return num_states


def available_memory_bytes(root: Path = _ROOT) -> int:
    """Memory that can be had without swapping: the machine's, or what control groups leave of it."""
    machine = _fields(root / "proc/meminfo").get("MemAvailable:", _UNLIMITED_BYTES >> 10) << 10
    groups = [_left_in_group(folder) for folder in group_folders("memory", root)]
    return max(0, min([machine, *groups]))


def total_memory_bytes(root: Path = _ROOT) -> int:
    """Memory that processes here can have at most: the machine's, or what control groups grant of it."""
    machine = _fields(root / "proc/meminfo").get("MemTotal:", _UNLIMITED_BYTES >> 10) << 10
    return min([machine, *(_group_limit(folder) for folder in group_folders("memory", root))])


def _group_limit(folder: Path) -> int:
    words = read_words(folder / "memory.max") or read_words(folder / "memory.limit_in_bytes")
    return int(words[0]) if words and words[0].isdigit() else _UNLIMITED_BYTES


def window_pages(window: int | None, page_tokens: int, max_sequences: int, max_step_tokens: int) -> int | None:
    """Most pages that a cache group is given; None where it has no window, and takes what there is."""
    if window is None:
        return None
    num_windows = max(max_sequences, MIN_WINDOWS)
    return num_windows * (-(-window // page_tokens) + 1) + -(-max_step_tokens // page_tokens)


def _left_in_group(folder: Path) -> int:
    """Limit less use; cached files do not count as used, as they give way."""
    version_2 = read_words(folder / "memory.max") + read_words(folder / "memory.current")
    version_1 = read_words(folder / "memory.limit_in_bytes") + read_words(folder / "memory.usage_in_bytes")
    for words in (version_2, version_1):
        if len(words) == 2 and words[0].isdigit() and words[1].isdigit():
            statistics = _fields(folder / "memory.stat")
            prefix = "total_" if "total_inactive_file" in statistics else ""
            files = sum(statistics.get(f"{prefix}{name}", 0) for name in ("inactive_file", "active_file"))
            return int(words[0]) - int(words[1]) + files
    return _UNLIMITED_BYTES


def _fields(path: Path) -> dict[str, int]:
    """Lines of "name number ..." as a mapping."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {words[0]: int(words[1]) for words in lines if len(words) >= 2 and words[1].isdigit()}
