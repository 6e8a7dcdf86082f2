"""One face over local paths and gs://: files that are either whole or not there."""

from himari_rl.storage.local import (
    announce,
    exchange,
    is_file,
    is_folder,
    local_path,
    place_to_write,
    read_bytes,
    require_writable,
    set_aside,
    stamp,
    write_atomic,
    write_folder,
)
from himari_rl.storage.paths import is_remote, join, name_of, parent

__all__ = [
    "announce",
    "exchange",
    "is_file",
    "is_folder",
    "is_remote",
    "join",
    "local_path",
    "name_of",
    "parent",
    "place_to_write",
    "read_bytes",
    "require_writable",
    "set_aside",
    "stamp",
    "write_atomic",
    "write_folder",
]
