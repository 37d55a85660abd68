#!/bin/sh
# Builds the TensorRT plan for the GPU of this machine. Run it where trtexec is, such as NVIDIA's TensorRT container, of
# the release that Triton's container has: a plan fits one version of TensorRT and one kind of GPU.
set -eu
cd "$(dirname "$0")"
capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d ' ')
plan=acme_model_1-3d3befc8-encoder/1/model-sm$(printf %s "$capability" | tr -d .).plan
trtexec --onnx=acme_model_1-3d3befc8-encoder/model.onnx --saveEngine="$plan.new" --fp16 \
  --minShapes=input_ids:1x1,attention_mask:1x1,token_type_ids:1x1 \
  --optShapes=input_ids:8x64,attention_mask:8x64,token_type_ids:8x64 \
  --maxShapes=input_ids:64x64,attention_mask:64x64,token_type_ids:64x64
mv "$plan.new" "$plan"
echo "built $plan"
