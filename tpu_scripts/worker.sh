#!/usr/bin/env bash
# Runs a launched run on one host of a TPU, as root: fetches the program from the bucket, trains, copies the log back.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: worker.sh start URL | worker.sh supervise URL

Not for you to type: launch.sh, resume.sh and the start-up script run it on every host. URL is the run's folder in the
bucket. `start` takes the host's lock (exit code 3 when the run is going on) and leaves `supervise` in the background.

`supervise` starts qr-jax again as long as URL/ended says nothing. Exit code 2, a wrong config, ends the run at once;
others at the fourth time, where no start in between lasted half an hour. Not counted are 75 (another process is gone or
late) and signals, which another host may have caused: the pause before the next start doubles, up to 5 minutes. But the
21st end in a row by another signal than SIGTERM ends the run. After a SIGTERM to `supervise` the program makes its checkpoint,
and nothing has ended: `start` goes on with the run.
TEXT
}

home="${QR_JAX_HOME:-/opt/qr_jax}"
sync_s="${QR_JAX_SYNC_S:-60}"       # between two copies to the bucket
restart_s=10                        # before the program is started again
longest_s=300                       # the longest such pause: less than hosts wait for one another (parallel/start.py)
look_s="${QR_JAX_LOOK_S:-1}"        # between two looks whether it still runs
most_restarts=3
most_signals=20                     # ends by a signal in a row that are gone on from, SIGTERM apart
lost_s=90                           # at least, after a signal: longer than mesh.heartbeat_s, so that others see it gone
long_s="${QR_JAX_LONG_S:-1800}"     # a start that lasted so long was no failed one
wrong_use=2                         # qr-jax's exit code for a wrong config: starting it again would not help
fallen=4                            # and for a run that a guard stopped (guards.act=stop)
outage=5                            # and for one whose retriever or judge stayed away (rollout.outage_s)
lost=75                             # and where another process is gone or late, which another host starts again
stopped=143                         # and for a SIGTERM, after its checkpoint
tree="$home/tree"
export HOME="$home" PATH="$PATH:/snap/bin" # a start-up script has no HOME, and on some images gcloud is a snap

say() {
  echo "$(date -u +%Y-%m-%dT%H:%M:%SZ) $*"
}

# Which host this is, from 0.
worker_number() {
  curl --fail --silent --show-error --retry 10 --header 'Metadata-Flavor: Google' \
    http://metadata.google.internal/computeMetadata/v1/instance/attributes/agent-worker-number
}

# In the background, so that a SIGTERM is heard at once; the lock is not the sleep's.
nap() {
  sleep "$1" 9>&- &
  wait "$!"
}

# Again and again, for a bucket or a package index that does not answer; 1 after six times in two and a half minutes.
insist() {
  local pause
  for pause in 5 10 20 40 80; do
    "$@" && return 0
    say "failed, again in $pause s: $*" >&2
    nap "$pause"
  done
  "$@" || return 1
}

# What the bucket says of the run's end to `ended`, empty while it goes on; 1 when the bucket does not answer.
ask_ended() {
  ended="$(gcloud storage cat "$url/ended" 2>"$home/ended.log")" && return 0
  ended=""
  grep --quiet "matched no objects" "$home/ended.log" && return 0
  say "$url/ended: $(tail -n 1 "$home/ended.log")" >&2
  return 1
}

start() {
  local ended=""
  mkdir -p "$home"
  # The kernel drops the lock when its last holder ends, however it ends: no stale file can block a run.
  exec 9>"$home/lock"
  flock --nonblock 9 || { echo "error: the run is going on here already" >&2; exit 3; }
  # Not to know is no reason to start: a host may reboot long after the end.
  insist ask_ended || { echo "error: $url does not say whether the run has ended; nothing was started" >&2; exit 1; }
  if [ -n "$ended" ]; then
    echo "the run has ended ($ended); tpu_scripts/resume.sh starts it again"
    exit 0
  fi
  number="$(insist worker_number)"
  log="$home/worker_${number}_$(date -u +%Y%m%dT%H%M%SZ).log"
  ln -sfn "$log" "$home/log"
  setsid nohup bash "$home/worker.sh" supervise "$url" >>"$log" 2>&1 </dev/null &
  echo "worker $number started; its log is $log"
}

# What launch.sh put in the bucket.
fetch() {
  local data
  rm -rf "$home/launch" "$tree"
  mkdir -p "$home/launch" "$tree"
  insist gcloud storage rsync --recursive "$url/launch" "$home/launch"
  tar -xzf "$home/launch/tree.tar.gz" -C "$tree"
  data="$(cat "$home/launch/data")"
  if [ -n "$data" ]; then
    mkdir -p "$home/data"
    insist gcloud storage rsync --recursive "$data" "$home/data"
    export QR_JAX_DATA="$home/data"
  fi
}

# Secrets go into the environment of what runs here: from Secret Manager, and from a file the user put on this host.
read_secrets() {
  local name value names line at=0
  read -r -a names <"$home/launch/secrets" || true
  for name in "${names[@]}"; do
    value="$(insist gcloud secrets versions access latest "--secret=$name")"
    export "$name=$value"
  done
  [ -f "$home/secrets.env" ] || return 0
  if [ -n "$(find "$home/secrets.env" -perm /077)" ]; then
    say "$home/secrets.env: others may read it; chmod 600"
    return 1
  fi
  while IFS= read -r line || [ -n "$line" ]; do
    at=$((at + 1))
    [[ "$line" =~ ^[[:space:]]*(#.*)?$ ]] && continue
    # Never shown: any part of the line may be a secret.
    [[ "$line" =~ ^[A-Z][A-Z0-9_]*= ]] || { say "$home/secrets.env line $at: wanted NAME=value"; return 1; }
    export "${line%%=*}=${line#*=}"
  done <"$home/secrets.env"
}

# This host's log to the bucket; the program brings the run there itself.
copy_log() {
  gcloud storage cp "$(readlink "$home/log")" "$url/logs/"
} >"$home/copy.log" 2>&1

# However this script ends: the log goes out, and the end is marked unless the run can go on or has ended elsewhere.
leave() {
  local code="$1" mark=""
  trap - EXIT
  if [ -n "$ended" ]; then
    say "the run has ended: $ended"
  elif [ "$code" = 0 ]; then
    [ "$number" != 0 ] || mark="finished" # worker 0's to say, which writes the run's files
  elif [ "$code" -gt 128 ]; then # a host that is being lost ends so
    say "stopped by SIG$(kill -l "$code"); the same run goes on when it is started again"
  else
    mark="failed on worker $number with exit code $code while $doing"
    [ "$code" != "$wrong_use" ] || mark+=" (its log says which process found it)"
  fi
  [ -z "$mark" ] || say "the run has $mark"
  insist copy_log || say "the last copy to the bucket failed: $(tail -n 1 "$home/copy.log")"
  if [ -n "$mark" ]; then
    echo "$mark" >"$home/mark"
    # Who marks first is believed; what others say of it later is not. A run that has finished has finished.
    local -a keep=(--no-clobber)
    [ "$code" != 0 ] || keep=()
    insist gcloud storage cp "${keep[@]}" "$home/mark" "$url/ended" || true
  fi
  exit "$code"
}

# One start of the program, to its end; its exit code is returned.
train() {
  local next=$SECONDS code=0
  # 9>&-: the lock is the supervisor's.
  # train.bucket last: the run lives in the bucket, whatever its config says, and is brought to a new host from there.
  .venv/bin/qr-jax train "${arguments[@]}" "train.bucket=$url/run" --run "$folder" 9>&- &
  child=$!
  while kill -0 "$child" 2>/dev/null; do
    if [ "$SECONDS" -ge "$next" ]; then
      copy_log || say "not copied to the bucket, again in $sync_s s: $(tail -n 1 "$home/copy.log")"
      next=$((SECONDS + sync_s))
    fi
    sleep "$look_s" 9>&-
  done
  wait "$child" || code=$?
  child=""
  return "$code"
}

# Start the program until it has done its work, failed by itself too often, or the run has ended elsewhere.
keep_training() {
  local failures=0 signals=0 grown="$restart_s" code began pause
  while true; do
    say "worker $number, commit $(cat "$home/launch/commit"): qr-jax train ${arguments[*]} --run $folder"
    code=0 began=$SECONDS
    train || code=$?
    case "$code" in
      0 | "$wrong_use" | "$fallen" | "$outage") exit "$code" ;;
    esac
    # However it ended. Not told, 143 is of another host's SIGTERM, which stops all programs.
    ! "$told" || exit "$stopped"
    [ $((SECONDS - began)) -lt "$long_s" ] || failures=0 signals=0 grown="$restart_s"
    pause="$restart_s"
    if [ "$code" = "$lost" ] || [ "$code" -gt 128 ]; then
      [ "$code" = "$lost" ] || [ "$code" = "$stopped" ] || signals=$((signals + 1))
      [ "$signals" -le "$most_signals" ] || { say "ended by a signal $signals times in a row"; exit 1; }
      pause="$grown"
      [ "$code" = "$lost" ] || [ "$pause" -ge "$lost_s" ] || pause="$lost_s"
      grown=$((grown * 2 < longest_s ? grown * 2 : longest_s))
      say "qr-jax ended with exit code $code, as another host may have made it; again in $pause s"
    else
      failures=$((failures + 1))
      [ "$failures" -le "$most_restarts" ] || exit "$code"
      say "qr-jax ended with exit code $code; start $failures of at most $most_restarts more in $pause s"
    fi
    nap "$pause"
    ask_ended || say "starting all the same" # the program will see for itself whether the bucket answers
    [ -z "$ended" ] || exit 0
  done
}

supervise() {
  doing="reading the host's number" number="?" child="" ended="" told=false
  # The program makes its checkpoint and ends with 143; the trap runs between two looks.
  trap 'told=true; [ -z "$child" ] || kill -TERM "$child"; [ -n "$child" ] || exit "$stopped"' TERM
  trap 'leave $?' EXIT
  number="$(insist worker_number)"
  doing="fetching from $url"
  fetch
  cd "$tree"
  doing="installing (setup.sh)"
  insist bash tpu_scripts/setup.sh
  doing="reading secrets"
  read_secrets
  mapfile -t arguments <"$home/launch/arguments"
  doing="training"
  keep_training
}

# Read whole before it runs: a new launch may replace this file.
main() {
  case "${1:-}" in
    start | supervise)
      url="$2"
      folder="$home/run_$(md5sum <<<"$url" | cut -c 1-8)" # a host may see one run after another
      "$1"
      ;;
    -h | --help) usage ;;
    *) usage >&2; exit 2 ;;
  esac
}

main "$@"
