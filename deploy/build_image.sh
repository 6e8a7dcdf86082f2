#!/usr/bin/env bash
# Builds the server's image without a Docker daemon and without a registry, runs it, and checks what it promises.
# Outside CI: minutes, and as root. Needs buildah and mmdebstrap (Debian), curl, and a bundle to serve:
#   deploy/build_image.sh runs/mine/bundle
set -euo pipefail
cd "$(dirname "$0")/.."
bundle=$(realpath "${1:?a bundle to serve: deploy/build_image.sh runs/mine/bundle}")
for program in buildah mmdebstrap curl; do
  command -v "$program" >/dev/null || { echo "$program is not installed; apt-get install $program" >&2; exit 2; }
done
storage=(--storage-driver vfs)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# A base of the same name from this machine's own Debian mirror: nothing is pulled from a registry.
mmdebstrap --variant=minbase --include=python3,python3-pip,python3-venv,ca-certificates bookworm "$work/root.tar"
base=$(buildah "${storage[@]}" from scratch)
buildah "${storage[@]}" add "$base" "$work/root.tar" /
buildah "${storage[@]}" run --isolation chroot "$base" -- sh -c \
  'ln -sf python3 /usr/bin/python && rm -f /usr/lib/python3*/EXTERNALLY-MANAGED && ln -sf pip3 /usr/bin/pip'
buildah "${storage[@]}" commit "$base" himari-base
base_mb=$(du -sm "$(buildah "${storage[@]}" mount "$base")" | cut -f1)

buildah "${storage[@]}" build --isolation chroot --pull=never --build-arg BASE=localhost/himari-base \
  -f cloud_run/Dockerfile -t himari-serve .
container=$(buildah "${storage[@]}" from --pull=never localhost/himari-serve)
root=$(buildah "${storage[@]}" mount "$container")
added_mb=$(($(du -sm "$root" | cut -f1) - base_mb))
echo "$added_mb MB above its base of $base_mb MB (at most 300)"
((added_mb < 300))

run() { buildah "${storage[@]}" run --isolation chroot -v "$bundle:/bundle:ro" \
  -e HIMARI_API_KEYS=secret -e PORT=18080 "$container" -- "$@"; }
run python -c 'import importlib.util as u; assert u.find_spec("torch") is None; import os; assert os.getuid() == 10001'
state='{"state": [0.5, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0.1, 0.5, 0]}'
started=$(date +%s%N)
run python api_server.py & server=$!
until curl -sf -H 'x-api-key: secret' -H 'content-type: application/json' -d "$state" http://127.0.0.1:18080/predict; do
  kill -0 "$server" || { echo "the server ended" >&2; exit 1; }
  sleep 0.05
done
first_ms=$((($(date +%s%N) - started) / 1000000))
echo " is the first answer, after $first_ms ms (at most 2000 on a machine that is idle)"
inside=$server # the innermost process is the server: buildah and its chroot's helper stand before it
while child=$(pgrep -P "$inside" | head -1) && [ -n "$child" ]; do inside=$child; done
kill -TERM "$inside"
code=0
wait "$server" || code=$?
echo "ended by SIGTERM with $code (143 is the signal's own, after the last answer)"
((code == 0 || code == 143)) && ((first_ms < 2000))
