#!/bin/sh
# Table 8: experiments/calibration_size/run.sh [DATA]
#
# In the environment, besides that of ../common.sh: METHOD, SIZES.
. "$(dirname "$0")/../common.sh"
runs calibration_size persona="$(full extrovert,introvert introvert)" method="${METHOD:-contrastive_wanda}" \
    calibration.limit="${SIZES:-$(full 5,10,20,50,64 5,20)}" evaluator.choice.limit="$items" controls='[random,opposite]' control_seeds=1
publish
