"""Runs the server in an image's root folder as `docker run --read-only` would, and checks its first answer and its end.

    python3 deploy/try_image.py ROOT BUNDLE [NAME=VALUE ...]

ROOT is what `buildah mount` prints. The root is mounted read-only with the bundle at /bundle, and the server is user
10001. Needs root and nothing but Python's own library, since it runs on machines that have nothing of ours.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

FIRST_ANSWER_S, DRAIN_S = 2.0, 10.0
STARTS = 3  # the first one reads every file from the disk, and others may use this machine
PORT, KEY = 18080, "secret"
STATE = {"state": [0.5, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0.1, 0.5, 0]}
MOUNT = """
set -e
mount --bind "$1" "$1"
mkdir -p "$1/bundle"
mount -t proc proc "$1/proc"
mount --bind "$2" "$1/bundle"
mount -o remount,bind,ro "$1/bundle"
mount -o remount,bind,ro "$1"
if touch "$1/app/x" 2>/dev/null; then echo "the root can be written" >&2; exit 3; fi
shift 2
exec chroot --userspec=10001:10001 "$ROOT" env -i "$@" sh -c 'cd /app && exec python api_server.py'
"""
"""Every exec keeps the process, so that a signal reaches the server itself."""


def ask(body: bytes = json.dumps(STATE).encode()) -> dict[str, object] | None:
    """A decision; None where nobody answers yet."""
    headers = {"x-api-key": KEY, "content-type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{PORT}/predict", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            found: dict[str, object] = json.load(answer)
            return found
    except (urllib.error.HTTPError, OSError):
        return None


def half_asked() -> tuple[socket.socket, bytes]:
    """A request whose head and first half are sent, and its second half."""
    body = json.dumps(STATE).encode()
    head = f"POST /predict HTTP/1.1\r\nhost: x\r\nx-api-key: {KEY}\r\ncontent-length: {len(body)}\r\n"
    connection = socket.create_connection(("127.0.0.1", PORT), timeout=DRAIN_S)
    connection.sendall(head.encode() + b"content-type: application/json\r\n\r\n" + body[: len(body) // 2])
    return connection, body[len(body) // 2 :]


def say(line: str) -> None:
    """A line for whoever waits."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def begun(root: str, bundle: str, image: list[str]) -> tuple[subprocess.Popen[str], float, float]:
    """A server that has answered, how long that took, and how much of it on the processor.

    Raises:
        RuntimeError: it does not answer.
    """
    own = [f"HIMARI_API_KEYS={KEY}", f"PORT={PORT}", "HOST=127.0.0.1", "MODEL_PATH=/bundle"]
    command = ["unshare", "--mount", "sh", "-c", MOUNT, "sh", root, bundle, *image, *own]
    began = time.perf_counter()
    server = subprocess.Popen(command, env={**os.environ, "ROOT": root}, stderr=subprocess.PIPE, text=True)
    while (answer := ask()) is None:
        if server.poll() is not None or time.perf_counter() - began > 60:
            server.kill()
            raise RuntimeError(f"the server does not answer: {server.communicate()[1]}")
        time.sleep(0.02)
    took = time.perf_counter() - began
    ticks = Path(f"/proc/{server.pid}/stat").read_text().rpartition(") ")[2].split()[11:13]
    cpu_s = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    say(f"first answer after {took:.2f} s, of them {cpu_s:.2f} s of the processor: {answer}")
    return server, took, cpu_s


def main(argv: list[str]) -> int:
    """Exit code 1 where a promise is not kept."""
    root, bundle, *image = argv
    first, on_processor = [], []
    for start in range(STARTS):
        server, took, cpu_s = begun(root, bundle, image)
        first.append(took)
        on_processor.append(cpu_s)
        if start < STARTS - 1:
            server.kill()
            server.communicate()
    try:
        said = Path(f"/proc/{server.pid}/status").read_text()
        owner, memory = said.partition("\nUid:")[2].split()[0], int(said.partition("\nVmHWM:")[2].split()[0]) / 1024
        say(f"read-only root, user {owner}, at most {memory:.0f} MB resident")
        connection, rest = half_asked()
        time.sleep(0.2)
        server.send_signal(signal.SIGTERM)
        began = time.perf_counter()
        time.sleep(0.3)  # an answer that is under way when the signal comes is given
        connection.sendall(rest)
        drained = connection.recv(65536)
        code = server.wait(DRAIN_S)
        took = time.perf_counter() - began
    finally:
        server.kill()
        server.communicate()
    status = drained.partition(b"\r\n")[0].decode()
    say(f"SIGTERM: {status} to the request under way; ended with {code} after {took:.2f} s")
    fastest, load, cores = min(first), os.getloadavg()[0], os.cpu_count() or 1
    say(f"fastest first answer {fastest:.2f} s (less than {FIRST_ANSWER_S:g})")
    if fastest >= FIRST_ANSWER_S and load > cores:
        fastest = min(on_processor)
        say(f"others use this machine (load {load:.1f} on {cores} cores): judged by the processor's {fastest:.2f} s")
    good = owner == "10001" and status.startswith("HTTP/1.1 200") and code in (0, -signal.SIGTERM)
    return 0 if good and fastest < FIRST_ANSWER_S and took < DRAIN_S else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
