#!/usr/bin/env bash
# One run as N processes on this machine:
#
#   launch/local.sh 2 --config=configs/clip_gs.py:quick --workdir=runs/two
#
# Everything behind N goes to main.py. On CPU every process has one device and they talk over gloo.
# If one of them stops with 42 (preempted, checkpoint written) or dies, all are started again and go
# on from the newest checkpoint: after a preemption always, after a death at most RESTARTS times
# (default 3) without a preemption between. Exit code 2 (a mistaken setting) is final. SIGTERM or
# Ctrl-C to this script is passed on, and nothing is started again.
#
# Environment: PYTHON (interpreter), MAIN (script to run instead of main.py, as python arguments),
# RESTARTS, PORT (of process 0; default: a free one).
set -uo pipefail

if [[ ! "${1:-}" =~ ^[1-9][0-9]*$ ]]; then
  sed -n '2,14s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
count=$1
shift

here=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
read -ra main <<<"${MAIN:-$here/main.py}"
left=${RESTARTS:-3}
pids=()
told=0

pass_on() {
  told=1
  if ((${#pids[@]})); then kill -TERM "${pids[@]}" 2>/dev/null; fi
}
trap pass_on TERM INT

free_port() {
  "$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# Runs all processes to their end; the worst exit code: 2, then deaths, then 42, then 0.
run_once() {
  local port i pid code worst=0 deadline=0 alive
  port=${PORT:-$(free_port)}
  pids=()
  for ((i = 0; i < count; i++)); do
    "$python" "${main[@]}" "$@" --coordinator_address="127.0.0.1:$port" \
      --num_processes="$count" --process_id="$i" &
    pids+=($!)
  done
  while ((${#pids[@]})); do
    sleep 0.2
    alive=()
    for pid in "${pids[@]}"; do
      if kill -0 "$pid" 2>/dev/null; then
        alive+=("$pid")
        continue
      fi
      wait "$pid"
      code=$?
      if ((code == 2)) || ((worst != 2 && code != 0 && (worst == 0 || code != 42))); then
        worst=$code
      fi
      # The others would wait for the dead one until their own timeouts.
      if ((code != 0 && code != 42 && deadline == 0)); then deadline=$((SECONDS + 10)); fi
    done
    pids=(${alive[@]+"${alive[@]}"})
    if ((deadline && SECONDS >= deadline && ${#pids[@]})); then kill -KILL "${pids[@]}"; fi
  done
  return "$worst"
}

while true; do
  run_once "$@"
  code=$?
  if ((code == 0 || code == 2 || told)); then exit "$code"; fi
  if ((code == 42)); then
    left=${RESTARTS:-3}
    echo "local.sh: preempted; starting again" >&2
  elif ((left > 0)); then
    left=$((left - 1))
    echo "local.sh: exit code $code; starting all $count processes again ($left more times)" >&2
  else
    echo "local.sh: exit code $code; giving up" >&2
    exit "$code"
  fi
done
