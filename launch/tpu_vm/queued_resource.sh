#!/usr/bin/env bash
# A run on TPU machines from Google's queue, without Kubernetes:
#
#   PROJECT=my-project ZONE=us-central2-b NAME=clip-gs TYPE=v5litepod-16 RUNTIME=v2-alpha-tpuv5-lite \
#     launch/tpu_vm/queued_resource.sh --config=configs/clip_gs.py:paper --workdir=gs://BUCKET/runs/clip_gs
#
# Asks for the machines, waits for them, copies the last commit of this checkout there, installs it and
# runs main.py with everything behind the script's name on all hosts. After exit code 42 the run is
# started again; after deaths RESTARTS times at most; if the machines are taken away (spot), they are
# asked for again. Exit code 2 (a mistaken setting) is final. The machines stay, and cost, until
#
#   PROJECT=... ZONE=... NAME=... launch/tpu_vm/queued_resource.sh delete
#
# Called again with the same NAME, it goes on with the machines that are there. The script must keep
# running (tmux): it is what starts the run again.
#
# Also: NODES (slices, default 1); SPOT=1; RESTARTS (default 3); POLL (seconds, default 30).
set -uo pipefail

usage() {
  sed -n '2,19s/^# \{0,1\}//p' "$0" >&2
  exit 2
}
needed=(PROJECT ZONE NAME)
if [[ ${1:-} != delete ]]; then needed+=(TYPE RUNTIME); fi
for setting in "${needed[@]}"; do
  if [[ -z ${!setting:-} ]]; then
    echo "queued_resource.sh: $setting is not set" >&2
    usage
  fi
done
if (($# == 0)); then usage; fi

here=$(cd "$(dirname "$0")/../.." && pwd)
if [[ $1 != delete ]] && ! git -C "$here" rev-parse --quiet --verify 'HEAD^{commit}' >/dev/null; then
  echo "queued_resource.sh: $here has no commit to copy to the machines: call it in a clone of gsjax" >&2
  exit 2
fi
place=(--project="$PROJECT" --zone="$ZONE")
poll=${POLL:-30}

queue() { gcloud compute tpus queued-resources "$@" "${place[@]}"; }

# ACTIVE, WAITING_FOR_RESOURCES, ..., or nothing if there is no such thing.
state() { queue describe "$NAME" --format='value(state.state)' 2>/dev/null; }

delete() { queue delete "$NAME" --force --quiet; }

ask() {
  local which=(--node-id="$NAME") more=()
  if ((${NODES:-1} > 1)); then which=(--node-count="$NODES" --node-prefix="$NAME"); fi
  if [[ ${SPOT:-} ]]; then more+=(--spot); fi
  queue create "$NAME" "${which[@]}" --accelerator-type="$TYPE" --runtime-version="$RUNTIME" \
    ${more[@]+"${more[@]}"}
}

# Returns once the machines are there; asks for them as often as it takes.
get() {
  local now
  while true; do
    now=$(state)
    case $now in
      ACTIVE) return ;;
      "") ask || return ;;
      FAILED | SUSPENDED) delete || return ;;
      *) echo "queued_resource.sh: $now" >&2 ;;
    esac
    sleep "$poll"
  done
}

everywhere() { queue ssh "$NAME" --node=all --worker=all --command="$1"; }

# The machines' own Python is older than gsjax takes: uv brings one.
install() {
  local archive code
  archive=$(mktemp --suffix=.tar.gz) || return
  git -C "$here" archive --format=tar.gz HEAD >"$archive" &&
    queue scp "$archive" "$NAME":gsjax.tar.gz --node=all --worker=all &&
    everywhere "mkdir -p gsjax && tar -xzf gsjax.tar.gz -C gsjax && cd gsjax &&
      python3 -m pip install --quiet --user uv &&
      python3 -m uv venv --quiet --allow-existing --python 3.12 .venv &&
      python3 -m uv pip install --quiet --python .venv -e '.[tpu,gcs]'"
  code=$?
  rm -f "$archive"
  return "$code"
}

# An earlier run, orphaned by a broken connection, still holds the TPU: it is ended first. exec keeps
# the number that is written down. Its words are quoted for the shell there.
run() {
  local words
  printf -v words '%q ' "$@"
  everywhere "cd gsjax && { kill -KILL \$(cat /tmp/gsjax.pid) 2>/dev/null; echo \$\$ >/tmp/gsjax.pid;
    exec .venv/bin/python main.py $words --coordinator_address=auto; }"
}

if [[ $1 == delete ]]; then
  delete
  exit
fi
left=${RESTARTS:-3}
installed=
while true; do
  if [[ $(state) != ACTIVE ]]; then
    installed=
    get || exit 1
  fi
  code=0
  if [[ ! $installed ]]; then
    install
    code=$?
    if ((code == 0)); then installed=1; fi
  fi
  if ((code == 0)); then
    run "$@"
    code=$?
    if ((code == 0 || code == 2)); then exit "$code"; fi
  fi
  if [[ $(state) != ACTIVE ]]; then
    echo "queued_resource.sh: the machines are gone; asking for them again" >&2
  elif ((code == 42)); then
    left=${RESTARTS:-3}
    echo "queued_resource.sh: preempted; starting again" >&2
  elif ((left > 0)); then
    left=$((left - 1))
    echo "queued_resource.sh: exit code $code; starting again ($left more times)" >&2
  else
    echo "queued_resource.sh: exit code $code; giving up" >&2
    exit "$code"
  fi
  sleep "$poll"
done
