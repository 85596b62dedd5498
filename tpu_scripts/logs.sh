#!/usr/bin/env bash
# Follows the log of one host of a TPU, or of all.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'TEXT'
usage: tpu_scripts/logs.sh NAME [--worker N|all] [--lines N] [--no-follow] [--dry-run]

Follows the run's log; every line begins with its host's name. Of a TPU that is gone, fetch.sh
brings the logs out of the bucket.

  --worker N|all   by default 0
  --lines N        how much of what was written before, by default 100 lines
  --no-follow      stop there
TEXT
}

take_common "$@"
take_name
worker=0 lines=100 follow=" -F"
while [ "${#words[@]}" -gt 0 ]; do
  case "${words[0]}" in
    --worker) worker="${words[1]:-}"; words=("${words[@]:1}") ;;
    --lines) lines="${words[1]:-}"; words=("${words[@]:1}") ;;
    --no-follow) follow="" ;;
    *) no_more_words ;;
  esac
  words=("${words[@]:1}")
done
[[ "$worker" =~ ^([0-9]+|all)$ ]] || die "--worker '$worker': wanted a number from 0, or all"
[[ "$lines" =~ ^[0-9]+$ ]] || die "--lines '$lines': wanted a number"
ssh_to "$worker" "sudo tail -n $lines$follow $on_host/log | sed -u \"s/^/[\$(hostname)] /\""
