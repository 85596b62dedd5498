#!/usr/bin/env bash
# Deletes a TPU: the queued resource with its nodes. The run in the bucket stays.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'TEXT'
usage: tpu_scripts/delete.sh NAME [--yes] [--anyway] [--dry-run]

Deletes the queued resource NAME and its hosts, and tells watch.sh not to make it anew. What is in the bucket stays.
What the run did since its last checkpoint is lost.

  --yes     do not ask for the name again
  --anyway  delete it even where watch.sh cannot be told, for the bucket does not answer: one that runs elsewhere makes
            the TPU anew, and the run goes on; stop it first
TEXT
}

take_common "$@"
take_name
sure=false anyway=false
for word in "${words[@]}"; do
  case "$word" in
    --yes) sure=true ;;
    --anyway) anyway=true ;;
    *) die "$word is not understood; --help says what is" ;;
  esac
done
if ! "$sure" && ! "$dry_run"; then
  read -r -p "This deletes $name in $ZONE of $PROJECT. Its name again: " again || again=""
  [ "$again" = "$name" ] || die "'$again' is not '$name': nothing was deleted"
fi

# The end of the run, unless it has one; 1 when the bucket does not answer, with why in `reason`.
mark_the_end() {
  local answer complaint
  ask_ended || return 1
  [ -z "$ended" ] || return 0
  ask gcloud storage cp - "$url/ended" <<<"deleted by delete.sh" || { reason="$complaint"; return 1; }
}

# The mark first: a watch.sh elsewhere would otherwise make it anew.
if "$dry_run"; then
  run gcloud storage cp - "$url/ended"
elif ! mark_the_end; then
  unmarked="the run's end cannot be marked in $url, and a watch.sh that runs elsewhere would make $name anew: $reason"
  "$anyway" || die "$unmarked"$'\n'"nothing was deleted; stop that watch.sh, and --anyway deletes $name all the same"
  say "deleting it all the same: $unmarked" >&2
fi
delete_resource
"$dry_run" || say "deleted $name; its run is in $url"
