"""The version of the package, for the wheel, the page and the ONNX files."""

__version__ = "0.2.0"
