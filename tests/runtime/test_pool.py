"""A pool of tiny models on the reference executor: who is loaded when, for how long, and what it may take."""

import asyncio
import itertools
import os
import queue
import shutil
import threading
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial

import pytest

from abaci import hub
from abaci.chat.served import ModelState
from abaci.engine.loader import load, reference_backend
from abaci.errors import (
    AbaciError,
    EngineClosedError,
    LicenceDeniedError,
    ModelNotFoundError,
    ResourceError,
    UsageError,
)
from abaci.formats.gguf import GgufCheckpoint, write_gguf
from abaci.generation import FinishReason, GenerationRequest
from abaci.hub.download import SilentListener, fetch
from abaci.hub.network import Network
from abaci.hub.sources import LocalSource
from abaci.hub.wanted import WantedFile, WantedModel
from abaci.runtime.pool import EnginePool, PoolConfig, PooledModel

CACHE_BYTES = 200_000
REQUEST_NUMBERS = itertools.count()
LONG = GenerationRequest("long", (1, 2, 3), 200)


@pytest.fixture
def models(tiny_model, tmp_path):
    """Three files of the tiny model: a, b and c."""
    paths = {name: tmp_path / f"{name}.gguf" for name in "abc"}
    for path in paths.values():
        shutil.copy(tiny_model, path)
    return paths


class Loads:
    """A loader that counts, and that can be held up or made to fail."""

    def __init__(self):
        self.files = []
        self.gate = threading.Event()
        self.gate.set()
        self.error = None

    def __call__(self, checkpoint, options):
        self.files.append(checkpoint.paths[0].stem)
        assert self.gate.wait(timeout=30)
        if self.error is not None:
            checkpoint.close()
            raise self.error
        return load(checkpoint, options, reference_backend)


def pool_of(models, names="ab", loads=None, fitting=None, **config):
    """A pool of the files `names`; with `fitting`, room for that many of them."""
    named = tuple(PooledModel(str(models[name]), cache_bytes=CACHE_BYTES) for name in names)
    if fitting is not None:
        config["memory_bytes"] = fitting * (models["a"].stat().st_size + CACHE_BYTES)
    return EnginePool(PoolConfig(named, threads=1, **config), loader=loads or Loads())


def with_pool(scenario, pool):
    async def run():
        try:
            return await asyncio.wait_for(scenario(pool), 60)
        finally:
            await pool.close()

    return asyncio.run(run())


async def answer(model, request=LONG):
    heard = queue.SimpleQueue()
    model.generator.submit(replace(request, request_id=str(next(REQUEST_NUMBERS))), heard.put)
    events = []
    while not events or events[-1].finish_reason is None:
        events.append(await asyncio.to_thread(heard.get, timeout=30))
    return events


async def until(condition):
    while not condition():
        await asyncio.sleep(0.002)


def states(pool):
    return {status.name: status.state.value for status in pool.models()}


def loaded_names(pool):
    return [model.status.name for model in pool.loaded()]


def test_a_model_is_loaded_on_first_use_once_for_all_who_wait(models):
    loads = Loads()
    loads.gate.clear()

    async def scenario(pool):
        assert states(pool) == {"a": "unloaded", "b": "unloaded"} and pool.default_name == "a"

        async def use():
            async with pool.lease("a") as model:
                return model

        users = [asyncio.create_task(use()) for _ in range(5)]
        await until(lambda: loads.files)
        assert states(pool) == {"a": "loading", "b": "unloaded"}
        loads.gate.set()
        used = await asyncio.gather(*users)
        assert len(set(map(id, used))) == 1 and loads.files == ["a"]
        assert states(pool) == {"a": "loaded", "b": "unloaded"}
        return used[0]

    model = with_pool(scenario, pool_of(models, loads=loads))
    with pytest.raises(EngineClosedError):
        model.generator.submit(LONG, print)


def test_a_status_knows_the_model_and_keeps_knowing_it_after_it_has_gone(models, tiny_model):
    async def scenario(pool):
        before = pool.models()[0]
        assert (before.architecture, before.context_length, before.memory_bytes) == (None, None, None)
        assert before.file_bytes == tiny_model.stat().st_size and before.path == models["a"]
        async with pool.lease("a") as model:
            status = model.status
            assert pool.models()[0] == status
            assert (status.state, status.num_active, status.idle_until_seconds) == (ModelState.LOADED, 1, None)
            assert (status.architecture, status.context_length, status.licence) == ("llama", 256, "mit")
            assert (status.quantisation, status.sha256) == ("F32", None)
            assert status.num_parameters == tensors_of(tiny_model)
            assert status.file_bytes < status.memory_bytes <= status.file_bytes + CACHE_BYTES
            figures = model.figures()
            assert figures.cache_tokens > 0 and figures.kernels == {"F32": "reference"} and figures.num_threads == 1
            assert figures.generated_tokens == figures.steps == figures.num_running == figures.num_waiting == 0
            assert len(await answer(model)) == 200
            assert model.figures().generated_tokens == 200
        await pool.unload("a")
        after = pool.models()[0]
        assert (after.state, after.architecture, after.memory_bytes) == (ModelState.UNLOADED, "llama", None)

    with_pool(scenario, pool_of(models))


def tensors_of(path):
    with GgufCheckpoint.open(path) as checkpoint:
        return sum(tensor.num_bytes // 4 for tensor in checkpoint.tensors.values())


def test_the_longest_unused_model_gives_way_to_another(models):
    async def scenario(pool):
        for name in ("a", "b", "a", "c"):
            async with pool.lease(name):
                pass
        assert loaded_names(pool) == ["a", "c"]

    with_pool(scenario, pool_of(models, "abc", fitting=2))


def test_a_model_in_use_never_gives_way(models):
    async def scenario(pool):
        async with pool.lease("a") as model:
            with pytest.raises(ResourceError, match="no room for b: it takes"):
                async with pool.lease("b"):
                    pass
            assert len(await answer(model)) == 200
        async with pool.lease("b"):
            assert loaded_names(pool) == ["b"]

    with_pool(scenario, pool_of(models, fitting=1))


def test_what_was_loaded_for_one_who_waits_does_not_give_way_before_he_has_it(models):
    async def scenario(pool):
        async def use(name):
            try:
                async with pool.lease(name) as model:
                    await asyncio.sleep(0)
                    return len(await answer(model, replace(LONG, max_tokens=3)))
            except ResourceError:
                return "no room"

        results = await asyncio.gather(*(use(name) for name in "abcabc"))
        assert 3 in results and set(results) <= {3, "no room"}

    with_pool(scenario, pool_of(models, "abc", fitting=1))


def test_a_model_that_never_fits_leaves_the_others_alone(models):
    named = (PooledModel(str(models["a"]), cache_bytes=100_000), PooledModel(str(models["b"]), cache_bytes=10**9))
    pool = EnginePool(PoolConfig(named, memory_bytes=10**8, threads=1), loader=Loads())

    async def scenario(pool):
        async with pool.lease("a"):
            pass
        with pytest.raises(ResourceError, match=r"b takes 1,000,.* but all models together may take 100,000,000"):
            async with pool.lease("b"):
                pass
        assert loaded_names(pool) == ["a"]

    with_pool(scenario, pool)


def test_unload_waits_for_leases_and_newcomers_get_a_fresh_one(models):
    loads = Loads()

    async def scenario(pool):
        assert not await pool.unload("a")
        async with AsyncExitStack() as leases:
            old = await leases.enter_async_context(pool.lease("a"))
            unloading = asyncio.create_task(pool.unload("a"))
            await asyncio.sleep(0.01)
            assert not unloading.done() and states(pool)["a"] == "unloaded"
            async with pool.lease("a") as new:
                assert new is not old and loads.files == ["a", "a"]
                assert len(await answer(old)) == len(await answer(new)) == 200
        assert await unloading
        assert pool.loaded() == (new,)

    with_pool(scenario, pool_of(models, loads=loads))


def test_a_load_waits_for_a_model_that_is_about_to_go(models):
    async def scenario(pool):
        release = asyncio.Event()

        async def use(name):
            async with pool.lease(name):
                await release.wait()

        using = [asyncio.create_task(use("a"))]
        await until(lambda: pool.models()[0].num_active)
        unloading = asyncio.create_task(pool.unload("a"))
        await asyncio.sleep(0)
        using.append(asyncio.create_task(use("b")))
        await asyncio.sleep(0.01)
        assert states(pool) == {"a": "unloaded", "b": "loading"} and loaded_names(pool) == ["a"]
        release.set()
        await asyncio.gather(*using)
        assert await unloading and loaded_names(pool) == ["b"]

    with_pool(scenario, pool_of(models, fitting=1))


def test_an_idle_model_is_unloaded_after_a_while(models):
    async def scenario(pool):
        async with pool.lease("a") as model:
            assert model.status.idle_until_seconds is not None
            await asyncio.sleep(0.2)
            assert loaded_names(pool) == ["a"]
        await until(lambda: not pool.loaded())
        async with pool.lease("a") as again:
            assert again is not model

    with_pool(scenario, pool_of(models, keep_alive_seconds=0.05))


def test_a_failed_load_reaches_all_who_wait_and_is_tried_again(models):
    loads = Loads()
    loads.error = AbaciError("broken")

    async def scenario(pool):
        async def use():
            async with pool.lease("a") as model:
                return model

        results = await asyncio.gather(use(), use(), return_exceptions=True)
        assert [str(result) for result in results] == ["broken", "broken"] and loads.files == ["a"]
        assert states(pool)["a"] == "unloaded"
        loads.error = None
        assert (await use()).status.state is ModelState.LOADED

    with_pool(scenario, pool_of(models, loads=loads))


def test_who_gives_up_waiting_does_not_stop_the_load(models):
    loads = Loads()
    loads.gate.clear()

    async def scenario(pool):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02), pool.lease("a"):
                pass
        loads.gate.set()
        async with pool.lease("a") as model:
            assert loads.files == ["a"]
        await asyncio.sleep(0.01)
        assert pool.loaded() == (model,) and model.is_idle

    with_pool(scenario, pool_of(models, loads=loads))


def test_closing_ends_running_requests_with_an_error(models):
    async def scenario(pool):
        async with pool.lease("a") as model:
            answering = asyncio.create_task(answer(model, replace(LONG, max_tokens=250)))
            await until(lambda: model.figures().generated_tokens > 3)
            await pool.close()
            last = (await answering)[-1]
            assert last.finish_reason is FinishReason.ERROR and isinstance(last.error, EngineClosedError)
            with pytest.raises(EngineClosedError):
                async with pool.lease("a"):
                    pass
        assert pool.loaded() == ()

    with_pool(scenario, pool_of(models))


def test_closing_does_not_wait_for_a_load_that_waits_for_room(models):
    async def scenario(pool):
        async with pool.lease("a"):
            unloading = asyncio.create_task(pool.unload("a"))
            await asyncio.sleep(0)

            async def use():
                async with pool.lease("b"):
                    pass

            waiting = asyncio.create_task(use())
            await until(lambda: states(pool)["b"] == "loading")
            await pool.close()
            with pytest.raises(EngineClosedError):
                await waiting
            assert await unloading

    with_pool(scenario, pool_of(models, fitting=1))


def test_a_replaced_file_is_loaded_anew_and_running_requests_keep_the_old_one(models):
    async def scenario(pool):
        async with pool.lease("a") as old:
            expected = await answer(old)
            replacement = models["a"].with_suffix(".new")
            shutil.copy(models["b"], replacement)
            replacement.replace(models["a"])
            async with pool.lease("a") as new:
                assert new is not old
                assert [event.token_ids for event in await answer(old)] == [event.token_ids for event in expected]
        await until(lambda: pool.loaded() == (new,))

    with_pool(scenario, pool_of(models))


def test_a_file_that_has_gone_is_an_error_and_the_model_at_work_goes_on(models):
    async def scenario(pool):
        async with pool.lease("a") as old:
            models["a"].unlink()
            with pytest.raises(ModelNotFoundError, match="no file"):
                async with pool.lease("a"):
                    pass
            assert len(await answer(old)) == 200
            assert states(pool)["a"] == "unloaded"

    with_pool(scenario, pool_of(models))


def test_a_file_written_over_ends_what_reads_from_it(models, monkeypatch):
    monkeypatch.setattr("abaci.runtime.pool.WATCH_SECONDS", 0.02)

    async def scenario(pool):
        async with pool.lease("a") as model:
            assert model.model.reads_file
            answering = asyncio.create_task(answer(model, replace(LONG, max_tokens=250)))
            await until(lambda: model.figures().generated_tokens > 3)
            with models["a"].open("r+b") as file:
                file.seek(-4, os.SEEK_END)
                file.write(b"\0\0\0\0")
            os.utime(models["a"], ns=(1, 1))
            last = (await answering)[-1]
            assert last.finish_reason is FinishReason.ERROR and isinstance(last.error, EngineClosedError)
        async with pool.lease("a") as again:
            assert len(await answer(again)) == 200

    give_head_of_its_own(models["a"])
    with_pool(scenario, pool_of(models))


def give_head_of_its_own(path):
    """Untie the embedding, so that its rows are read from the file."""
    with GgufCheckpoint.open(path) as checkpoint:
        tensors = [(n, t.format, t.shape, bytes(checkpoint.data(t))) for n, t in checkpoint.tensors.items()]
        metadata = dict(checkpoint.metadata)
    _, weight_format, shape, data = next(entry for entry in tensors if entry[0] == "token_embd.weight")
    write_gguf(path, metadata, [*tensors, ("output.weight", weight_format, shape, data)])


def test_one_model_under_several_names_is_loaded_once(models):
    loads = Loads()
    named = (PooledModel(str(models["a"]), ("first", "second")), PooledModel(str(models["b"])))
    pool = EnginePool(PoolConfig(named, threads=1), loader=loads)

    async def scenario(pool):
        async with pool.lease("first") as one, pool.lease("second") as other:
            assert one is other and one.status.name == "first"
        assert states(pool) == {"first": "loaded", "second": "loaded", "b": "unloaded"}
        assert loads.files == ["a"]
        with pytest.raises(ModelNotFoundError, match="'a'") as refused:
            async with pool.lease("a"):
                pass
        assert refused.value.hint == "There is first, second, b."

    with_pool(scenario, pool)


def test_a_further_name_can_be_given_and_given_up(models):
    async def scenario(pool):
        await pool.alias("c", "a")
        assert states(pool) == {"a": "unloaded", "b": "unloaded", "c": "unloaded"}
        async with pool.lease("c") as one, pool.lease("a") as other:
            assert one is other
        with pytest.raises(UsageError, match="already"):
            await pool.alias("c", "b")
        with pytest.raises(ModelNotFoundError):
            await pool.alias("d", "nothing")
        assert not await pool.forget("c")
        assert loaded_names(pool) == ["a"]
        with pytest.raises(UsageError, match="started with"):
            await pool.forget("a")
        with pytest.raises(ModelNotFoundError):
            await pool.forget("c")

    with_pool(scenario, pool_of(models))


def test_how_long_a_model_stays_can_be_said_while_it_is_loaded(models):
    async def scenario(pool):
        async with pool.lease("a"), pool.lease("b"):
            pool.keep_alive("a", 0)
        await until(lambda: loaded_names(pool) == ["b"])
        with pytest.raises(ModelNotFoundError):
            pool.keep_alive("nothing", 1)

    with_pool(scenario, pool_of(models))


def test_names_that_clash_are_refused(models):
    with pytest.raises(UsageError, match="two models are called 'x'"):
        EnginePool(PoolConfig((PooledModel(str(models["a"]), ("x",)), PooledModel(str(models["b"]), ("x",)))))


def test_any_model_of_the_store_but_no_path(models, tmp_path, monkeypatch):
    monkeypatch.setenv("ABACI_HOME", str(tmp_path / "home"))
    pool = pool_of(models, "a", allow_any=True)

    async def scenario(pool):
        for name in (str(models["b"]), "b.gguf", "../b", "smollm2:135m"):
            with pytest.raises(ModelNotFoundError):
                async with pool.lease(name):
                    pass
        assert states(pool) == {"a": "unloaded"}

    with_pool(scenario, pool)


def test_a_model_of_the_store_must_be_admitted(models, tmp_path, monkeypatch):
    monkeypatch.setenv("ABACI_HOME", str(tmp_path / "home"))
    file = WantedFile("b.gguf", models["b"].stat().st_size, None, (LocalSource(models["b"]),))
    fetch(WantedModel("mine", (file,)), hub.Store(), SilentListener(), Network())
    asked = []

    def refuse(resolved):
        asked.append(resolved.name)
        raise LicenceDeniedError("not this one")

    named = (PooledModel(str(models["a"]), cache_bytes=CACHE_BYTES),)
    pool = EnginePool(PoolConfig(named, threads=1, allow_any=True), loader=Loads(), admit=refuse)

    async def scenario(pool):
        for _ in range(2):
            with pytest.raises(LicenceDeniedError):
                async with pool.lease("mine"):
                    pass
        async with pool.lease("a"):
            pass
        assert asked == ["mine", "mine"]

    with_pool(scenario, pool)


@pytest.mark.parametrize(
    ("memory_bytes", "num_models", "expected_bytes"),
    [
        (1_000_000, 1, (1_000_000 - 100_000) // 4),
        (1_000_000, 3, (1_000_000 - 100_000) // 4),
        (1_000_000, 6, (1_000_000 - 600_000) // 6),
        (1_000_000, 9, (1_000_000 - 100_000) // 4),
        (100_000, 1, 0),
    ],
)
def test_the_cache_is_a_share_that_lets_all_models_stay_unless_that_would_starve_them(
    tmp_path, memory_bytes, num_models, expected_bytes
):
    paths = [tmp_path / f"{index}.gguf" for index in range(num_models)]
    for path in paths:
        path.write_bytes(bytes(100_000))
    pool = EnginePool(PoolConfig(tuple(PooledModel(str(path)) for path in paths), memory_bytes=memory_bytes))
    entry = next(iter(pool._entries.values()))
    assert pool._cache_share(entry) == expected_bytes


def test_shards_count_together(tmp_path):
    for index, size in ((1, 100), (2, 30), (3, 7)):
        (tmp_path / f"big[1]-0000{index}-of-00003.gguf").write_bytes(bytes(size))
    pool = EnginePool(PoolConfig((PooledModel(str(tmp_path)),)))
    assert pool.models()[0].file_bytes == 137


def test_loading_through_the_compiled_kernels(models):
    async def scenario(pool):
        async with pool.lease("a") as model, pool.lease("b") as other:
            assert model.figures().weight_bytes > 0
            both = await asyncio.gather(answer(model), answer(other))
            assert [e.token_ids for e in both[0]] == [e.token_ids for e in both[1]]

    with_pool(scenario, pool_of(models, loads=partial(load)))


def test_what_users_of_a_model_should_know_is_told_when_it_is_loaded(models):
    with GgufCheckpoint.open(models["a"]) as checkpoint:
        tensors = [(n, t.format, t.shape, bytes(checkpoint.data(t))) for n, t in checkpoint.tensors.items()]
        metadata = {key: value for key, value in checkpoint.metadata.items() if key != "tokenizer.chat_template"}
    write_gguf(models["a"], metadata, tensors)
    told = []
    named = (PooledModel(str(models["a"]), cache_bytes=CACHE_BYTES),)
    pool = EnginePool(PoolConfig(named, threads=1), loader=Loads(), tell=told.append)

    async def scenario(pool):
        assert told == []
        async with pool.lease(pool.default_name):
            assert told == ["a: The model brings no chat template: ChatML is used, answers may suffer."]

    with_pool(scenario, pool)
