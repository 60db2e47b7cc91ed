# shellcheck shell=bash disable=SC2034,SC2154  # the experiments set and read these variables
# Sourced by the run.sh of the WMT experiments, after wmt_data.sh: what the paper's three translation
# experiments share. "reported" is the paper's, "assumed" is ours where the paper's is not known. The
# experiment sets, before wmt_settings: vocabulary, tiny_vocabulary, cleaning, steps,
# conversion_steps, dropout.

precision=bf16              # assumed
average=5                   # reported
searching=(
  --beam 5                  # reported
  --length-penalty 0.6      # reported
  --max-length-a 1.2 --max-length-b 10 # assumed
)
model=(
  --encoder-layers 6 --layers 6        # reported
  --hidden-size 1024 --heads 16        # reported
  --ffn-size 4096                      # reported
  --pre-norm false                     # reported
  --positions sinusoidal               # assumed
  --activation relu                    # assumed
  --tied true                          # assumed
  --max-positions 1024                 # assumed
)
training=(
  --batch-tokens 460000                # reported
  --beta1 0.9 --beta2 0.98             # reported
  --schedule inverse-sqrt --warmup 4000 # reported
  --label-smoothing 0.1                # reported
  --attention-dropout 0                # assumed
  --weight-decay 0 --clip 0            # assumed
  --checkpoint-every 1000 --keep 5     # assumed
  --eval-every 1000 --seed 1           # assumed
  --micro-batch-tokens 8192            # no result depends on it
)
learning_rate=5e-4          # reported: from scratch
conversion_rate=2e-4        # reported
maps=(
  --feature-size 32                    # reported: cross attention
  --causal-feature-size 4              # reported
)
kept=every-4th              # reported: counted from the top
report=(--decoding-lengths 16,64,256)

# The settings of the scale that was asked for.
wmt_settings() {
  training+=(--dropout "$dropout")
  if [ "$scale" = tiny ]; then
    vocabulary=("${tiny_vocabulary[@]}")
    steps=15 conversion_steps=10 kept=every-2nd
    model=(--encoder-layers 1 --layers 2 --hidden-size 32 --heads 2 --ffn-size 64 --pre-norm false
      --positions sinusoidal --activation relu --max-positions 1024)
    training=(--batch-tokens 1000 --schedule inverse-sqrt --warmup 4 --label-smoothing 0.1
      --dropout 0.1 --checkpoint-every 2 --keep 5 --seed 1)
    searching=(--beam 5 --length-penalty 0.6 --max-length-a 0 --max-length-b 12)
    report=(--decoding-lengths 8 --decoding-seconds 0.02)
  fi
  scratch=("${model[@]}" --learning-rate "$learning_rate")
  finetuning=(--steps "$conversion_steps" --learning-rate "$conversion_rate")
  t2r_map=(--feature-map t2r "${maps[@]}")
}

# The rows of the table.
wmt_rows() {
  row teacher --steps "$steps" "${scratch[@]}"
  convert_row t2r "${t2r_map[@]}"
  row t2r-scratch-short --steps "$conversion_steps" "${scratch[@]}" "${t2r_map[@]}"
  convert_row elu --feature-map elu
  convert_row rfa --feature-map rfa "${maps[@]}"
  convert_row "t2r-$kept" "${t2r_map[@]}" --keep-softmax "$kept"
  row t2r-scratch --steps "$steps" "${scratch[@]}" "${t2r_map[@]}"
  report_rows "${report[@]}"
}
