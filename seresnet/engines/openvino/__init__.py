"""The OpenVINO engine, its graph, and int8 quantization."""
