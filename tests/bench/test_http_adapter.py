"""Engines without a server, served: what the load generator reads is what the engine's steps gave."""

import sys
from pathlib import Path

from abaci.bench.http.servers import Launch, ServerProcess
from abaci.bench.http.workloads import Conversation, Load

PROGRAM = Path(__file__).with_name("scripted_adapter.py")


def test_every_request_gets_its_own_tokens_whole():
    conversations = tuple(Conversation(("word " * number, "and more"), 3 + number) for number in range(1, 6))
    with ServerProcess(Launch("counting", (sys.executable, str(PROGRAM)))) as server:
        run = server.run(Load(conversations, num_streams=3))
        again = server.run(Load(conversations[:1], num_streams=1))
    assert [exchange.error for exchange in (*run.exchanges, *again.exchanges)] == [None] * 12
    for exchange in run.exchanges:
        words = exchange.text.split()
        assert words == [str(number) for number in range(1, exchange.output_tokens + 1)]
        assert len(exchange.token_seconds) == exchange.output_tokens
    first_turns = {exchange.prompt_tokens: exchange.output_tokens for exchange in run.exchanges}
    assert all(first_turns[number] == 3 + number for number in range(1, 6))
