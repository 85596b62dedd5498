#!/usr/bin/env bash
# Sets up a Cloud TPU VM of one host, in a checkout of the repository: .venv, the pinned packages with the TPU runtime.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: tpu_scripts/setup.sh [--dry-run]

Run it on a Cloud TPU VM of one host, in a checkout of the repository. It makes .venv, installs qr_jax with the
versions of constraints.txt and the TPU runtime, and shows what `qr-jax doctor` finds. It may be run again.

  --dry-run   print the commands and stop
  --help      print this

PYTHON names the interpreter (3.11 or later); by default python3.11, or else python3.
TEXT
}

dry_run=false
for word in "$@"; do
  case "$word" in
    --dry-run) dry_run=true ;;
    -h | --help) usage; exit 0 ;;
    *) echo "error: unknown option $word" >&2; usage >&2; exit 2 ;;
  esac
done

run() {
  if "$dry_run"; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

cd "$(dirname "${BASH_SOURCE[0]}")/.."
python="${PYTHON:-$(command -v python3.11 || command -v python3 || echo python3.11)}"
if ! "$dry_run" && ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "error: qr_jax needs Python 3.11 or later, and $python is none; name another with PYTHON=..." >&2
  exit 1
fi

if "$dry_run" || [ ! -x .venv/bin/python ]; then
  run "$python" -m venv .venv
fi
run .venv/bin/python -m pip install -c constraints.txt -e '.[tpu]'
run .venv/bin/qr-jax doctor
