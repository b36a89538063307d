#!/bin/sh
# Every experiment, one after the other: experiments/run_all.sh DATA [--quick]
#
# DATA: see README.md beside this file. What is finished is skipped, so an interrupted run goes on where it was. --quick: a check of
# minutes with fewer personas, items and sparsities; its figures mean little. The environment is that of common.sh.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
usage="usage: experiments/run_all.sh DATA [--quick]"
[ $# -ge 1 ] && [ $# -le 2 ] && [ -d "$1" ] || { echo "$usage; DATA is a directory" >&2; exit 2; }
case ${2-} in
    "") ;;
    --quick) QUICK=1 && export QUICK ;;
    *) echo "$usage; got $2" >&2 && exit 2 ;;
esac
failed=
trap 'exit 130' INT
# layer_aware and hidden_states use the masks of sparsity and mask_overlap.
for folder in mask_overlap hidden_states causal_probe role_play capability calibration_size mixing open_answers sixteen_types \
    two_way_choice sparsity layer_aware; do
    echo "== $folder"
    started=$(date +%s)
    "$here/$folder/run.sh" "$1" || failed="$failed $folder"
    echo "== $folder: $(($(date +%s) - started)) s"
done
[ -z "$failed" ] || { echo "failed:$failed" >&2; exit 1; }
