# shellcheck shell=bash
# shellcheck disable=SC2034 # what is set here is read by the scripts that source this file
# What the scripts here share: options, settings and their checks, dry runs, a queued resource's state and creation.
set -euo pipefail
if [ "${BASH_VERSINFO[0]}" -lt 5 ]; then
  echo "error: bash 5 or later is needed, this is $BASH_VERSION; a Mac gets it by brew install bash" >&2
  exit 2
fi

scripts="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(dirname "$scripts")"
settings_file="${QR_JAX_TPU_SETTINGS:-$scripts/settings.env}"
dry_run=false
words=()    # what is left of the command line: the name first
on_host=/opt/qr_jax # everything of ours on a TPU's host lies there, root's own

needed=(PROJECT ZONE ACCELERATOR RUNTIME CAPACITY BUCKET)
optional=(DATA SERVICE_ACCOUNT SUBNETWORK SECRETS)

die() {
  echo "error: $*" >&2
  exit 2
}

say() {
  printf '%(%H:%M:%S)T %s\n' -1 "$*"
}

# The common end of every --help.
common_usage() {
  cat <<'TEXT'

  NAME             of the TPU and of its run: a-z, 0-9 and -, beginning with a letter, at most 62 characters
  --dry-run        print the commands and stop; nothing is asked, made or deleted
  --settings FILE  by default tpu_scripts/settings.env, a copy of settings.example.env
  --help           print this
TEXT
}

# Run a command, or print it so that a shell would read it back.
run() {
  if ! "$dry_run"; then
    "$@"
    return
  fi
  local word line=""
  for word in "$@"; do
    [[ "$word" =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word="${word@Q}"
    line+=" $word"
  done
  echo "${line# }"
}

# take_common WORD...: --help, --dry-run and --settings; all else goes to `words`. `usage` is the script's own.
take_common() {
  while [ $# -gt 0 ]; do
    case "$1" in
      -h | --help) usage; common_usage; exit 0 ;;
      --dry-run) dry_run=true ;;
      --settings)
        [ $# -ge 2 ] || die "--settings needs a file"
        settings_file="$2"
        shift
        ;;
      *) words+=("$1") ;;
    esac
    shift
  done
}

# take_name: the first of `words` to `name`, checked; the settings; and where the run lives in the bucket, to `url`.
take_name() {
  [ "${#words[@]}" -ge 1 ] || { usage >&2; die "which TPU? give its name"; }
  name="${words[0]}"
  words=("${words[@]:1}")
  [[ "$name" =~ ^[a-z][a-z0-9-]{0,61}$ ]] ||
    die "'$name' is no name of a TPU: wanted a-z, 0-9 and -, beginning with a letter, at most 62 characters"
  read_settings
  url="$BUCKET/$name"
  where=("--project=$PROJECT" "--zone=$ZONE")
}

no_more_words() {
  [ "${#words[@]}" -eq 0 ] || die "${words[0]} is not understood; --help says what is"
}

# The settings file's lines are read, not run. Unknown names and values of a wrong form are refused.
read_settings() {
  local line key number=0
  [ -f "$settings_file" ] ||
    die "there is no $settings_file; copy $scripts/settings.example.env to it and fill it in"
  for key in "${needed[@]}" "${optional[@]}"; do
    printf -v "$key" ''
  done
  while IFS= read -r line || [ -n "$line" ]; do
    number=$((number + 1))
    [[ "$line" =~ ^[[:space:]]*(#.*)?$ ]] && continue
    key="${line%%=*}"
    [[ "$line" == *=* && " ${needed[*]} ${optional[*]} " == *" $key "* ]] ||
      die "$settings_file line $number: '$key' is no setting; there are ${needed[*]} ${optional[*]}"
    printf -v "$key" '%s' "${line#*=}"
  done <"$settings_file"
  check PROJECT '^[a-z][a-z0-9.:-]{4,}$' my-project
  check ZONE '^[a-z]+-[a-z]+[0-9]+-[a-z]$' us-west4-a
  check ACCELERATOR '^v[0-9]+[a-z]*-[0-9]+$' v5litepod-8
  check RUNTIME '^[a-z0-9-]+$' v2-alpha-tpuv5-lite
  check CAPACITY '^(spot|reserved|on-demand)$' 'spot, reserved or on-demand'
  check BUCKET '^gs://[a-z0-9][a-z0-9._-]+(/[A-Za-z0-9._-]+)*$' gs://my-bucket/qr_jax
  check DATA '^(gs://[a-z0-9][a-z0-9._-]+(/[A-Za-z0-9._-]+)*)?$' gs://my-bucket/data
  check SERVICE_ACCOUNT '^([a-z0-9-]+@[a-z0-9.-]+)?$' runs@my-project.iam.gserviceaccount.com
  check SUBNETWORK '^[a-z0-9-]*$' my-subnetwork
  # Never shown: somebody may have put the secret itself there.
  [[ "$SECRETS" =~ ^([A-Z][A-Z0-9_]*( [A-Z][A-Z0-9_]*)*)?$ ]] ||
    die "$settings_file: SECRETS holds names of secrets in Secret Manager alone, as in WANDB_API_KEY HF_TOKEN"
}

# check NAME REGEX EXAMPLE
check() {
  [[ "${!1}" =~ $2 ]] || die "$settings_file: $1='${!1}' is not usable; wanted something like $3"
}

# ssh_to WORKER COMMAND: on one host, or on all at once.
ssh_to() {
  run gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" "--worker=$1" "--command=$2"
}

# ask COMMAND...: its output to `answer`, and what it says besides to `complaint`: on success that is warnings.
ask() {
  local file code=0
  file="$(mktemp)"
  answer="$("$@" 2>"$file")" || code=$?
  complaint="$(<"$file")"
  rm -f "$file"
  return "$code"
}

# The queued resource's state to `state` (ABSENT when there is none, UNKNOWN when nobody answers) and why to `reason`.
ask_state() {
  local answer complaint
  if ask gcloud compute tpus queued-resources describe "$name" "${where[@]}" \
    "--format=value(state.state,state.failedData.error.message)"; then
    IFS=$'\t' read -r state reason <<<"$answer"
  elif [[ "$complaint" == *NOT_FOUND* ]]; then
    state=ABSENT reason=""
  else
    state=UNKNOWN reason="$complaint"
  fi
}

# What the run says of its end to `ended`: empty while it goes on. Returns 1 when nobody answers, with why in `reason`.
ask_ended() {
  local answer complaint
  if ask gcloud storage cat "$url/ended"; then
    ended="$answer"
  elif [[ "$complaint" == *"matched no objects"* ]]; then
    ended=""
  else
    ended="" reason="$complaint"
    return 1
  fi
}

# The mark of an end before this start is taken away, so that hosts start the run and watch.sh watches it.
forget_the_end() {
  local answer
  if "$dry_run"; then
    run gcloud storage rm "$url/ended"
  elif ! answer="$(gcloud storage rm "$url/ended" 2>&1)" && [[ "$answer" != *"matched no objects"* ]]; then
    die "$url/ended cannot be removed, and with it hosts start nothing and watch.sh takes the run for ended: $answer" \
      $'\n'"when the bucket answers: this script again, or after create.sh: gcloud storage rm $url/ended"
  fi
}

# Ask for the TPU. Its metadata say where the run lives and how to resume it; nothing secret is in them.
create_resource() {
  local -a asked=("--node-id=$name" "${where[@]}" "--accelerator-type=$ACCELERATOR" "--runtime-version=$RUNTIME")
  case "$CAPACITY" in
    spot) asked+=(--spot) ;;
    reserved) asked+=(--reserved) ;;
  esac
  # Without this scope the hosts may read the bucket but not Secret Manager.
  asked+=(--scopes=https://www.googleapis.com/auth/cloud-platform)
  [ -z "$SERVICE_ACCOUNT" ] || asked+=("--service-account=$SERVICE_ACCOUNT")
  [ -z "$SUBNETWORK" ] || asked+=("--subnetwork=$SUBNETWORK")
  asked+=("--metadata=qr-jax-run=$url" "--metadata-from-file=startup-script=$scripts/startup.sh")
  run gcloud compute tpus queued-resources create "$name" "${asked[@]}"
}

# --force deletes the nodes too; a request that was suspended or failed has none, and is deleted all the same.
delete_resource() {
  run gcloud compute tpus queued-resources delete "$name" "${where[@]}" --force --quiet
}

# Exit code 3 of a host that runs the training already; taking its lock for a moment is how it is asked.
refuse_while_running() {
  local code=0
  local ask="mkdir -p $on_host && flock --nonblock --conflict-exit-code 3 $on_host/lock true"
  ssh_to all "sudo bash -c \"$ask\"" || code=$?
  case "$code" in
    0) ;;
    3)
      die "the run of $name is going on, and a second one is not started; logs.sh $name follows it, and" \
        "resume.sh $name --missing starts it on hosts where nothing runs"
      ;;
    *) die "the hosts of $name do not answer (ssh: exit code $code); is it $state, and do you reach it by ssh?" ;;
  esac
}

# start_on_all "": the same program on all hosts, each in the background; "COMMAND &&" comes first and may prevent it.
# A host tries its copy six times, as worker.sh does: where one starts nothing, the others wait for it.
start_on_all() {
  local pause code=0 bring="copy"
  for pause in 5 10 20 40 80; do
    bring+=" || { sleep $pause; copy; }"
  done
  bring="copy() { gcloud storage cp $url/launch/worker.sh $on_host/worker.sh; }; mkdir -p $on_host && $1{ $bring; }"
  ssh_to all "sudo bash -c \"$bring && bash $on_host/worker.sh start $url\"" || code=$?
  [ "$code" = 0 ] ||
    die "not every host of $name started the run (ssh: exit code $code), and those that did wait for the others;" \
      "tpu_scripts/resume.sh $name --missing starts it where nothing runs"
}
