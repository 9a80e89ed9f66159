"""What this package requires, for machines that run a copy of it: a job or a Space."""

# As in pyproject.toml, which an installed package does not have.
LIBRARY = (
    *("torch>=2.8", "safetensors>=0.5", "huggingface_hub>=2.4,<3", "pyyaml>=6", "jinja2>=3.1", "numpy>=2"),
    *("pillow>=11.3,<13", "tqdm>=4.66"),
)
HEIC = ("pillow-heif>=1.0",)
TRAIN = (
    "torchvision>=0.23",
    "datasets>=5.0,<6",
    "accelerate>=1.10,<2",
    "filelock>=3.16",
    "psutil>=5.9",
    "matplotlib>=3.9",
)
ONNX = ("onnx>=1.18,<2", "onnxruntime>=1.20,<2")
GRADIO_VERSION = "6.31.0"
PAGE = (f"gradio[oauth]~={GRADIO_VERSION}", "markdown-it-py>=3")
