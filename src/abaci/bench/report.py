"""What a run found, as plain values: for tables and for JSON."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum, StrEnum
from statistics import median
from typing import Any

from abaci.bench.contender import Description, Settings
from abaci.kernels.ceilings import Ceilings

QUIET_SHARE = 0.05
"""What others may take of the machine before the figures are said to be disturbed."""


class Unit(StrEnum):
    """What a figure counts."""

    TOKENS_PER_SECOND = "tokens/s"
    SECONDS = "seconds"
    BYTES = "bytes"
    SHARE = "share"


@dataclass(frozen=True, slots=True)
class Measurement:
    """One contender's part of a figure."""

    contender: str
    samples: tuple[float, ...]
    settings: Settings
    read_share: float | None = None
    """Of the memory-read ceiling, at the median."""
    int8_share: float | None = None
    """Of the int8 ceiling, at the median."""

    @property
    def median(self) -> float:
        return median(self.samples)

    @property
    def roofline(self) -> float | None:
        """The speed at which the first ceiling would be reached; None where there is no share of one."""
        if self.read_share is None or self.int8_share is None:
            return None
        return self.median / max(self.read_share, self.int8_share)


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table: the same thing measured of every contender, alternating."""

    name: str
    unit: Unit
    is_better_higher: bool
    measurements: tuple[Measurement, ...]
    neighbours_share: float
    """Of the machine's processor time, taken by others while this was measured."""

    @property
    def ratios(self) -> dict[str, float]:
        """How many times better the first contender is than each of the others; without those of nothing."""
        first, *others = self.measurements
        pairs = {
            other.contender: (first.median, other.median) if self.is_better_higher else (other.median, first.median)
            for other in others
        }
        return {name: better / worse for name, (better, worse) in pairs.items() if worse}


@dataclass(frozen=True, slots=True)
class Machine:
    """Where it was measured."""

    processor: str
    num_processors: int
    memory_bytes: int
    kernel: str
    python: str
    load_average: float
    """Of the minute before the run."""


@dataclass(frozen=True, slots=True)
class CeilingSample:
    """The ceilings at one time of the run."""

    when: str
    ceilings: Ceilings


@dataclass(frozen=True, slots=True)
class Comparison:
    """A whole run of the suite."""

    model: str
    file_bytes: int
    num_threads: int
    machine: Machine
    ceilings: Ceilings
    """The best of `ceiling_samples`, as the shares are computed with."""
    ceiling_samples: tuple[CeilingSample, ...]
    contenders: Mapping[str, Description]
    figures: tuple[Figure, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class KernelFigure:
    """Speed of one kernel: `num_rows` activations of `columns` values times a (rows, columns) matrix."""

    target: str
    weight_format: str
    rows: int
    columns: int
    num_rows: int
    is_streamed: bool
    """Whether the weights came from memory rather than a cache."""
    samples_seconds: tuple[float, ...]
    ceilings_per_second: tuple[float, ...]
    """Measured beside each sample: bytes read from memory where the weights came from there, else int8 operations."""
    matrix_bytes: int
    """As packed: what is read once per product."""

    @property
    def ceiling_share(self) -> float:
        """Of what the machine could do in the same moment: the median of the samples."""
        work = self.matrix_bytes if self.is_streamed else 2 * self.rows * self.columns * self.num_rows
        samples = zip(self.samples_seconds, self.ceilings_per_second, strict=True)
        return median(work / seconds / ceiling for seconds, ceiling in samples)

    @property
    def seconds(self) -> float:
        return median(self.samples_seconds)

    @property
    def operations_per_second(self) -> float:
        return 2 * self.rows * self.columns * self.num_rows / self.seconds

    @property
    def bytes_per_second(self) -> float:
        return self.matrix_bytes / self.seconds


@dataclass(frozen=True, slots=True)
class KernelReport:
    """A whole run of the kernel suite; ceilings per target."""

    num_threads: int
    machine: Machine
    ceilings: Mapping[str, Ceilings]
    figures: tuple[KernelFigure, ...]
    skipped: tuple[str, ...]
    """Products that would have taken too long here."""
    neighbours_share: float
    seconds: float


def as_plain(value: Any) -> Any:
    """Anything above as dicts and lists, what is computed from the samples (medians, ratios) included."""
    if is_dataclass(value):
        computed = [name for name, member in vars(type(value)).items() if isinstance(member, property)]
        names = [field.name for field in fields(value)] + computed
        return {name: as_plain(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {key: as_plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple):
        return [as_plain(entry) for entry in value]
    return value.value if isinstance(value, Enum) else value
