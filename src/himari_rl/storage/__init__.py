"""One face over local paths and gs://: files that are either whole or not there."""

from himari_rl.storage.local import (
    exchange,
    is_file,
    join,
    local_path,
    read_bytes,
    require_writable,
    set_aside,
    stamp,
    write_atomic,
    write_folder,
)

__all__ = [
    "exchange",
    "is_file",
    "join",
    "local_path",
    "read_bytes",
    "require_writable",
    "set_aside",
    "stamp",
    "write_atomic",
    "write_folder",
]
