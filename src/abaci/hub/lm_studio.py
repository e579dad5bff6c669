"""The folder of LM Studio on this machine, read in place: `<publisher>/<repository>/<file>`. Nothing is changed."""

from dataclasses import dataclass
from pathlib import Path

from abaci.errors import ModelNotFoundError
from abaci.hub.elsewhere import lm_studio_folder
from abaci.hub.names import LMStudioName
from abaci.hub.reach import SourceUnavailableError
from abaci.hub.repositories import ListedFile, Listing, is_sound_path
from abaci.hub.repositories import wanted_model as wanted_of
from abaci.hub.sources import Transfer
from abaci.hub.wanted import WantedModel


@dataclass(frozen=True, slots=True)
class FolderSource:
    """Files of another tool's folder, used where they are."""

    folder: Path

    @property
    def label(self) -> str:
        return str(self.folder)

    def locate(self, path: str) -> Path | None:
        """The file, if it is there."""
        file = self.folder / path
        return file if file.is_file() else None

    def fetch(self, transfer: Transfer) -> None:
        raise SourceUnavailableError(f"{transfer.file_name} is not there any more")


def wanted_model(name: LMStudioName) -> WantedModel:
    """The model of a folder. Nobody says what its bytes must be: their hash is noted as they are now.

    Raises ModelNotFoundError, with the folders that are there, and what `repositories.wanted_model` raises.
    """
    folder = lm_studio_folder() / name.repository.organisation / name.repository.name
    if not folder.is_dir():
        names = [f"lmstudio/{path.parent.name}/{path.name}" for path in sorted(lm_studio_folder().glob("*/*"))]
        where = f"There is no folder {lm_studio_folder()}; LM_STUDIO_MODELS names another."
        raise ModelNotFoundError(
            f"{name} is not in LM Studio's folder on this machine",
            hint=f"It has {', '.join(names[:12])}." if names else where,
        )
    found = [(path.relative_to(folder).as_posix(), path) for path in sorted(folder.rglob("*")) if path.is_file()]
    files = tuple(ListedFile(path, file.stat().st_size, None) for path, file in found if is_sound_path(path))
    return wanted_of(str(name), Listing(str(name.repository), "", files, FolderSource(folder)), name.quantisation)
