#!/usr/bin/env bash
# Builds the server's image without a Docker daemon and without an image registry, runs it, and checks what it promises.
# Outside CI: minutes, and as root. Needs buildah and mmdebstrap (Debian), python3, and a bundle to serve:
#   deploy/build_image.sh runs/mine/bundle
#   deploy/build_image.sh runs/mine/bundle base.tar     with a root file system of your own that has python 3.11 and pip
# Every folder that it makes goes again.
set -euo pipefail
cd "$(dirname "$0")/.."
bundle=$(realpath "${1:?a bundle to serve: deploy/build_image.sh runs/mine/bundle}")
for program in buildah mmdebstrap python3 unshare chroot; do
  command -v "$program" >/dev/null || { echo "$program is not installed; apt-get install $program" >&2; exit 2; }
done
work=$(mktemp -d)
# A store of its own: nothing of this machine's images is touched. vfs and chroot need no overlay and no namespaces.
engine=(buildah --storage-driver vfs --root "$work/store" --runroot "$work/runroot")
trap 'buildah --storage-driver vfs --root "$work/store" --runroot "$work/runroot" umount --all >/dev/null 2>&1 || true
  rm -rf "$work"' EXIT
say() { printf '%4d s  %s\n' "$SECONDS" "$*"; }

# A base as python:3.11-slim is one, from Debian's own packages. This machine's apt settings (a proxy, a clock that is
# off) and its certificates hold for the build as well; the certificates are mounted, and no image keeps them.
tar=${2:-$work/base.tar}
if [ -z "${2:-}" ]; then
  apt-config dump --format '%f "%v";%n' Acquire::Check-Valid-Until Acquire::Check-Date Acquire::http Acquire::https \
    | grep -v ' "";' >"$work/apt.conf" || true
  mmdebstrap --quiet --variant=minbase --aptopt="$work/apt.conf" \
    --include=python3,python3-pip,python3-venv,python-is-python3,ca-certificates bookworm "$tar"
fi
base=$("${engine[@]}" from scratch)
"${engine[@]}" add --quiet "$base" "$tar" / >/dev/null
# Debian's pip refuses to install beside apt; in an image there is nobody to disturb.
"${engine[@]}" run --isolation chroot "$base" -- sh -c 'rm -f /usr/lib/python3*/EXTERNALLY-MANAGED'
"${engine[@]}" commit --quiet "$base" himari-base >/dev/null
base_mb=$(du -sm "$("${engine[@]}" mount "$base")" | cut -f1)
say "base of $base_mb MB"

printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' >"$work/pip.conf"
build() { # base, tag
  "${engine[@]}" build --isolation chroot --pull=never --build-arg "BASE=localhost/$1" \
    -v /etc/ssl/certs:/etc/ssl/certs:ro -v "$work/pip.conf:/etc/pip.conf:ro" -f cloud_run/Dockerfile -t "$2" .
}
build himari-base himari-serve >"$work/build.log" 2>&1 || { tail -20 "$work/build.log" >&2; exit 1; }
container=$("${engine[@]}" from --pull=never localhost/himari-serve)
root=$("${engine[@]}" mount "$container")
added_mb=$(($(du -sm "$root" | cut -f1) - base_mb))
say "built: $added_mb MB above its base (at most 300)"
((added_mb < 300))

"${engine[@]}" run --isolation chroot "$container" -- python -c '
import importlib.util, os
assert importlib.util.find_spec("torch") is None, "torch is in the image"
assert os.getuid() == 10001, os.getuid()'
say "no torch, and whoever serves is no root"
# The control: where a torch can be imported, the Dockerfile's own check ends the build.
check=$(sed -n "s/.*\\(! python -c 'import torch'.*\\)/\\1/p" cloud_run/Dockerfile)
[ -n "$check" ] || { echo "cloud_run/Dockerfile has no check that torch is absent" >&2; exit 1; }
printf 'FROM localhost/himari-serve\nUSER root\nRUN touch /app/torch.py\nRUN %s\n' "$check" >"$work/Dockerfile"
if "${engine[@]}" build --isolation chroot --pull=never -f "$work/Dockerfile" "$work" >"$work/control.log" 2>&1; then
  echo "an image with torch was built" >&2
  exit 1
fi
grep -q "import torch" "$work/control.log"
say "the control: with a torch in it the build fails"

# As docker run --read-only: the image's own user, command and environment, a root that nobody can write.
settings=$("${engine[@]}" inspect --type image --format '{{range .OCIv1.Config.Env}}{{.}}{{"\n"}}{{end}}' localhost/himari-serve)
mapfile -t environment <<<"$settings"
python3 deploy/try_image.py "$root" "$bundle" "${environment[@]}"
