#!/usr/bin/env bash
# Checks a first TPU host in about ten minutes: a small model's figures beside kept ones, in one JSON for an issue.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'TEXT'
usage: tpu_scripts/check.sh [--out FILE] [--compute DTYPE] [--devices N] [--dry-run] [setting=value ...]

Runs on one host of a TPU (or any machine), in a checkout that setup.sh has set up. It needs no download, no bucket and no
gcloud. With a small model it compares the learner's log-probabilities, its gradient and attention's mask with kept values
of a CPU, the sampler with the learner, and a run that was stopped after two steps with one that was not. FILE gets all
figures, versions, the chip's kind and a verdict of each check; it has no names of hosts, users or folders, and is made to
be attached to an issue. Exit code 0 where all passed, 1 where a check failed, 2 where nothing could be checked.

  --out FILE       by default first_check.json
  --compute DTYPE  float32 or bfloat16 alone; by default both
  --devices N      so many devices are played by a CPU (1, 2, 4 or 8), to try the check itself
  --dry-run        print the command and stop
  --help           print this
  setting=value    of the run, as in model.name=qwen3_0p6b with --compute bfloat16: random weights of that size, for
                   its memory and time beside the planner's

PYTHON names the interpreter; by default that of .venv, or python3 where there is none.
TEXT
}

options=()
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) usage; exit 0 ;;
    --dry-run) dry_run=true ;;
    --out | --compute | --devices)
      [ $# -ge 2 ] || die "$1 needs a value"
      options+=("$1" "$2")
      shift
      ;;
    *=*) options+=("$1") ;;
    *) die "$1 is not understood; --help says what is" ;;
  esac
  shift
done
python="${PYTHON:-$root/.venv/bin/python}"
[ -n "${PYTHON:-}" ] || [ -x "$python" ] || python=python3
"$dry_run" || "$python" -c 'from importlib.util import find_spec as f; exit(not (f("jax") and f("orbax")))' 2>/dev/null ||
  die "$python has not what qr_jax needs: run tpu_scripts/setup.sh, or name another with PYTHON=..."
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
run "$python" -P "$root/tpu_scripts/first_check.py" "${options[@]}"
