#!/usr/bin/env bash
# Puts a committed tree and a train command in the bucket, and starts it on all hosts of a TPU.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'TEXT'
usage: tpu_scripts/launch.sh NAME CONFIG [setting=value ...] [--allow-dirty] [--dry-run]

Puts the committed tree (git archive) and the command in the bucket. Where NAME is ACTIVE, every host then installs it
(setup.sh, pinned versions) and runs, in the background and with a log,

    qr-jax train CONFIG setting=value ... train.bucket=BUCKET/NAME/run --run FOLDER

FOLDER is the host's own. Checkpoints go into the bucket, the other files are copied there before each one counts and
after a step about every minute, and a new TPU of as many chips begins with what is there. Where NAME is not there yet,
its start-up script does all this. While the run goes on, a second launch is refused; other settings need
another folder in BUCKET, or another NAME.

For another number of chips, launch the same CONFIG and settings once more with a mesh of that many, as in
mesh.fsdp=32 learner.rows=32: checkpoints are restored onto it. mesh.data x mesh.fsdp must divide learner.rows, which
may change too where a batch is one update (learner.updates=1). Besides these, what may change is how long the run goes
on (train.steps), when checkpoints are made and kept, and log.

  CONFIG         a file of the tree, as in configs/smollm2_multihop.py:full
  --allow-dirty  take changes of tracked files that are not committed; files git does not know are left out

The program runs on all hosts: on worker 0 alone it would wait for the others for ever.
Secrets (WANDB_API_KEY, HF_TOKEN) do not go here: name them in SECRETS of the settings, and each host reads them from
Secret Manager; or put lines NAME=value in /opt/qr_jax/secrets.env on each host, mode 600 (a preempted TPU loses it).
TEXT
}

allow_dirty=false

# CONFIG and the settings to `arguments`.
take_arguments() {
  local word key
  arguments=()
  for word in "${words[@]}"; do
    case "$word" in
      --allow-dirty) allow_dirty=true ;;
      --worker | --worker=*)
        die "the program runs on all hosts (--worker=all): on worker 0 alone it waits for the others for ever"
        ;;
      -*) die "$word is not understood; --help says what is" ;;
      *$'\n'*) die "an argument has a line break" ;;
      *) arguments+=("$word") ;;
    esac
  done
  [ "${#arguments[@]}" -ge 1 ] || { usage >&2; die "which config?"; }
  for word in "${arguments[@]:1}"; do
    [[ "$word" == *=* ]] || die "'$word' is no setting=value"
    key="${word%%=*}"
    [[ "${key,,}" =~ (key|token|secret|password|passwd|credentials?)$ ]] &&
      die "'${word%%=*}' looks like a secret, and a command line is no place for one; --help says where they go"
  done
  return 0
}

# The commit to archive to `tree`, and in words to `described`.
choose_tree() {
  tree="$(git -C "$root" rev-parse HEAD)" || die "$root is no git checkout with a commit; launch from one"
  described="$tree"
  if [ -n "$(git -C "$root" status --porcelain)" ]; then
    "$allow_dirty" || die "the checkout has changes that are not committed (git status); commit them, or --allow-dirty"
    described="$tree with changes that were not committed"
    # stash create makes a commit of tracked changes and leaves the checkout and the stash alone; none makes none.
    "$dry_run" || { changed="$(git -C "$root" stash create)" && tree="${changed:-$tree}"; }
  fi
  git -C "$root" cat-file -e "$tree:${arguments[0]%:*}" 2>/dev/null ||
    die "the tree has no ${arguments[0]%:*}; name a file from the root of the repository, and commit it"
}

# What the hosts will fetch, in the temporary folder and then in the bucket.
upload() {
  local folder="QR_JAX_LAUNCH"
  if ! "$dry_run"; then
    folder="$(mktemp -d)"
    # shellcheck disable=SC2064 # the folder is known now, and gone from scope then
    trap "rm -rf '$folder'" EXIT
    printf '%s\n' "${arguments[@]}" >"$folder/arguments"
    printf '%s\n' "$DATA" >"$folder/data"
    printf '%s\n' "$SECRETS" >"$folder/secrets"
    printf '%s\n' "$described" >"$folder/commit"
  fi
  run git -C "$root" archive --format=tar.gz "--output=$folder/tree.tar.gz" "$tree"
  local -a files=(tree.tar.gz arguments data secrets commit)
  run gcloud storage cp "${files[@]/#/$folder/}" "$url/launch/"
  run gcloud storage cp "$scripts/worker.sh" "$url/launch/worker.sh" # last: a host that finds it finds the rest
}

take_common "$@"
take_name
take_arguments
choose_tree
state=ACTIVE
"$dry_run" || ask_state
[ "$state" != UNKNOWN ] || die "the state of $name is not known: $reason"
[ "$state" != ACTIVE ] || refuse_while_running
upload
forget_the_end
if [ "$state" = ACTIVE ]; then
  start_on_all ""
  "$dry_run" || say "started on all hosts of $name; tpu_scripts/logs.sh $name follows it, watch.sh keeps it going"
else
  say "$name is $state: the run is in the bucket, and starts when the TPU does (create.sh asks for it, watch.sh waits)"
fi
