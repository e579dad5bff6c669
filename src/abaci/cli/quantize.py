"""`abaci quantize`: make a smaller file of a model, and know what was lost."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from abaci.cli.figures import quality_rows
from abaci.cli.stages import StageProgress
from abaci.cli.terminal import JsonOption, ModelArgument, aligned, megabytes, print_json, print_line, print_text
from abaci.errors import UsageError

if TYPE_CHECKING:
    from abaci.quantize.importance import Importance
    from abaci.quantize.making import Made, Text


def quantize(
    model: ModelArgument,
    destination: Annotated[Path, typer.Argument(metavar="DST", help="The GGUF file to write.")],
    *,
    type_name: Annotated[str, typer.Option("--type", metavar="TYPE", help="q8_0, q6_k, q4_k_m, q4_0, iq4_xs ...")],
    imatrix: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Importance of inputs, as llama.cpp's imatrix tool writes it.")
    ] = None,
    calibrate: Annotated[
        Path | None, typer.Option(metavar="TEXT", help="Measure the importance of inputs on this file.")
    ] = None,
    save_imatrix: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep the measured importance, in llama.cpp's form.")
    ] = None,
    measure: Annotated[
        Path | None,
        typer.Option("--measure", metavar="TEXT", help="Measure the loss on this file, not the built-in text."),
    ] = None,
    no_measure: Annotated[bool, typer.Option("--no-measure", help="Do not measure the loss.")] = False,
    max_kl: Annotated[
        float | None, typer.Option("--max-kl", min=0.0, help="Leave no file if it loses more nats per token than this.")
    ] = None,
    pure: Annotated[bool, typer.Option("--pure", help="The same format for all matrices.")] = False,
    allow_requantize: Annotated[
        bool, typer.Option("--allow-requantize", help="Accept a source that is already quantised to few bits.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over existing files.")] = False,
    threads: Annotated[
        int | None, typer.Option(envvar="ABACI_THREADS", help="Threads; else all cores this process may use.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a smaller GGUF file of a model, and measure what that costs."""
    from contextlib import closing
    from dataclasses import replace

    from abaci import hub
    from abaci.formats.converting import TEMPLATE_ADDED, template_to_add
    from abaci.formats.opening import open_checkpoint
    from abaci.formats.other_programs import what_others_lack
    from abaci.models.mixtures import mixture_named
    from abaci.quantize.making import Order, check_places, make_quantised

    mixture = mixture_named(type_name)
    check_places(destination, save_imatrix, replace=force)
    if save_imatrix is not None and calibrate is None:
        raise UsageError("--save-imatrix needs --calibrate", hint="Give a text to measure on: --calibrate FILE.")
    if measure is not None and no_measure:
        raise UsageError("--measure and --no-measure exclude each other", hint="Leave one of them out.")
    order = Order(
        mixture,
        importance=_importance(imatrix),
        calibration=None if calibrate is None else _text(calibrate),
        importance_path=save_imatrix,
        text=None if no_measure else _text(measure),
        max_kl=max_kl,
        is_pure=pure,
        allow_requantize=allow_requantize,
        num_threads=threads,
    )
    source = hub.resolve(model, download=False)
    with closing(open_checkpoint(source.path)) as checkpoint, StageProgress() as progress:
        for note in (*checkpoint.notes, *what_others_lack(checkpoint)):
            print_line(f"warning: {note}")
        template = template_to_add(checkpoint.metadata, source.chat_template)
        if template:
            print_line(TEMPLATE_ADDED)
        made = make_quantised(checkpoint, destination, replace(order, extra_metadata=template), progress)
    if as_json:
        print_json(_as_json(destination, made))
    else:
        print_text(_as_text(destination, made))


def _importance(imatrix: Path | None) -> "Importance | None":
    from abaci.quantize.importance import read_importance

    return None if imatrix is None else read_importance(imatrix)


def _text(path: Path | None) -> "Text":
    from abaci.quantize.making import Text

    if path is None:
        return Text.built_in()
    try:
        return Text(path.name, path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read as text: {error}", hint="Give a file of UTF-8 text.") from error


def _as_json(destination: Path, made: "Made") -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "path": str(destination),
        "type": made.plan.mixture.name,
        "num_bytes": destination.stat().st_size,
        "quality": None if made.quality is None else asdict(made.quality),
    }


def _as_text(destination: Path, made: "Made") -> str:
    from dataclasses import asdict

    rows: list[tuple[str, ...]] = [
        ("file", str(destination)),
        ("type", made.plan.mixture.name),
        ("size", megabytes(destination.stat().st_size)),
    ]
    if made.quality is not None:
        rows += quality_rows(asdict(made.quality))
    return aligned(rows)
