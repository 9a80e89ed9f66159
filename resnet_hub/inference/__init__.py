"""Inference: classifying images, heat maps, ONNX export and int8."""
