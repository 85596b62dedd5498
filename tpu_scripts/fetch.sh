#!/usr/bin/env bash
# Brings a run's folder from the bucket, without its checkpoints unless they are asked for.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'TEXT'
usage: tpu_scripts/fetch.sh NAME [FOLDER] [--checkpoints] [--dry-run]

Copies the run's metrics, episodes, report and summary from the bucket to FOLDER (by default runs/NAME), and the hosts'
logs to FOLDER/worker_logs. The TPU need not be there; while it trains, the bucket is at most a minute and a step behind.

  --checkpoints  those too: to evaluate, ask or export the model here
TEXT
}

take_common "$@"
take_name
folder="" checkpoints=false
for word in "${words[@]}"; do
  case "$word" in
    --checkpoints) checkpoints=true ;;
    -*) die "$word is not understood; --help says what is" ;;
    *) [ -z "$folder" ] || die "one folder, not '$folder' and '$word'"; folder="$word" ;;
  esac
done
folder="${folder:-$root/runs/$name}"
stays="compiled" # the hosts' programs, for hosts alone
"$checkpoints" || stays="(checkpoints|compiled)"
run mkdir -p "$folder/worker_logs"
run gcloud storage rsync --recursive "--exclude=(.*/)?$stays/.*" "$url/run" "$folder"
logs=(gcloud storage rsync --recursive "$url/logs" "$folder/worker_logs")
if "$dry_run"; then
  run "${logs[@]}"
elif ! ask "${logs[@]}"; then
  [[ "$complaint" == *"Did not find existing container"* ]] || die "$url/logs cannot be copied: $complaint"
  say "no logs are in $url/logs yet"
fi
"$dry_run" || say "the run is in $folder"
