#!/usr/bin/env bash
# Sets up one host of a Cloud TPU, in a checkout of the repository: .venv, the pinned packages with the TPU runtime.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: tpu_scripts/setup.sh [--dry-run]

Runs on a host of a Cloud TPU, in a checkout of the repository; what launch.sh starts runs it on every host. It makes
.venv, installs qr_jax with the versions of constraints.txt (of constraints-3.13.txt from Python 3.12 on) and the TPU
runtime, and shows what `qr-jax doctor` finds; on a slice of several hosts that is left out, for jax would wait there for
all of them. It may be run again. Where there is no Python 3.11 or later (Ubuntu 22.04 has 3.10), root gets it by apt-get.

  --dry-run   print the commands and stop
  --help      print this

PYTHON names the interpreter; by default python3.11, or else python3.
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

recent() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

may_install() {
  ! "$dry_run" && [ -z "${PYTHON:-}" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null
}

if may_install && ! recent "$python"; then
  apt-get -o DPkg::Lock::Timeout=300 update # right after the boot the system itself holds apt's lock
  apt-get -o DPkg::Lock::Timeout=300 install --yes python3.11 python3.11-venv
  python=python3.11
fi
if ! "$dry_run" && ! recent "$python"; then
  echo "error: qr_jax needs Python 3.11 or later, and $python is none; name another with PYTHON=..." >&2
  exit 1
fi

if "$dry_run" || [ ! -x .venv/bin/python ]; then
  run "$python" -m venv .venv
fi
interpreter="$python"
[ ! -x .venv/bin/python ] || interpreter=.venv/bin/python
constraints=constraints.txt # as in the Makefile: jax 0.11 dropped Python 3.11
if "$interpreter" -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null; then
  constraints="constraints-3.13.txt"
fi
run .venv/bin/python -m pip install -c "$constraints" -e '.[all,tpu]'
hosts=1
count='import os; from qr_jax.parallel import start; print(start.workers(os.environ))'
"$dry_run" || hosts="$(.venv/bin/python -c "$count")"
if [ "$hosts" -gt 1 ]; then
  echo "left out: qr-jax doctor, which starts jax; on one of $hosts hosts it would wait for the others"
else
  run .venv/bin/qr-jax doctor
fi
