"""The onnxruntime engine, and the ONNX graph it runs."""
