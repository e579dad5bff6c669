"""The arrays of a step, where a wrong one would cost time but not change an answer."""

from paged_fake import VOCAB_SIZE, PagedFake

from abaci.engine.kv_cache import KVCache
from abaci.engine.limits import SchedulerConfig
from abaci.engine.runner import Runner
from abaci.engine.scheduler import Scheduler
from abaci.generation import GenerationRequest
from abaci.kernels.batch import PAGE_TOKENS


class Recorder(PagedFake):
    """Keeps what it was given."""

    def __init__(self):
        super().__init__((None,))
        self.allocate_cache((32,))
        self.batches = []
        self.num_top = []

    def step(self, batch):
        self.batches.append(batch)
        self.num_top.append(batch.logit_rows["num_top"].tolist())
        return super().step(batch)


def run(*requests, num_steps):
    executor = Recorder()
    cache = KVCache((None,), (32,), PAGE_TOKENS)
    scheduler = Scheduler(SchedulerConfig(256, VOCAB_SIZE, max_sequences=4, max_step_tokens=64), cache)
    runner = Runner(
        executor, num_groups=1, vocab_size=VOCAB_SIZE, context_length=256, max_sequences=4, max_step_tokens=64
    )
    for request in requests:
        scheduler.submit(request)
    for _ in range(num_steps):
        scheduler.commit(runner.run(scheduler.plan()))
    return executor, runner


def test_log_probabilities_are_asked_for_only_while_they_are_wanted():
    for prompt, asked in (((1, 2, 3), [5, 5, 5]), ((1,), [5])):
        executor, _ = run(GenerationRequest("a", prompt, 4, num_prompt_logprobs=5), num_steps=3)
        assert executor.num_top == [asked, [-1], [-1]]


def test_steady_steps_reuse_their_arrays():
    executor, runner = run(GenerationRequest("a", (1,), 40), GenerationRequest("b", (2,), 40), num_steps=40)
    assert len({id(batch) for batch in executor.batches}) == 1
    assert runner.step_seconds > 0


def test_masks_are_as_wide_as_the_vocabulary():
    executor, _ = run(GenerationRequest("a", (1,), 1), num_steps=1)
    assert executor.batches[0].masks.shape == (0, -(-VOCAB_SIZE // 32))
