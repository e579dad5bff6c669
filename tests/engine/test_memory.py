"""How large the KV cache gets, on made-up machines."""

import pytest

from abaci.engine.memory import available_memory_bytes, check_weights, size_cache, total_memory_bytes
from abaci.errors import ResourceError, UsageError

GIB = 1 << 30


def size(**changes):
    values = dict(
        windows=[None],
        page_bytes=[32 * 12288],
        page_tokens=32,
        model_context=32768,
        requested_context=None,
        max_sequences=64,
        max_step_tokens=512,
        available_bytes=16 * GIB,
    )
    return size_cache(**(values | changes))


def test_two_full_contexts_where_memory_allows():
    cache = size()
    assert (cache.context_length, cache.num_pages) == (32768, (2048,))
    assert cache.num_bytes == 65536 * 12288


def test_a_short_context_still_has_room_for_many_streams():
    assert size(requested_context=1024).num_pages == (1024,)


def test_the_cache_stays_within_a_quarter_of_memory():
    cache = size(available_bytes=1 * GIB)
    assert cache.num_bytes <= GIB // 4 < cache.num_bytes + 32 * 12288
    assert cache.context_length == cache.num_pages[0] * 32 < 32768


def test_a_requested_context_may_take_more_but_not_everything():
    assert size(requested_context=32768, available_bytes=1 * GIB).num_pages == (1024,)
    with pytest.raises(ResourceError, match="402,653,184 bytes of KV cache; 268,435,456 bytes of memory"):
        size(requested_context=32768, available_bytes=GIB // 4)


def test_window_groups_get_what_their_windows_need():
    cache = size(windows=[None, 512], page_bytes=[32 * 3072, 32 * 15360])
    assert cache.num_pages == (2048, 64 * 17 + 16)


def test_a_granted_cache_is_used_up_to_what_all_sequences_can_fill():
    assert size(cache_bytes=2 * GIB).num_pages == (2 * GIB // (32 * 12288),)
    assert size(cache_bytes=2 * GIB, available_bytes=GIB).num_bytes <= GIB
    assert size(cache_bytes=8 * GIB, requested_context=1024, max_sequences=4).num_pages == (4 * 32,)
    with pytest.raises(ResourceError, match="402,653,184 bytes of KV cache, which may have 100,000,000"):
        size(cache_bytes=100_000_000, requested_context=32768)


@pytest.mark.parametrize("context", [0, -5, 32769])
def test_a_context_the_model_lacks_is_refused(context):
    with pytest.raises(UsageError, match="1 to 32768"):
        size(requested_context=context)


def test_no_memory_at_all_is_an_error_with_numbers():
    with pytest.raises(ResourceError, match="393,216 bytes, 1,000 are available"):
        size(available_bytes=1000)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8 * GIB),
        (
            {
                "proc/self/cgroup": "0::/a",
                "sys/fs/cgroup/a/memory.max": f"{4 * GIB}",
                "sys/fs/cgroup/a/memory.current": f"{3 * GIB}",
                "sys/fs/cgroup/a/memory.stat": f"anon {GIB}\ninactive_file {GIB}\nactive_file {GIB}",
            },
            3 * GIB,
        ),
        ({"proc/self/cgroup": "0::/a", "sys/fs/cgroup/a/memory.max": "max"}, 8 * GIB),
        (
            {
                "proc/self/cgroup": "4:memory:/b\n0::/",
                "sys/fs/cgroup/memory/b/memory.limit_in_bytes": f"{2 * GIB}",
                "sys/fs/cgroup/memory/b/memory.usage_in_bytes": f"{GIB}",
                "sys/fs/cgroup/memory/b/memory.stat": "inactive_file 1\ntotal_inactive_file 1024",
            },
            GIB + 1024,
        ),
    ],
)
def test_available_memory_is_the_smallest_of_machine_and_groups(tmp_path, files, expected):
    for path, text in ({"proc/meminfo": f"MemTotal: 9 kB\nMemAvailable: {8 * GIB >> 10} kB"} | files).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text + "\n")
    assert available_memory_bytes(tmp_path) == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 9 * GIB),
        ({"proc/self/cgroup": "0::/a", "sys/fs/cgroup/a/memory.max": f"{4 * GIB}"}, 4 * GIB),
        ({"proc/self/cgroup": "0::/a", "sys/fs/cgroup/a/memory.max": "max"}, 9 * GIB),
    ],
)
def test_total_memory_is_the_smallest_of_machine_and_groups(tmp_path, files, expected):
    for path, text in ({"proc/meminfo": f"MemTotal: {9 * GIB >> 10} kB"} | files).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text + "\n")
    assert total_memory_bytes(tmp_path) == expected


@pytest.mark.parametrize("are_floats", [False, True])
def test_weights_beyond_memory_are_refused_with_the_numbers(are_floats: bool) -> None:
    check_weights(1_000, 1_000, are_floats=are_floats)
    with pytest.raises(ResourceError, match="1,500 bytes of memory; 1,000 bytes are available, 500 too few") as caught:
        check_weights(1_500, 1_000, are_floats=are_floats)
    assert caught.value.hint is not None
    assert ("--quantize" in caught.value.hint) is are_floats
