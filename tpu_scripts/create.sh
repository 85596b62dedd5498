#!/usr/bin/env bash
# Asks Cloud TPU for a queued resource whose hosts start, or resume, the run by themselves.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'TEXT'
usage: tpu_scripts/create.sh NAME [--dry-run]

Asks for a TPU (queued resource NAME with one node NAME) of the settings' kind, and returns at once: the request may
wait long in the queue. Its start-up script looks in the bucket for what launch.sh put there, and starts it or goes on
with it. watch.sh says when it is there, and makes it anew when it was preempted.
TEXT
}

take_common "$@"
take_name
no_more_words
# After the request, which may be refused; its hosts look for the mark when they boot, minutes later.
create_resource
"$dry_run" || say "asked for $name ($ACCELERATOR, $CAPACITY, $ZONE); next: tpu_scripts/launch.sh $name CONFIG"
forget_the_end
