#!/usr/bin/env bash
# A run on a GKE cluster that xpk has made (TPU slices or GPU machines):
#
#   PROJECT=my-project ZONE=us-central2-b CLUSTER=my-cluster NAME=clip-gs IMAGE=REGISTRY/gsjax:tpu \
#     TYPE=v5litepod-16 launch/gke/xpk.sh --config=configs/clip_gs.py:paper --workdir=/shared/runs/clip_gs
#
# Everything behind the script's name goes to main.py. TYPE: v5litepod-16, h100-80gb-8, ...; IMAGE:
# launch/gke/Dockerfile. The volume /shared is one that the cluster knows (xpk storage attach). xpk
# makes a JobSet: all pods are started again after exit code 42 and after signals (127 to 255), not
# after 1 or 2, RESTARTS times in all.
#
# Also: SLICES (TPU) or NODES (GPU), default 1; STORAGE (name of an attached storage); PRIORITY
# (default medium); RESTARTS (default 100); XPK (the command, default xpk); DRY_RUN=1 only prints.
set -euo pipefail

for setting in PROJECT ZONE CLUSTER NAME IMAGE TYPE; do
  if [[ -z ${!setting:-} ]]; then
    echo "xpk.sh: $setting is not set" >&2
    sed -n '2,14s/^# \{0,1\}//p' "$0" >&2
    exit 2
  fi
done
if (($# == 0)); then
  echo "xpk.sh: found no arguments for main.py; at least --config and --workdir" >&2
  exit 2
fi
read -ra xpk <<<"${XPK:-xpk}"

# The command is read by a shell in the pod, and by YAML on its way there: every word is quoted, and
# what would end the quotes is refused. exec: SIGTERM must reach Python itself.
command="exec python3 main.py"
for word in "$@"; do
  if [[ $word == *[\'\"\\$'\n']* ]]; then
    echo "xpk.sh: quotes, backslashes and line ends cannot be passed on; found $word" >&2
    exit 2
  fi
  command+=" '$word'"
done
case $TYPE in
  v[0-9]* | tpu*)
    place=(--tpu-type="$TYPE" --num-slices="${SLICES:-1}")
    command+=" --coordinator_address=auto"
    ;;
  *)
    place=(--device-type="$TYPE" --num-nodes="${NODES:-1}")
    # xpk sets these in the pods of GPU machines: they are left to that shell.
    # shellcheck disable=SC2016
    command+=' --coordinator_address=$JAX_COORDINATOR_ADDRESS:$JAX_COORDINATOR_PORT'
    # shellcheck disable=SC2016
    command+=" --num_processes=${NODES:-1}"' --process_id=$NODE_RANK'
    ;;
esac

more=()
if [[ ${STORAGE:-} ]]; then more+=(--storage="$STORAGE"); fi
if [[ ${DRY_RUN:-} ]]; then more+=(--dry-run --skip-validation); fi

exec "${xpk[@]}" workload create --project="$PROJECT" --zone="$ZONE" --cluster="$CLUSTER" \
  --workload="$NAME" --docker-image="$IMAGE" "${place[@]}" --priority="${PRIORITY:-medium}" \
  --max-restarts="${RESTARTS:-100}" --termination-grace-period-seconds=300 \
  --command="$command" ${more[@]+"${more[@]}"}
