#!/bin/sh
# Serves acme_model_1-3d3befc8 with Triton's OpenAI-compatible front end, in the container
# nvcr.io/nvidia/tritonserver:<yy.mm>-vllm-python-py3.
# Listens on this machine alone: put the mesh before it.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cd /opt/tritonserver/python/openai
exec python3 openai_frontend/main.py --model-repository "$here" --tokenizer /library/moltbot_models/shipped/tiny \
  --host 127.0.0.1 --openai-port "${PORT:-9000}"
