"""`abaci convert`: a model from a Hugging Face folder to a GGUF file, or the other way."""

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from abaci.cli.terminal import JsonOption, ModelArgument, megabytes, print_json, print_line, print_text
from abaci.errors import UsageError

_FLOAT_TYPES = ("f32", "f16", "bf16")


def convert(
    model: ModelArgument,
    destination: Annotated[
        Path, typer.Argument(metavar="DST", help="A file that ends with .gguf, or a folder to make.")
    ],
    *,
    type_: Annotated[
        str | None,
        typer.Option(
            "--type",
            metavar="TYPE",
            help="For a folder, the type of all weights: f32, f16 or bf16. Without, exact values.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write over an existing file, or a folder of nothing but a model's files.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Convert between Hugging Face folders and GGUF. Values stay exact where the types allow."""
    from abaci import hub
    from abaci.formats.converting import TEMPLATE_ADDED, convert_to_folder, convert_to_gguf, template_to_add
    from abaci.formats.destination import check_new_file
    from abaci.formats.opening import open_checkpoint
    from abaci.formats.other_programs import what_others_lack
    from abaci.kernels.dequantise import dequantise
    from abaci.tensor import WeightFormat

    if type_ is not None and type_.lower() not in _FLOAT_TYPES:
        raise UsageError(
            f"--type {type_} is not possible in a folder", hint=f"Choose one of: {', '.join(_FLOAT_TYPES)}."
        )
    to_gguf = destination.suffix.lower() == ".gguf"
    if to_gguf and type_ is not None:
        raise UsageError(
            "--type is for folders",
            hint=f"Make a file of that type: abaci quantize {model} {destination} --type {type_}",
        )
    if to_gguf:
        check_new_file(destination, replace=force)
    elif destination.exists() and not force:
        raise UsageError(f"{destination} exists", hint="Choose another name, or say --force.")
    resolved = hub.resolve(model, download=False)
    with closing(open_checkpoint(resolved.path)) as checkpoint:
        for note in checkpoint.notes:
            print_line(f"warning: {note}")
        template = template_to_add(checkpoint.metadata, resolved.chat_template)
        if template:
            print_line(TEMPLATE_ADDED)
        if to_gguf:
            for note in what_others_lack(checkpoint):
                print_line(f"warning: {note}")
            convert_to_gguf(checkpoint, destination, extra_metadata=template)
        else:
            wanted = None if type_ is None else WeightFormat[type_.upper()]
            convert_to_folder(
                checkpoint, destination, dequantise, wanted=wanted, replace=force, extra_metadata=template
            )
    files = [destination] if to_gguf else [path for path in sorted(destination.rglob("*")) if path.is_file()]
    num_bytes = sum(path.stat().st_size for path in files)
    if as_json:
        print_json({"path": str(destination), "num_bytes": num_bytes, "files": [str(path) for path in files]})
    else:
        print_text(f"{destination}: {megabytes(num_bytes)}")
