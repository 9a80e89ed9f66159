"""`python -m resnet_hub` is the command `resnet-hub`."""

from resnet_hub.cli import run_program

run_program()
