"""What was passed goes before what ended, and of each the least recently used."""

from abaci.engine.eviction import EvictionOrder


def order_of(queue):
    given_up = []
    while queue:
        given_up.append(queue.first())
        queue.discard(given_up[-1])
    return given_up


def test_ends_outlast_what_was_passed():
    queue = EvictionOrder()
    for name in ("end 1", "passed 1", "end 2", "passed 2"):
        queue.push(name, is_end=name.startswith("end"))
    assert len(queue) == 4 and queue.num_passed == 2 and "end 1" in queue
    assert order_of(queue) == ["passed 1", "passed 2", "end 1", "end 2"]


def test_an_end_that_was_passed_goes_before_other_ends():
    queue = EvictionOrder()
    for name in "abc":
        queue.push(name, is_end=True)
    queue.demote("b")
    queue.demote("unknown")
    assert order_of(queue) == ["b", "a", "c"]


def test_what_is_used_again_is_the_last_to_go():
    queue = EvictionOrder()
    for name in "ab":
        queue.push(name, is_end=True)
    queue.discard("a")
    queue.push("a", is_end=True)
    assert order_of(queue) == ["b", "a"]
