#!/usr/bin/env bash
# Deletes a TPU: the queued resource with its nodes. The run in the bucket stays.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'TEXT'
usage: tpu_scripts/delete.sh NAME [--yes] [--dry-run]

Deletes the queued resource NAME and its hosts, and tells watch.sh not to make it anew. What is in the bucket stays.
What the run did since its last checkpoint is lost.

  --yes  do not ask for the name again
TEXT
}

take_common "$@"
take_name
sure=false
for word in "${words[@]}"; do
  [ "$word" = --yes ] || die "$word is not understood; --help says what is"
  sure=true
done
if ! "$sure" && ! "$dry_run"; then
  read -r -p "This deletes $name in $ZONE of $PROJECT. Its name again: " again || again=""
  [ "$again" = "$name" ] || die "'$again' is not '$name': nothing was deleted"
fi
# The mark first: a watch.sh elsewhere would otherwise make it anew.
if "$dry_run"; then
  run gcloud storage cp - "$url/ended"
else
  ask_ended || die "$url is not readable: $reason"
  [ -n "$ended" ] || echo "deleted by delete.sh" | gcloud storage cp - "$url/ended"
fi
delete_resource
"$dry_run" || say "deleted $name; its run is in $url"
