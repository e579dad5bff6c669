"""How far engines are from the float32 model: KL divergence and agreement of the top token, position by position.

    python scripts/fidelity.py tokenise  MODEL.gguf FOLDER          needs the extra `bench`
    python scripts/fidelity.py reference MODEL.gguf FOLDER          needs the extra `golden`; about 3 GB in FOLDER
    python scripts/fidelity.py measure   MODEL.gguf FOLDER ENGINE   ENGINE: abaci, abaci-reference, llama.cpp, ...
    python scripts/fidelity.py report    FOLDER...                  the tables of docs/fidelity.md

The reference is `transformers` in float32 over the file's dequantised values. Two measurements: on a mixed text
(fidelity_text.md), and teacher-forced along the reference's own greedy continuations of pieces of it.
"""

import argparse
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

TEXT = Path(__file__).with_name("fidelity_text.md")
NUM_CONTINUATIONS = 8
PARAGRAPH_CHARACTERS = 100
CONTINUATION_TOKENS = 96
ROWS_AT_A_TIME = 64

LogitBlocks = Iterator[NDArray[np.float32]]
"""Logits, or anything equal up to a constant per row, of successive positions: blocks of (positions, vocab)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("tokenise", "reference", "measure"):
        command = commands.add_parser(name)
        command.add_argument("model", type=Path)
        command.add_argument("folder", type=Path)
        if name == "measure":
            command.add_argument("engine", choices=sorted(ENGINES))
    commands.add_parser("report").add_argument("folders", type=Path, nargs="+")
    arguments = parser.parse_args()
    if arguments.command == "tokenise":
        tokenise(arguments.model, arguments.folder)
    elif arguments.command == "reference":
        make_reference(arguments.model, arguments.folder)
    elif arguments.command == "measure":
        measure(arguments.model, arguments.folder, arguments.engine)
    else:
        report(arguments.folders)


def tokenise(model: Path, folder: Path) -> None:
    """Save the text's token ids, begun as the model's tokenizer begins a prompt."""
    from llama_cpp import Llama

    folder.mkdir(parents=True, exist_ok=True)
    llama = Llama(str(model), vocab_only=True, verbose=False)
    for name, text in {"text": TEXT.read_text(), **prompts()}.items():
        token_ids = llama.tokenize(text.encode(), add_bos=True, special=False)
        np.save(folder / f"{name}.tokens.npy", np.array(token_ids, np.int32))
        print(f"{folder.name}, {name}: {len(token_ids)} tokens")


def prompts() -> dict[str, str]:
    """The first halves of some paragraphs, by name."""
    paragraphs = [paragraph for paragraph in TEXT.read_text().split("\n\n") if len(paragraph) >= PARAGRAPH_CHARACTERS]
    chosen = np.linspace(0, len(paragraphs) - 1, NUM_CONTINUATIONS).astype(int)
    return {f"prompt{index}": paragraphs[which][: len(paragraphs[which]) // 2] for index, which in enumerate(chosen)}


def make_reference(model: Path, folder: Path) -> None:
    """Save the reference's log-probabilities on the text, its greedy continuations, and those along them."""
    from transformers_reference import all_logits, greedy_continuation, load_model

    reference = load_model(model)
    token_ids = np.load(folder / "text.tokens.npy").tolist()
    np.save(folder / "text.logprobs.npy", log_softmax(all_logits(reference, token_ids)))
    for index in range(NUM_CONTINUATIONS):
        prompt = np.load(folder / f"prompt{index}.tokens.npy").tolist()
        whole = prompt + greedy_continuation(reference, prompt, CONTINUATION_TOKENS)
        np.save(folder / f"continuation{index}.tokens.npy", np.array(whole, np.int32))
        np.save(folder / f"continuation{index}.logprobs.npy", log_softmax(all_logits(reference, whole)))


@dataclass(frozen=True)
class Comparison:
    """An engine beside the reference: divergence in nats, same top token, the reference's top-two margin."""

    divergence: NDArray[np.float64]
    agrees: NDArray[np.bool_]
    margin: NDArray[np.float64]


def measure(model: Path, folder: Path, engine: str) -> None:
    """Run an engine over every saved sequence and save how far from the reference it is."""
    results = {}
    for path in sorted(folder.glob("*.logprobs.npy")):
        name = path.name.removesuffix(".logprobs.npy")
        token_ids = np.load(folder / f"{name}.tokens.npy").tolist()
        comparison = compare(np.load(path, mmap_mode="r"), ENGINES[engine](model, token_ids))
        if name != "text":  # along the continuation only: where its tokens are predicted
            predicted = slice(len(token_ids) - CONTINUATION_TOKENS - 1, -1)
            comparison = Comparison(
                comparison.divergence[predicted], comparison.agrees[predicted], comparison.margin[predicted]
            )
        results[name] = {field: getattr(comparison, field).tolist() for field in ("divergence", "agrees", "margin")}
    (folder / f"{engine}.json").write_text(json.dumps(results))
    report([folder])


def compare(reference: NDArray[np.float32], blocks: LogitBlocks) -> Comparison:
    """Compare blocks of an engine's logits with the reference's log-probabilities (positions, vocab)."""
    divergences, agreements, margins = [], [], []
    begin = 0
    for logits in blocks:
        expected = reference[begin : begin + len(logits)].astype(np.float64)
        begin += len(logits)
        divergences.append((np.exp(expected) * (expected - log_softmax(logits))).sum(axis=1))
        agreements.append(expected.argmax(axis=1) == logits.argmax(axis=1))
        top_two = np.partition(expected, -2, axis=1)[:, -2:]
        margins.append(top_two[:, 1] - top_two[:, 0])
    if begin != len(reference):
        raise ValueError(f"the engine gave {begin} positions of {len(reference)}")
    return Comparison(np.concatenate(divergences), np.concatenate(agreements), np.concatenate(margins))


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Log-probabilities of rows of logits, formed in float64 a few rows at a time."""
    logprobs = np.empty_like(logits, dtype=np.float32)
    for begin in range(0, len(logits), ROWS_AT_A_TIME):
        rows = logits[begin : begin + ROWS_AT_A_TIME].astype(np.float64)
        rows -= rows.max(axis=1, keepdims=True)
        logprobs[begin : begin + ROWS_AT_A_TIME] = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
    return logprobs


def llama_cpp_logits(flash_attention: bool) -> Callable[[Path, list[int]], LogitBlocks]:
    """llama.cpp as its users run it: float16 cache, batches of 512."""

    def run(model: Path, token_ids: list[int]) -> LogitBlocks:
        from llama_cpp import Llama

        llama = Llama(str(model), n_ctx=len(token_ids) + 8, logits_all=True, flash_attn=flash_attention, verbose=False)
        llama.eval(token_ids)
        for begin in range(0, len(token_ids), ROWS_AT_A_TIME):
            yield llama.scores[begin : min(begin + ROWS_AT_A_TIME, len(token_ids))]

    return run


def abaci_logits(backend: str) -> Callable[[Path, list[int]], LogitBlocks]:
    """Abaci's executor: "native", or "reference" in int8 mode, which is the specification of the native kernels."""

    def run(model: Path, token_ids: list[int]) -> LogitBlocks:
        from abaci.formats.gguf import GgufCheckpoint
        from abaci.models.families import spec_from_gguf

        with GgufCheckpoint.open(model) as checkpoint:
            spec = spec_from_gguf(checkpoint.metadata, checkpoint.tensors)
            executor = make_executor(backend, spec, checkpoint)
            yield from executor_logits(executor, spec, token_ids)
            executor.close()

    return run


def make_executor(backend: str, spec, checkpoint):
    """An executor of the checkpoint's model."""
    from abaci.engine.loader import CheckpointTensors

    if backend == "native":
        from abaci.kernels.native import NativeExecutor, thread_pool

        pool = thread_pool(os.cpu_count() or 1)
        return NativeExecutor(spec, CheckpointTensors(checkpoint), max_step_tokens=ROWS_AT_A_TIME, pool=pool)
    from abaci.kernels.reference import ReferenceExecutor

    return ReferenceExecutor(spec, CheckpointTensors(checkpoint), activations="int8")


def executor_logits(executor, spec, token_ids: list[int]) -> LogitBlocks:
    """Log-probabilities of every token after every position, out of any executor, through its `top` output."""
    from abaci.kernels.batch import BIAS, HISTORY, LOGIT_ROW, PAGE_TOKENS, SAMPLE, StepBatch

    num_pages = -(-len(token_ids) // PAGE_TOKENS)
    executor.allocate_cache((num_pages,) * len(spec.cache_groups()))
    for begin in range(0, len(token_ids), ROWS_AT_A_TIME):
        chunk = np.array(token_ids[begin : begin + ROWS_AT_A_TIME], np.int32)
        rows = np.zeros(len(chunk), LOGIT_ROW)
        rows["row"] = np.arange(len(chunk))
        rows["target"], rows["mask_row"], rows["num_top"] = SAMPLE, -1, spec.vocab_size
        rows["top_p"], rows["repetition_penalty"] = 1, 1
        output = executor.step(
            StepBatch(
                token_ids=chunk,
                sequence_offsets=np.array([0, len(chunk)], np.int32),
                first_positions=np.array([begin], np.int32),
                page_tables=tuple(np.arange(num_pages, dtype=np.int32)[np.newaxis] for _ in spec.cache_groups()),
                logit_rows=rows,
                history=np.empty(0, HISTORY),
                bias=np.empty(0, BIAS),
                masks=np.empty((0, -(-spec.vocab_size // 32)), np.uint32),
            )
        )
        logprobs = np.empty_like(output.top_logprobs)
        np.put_along_axis(logprobs, output.top_ids.astype(np.int64), output.top_logprobs, axis=1)
        yield logprobs


ENGINES: dict[str, Callable[[Path, list[int]], LogitBlocks]] = {
    "abaci": abaci_logits("native"),
    "abaci-reference": abaci_logits("reference"),
    "llama.cpp": llama_cpp_logits(flash_attention=False),
    "llama.cpp-flash": llama_cpp_logits(flash_attention=True),
}


def report(folders: list[Path]) -> None:
    """Print for each model and engine: divergence and agreement on the text, agreement by margin on continuations."""
    for folder in folders:
        engines = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
        print(f"\n{folder.name}\n\n| engine | mean KL, nats/token | median | top token agrees |\n|---|---|---|---|")
        for engine, results in engines.items():
            divergence, agrees = np.array(results["text"]["divergence"]), np.array(results["text"]["agrees"])
            print(f"| {engine} | {divergence.mean():.6f} | {np.median(divergence):.6f} | {agrees.mean():.2%} |")
        print("\n| engine | continuation: agrees | threshold | excluded |")
        pooled = {engine: _pool(results) for engine, results in engines.items()}
        for engine, (agrees, margin) in pooled.items():
            threshold = margin[~agrees].max(initial=0.0)
            others = ", ".join(
                f"{other} {others_agree[others_margin > threshold].mean():.2%}"
                for other, (others_agree, others_margin) in pooled.items()
            )
            print(
                f"| {engine} | {agrees.mean():.2%} | {threshold:.4f} | {(margin <= threshold).mean():.2%} | ({others})"
            )


def _pool(results: dict[str, dict[str, list[float]]]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Agreement and margin of all continuations together."""
    continuations = [result for name, result in results.items() if name != "text"]
    agrees = np.concatenate([result["agrees"] for result in continuations]).astype(bool)
    return agrees, np.concatenate([result["margin"] for result in continuations])


if __name__ == "__main__":
    main()
