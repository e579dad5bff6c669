"""`abaci synth`: a file of a published shape with random values, to measure with what one cannot fetch."""

from pathlib import Path
from typing import Annotated

import typer

from abaci.cli.stages import StageProgress
from abaci.cli.terminal import JsonOption, megabytes, print_json, print_text
from abaci.errors import UsageError


def synth(
    family: Annotated[str, typer.Argument(metavar="FAMILY", help="qwen2.5, qwen3, qwen3-moe, llama3, gemma3 ...")],
    *,
    size: Annotated[str, typer.Option(metavar="SIZE", help="One of the family's sizes, such as 7b.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The GGUF file to write.")],
    type_name: Annotated[str, typer.Option("--type", metavar="TYPE", help="As of `abaci quantize`.")] = "q4_k_m",
    layers: Annotated[int | None, typer.Option(min=1, help="Only so many layers.")] = None,
    experts: Annotated[int | None, typer.Option(min=1, help="Only so many experts.")] = None,
    context: Annotated[int | None, typer.Option(min=1, help="Another context length than the model's.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Other values for another seed.")] = 0,
    pure: Annotated[bool, typer.Option("--pure", help="The same format for all matrices.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over an existing file.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a file of a published shape with random values. It is for measuring, not for answers."""
    from abaci.models.mixtures import mixture_named
    from abaci.quantize.shapes import shape_named
    from abaci.quantize.synthesis import Synthesis, synthesise

    if output.exists() and not force:
        raise UsageError(f"{output} exists", hint="Choose another name, or say --force.")
    if not output.parent.is_dir():
        raise UsageError(f"there is no folder {output.parent}", hint="Make it first, or choose another place.")
    order = Synthesis(f"{family} {size}", shape_named(family, size), mixture_named(type_name), seed, pure)
    with StageProgress() as progress:
        num_bytes = synthesise(
            order.with_limits(layers, context, experts),
            output,
            progress=lambda done, total: progress.advanced("writing", done, total),
        )
    if as_json:
        print_json({"path": str(output), "num_bytes": output.stat().st_size, "tensor_bytes": num_bytes})
    else:
        print_text(f"{output}: {megabytes(output.stat().st_size)}, {order.name} {order.mixture.name}, random values")
