# Shared by the run.sh of all folders, which source it: . "$(dirname "$0")/../common.sh"
#
# In the environment: MODEL, OUT (parent of all runs, which go into a directory by model), ITEMS (questions a run), PAIRS (to calibrate on; null for all),
# POLES (comma list), EXTRA (settings of every run), QUICK=1 for a check of minutes on two slow cores.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
folder=$(basename "$here")
PYTHONPATH=$here/../..${PYTHONPATH:+:$PYTHONPATH}
export PYTHONPATH
model=${MODEL:-smollm2_135m}
failed=0
# Some shells go on after a program that was interrupted.
trap 'exit 130' INT

# A run is told from others by its settings, paths as they are written among them: so whole paths only.
whole() {
    mkdir -p "$1"
    found=$(cd "$1" && pwd)
    case $found in *[[:space:]]*) echo "error: $found: choose a path without spaces" >&2; exit 2 ;; esac
    echo "$found"
}

if [ -n "${QUICK-}" ]; then
    out=${OUT:-outputs/experiments-quick}/$model
    items=${ITEMS:-8} pairs=${PAIRS:-16} poles=${POLES:-extrovert,introvert} text_tokens=512 neutral=8
else
    out=${OUT:-outputs/experiments}/$model
    items=${ITEMS:-12} pairs=${PAIRS:-null} text_tokens=1024 neutral=16
    poles=${POLES:-extrovert,introvert,intuitive,sensor,feeler,thinker,judger,perceiver}
fi
out=$(whole "$out")
# The first of the neutral prompts: all 64 take longer than everything else that is asked here.
head -n "$neutral" "$here/../../persona_prune/personas/embedded/neutral/heldout_prompts.jsonl" > "$out/neutral_prompts.jsonl"
capability="evaluator.capability.max_text_tokens=$text_tokens evaluator.capability.neutral_path=$out/neutral_prompts.jsonl"

# full A B: A, or B with QUICK.
full() { if [ -n "${QUICK-}" ]; then echo "$2"; else echo "$1"; fi; }

# needs_data "$@": sets $data, the directory of the first argument.
needs_data() {
    [ $# -ge 1 ] && [ -d "$1" ] || { echo "error: $folder/run.sh needs a directory with the data: run.sh DATA" >&2; exit 2; }
    data=$(whole "$1")
}

# runs PRESET [setting...]: into $out/PRESET, where other folders find them again; what is finished is skipped.
runs() {
    preset=$1
    shift
    # shellcheck disable=SC2086  # several settings in one variable
    python -m persona_prune.run --multirun experiment="$preset" model="$model" tracker=none study=experiments \
        output_dir="$out/$preset" calibration.limit="$pairs" $capability "$@" ${EXTRA-} || failed=1
}

# last PRESET: the directory of its run that was asked for last.
last() {
    status=$(ls -t "$out/$1"/*/status.json 2>/dev/null | head -n 1)
    dirname "${status:-none/none}"
}

# The folder's tables and the page of all claims, whatever failed; then the exit code.
publish() {
    python -m experiments.publish "$folder" "$out" || failed=1
    python -m experiments.claims || failed=1
    exit $failed
}
