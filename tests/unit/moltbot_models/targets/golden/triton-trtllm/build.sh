#!/bin/sh
# Completes the repository with NVIDIA's Triton model for TensorRT-LLM's LLM API. Give the path of a TensorRT-LLM source
# tree of the version that the container has (python3 -c 'import tensorrt_llm; print(tensorrt_llm.__version__)').
set -eu
[ $# -eq 1 ] || { echo "usage: $0 TENSORRT-LLM-SOURCE" >&2; exit 64; }
source=$1/triton_backend/all_models/llmapi/tensorrt_llm
[ -d "$source" ] || { echo "$source: not there; is this a TensorRT-LLM source tree?" >&2; exit 66; }
cd "$(dirname "$0")"
mkdir -p acme_model_1-3d3befc8
cp -R "$source/." acme_model_1-3d3befc8/
cp model.yaml acme_model_1-3d3befc8/1/model.yaml
sed -i 's/^name: .*/name: "acme_model_1-3d3befc8"/' acme_model_1-3d3befc8/config.pbtxt
