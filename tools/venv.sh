#!/bin/bash
# Makes the virtual environment $1 with the pinned requirements; nothing is left of a failed try.
set -euo pipefail
target=$1
here=$(cd "$(dirname "$0")/.." && pwd)
version=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || {
  echo "Python is missing: install Python 3.11 (apt-get install python3 python3-venv)" >&2
  exit 2
}
case $version in
  3.11 | 3.12 | 3.13 | 3.14) ;;
  *)
    echo "Python $version is too old: Python 3.11 or newer is needed" >&2
    exit 2
    ;;
esac
if ! python3 -c 'import ensurepip' 2>/dev/null; then
  echo "installing python3-venv"
  apt-get update -q && apt-get install -y -q python3-venv
fi
mkdir -p "$(dirname "$target")"
rm -rf "$target"
trap 'rm -rf "$target"' ERR INT TERM
echo "making the virtual environment $target"
python3 -m venv "$target"
"$target/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements-dev.txt"
touch "$target/.complete"
