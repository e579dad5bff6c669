"""Events cross from threads to coroutines whole, in order, with one wake-up for many."""

import asyncio
import threading

from abaci.generation import TokenEvent
from abaci.server.bridge import EventBridge, EventInbox


def test_events_of_many_threads_arrive_in_order() -> None:
    async def main() -> None:
        bridge = EventBridge(asyncio.get_running_loop())
        inboxes = [EventInbox() for _ in range(8)]

        def publish(inbox: EventInbox) -> None:
            sink = bridge.sink(inbox)
            for token in range(500):
                sink(TokenEvent("r", 0, (token,)))

        threads = [threading.Thread(target=publish, args=(inbox,)) for inbox in inboxes]
        for thread in threads:
            thread.start()

        async def read(inbox: EventInbox) -> list[int]:
            tokens: list[int] = []
            while len(tokens) < 500:
                assert await inbox.wait(10)
                while (item := inbox.take()) is not None:
                    tokens += item[1].token_ids
            return tokens

        assert await asyncio.gather(*map(read, inboxes)) == [list(range(500))] * 8
        for thread in threads:
            thread.join()

    asyncio.run(main())


def test_one_wake_up_for_all_events_of_a_step() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        bridge = EventBridge(loop)
        inboxes = [EventInbox() for _ in range(64)]
        wakes = 0
        real = loop.call_soon_threadsafe

        def counting(*args: object) -> object:
            nonlocal wakes
            wakes += 1
            return real(*args)  # type: ignore[arg-type]

        loop.call_soon_threadsafe = counting  # type: ignore[method-assign,assignment]
        for inbox in inboxes:
            bridge.sink(inbox)(TokenEvent("r", 0, (1,)))
        await asyncio.gather(*(inbox.wait(10) for inbox in inboxes))
        assert all(inbox.has_events for inbox in inboxes)
        assert wakes == 1

    asyncio.run(main())


def test_waiting_ends_after_its_time_and_not_before() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        inbox = EventInbox()
        loop.call_later(0.05, inbox.put, 0.0, TokenEvent("r", 0, (1,)))
        assert await inbox.wait(0.1)
        assert inbox.take() is not None
        begin = loop.time()
        assert not await inbox.wait(0.1)  # counted from this wait on, though the timer is the first one's
        assert 0.09 < loop.time() - begin < 5
        inbox.close()

    asyncio.run(main())


def test_a_sink_outlives_its_loop() -> None:
    loop = asyncio.new_event_loop()
    sink = EventBridge(loop).sink(EventInbox())
    loop.close()
    sink(TokenEvent("r", 0, (1,)))
