#!/bin/sh
# Tables 2, 13 and 14: experiments/mask_overlap/run.sh [DATA]
. "$(dirname "$0")/../common.sh"
runs mask_overlap persona="$poles" method="$(full wanda,sparse wanda)"
runs mask_overlap persona=power_seeking,wealth_seeking \
    method="$(full wanda,sparse,contrastive_wanda,contrastive_sparse wanda,contrastive_wanda)" method.sparsity=0.6
publish
