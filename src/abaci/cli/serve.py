"""`abaci serve`: the server, put together. The one place where HTTP and engines meet."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from abaci.cli.licence_gate import AcceptOption, Gate, licence_gate
from abaci.cli.terminal import LoraOption, OfflineOption, QuantizeOption, print_line
from abaci.errors import UsageError
from abaci.tensor import CacheType

if TYPE_CHECKING:
    from abaci.chat.served import ServedModel
    from abaci.server.config import ServerConfig
    from abaci.server.services import Services


def serve(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL", help="As of `abaci run`; none: the catalog's default.")
    ] = None,
    *,
    host: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Address to listen on; beyond loopback a key is needed.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one.")] = None,
    api_key: Annotated[str | None, typer.Option(metavar="KEY", help="A key that clients must send.")] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file with further settings.")] = None,
    context: Annotated[int | None, typer.Option(help="Tokens of context per model.")] = None,
    quantize: QuantizeOption = None,
    kv_type: Annotated[
        CacheType | None, typer.Option(help="What the KV cache keeps: int8 takes about half the memory.")
    ] = None,
    lora: LoraOption = None,
    threads: Annotated[int | None, typer.Option(help="Threads; else all cores this process may use.")] = None,
    state_dir: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder of the server's database and files.")
    ] = None,
    keep_alive_seconds: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Unload a model unused for so long.")
    ] = None,
    hourly_price: Annotated[
        float | None, typer.Option(metavar="DOLLARS", help="Dollars per hour, to put a price on tokens.")
    ] = None,
    share_store: Annotated[
        bool | None, typer.Option("--share-store", help="Let other Abaci servers fetch models from here.")
    ] = None,
    offline: OfflineOption = False,
    log_level: Annotated[str | None, typer.Option(metavar="LEVEL", help="debug, info, warning or error.")] = None,
    accept_licence: AcceptOption = False,
) -> None:
    """Serve models over HTTP, and a page to chat on.

    It speaks OpenAI's, Anthropic's and Ollama's APIs: `docs/serving.md`.

    Every setting may also stand in the config file, or in the environment as ABACI_ and its name in capitals.
    """
    from abaci.server.config import read_config
    from abaci.server.listening import listen
    from abaci.server.logs import set_up_logs

    flags = {
        "models": tuple(models) if models else None,
        "host": host,
        "port": port,
        "api_key": api_key,
        "context": context,
        "quantize": quantize,
        "kv_type": kv_type,
        "lora": _by_model(lora, models),
        "threads": threads,
        "state_dir": state_dir,
        "keep_alive_seconds": keep_alive_seconds,
        "hourly_price": hourly_price,
        "share_store": share_store,
        "log_level": log_level,
    }
    settings = read_config(config, flags)
    set_up_logs(settings.log_level)
    composition = _Composition(settings, licence_gate(accept=accept_licence, serves_others=not settings.is_loopback))
    listen(settings, composition.make_services, composition.announce)


def _by_model(lora: list[str] | None, models: list[str] | None) -> dict[str, tuple[str, ...]] | None:
    """`--lora` as the config file has it: for the one model named beside it."""
    if lora is None:
        return None
    if models is None or len(models) != 1:
        raise UsageError(
            "--lora is for one model, named on the command line",
            hint='For several models write a table into the config file: [lora], then "MODEL" = ["FILE", "FILE=0.5"].',
        )
    return {models[0]: tuple(lora)}


class _Composition:
    """Builds the services of one server and says what was decided."""

    def __init__(self, config: "ServerConfig", gate: Gate) -> None:
        self._config = config
        self._gate = gate

    async def make_services(self) -> "Services":
        """Resolve and load the default model, open the database, measure the machine."""
        import asyncio

        from abaci.hub.network import check_reach
        from abaci.server.accounts import Accounts
        from abaci.server.bridge import EventBridge
        from abaci.server.metrics import Metrics
        from abaci.server.services import RequestQueue, Services
        from abaci.server.traces import Traces

        config = self._config
        if config.otlp_endpoint is not None:
            check_reach(config.otlp_endpoint)
        memory_read = await asyncio.to_thread(_memory_read, config.threads)
        pool = await asyncio.to_thread(_make_pool, config, self._gate)
        try:
            accounts = await asyncio.to_thread(Accounts.open, config, pool.loaded)
        except BaseException:
            await pool.close()
            raise
        try:
            if not config.is_loopback and not accounts.authenticator.needs_key:
                raise UsageError(
                    f"--host {config.host} lets other machines in, and no key keeps them out",
                    hint="Give --api-key, or make one: abaci key create NAME",
                )
            async with pool.lease(pool.default_name) as model:
                for line in _decisions(model, pool.memory_bytes):
                    print_line(line)
        except BaseException:
            await pool.close()
            await accounts.close()
            raise
        return Services(
            config=config,
            pool=pool,
            bridge=EventBridge(asyncio.get_running_loop()),
            accounts=accounts,
            metrics=Metrics(pool.loaded, memory_read),
            queue=RequestQueue(config.max_sequences, config.max_queued_requests),
            traces=None if config.otlp_endpoint is None else Traces(config.otlp_endpoint),
        )

    def announce(self, services: "Services", url: str) -> None:
        """The last lines before the first request."""
        print_line(f"keys: {'needed' if services.accounts.authenticator.needs_key else 'none, this machine only'}")
        print_line(f"chat: {url}/   API: {url}/v1")


def _make_pool(config: "ServerConfig", gate: Gate):  # type: ignore[no-untyped-def]  # EnginePool, imported below
    from abaci import hub
    from abaci.cli.terminal import DownloadProgress
    from abaci.formats.adapter import LoraChoice
    from abaci.runtime.pool import EnginePool, PoolConfig, PooledModel

    names = config.models or (hub.load_catalog().default,)
    own_names = {}
    for name in names:
        gate.check_name(name)
        with DownloadProgress(name) as progress:
            resolved = hub.resolve(name, download=True, progress=progress)
        gate.check_file(resolved)
        own_names[name] = resolved.name
    unknown = set(config.aliases.values()) - set(names)
    if unknown:
        raise UsageError(f"aliases: {', '.join(sorted(unknown))} is not served", hint="Name it among the models.")
    if strangers := set(config.lora) - set(names):
        raise UsageError(f"lora: {', '.join(sorted(strangers))} is not served", hint="Name it among the models.")
    models = tuple(
        PooledModel(
            name,
            names=(own_names[name], *_aliases_of(name, config)),
            context=config.context,
            quantize=config.quantize,
            lora=tuple(map(LoraChoice.from_text, config.lora.get(name, ()))),
        )
        for name in names
    )
    return EnginePool(
        PoolConfig(
            models,
            memory_bytes=config.memory_bytes,
            keep_alive_seconds=config.keep_alive_seconds,
            allow_any=config.any_model,
            threads=config.threads,
            max_sequences=config.max_sequences,
            kv_type=config.kv_type,
        ),
        admit=gate.check_file,
        tell=lambda remark: print_line(f"warning: {remark}"),
    )


def _memory_read(num_threads: int | None) -> float | None:
    """Bytes per second that this machine reads, as a metric wants it; None where there is no room to measure."""
    from abaci.engine.threads import plan_threads
    from abaci.kernels.ceilings import estimate_read_bandwidth
    from abaci.kernels.native import choose_target
    from abaci.runtime.machine import on_pool

    try:
        return on_pool(plan_threads(num_threads), lambda pool: estimate_read_bandwidth(pool, choose_target()))
    except MemoryError:
        return None


def _aliases_of(model: str, config: "ServerConfig") -> tuple[str, ...]:
    return tuple(alias for alias, target in config.aliases.items() if target == model)


def _decisions(model: "ServedModel", budget_bytes: int) -> list[str]:
    """What was decided, and why, for people."""
    status, figures = model.status, model.figures()
    kernels = sorted(set(figures.kernels.values()))
    return [
        f"model: {status.name} ({status.architecture}, {status.quantisation}, {status.file_bytes / 1e6:,.0f} MB)",
        f"cores: {figures.num_threads} threads, kernels {', '.join(kernels)}",
        f"memory: {figures.weight_bytes / 1e6:,.0f} MB of weights and {figures.cache_tokens:,} tokens of KV cache "
        f"of a budget of {budget_bytes / 1e6:,.0f} MB; a request may have {status.context_length:,} tokens",
    ]
