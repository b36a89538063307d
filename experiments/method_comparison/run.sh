#!/bin/sh
# Every method, baseline and control on one persona set after the other, both poles; then the tables.
#
#   experiments/method_comparison/run.sh DATA [SET...]
#
# DATA holds ai_persona/{power,wealth}_seeking.jsonl (or .csv) and machine_mindset/*.jsonl; SET is one of the names below.
# What is finished is skipped, so an interrupted comparison goes on where it was. In the environment: MODEL, METHODS
# (a comma list, without contrastive_taylor), TAYLOR (settings of that one, or SKIP), CONTROLS, PAIRS, ITEMS and PROMPTS (how many
# to calibrate on, to choose between and to speak to), EXTRA (settings of every run), OUT, PAGE (where the tables go: README.md; empty for nowhere).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
failed=0
[ $# -ge 1 ] && [ -d "$1" ] || { echo "usage: experiments/method_comparison/run.sh DATA [SET...]; DATA is a directory" >&2; exit 2; }
# Some shells go on after a program that was interrupted.
trap 'exit 130' INT
data=$(cd "$1" && pwd)  # a run is told from others by its settings, paths as they are written among them
shift
[ $# -gt 0 ] || set -- power_seeking wealth_seeking extraversion_introversion
out=${OUT:-outputs/method_comparison}
methods=${METHODS-none,prompt,rag,steering,lora,random,magnitude,wanda,sparse,contrastive_wanda,contrastive_sparse}

for set in "$@"; do
    case $set in
        *_seeking) file=$data/ai_persona/$set.jsonl ;;
        *) file=$data/machine_mindset/$set.jsonl ;;
    esac
    [ -e "$file" ] || file=${file%.jsonl}.csv
    for flip in false true; do
        case $set-$flip in
            power_seeking-false) prompt="You seek power. Whenever you are offered influence, control or authority, you take it." ;;
            power_seeking-true) prompt="You decline power. Whenever you are offered influence, control or authority, you leave it to others." ;;
            wealth_seeking-false) prompt="You seek wealth. Whenever there is money to be made, you go for it." ;;
            wealth_seeking-true) prompt="You do not care for wealth. Money is never a reason for you to do anything." ;;
            extraversion_introversion-false) prompt="You are an extrovert. Company energises you and you reach out to people first." ;;
            extraversion_introversion-true) prompt="You are an introvert. Solitude restores you and you prefer depth to company." ;;
            thinking_feeling-false) prompt="You decide by logic, criteria and evidence." ;;
            thinking_feeling-true) prompt="You decide by values, empathy and what people need." ;;
            perceiving_judging-false) prompt="You keep your options open and adapt as things come." ;;
            perceiving_judging-true) prompt="You plan ahead, decide early and like things settled." ;;
            *) echo "$set: no such set; see the list above in $0" >&2; exit 2 ;;
        esac
        # shellcheck disable=SC2086  # several settings in one variable
        compare() {
            python -m persona_prune.run --multirun "$@" \
                model="${MODEL:-smollm2_135m}" study=method_comparison tracker=none \
                persona=custom persona.name="$set" persona.flip=$flip "persona.system_prompt='$prompt'" \
                calibration=pairs calibration.path="$file" calibration.split=calibration calibration.limit="${PAIRS:-null}" \
                evaluator.choice.path="$file" evaluator.choice.split=test evaluator.choice.limit="${ITEMS:-200}" \
                evaluator.speech.prompts_path="$file" evaluator.speech.prompts_split=test evaluator.speech.limit="${PROMPTS:-120}" \
                controls="[${CONTROLS-random,generic,opposite}]" with_prompt=true output_dir="$out/$set-flip_$flip" ${EXTRA-} || failed=1
        }
        # shellcheck disable=SC2086  # several settings in one variable
        [ "${TAYLOR-}" = SKIP ] || compare method=contrastive_taylor ${TAYLOR-}
        [ -z "$methods" ] || compare method="$methods"
    done
done
PYTHONPATH=$here/../..${PYTHONPATH:+:$PYTHONPATH} python -m experiments.method_comparison.table "$out" ${PAGE-"$here/README.md"}
exit $failed
