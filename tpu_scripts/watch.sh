#!/usr/bin/env bash
# Keeps a run going from outside: a TPU that was preempted or failed is deleted and made anew until the run has ended.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'TEXT'
usage: tpu_scripts/watch.sh NAME [--poll-s 60] [--wait-s 60] [--max-tries 20] [--delete] [--dry-run]

Runs on a laptop or a small VM, since a suspended TPU cannot ask for itself again. It looks at the queued resource and
at the run's mark in the bucket: SUSPENDED or FAILED is deleted and asked for anew (the new hosts' start-up script
resumes the run), and the loop ends when the run has, finished or failed by itself; a host that is lost leaves no mark.
While the bucket does not answer, nothing is deleted or asked for.
A request that is refused, for quota say, is repeated after --wait-s seconds, each time twice as many, up to an hour.
Ctrl-C stops the watching alone, at any moment; started again it goes on with what it finds.

  --poll-s N     seconds between two looks
  --wait-s N     seconds before the first repetition
  --max-tries N  give up after so many requests in a row that never became ACTIVE
  --delete       delete the TPU when the run has finished or failed: it costs as long as it stands
Exit code: 0 the run finished, 1 it failed or the request is wrong, 2 wrong use, 75 given up, 130 stopped by Ctrl-C.
TEXT
}

longest_wait_s=3600
poll_s=60 wait_s=60 max_tries=20 delete_at_end=false tries=0 state="" seen="" pause=""

take_options() {
  while [ "${#words[@]}" -gt 0 ]; do
    case "${words[0]}" in
      --poll-s) poll_s="${words[1]:-}"; words=("${words[@]:1}") ;;
      --wait-s) wait_s="${words[1]:-}"; words=("${words[@]:1}") ;;
      --max-tries) max_tries="${words[1]:-}"; words=("${words[@]:1}") ;;
      --delete) delete_at_end=true ;;
      *) no_more_words ;;
    esac
    words=("${words[@]:1}")
  done
  [[ "$poll_s" =~ ^[0-9]+(\.[0-9]+)?$ ]] || die "--poll-s '$poll_s': wanted seconds"
  [[ "$wait_s" =~ ^[1-9][0-9]*$ ]] || die "--wait-s '$wait_s': wanted whole seconds, 1 or more"
  [[ "$max_tries" =~ ^[1-9][0-9]*$ ]] || die "--max-tries '$max_tries': wanted a number, 1 or more"
}

# 1, after a while, when the TPU could not be deleted.
delete_or_nap() {
  delete_resource && return 0
  say "$name could not be deleted; again in $poll_s s"
  sleep "$poll_s"
  return 1
}

# Ends the script when the run has ended; 1, after a while, when nobody says whether it has or its TPU has yet to be
# deleted. A run that failed is the end of a lost TPU too: it failed by itself, for a lost host leaves no mark.
end_with_the_run() {
  if ! ask_ended; then
    say "the bucket does not say whether the run has ended, and nothing is done before it does: $reason"
    sleep "$poll_s"
    return 1
  fi
  case "$ended" in
    "") return 0 ;;
    deleted*) say "$name was deleted by delete.sh: no more watching"; exit 0 ;;
    *) say "the run has ended: $ended" ;;
  esac
  case "$delete_at_end $state" in
    *ABSENT) ;;
    true*) delete_or_nap || return 1 ;;
    *SUSPENDED | *FAILED) say "the TPU is $state and is not made anew; tpu_scripts/delete.sh $name takes it away" ;;
    *) say "the TPU still stands and costs; tpu_scripts/delete.sh $name deletes it" ;;
  esac
  [[ "$ended" == finished* ]] || exit 1
  exit 0
}

# Wait before request number tries + 1; the waits double.
back_off() {
  if [ "$tries" -ge "$max_tries" ]; then
    say "given up after $tries requests in a row that never became ACTIVE; the last: $1"
    exit 75
  fi
  say "$1; request $((tries + 1)) of at most $max_tries in $pause s"
  sleep "$pause"
  pause=$((pause * 2 < longest_wait_s ? pause * 2 : longest_wait_s))
}

# Ask for the TPU once; say what is wrong when it is refused.
make_anew() {
  local answer
  tries=$((tries + 1))
  if answer="$(create_resource 2>&1)"; then
    say "asked for $name anew (request $tries)"
    return
  fi
  case "$answer" in
    *RESOURCE_EXHAUSTED* | *[Qq]uota*) back_off "no quota: $answer" ;;
    *ALREADY_EXISTS*) say "$name is there already"; sleep "$poll_s" ;;
    *INVALID_ARGUMENT* | *PERMISSION_DENIED* | *UNAUTHENTICATED*) say "the request is wrong: $answer"; exit 1 ;;
    *) back_off "refused: $answer" ;;
  esac
}

look() {
  ask_state
  if [ "$state" != "$seen" ]; then
    say "$name is $state${reason:+: $reason}"
    seen="$state"
  fi
  [ "$state" != ACTIVE ] || tries=0 pause="$wait_s"
  end_with_the_run || return 0
  case "$state" in
    SUSPENDED | FAILED)
      delete_or_nap || return 0
      # A preempted one is asked for at once; one that never came up waits as a refused one does.
      [ "$tries" -eq 0 ] || back_off "$state${reason:+: $reason}"
      ;;
    ABSENT) make_anew ;;
    *) sleep "$poll_s" ;;
  esac
}

take_common "$@"
take_name
take_options
pause="$wait_s"
if "$dry_run"; then
  echo "# every $poll_s s:"
  run gcloud compute tpus queued-resources describe "$name" "${where[@]}" \
    "--format=value(state.state,state.failedData.error.message)"
  run gcloud storage cat "$url/ended"
  echo "# when it is SUSPENDED or FAILED:"
  delete_resource
  echo "# when it is gone:"
  create_resource
  exit 0
fi
# The loop is a process of its own, and this shell only waits for it: bash 5.2 fails to read a trap's command when the
# signal comes while it expands a $(...).
stop_watching() {
  kill "$watching" 2>/dev/null || true
  echo
  say "stopped watching; $name is left as it is, and the run goes on while it stands"
  exit 130
}

while kill -0 $$ 2>/dev/null; do
  look
done &
watching=$!
trap stop_watching INT TERM
wait "$watching"
