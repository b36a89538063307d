#!/bin/sh
# Table 3: experiments/hidden_states/run.sh [DATA]; the masks are those of ../mask_overlap.
. "$(dirname "$0")/../common.sh"
runs mask_overlap persona="$poles" method=wanda
publish
