"""What this machine can do at best, measured: the figures that every speed is compared with.

Knows no model. The calling thread is the pool's worker 0 and should be pinned as the pool's others are.
"""

from dataclasses import dataclass

from abaci.kernels import _native

READ_BYTES = 1 << 30
"""Memory that is read: several times the largest last-level cache, so that little of it is found there."""
_QUICK_READ_BYTES = 1 << 28
_READ_REPEATS = 4
_PEAK_REPEATS = 12


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Of all the pool's threads together."""

    read_bytes_per_second: float
    int8_operations_per_second: float
    """A multiplication and an addition count as two."""

    def or_better(self, other: "Ceilings") -> "Ceilings":
        """The higher of two measurements, each for itself: whatever disturbs, disturbs downwards."""
        return Ceilings(
            max(self.read_bytes_per_second, other.read_bytes_per_second),
            max(self.int8_operations_per_second, other.int8_operations_per_second),
        )


def estimate_read_bandwidth(pool: _native.ThreadPool, target: str) -> float:
    """Bytes per second that can be read from memory, roughly, in a tenth of the time. Raises MemoryError."""
    return _native.read_bandwidth(pool, target, _QUICK_READ_BYTES, 2)


def measure_read_bandwidth(pool: _native.ThreadPool, target: str, read_bytes: int = READ_BYTES) -> float:
    """Bytes per second, the best of a few attempts. Raises MemoryError where `read_bytes` cannot be had."""
    return _native.read_bandwidth(pool, target, read_bytes, _READ_REPEATS)


def measure_int8_peak(pool: _native.ThreadPool, target: str, repeats: int = 1) -> float:
    """Operations per second, the best of so many attempts of some milliseconds."""
    return _native.int8_peak(pool, target, repeats)


def measure_ceilings(pool: _native.ThreadPool, target: str, read_bytes: int = READ_BYTES) -> Ceilings:
    """The better of a few attempts each, in about a second. Raises MemoryError where `read_bytes` cannot be had."""
    return Ceilings(
        read_bytes_per_second=measure_read_bandwidth(pool, target, read_bytes),
        int8_operations_per_second=measure_int8_peak(pool, target, _PEAK_REPEATS),
    )
