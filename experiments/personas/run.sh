#!/bin/sh
# Every embedded persona with the default method, then the tables, which are written into README.md.
#
#   experiments/personas/run.sh [override...]
#
# What is finished is skipped. In the environment: PERSONAS (a comma list), OUT.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# Some shells go on after a program that was interrupted.
trap 'exit 130' INT
out=${OUT:-outputs/personas}
poles=extrovert,introvert,intuitive,sensor,feeler,thinker,judger,perceiver
traits=high_conscientiousness,low_conscientiousness,high_agreeableness,low_agreeableness,high_openness,low_openness
traits=$traits,high_emotional_stability,low_emotional_stability,power_seeking,power_rejecting,wealth_seeking,wealth_rejecting
traits=$traits,honest_about_not_knowing,making_things_up,sherlock_holmes,dr_watson
types=infp,infj,intp,intj,isfp,isfj,istp,istj,enfp,enfj,entp,entj,esfp,esfj,estp,estj
failed=0
python -m persona_prune.run --multirun persona="${PERSONAS:-$poles,$traits,$types}" study=personas tracker=none "controls=[]" \
    output_dir="$out" "$@" || failed=1
PYTHONPATH=$here/../..${PYTHONPATH:+:$PYTHONPATH} python -m experiments.personas.table "$out" "$here/README.md"
exit $failed
