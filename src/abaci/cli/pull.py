"""`abaci pull`: fetch a model and keep it."""

from typing import Annotated

import typer

from abaci.cli.licence_gate import AcceptOption, conditions_of, licence_gate
from abaci.cli.terminal import (
    DownloadProgress,
    JsonOption,
    OfflineOption,
    megabytes,
    print_json,
    print_remark,
    print_text,
)


def pull(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A name of `abaci search`, org/repo, hf.co/org/repo:TYPE, modelscope/..., ollama/..., lmstudio/..., "
            "or the URL of a .gguf file.",
        ),
    ],
    *,
    source: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="PLACE", help="Take it from here: a file, a folder, an http address, or s3://bucket/key."
        ),
    ] = None,
    limit_rate: Annotated[
        str | None,
        typer.Option(metavar="RATE", envvar="ABACI_LIMIT_RATE", help="Most bytes per second, e.g. 500k, 2.5M."),
    ] = None,
    offline: OfflineOption = False,
    accept_licence: AcceptOption = False,
    force: Annotated[bool, typer.Option("--force", help="Fetch it even if it cannot run on this machine.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Fetch a model and check its hashes."""
    from abaci import hub
    from abaci.hub.network import Network
    from abaci.runtime.fit_gate import check_fit

    hub.forbid_own_file(name)
    gate = licence_gate(accept=accept_licence)
    gate.check_name(name)
    network = Network.from_environment(limit_rate)
    if not force:
        check_fit(name, network)
    with DownloadProgress(name) as progress:
        model = hub.pull(name, progress=progress, source=source, network=network)
    gate.check_file(model)
    stored = hub.stored_model(model.name, hub.Store())
    if as_json:
        print_json(
            {
                "name": model.name,
                "path": str(model.path),
                "num_bytes": stored.num_bytes,
                "sha256": model.sha256,
                "licence": model.licence,
                "source": model.source,
                "files": [
                    {
                        "path": file.path,
                        "num_bytes": file.num_bytes,
                        "sha256": file.sha256,
                        "in_place": not file.is_ours,
                    }
                    for file in stored.files
                ],
            }
        )
        return
    parts = [f"{model.name}: {megabytes(stored.num_bytes)}"]
    if len(stored.files) > 1:
        parts.append(f"{len(stored.files)} files")
    parts += ["hashes right", f"licence {model.licence or 'not given'}"]
    if not any(file.is_ours for file in stored.files):
        parts.append(f"used where it is: {stored.files[0].location.parent}")
    print_text(", ".join(parts))
    remark = conditions_of(model)
    if remark is not None:
        print_remark(remark)
