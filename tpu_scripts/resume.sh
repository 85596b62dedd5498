#!/usr/bin/env bash
# Starts a launched run again on the hosts that are there: the same command, from its last checkpoint.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'TEXT'
usage: tpu_scripts/resume.sh NAME [--missing] [--dry-run]

Starts the run that launch.sh put in the bucket once more on all hosts of NAME, after it failed or was stopped; it goes
on from its last checkpoint. Refused while it runs. A preempted TPU needs none of this: watch.sh makes it anew, and the
new one's start-up script resumes the run.

  --missing  while it runs: starts it on the hosts where nothing runs (one that launch.sh could not start, or its
             supervisor killed, say), which the others wait for and end with 75 again and again
TEXT
}

take_common "$@"
take_name
missing=false
[ "${words[*]}" != --missing ] || { missing=true; words=(); }
no_more_words
state=ACTIVE
"$dry_run" || ask_state
[ "$state" = ACTIVE ] ||
  die "$name is $state${reason:+ ($reason)}, wanted ACTIVE; tpu_scripts/watch.sh $name makes it anew," \
    "and it then resumes by itself"
if "$missing"; then
  start_on_all "{ flock --nonblock $on_host/lock true || { echo it runs here; exit 0; }; } && "
else
  refuse_while_running
  forget_the_end
  start_on_all ""
fi
