"""`abaci show`: what a model file holds."""

from contextlib import closing
from typing import Any

from abaci.cli.figures import quality_rows
from abaci.cli.terminal import JsonOption, ModelArgument, aligned, megabytes, print_json, print_line, print_text


def show(model: ModelArgument, as_json: JsonOption = False) -> None:
    """Show what a model's file holds and where it came from."""
    from abaci import hub

    description = _describe(hub.resolve(model, download=False))
    if as_json:
        print_json(description)
        return
    for note in description["notes"]:
        print_line(f"warning: {note}")
    print_text(_as_text(description))


def _describe(resolved: Any) -> dict[str, Any]:
    from abaci.formats.checkpoint import own_template
    from abaci.formats.opening import open_checkpoint

    with closing(open_checkpoint(resolved.path, sorts_columns=True)) as checkpoint:  # as it is run
        metadata, tensors = checkpoint.metadata, checkpoint.tensors
        architecture = metadata.get("general.architecture")
        in_file = own_template(metadata)
        return {
            "name": resolved.name,
            "title": metadata.get("general.name"),
            "path": str(resolved.path),
            "architecture": architecture,
            "num_bytes": sum(path.stat().st_size for path in checkpoint.paths),
            "num_parameters": sum(_num_values(tensor.shape) for name, tensor in tensors.items() if _is_learned(name)),
            "tensors": _count_formats(tensors.values()),
            "adapter": _adapter(metadata, tensors) if metadata.get("general.type") == "adapter" else None,
            "importance": _importance(metadata, tensors) if metadata.get("general.type") == "imatrix" else None,
            "context_length": metadata.get(f"{architecture}.context_length"),
            "licence": resolved.licence or metadata.get("general.license"),
            "chat_template": in_file or resolved.chat_template,
            "chat_template_from": "file" if in_file else ("catalog" if resolved.chat_template else None),
            "sha256": resolved.sha256,
            "source": resolved.source,
            "quality": _quality(metadata),
            "notes": list(checkpoint.notes),
        }


def _is_learned(name: str) -> bool:
    """Not the order of a weight's columns, which is arranging."""
    return not name.endswith(".order")


def _adapter(metadata: Any, tensors: Any) -> dict[str, Any]:
    downs = [tensor for name, tensor in tensors.items() if name.endswith(".lora_a") and tensor.shape]
    return {
        "type": metadata.get("adapter.type"),
        "alpha": metadata.get("adapter.lora.alpha"),
        "ranks": sorted({tensor.shape[0] for tensor in downs}),
        "num_matrices": len(downs),
    }


def _importance(metadata: Any, tensors: Any) -> dict[str, Any]:
    return {
        "datasets": metadata.get("imatrix.datasets"),
        "num_matrices": sum(name.endswith(".in_sum2") for name in tensors),
    }


def _quality(metadata: Any) -> dict[str, Any] | None:
    """What a file says of its own loss against what it was made from."""
    from dataclasses import asdict

    from abaci.quantize.quality import Quality

    quality = Quality.from_metadata(metadata)
    if quality is None:
        return None
    names = ("text", "num_tokens", "source_format")
    return {**asdict(quality), **{name: metadata.get(f"abaci.quality.{name}") for name in names}}


def _num_values(shape: tuple[int, ...]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product


def _count_formats(tensors: Any) -> dict[str, dict[str, int]]:
    """Per storage format, most bytes first: how many tensors and bytes."""
    counts: dict[str, dict[str, int]] = {}
    for tensor in tensors:
        count = counts.setdefault(tensor.format.label, {"num_tensors": 0, "num_bytes": 0})
        count["num_tensors"] += 1
        count["num_bytes"] += tensor.num_bytes
    return dict(sorted(counts.items(), key=lambda item: -item[1]["num_bytes"]))


def _as_text(description: dict[str, Any]) -> str:
    formats = [
        ("tensors" if index == 0 else "", f"{count['num_tensors']:4} {label:5} {megabytes(count['num_bytes'])}")
        for index, (label, count) in enumerate(description["tensors"].items())
    ]
    template = description["chat_template"]
    quality = description["quality"]
    rows = [
        ("name", description["name"]),
        ("title", description["title"] or "not given"),
        ("architecture", description["architecture"] or "not given"),
        *_kind_rows(description),
        ("size", megabytes(description["num_bytes"])),
        *formats,
        *([] if description["context_length"] is None else [("context", f"{description['context_length']} tokens")]),
        ("licence", description["licence"] or "not given"),
        ("SHA-256", description["sha256"] or "not in the catalog"),
        *([] if quality is None else _quality_rows(quality)),
        ("source", description["source"]),
        ("file", description["path"]),
        *([] if _is_no_model(description) else [("template", _template_row(description))]),
    ]
    text = aligned([(name, str(value)) for name, value in rows])
    return text if template is None else f"{text}\n\n{template}"


def _is_no_model(description: dict[str, Any]) -> bool:
    return not (description["adapter"] is None and description["importance"] is None)


def _kind_rows(description: dict[str, Any]) -> list[tuple[str, str]]:
    """What kind of file it is, where it is no model, and how large."""
    adapter, importance = description["adapter"], description["importance"]
    num_parameters = description["num_parameters"]
    if importance is not None:
        datasets = importance["datasets"]
        measured_on = ", ".join(map(str, datasets)) if isinstance(datasets, list) else "not given"
        return [
            (
                "kind",
                f"importance of the inputs of {importance['num_matrices']} matrices, for abaci quantize --imatrix",
            ),
            ("measured on", measured_on),
        ]
    size = f"{num_parameters / 1e6:,.0f} million" if num_parameters >= 1e6 else f"{num_parameters:,}"
    if adapter is None:
        return [("parameters", size)]
    return [
        ("kind", f"adapter ({adapter['type']}) of {adapter['num_matrices']} matrices, for abaci run MODEL --lora FILE"),
        ("rank", ", ".join(map(str, adapter["ranks"])) or "not given"),
        ("alpha", "not given" if adapter["alpha"] is None else str(adapter["alpha"])),
        ("parameters", size),
    ]


def _template_row(description: dict[str, Any]) -> str:
    return f"from the {description['chat_template_from']}" if description["chat_template"] else "none"


def _quality_rows(quality: dict[str, Any]) -> list[tuple[str, str]]:
    measured_on = f"{quality['num_tokens']} tokens ({quality['text']}), against {quality['source_format']}"
    return [*quality_rows(quality), ("measured on", measured_on)]
