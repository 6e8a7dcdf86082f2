"""Every error this project raises on purpose.

HimariError              exit code 2: bad usage or bad input; one line, no traceback
├── DataError            bars that cannot be trusted as they are
├── ConfigError          settings that contradict each other or the data
├── BundleError          a policy bundle that is missing, damaged or made for something else
├── StateError           a request whose numbers cannot be a state (HTTP 422)
├── CloudError           Google Cloud said no, or nothing
├── StorageError         a path that cannot be read or written
│   └── ConflictError    somebody else has written it meanwhile
└── RefusedError         exit code 1: the input is fine, the answer is no
    ├── CollapseError    training stopped because the policy degenerated
    └── LookAheadError   a feature or column that knows the future

A message names what was found, what was expected and the cure, because the person who reads it at
night has only that line.
"""

from __future__ import annotations


class HimariError(Exception):
    """An expected failure with a message a person can act on.

    Args:
        found: what is wrong, with the offending value.
        expected: what would have been right; may be empty where `found` says it.
        cure: the next step for the reader; may be empty where none exists.
    """

    exit_code = 2

    def __init__(self, found: str, expected: str = "", cure: str = "") -> None:
        self.found, self.expected, self.cure = found, expected, cure
        parts = [found]
        if expected:
            parts.append(f"expected {expected}")
        if cure:
            parts.append(cure)
        super().__init__("; ".join(parts))

    def __reduce__(self) -> tuple[type[HimariError], tuple[str, str, str]]:
        return type(self), (self.found, self.expected, self.cure)


class DataError(HimariError):
    """Bars that cannot be trusted as they are."""


class ConfigError(HimariError):
    """Settings that contradict each other or the data."""


class BundleError(HimariError):
    """A policy bundle that is missing, damaged or made for something else."""


class StateError(HimariError):
    """A request whose numbers cannot be a state."""


class CloudError(HimariError):
    """Google Cloud said no, or nothing."""


class StorageError(HimariError):
    """A path that cannot be read or written."""


class ConflictError(StorageError):
    """Somebody else has written it meanwhile."""


class RefusedError(HimariError):
    """The input is fine and the answer is no."""

    exit_code = 1


class CollapseError(RefusedError):
    """Training stopped because the policy degenerated."""


class LookAheadError(RefusedError):
    """A feature or column that knows the future."""


def not_installed(what: str, error: ImportError, extra: str) -> ConfigError:
    """The error for a package that one of this project's extras brings.

    Args:
        what: what cannot be done without it.
    """
    package = (error.name or str(error)).partition(".")[0]
    return ConfigError(f"{what} needs {package}, which is not installed", "", f"pip install 'himari-rl[{extra}]'")
