#!/usr/bin/env bash
# Fills in the ${NAMES} of a manifest from the environment and prints it; an error if one is not set:
#
#   NAME=run IMAGE=REGISTRY/gsjax NODES=2 CONFIG=configs/clip_gs.py:paper WORKDIR=/shared/runs/run \
#     launch/gke/fill.sh launch/gke/jobset_gpu.yaml | kubectl apply -f -
#
# $(NAMES) in round brackets are left to Kubernetes. Values are plain words: what could change the
# manifest's structure (spaces, quotes, brackets) is refused.
set -euo pipefail

if (($# != 1)) || [[ ! -f $1 ]]; then
  sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
text=$(<"$1")
wrong=0
# shellcheck disable=SC2016
for name in $(grep -v '^ *#' <<<"$text" | grep -o '\${[A-Z_]*}' | tr -d '${}' | sort -u); do
  value=${!name:-}
  if [[ -z $value ]]; then
    echo "fill.sh: $name is not set; the head of $1 says what it is" >&2
    wrong=2
  elif [[ ! $value =~ ^[A-Za-z0-9_./:@%+,=-]+$ ]]; then
    echo "fill.sh: $name: found '$value'; letters, digits and _./:@%+,=- only" >&2
    wrong=2
  fi
  text=${text//"\${$name}"/"$value"}
done
if ((wrong)); then exit "$wrong"; fi
printf '%s\n' "$text"
