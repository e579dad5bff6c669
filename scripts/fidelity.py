"""How far engines are from the float32 model: KL divergence and agreement of the top token, position by position.

    python scripts/fidelity.py tokenise  MODEL.gguf FOLDER          needs the extra `bench`
    python scripts/fidelity.py reference MODEL.gguf FOLDER          needs the extra `golden`; at most 800 MB in FOLDER
    python scripts/fidelity.py measure   MODEL.gguf FOLDER ENGINE   ENGINE: abaci, abaci-reference, llama.cpp, ...
    python scripts/fidelity.py report    FOLDER...                  the tables of docs/fidelity.md

The reference is `transformers` in float32 over the file's dequantised values. Two measurements: on the windows of a
mixed text (fidelity_text.md), and teacher-forced along the reference's own greedy continuations of pieces of it.

Of the reference only what enters its head is kept, and the head once: its logits are formed again, in float32, as they
are needed.
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
WINDOW_BORDER = "\n<!-- window -->\n"
NUM_CONTINUATIONS = 8
PARAGRAPH_CHARACTERS = 100
CONTINUATION_TOKENS = 96
ROWS_AT_A_TIME = 64
BLOCK_POSITIONS = 64
NUM_RESAMPLES = 10_000

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
    """Save the token ids of windows and prompts, begun as the model's tokenizer begins a prompt."""
    from llama_cpp import Llama

    folder.mkdir(parents=True, exist_ok=True)
    llama = Llama(str(model), vocab_only=True, verbose=False)
    for name, text in (windows() | prompts()).items():
        token_ids = llama.tokenize(text.encode(), add_bos=True, special=False)
        np.save(folder / f"{name}.tokens.npy", np.array(token_ids, np.int32))
        print(f"{folder.name}, {name}: {len(token_ids)} tokens")


def windows() -> dict[str, str]:
    """The text's pieces, each a sequence of its own, by name."""
    return {f"text{index}": text.strip() for index, text in enumerate(TEXT.read_text().split(WINDOW_BORDER))}


def prompts() -> dict[str, str]:
    """The first halves of some paragraphs, by name."""
    pieces = "\n\n".join(windows().values()).split("\n\n")
    paragraphs = [piece for piece in pieces if len(piece) >= PARAGRAPH_CHARACTERS]
    chosen = np.linspace(0, len(paragraphs) - 1, NUM_CONTINUATIONS).astype(int)
    return {f"prompt{index}": paragraphs[which][: len(paragraphs[which]) // 2] for index, which in enumerate(chosen)}


def make_reference(model: Path, folder: Path) -> None:
    """Save the reference's head, its hidden states on the windows, its greedy continuations, and those along them.

    What is there already is not made again.
    """
    from transformers_reference import final_hidden, greedy_continuation, head_matrix, load_model

    reference = load_model(model)
    np.save(folder / "head.npy", head_matrix(reference))
    for index in range(NUM_CONTINUATIONS):
        path = folder / f"continuation{index}.tokens.npy"
        if not path.exists():
            prompt = load_tokens(folder, f"prompt{index}")
            np.save(path, np.array(prompt + greedy_continuation(reference, prompt, CONTINUATION_TOKENS), np.int32))
    for name in [*windows(), *(f"continuation{index}" for index in range(NUM_CONTINUATIONS))]:
        path = folder / f"{name}.hidden.npy"
        if not path.exists():
            np.save(path, final_hidden(reference, load_tokens(folder, name)))


def load_tokens(folder: Path, name: str) -> list[int]:
    """The saved token ids of a window, a prompt or a prompt with its continuation."""
    token_ids: list[int] = np.load(folder / f"{name}.tokens.npy").tolist()
    return token_ids


@dataclass(frozen=True)
class Comparison:
    """An engine beside the reference: divergence in nats, same top token, the reference's top-two margin."""

    divergence: NDArray[np.float64]
    agrees: NDArray[np.bool_]
    margin: NDArray[np.float64]


def measure(model: Path, folder: Path, engine: str) -> None:
    """Run an engine over every saved sequence and save how far from the reference it is."""
    save_results(folder, engine, lambda token_ids: ENGINES[engine](model, token_ids))
    report([folder])


def save_results(folder: Path, engine: str, run: Callable[[list[int]], LogitBlocks]) -> None:
    """Compare what `run` gives with the reference on every saved sequence, and save it under the engine's name."""
    head = np.load(folder / "head.npy")
    results = {}
    for path in sorted(folder.glob("*.hidden.npy")):
        name = path.name.removesuffix(".hidden.npy")
        token_ids = load_tokens(folder, name)
        comparison = compare(np.load(path), head, run(token_ids))
        if name.startswith("continuation"):  # only where the continuation's tokens are predicted
            predicted = slice(len(token_ids) - CONTINUATION_TOKENS - 1, -1)
            comparison = Comparison(
                comparison.divergence[predicted], comparison.agrees[predicted], comparison.margin[predicted]
            )
        results[name] = {field: getattr(comparison, field).tolist() for field in ("divergence", "agrees", "margin")}
    (folder / f"{engine}.json").write_text(json.dumps(results))


def compare(hidden: NDArray[np.float32], head: NDArray[np.float32], blocks: LogitBlocks) -> Comparison:
    """Compare blocks of an engine's logits with the reference's.

    Hidden states are (positions, hidden), the head (vocab, hidden).
    """
    rows = []
    for logits in blocks:
        expected = hidden[len(rows) : len(rows) + len(logits)] @ head.T
        rows += [compare_row(*pair) for pair in zip(expected, logits, strict=True)]
    if len(rows) != len(hidden):
        raise ValueError(f"the engine gave {len(rows)} positions of {len(hidden)}")
    divergence, agrees, margin = zip(*rows, strict=True)
    return Comparison(np.array(divergence), np.array(agrees), np.array(margin))


def compare_row(reference: NDArray[np.float32], engine: NDArray[np.float32]) -> tuple[float, bool, float]:
    """Divergence, same top token, and the reference's margin at one position, from two rows of logits."""
    expected = log_softmax(reference)
    divergence = (np.exp(expected) * (expected - log_softmax(engine))).sum()
    top = int(expected.argmax())
    margin = expected[top] - max(expected[:top].max(initial=-np.inf), expected[top + 1 :].max(initial=-np.inf))
    return float(divergence), top == int(engine.argmax()), float(margin)


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Log-probabilities of a row of logits, formed in float64."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max()
    shifted -= np.log(np.exp(shifted).sum())
    return shifted


def llama_cpp_logits(flash_attention: bool, kv_type: str = "f16") -> Callable[[Path, list[int]], LogitBlocks]:
    """llama.cpp as its users run it: batches of 512. (One thread: two wait busily for one another.)"""

    def run(model: Path, token_ids: list[int]) -> LogitBlocks:
        from llama_cpp import GGML_TYPE_F16, GGML_TYPE_Q8_0, Llama

        cache_type = GGML_TYPE_F16 if kv_type == "f16" else GGML_TYPE_Q8_0

        llama = Llama(
            str(model),
            n_ctx=len(token_ids) + 8,
            n_threads=1,
            n_threads_batch=1,
            logits_all=True,
            flash_attn=flash_attention,
            type_k=cache_type,
            type_v=cache_type,
            verbose=False,
        )
        llama.eval(token_ids)
        for begin in range(0, len(token_ids), ROWS_AT_A_TIME):
            yield llama.scores[begin : min(begin + ROWS_AT_A_TIME, len(token_ids))]

    return run


def abaci_logits(backend: str, kv_type: str = "f16") -> Callable[[Path, list[int]], LogitBlocks]:
    """Abaci's executor: "native", or "reference" in int8 mode, which is the specification of the native kernels."""

    def run(model: Path, token_ids: list[int]) -> LogitBlocks:
        from abaci.formats.gguf import GgufCheckpoint
        from abaci.models.families import spec_from_gguf

        with GgufCheckpoint.open(model) as checkpoint:
            spec = spec_from_gguf(checkpoint.metadata, checkpoint.tensors)
            executor = make_executor(backend, spec, checkpoint, kv_type)
            yield from executor_logits(executor, spec, token_ids)
            executor.close()

    return run


def make_executor(backend: str, spec, checkpoint, kv_type: str):
    """An executor of the checkpoint's model."""
    from abaci.engine.loader import CheckpointTensors
    from abaci.tensor import CacheType

    cache_type = CacheType(kv_type)

    if backend == "native":
        from abaci.kernels.native import NativeExecutor, thread_pool

        pool = thread_pool(os.cpu_count() or 1)
        source = CheckpointTensors(checkpoint)
        return NativeExecutor(spec, source, max_step_tokens=ROWS_AT_A_TIME, pool=pool, cache_type=cache_type)
    from abaci.kernels.reference import ReferenceExecutor

    return ReferenceExecutor(spec, CheckpointTensors(checkpoint), activations="int8", cache_type=cache_type)


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
    "abaci-kv-int8": abaci_logits("native", "int8"),
    "abaci-reference": abaci_logits("reference"),
    "llama.cpp": llama_cpp_logits(flash_attention=False),
    "llama.cpp-flash": llama_cpp_logits(flash_attention=True),
    "llama.cpp-kv-q8_0": llama_cpp_logits(flash_attention=True, kv_type="q8_0"),
}


def report(folders: list[Path]) -> None:
    """Print for each model: engines on the text, the differences from Abaci, agreement by margin on continuations."""
    for folder in folders:
        engines = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
        print(f"\n{folder.name}")
        _report_text({engine: _pool(results, "text") for engine, results in engines.items()})
        _report_continuations({engine: _pool(results, "continuation") for engine, results in engines.items()})


def _report_text(engines: dict[str, Comparison]) -> None:
    print(
        "\n| engine | mean KL, nats/token | median | 99 % | top token agrees | positions |\n|---|---|---|---|---|---|"
    )
    for engine, measured in engines.items():
        mean, (median, most) = measured.divergence.mean(), np.quantile(measured.divergence, [0.5, 0.99])
        agrees = f"{measured.agrees.mean():.2%} | {len(measured.agrees)} |"
        print(f"| {engine} | {mean:.6f} | {median:.6f} | {most:.6f} | {agrees}")
    for engine, measured in engines.items():
        if engine == "abaci" or "abaci" not in engines:
            continue
        ours = engines["abaci"]
        kl = _difference(ours.divergence - measured.divergence)
        agreement = _difference(100.0 * (ours.agrees.astype(float) - measured.agrees))
        only_ours, only_theirs = (ours.agrees & ~measured.agrees).sum(), (~ours.agrees & measured.agrees).sum()
        print(f"\nabaci less {engine}, with 95 % intervals: KL {kl:.6f}, agreement {agreement:.2f} points", end="")
        print(f" (only abaci agrees {only_ours}, only {engine} {only_theirs})")


def _report_continuations(engines: dict[str, Comparison]) -> None:
    print("\n| engine | continuation: agrees | threshold | excluded | above it |\n|---|---|---|---|---|")
    for engine, measured in engines.items():
        threshold = measured.margin[~measured.agrees].max(initial=0.0)
        above = measured.margin > threshold
        others = ", ".join(f"{other} {compared.agrees[above].mean():.2%}" for other, compared in engines.items())
        print(f"| {engine} | {measured.agrees.mean():.2%} | {threshold:.4f} | {1 - above.mean():.2%} | {others} |")


@dataclass(frozen=True)
class Interval:
    """A mean with the ends of its 95 % confidence interval."""

    mean: float
    lower: float
    upper: float

    def __format__(self, numbers: str) -> str:
        return f"{self.mean:+{numbers}} [{self.lower:+{numbers}}, {self.upper:+{numbers}}]"


def _difference(per_position: NDArray[np.float64]) -> Interval:
    """Mean of a paired difference, and its bootstrap interval over blocks of successive positions.

    Blocks, since neighbours share their context and so their errors (Kuensch 1989); the last, shorter one is left out.
    """
    whole = len(per_position) // BLOCK_POSITIONS * BLOCK_POSITIONS
    blocks = per_position[:whole].reshape(-1, BLOCK_POSITIONS).mean(axis=1)
    chosen = np.random.default_rng(0).integers(len(blocks), size=(NUM_RESAMPLES, len(blocks)))
    lower, upper = np.quantile(blocks[chosen].mean(axis=1), [0.025, 0.975])
    return Interval(float(per_position.mean()), float(lower), float(upper))


def _pool(results: dict[str, dict[str, list[float]]], kind: str) -> Comparison:
    """All windows together, or all continuations."""
    chosen = [result for name, result in sorted(results.items()) if name.startswith(kind)]
    divergence, agrees, margin = (
        np.concatenate([result[field] for result in chosen]) for field in ("divergence", "agrees", "margin")
    )
    return Comparison(divergence, agrees.astype(bool), margin)


if __name__ == "__main__":
    main()
