#!/bin/sh
# The judges' own table: experiments/judges/run.sh [DATA]
here=$(cd "$(dirname "$0")" && pwd)
PYTHONPATH=$here/../..${PYTHONPATH:+:$PYTHONPATH} exec python -m experiments.judges.table ${1:+"$1" "$here/README.md"}
