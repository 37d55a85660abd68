"""Compiles a model directory to what other engines read: TensorRT through ONNX, vLLM and TensorRT-LLM in Triton.

Nothing here runs a GPU: what needs one is a script beside the repository, for NVIDIA's own container.
"""
