"""The version of the package, which the wheel, the page and the ONNX files state."""

__version__ = "0.2.0"
