"""`abaci run`: ask a model, once or in a conversation."""

import sys
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from abaci.cli.answer import Answer, AnswerWriter, Prompt, stream_answer
from abaci.cli.conversation import Conversation
from abaci.cli.figures import measure
from abaci.cli.interrupts import Interrupts
from abaci.cli.keyboard import line_reader
from abaci.cli.licence_gate import AcceptOption, Gate, licence_gate
from abaci.cli.piped import question_of
from abaci.cli.terminal import (
    DownloadProgress,
    JsonOption,
    KvTypeOption,
    LoraOption,
    ModelArgument,
    OfflineOption,
    QuantizeOption,
    print_error,
    print_json,
    print_line,
    print_remark,
)
from abaci.cli.writers import MarkdownWriter, PlainWriter, SilentWriter
from abaci.errors import UsageError
from abaci.generation import FinishReason, SamplingParams
from abaci.tensor import CacheType

if TYPE_CHECKING:
    from abaci.runtime.llm import LLM


def run(
    model: ModelArgument,
    prompt: Annotated[
        str | None,
        typer.Argument(metavar="PROMPT", help="What is piped in comes below it; without both: a conversation."),
    ] = None,
    *,
    max_tokens: Annotated[int | None, typer.Option(help="Tokens at most; else to the end of the context.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 always takes the likeliest token.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Keep the likeliest tokens that together reach this.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Keep the k likeliest tokens.")] = None,
    min_p: Annotated[float | None, typer.Option(help="Drop tokens below this share of the likeliest one's.")] = None,
    repetition_penalty: Annotated[float | None, typer.Option(help="Above 1 discourages repeats.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answer.")] = None,
    stop: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="End before this text; may be given again.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Show the answer as it is written, with its markdown.")
    ] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the prompt as it is, without chat template.")] = False,
    threads: Annotated[
        int | None, typer.Option(envvar="ABACI_THREADS", help="Threads; else all cores this process may use.")
    ] = None,
    context: Annotated[
        int | None, typer.Option(envvar="ABACI_CONTEXT", help="Tokens of context; else the model's.")
    ] = None,
    quantize: QuantizeOption = None,
    kv_type: KvTypeOption = CacheType.F16,
    lora: LoraOption = None,
    accept_licence: AcceptOption = False,
    offline: OfflineOption = False,
    as_json: JsonOption = False,
) -> None:
    """Ask a model: one answer with a PROMPT, a conversation without."""
    params = SamplingParams(
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
        stop=tuple(stop or ()),
    )
    question = question_of(prompt)
    _check(question, system, raw=raw, as_json=as_json)
    _check_params(params, quantize)
    adapters = _adapters(lora)
    _fetch(model, licence_gate(accept=accept_licence))
    started = time.perf_counter()
    with _open(model, threads, context, quantize, kv_type=kv_type, adapters=adapters) as llm:
        load_seconds = time.perf_counter() - started
        print_remark(_introduction(llm.info))
        if question is None:
            _converse(llm, params, system, load_seconds, plain=plain)
        else:
            writer = SilentWriter() if as_json else _writer(plain=plain or raw)
            _answer_once(llm, _prompt(question, system, raw), params, load_seconds, writer, as_json=as_json)


def _check(question: str | None, system: str | None, *, raw: bool, as_json: bool) -> None:
    if raw and system is not None:
        raise UsageError(
            "--system has no place in a --raw prompt", hint="Write it into the prompt, or leave out --raw."
        )
    if question is None and raw:
        raise UsageError("--raw needs a prompt", hint='Give one: abaci run MODEL "text to continue" --raw')
    if question is None and as_json:
        raise UsageError("--json needs a prompt", hint='Give one: abaci run MODEL "question" --json')
    if question is not None and not question.strip():
        raise UsageError("the prompt is empty", hint='Give one: abaci run MODEL "question"')


def _check_params(params: SamplingParams, quantize: str | None) -> None:
    """Before the model is fetched and loaded, which takes longer than reading why it was in vain."""
    from abaci.chat.requests import check_params

    check_params(params)
    if quantize is not None:
        from abaci.models.mixtures import mixture_named

        mixture_named(quantize)


def _prompt(question: str, system: str | None, raw: bool) -> Prompt:
    if raw:
        return question
    messages = [{"role": "user", "content": question}]
    return messages if system is None else [{"role": "system", "content": system}, *messages]


def _fetch(model: str, gate: Gate) -> None:
    """Before the clock of the load starts: how long a download took says nothing about the model."""
    from abaci import hub

    gate.check_name(model)
    with DownloadProgress(model) as progress:
        resolved = hub.resolve(model, download=True, progress=progress)
    gate.check_file(resolved)


def _adapters(lora: list[str] | None) -> list[tuple[Path, float]]:
    """Before the model is loaded, as above."""
    from abaci.formats.adapter import LoraChoice

    choices = map(LoraChoice.from_text, lora or ())
    return [(choice.path, choice.scale) for choice in choices]


def _open(
    model: str,
    threads: int | None,
    context: int | None,
    quantize: str | None,
    *,
    kv_type: CacheType,
    adapters: list[tuple[Path, float]],
) -> "LLM":
    from abaci.runtime.llm import LLM

    with warnings.catch_warnings(record=True, action="always") as remarks:
        llm = LLM(model, threads=threads, context=context, quantize=quantize, kv_type=kv_type, lora=adapters)
    for remark in remarks:
        print_line(f"warning: {remark.message}")
    return llm


def _introduction(info: Any) -> str:
    kernels: dict[str, list[str]] = {}
    for weight_type, kernel in info.kernels.items():
        kernels.setdefault(kernel, []).append(weight_type)
    by_kernel = "; ".join(f"{kernel}: {' '.join(weight_types)}" for kernel, weight_types in kernels.items())
    threads = "1 thread" if info.num_threads == 1 else f"{info.num_threads} threads"
    return f"{info.name} | {threads} | context {info.context_length} | {by_kernel}"


def _answer_once(
    llm: "LLM", prompt: Prompt, params: SamplingParams, load_seconds: float, writer: AnswerWriter, *, as_json: bool
) -> None:
    answer = stream_answer(llm, prompt, params, writer, Interrupts())
    figures = measure(answer, load_seconds)
    if as_json:
        print_json(_as_json(llm.info, answer, asdict(figures)))
    else:
        print_remark(str(figures))
    if answer.finish_reason is FinishReason.CANCELLED:
        raise KeyboardInterrupt


def _as_json(info: Any, answer: Answer, figures: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": info.name,
        "path": str(info.path),
        "text": answer.text,
        "finish_reason": answer.finish_reason.value,
        "seed": answer.seed,
        "figures": figures,
        "threads": info.num_threads,
        "context_length": info.context_length,
        "kernels": dict(info.kernels),
    }


def _converse(llm: "LLM", params: SamplingParams, system: str | None, load_seconds: float, *, plain: bool) -> None:
    print_remark("/help lists the commands")
    conversation = Conversation(
        model=llm,
        params=params,
        system=system,
        new_writer=lambda: _writer(plain=plain),
        say=print_remark,
        say_error=print_error,
        describe=lambda answer: str(measure(answer, load_seconds)),
    )
    conversation.run(line_reader())


def _writer(*, plain: bool) -> AnswerWriter:
    """Markdown on a terminal that can draw it, else text as it comes."""
    if plain or not sys.stdout.isatty():
        return PlainWriter()
    from rich.console import Console

    console = Console()
    return PlainWriter() if console.is_dumb_terminal else MarkdownWriter(console)
