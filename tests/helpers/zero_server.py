"""A stand-in for the devices of ZeroGPU: it grants every call of `spaces`, unless it is told to refuse some."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, urlsplit

# Run before anything else of a program: no GPU is set up in the process of a call, all the rest is the real package.
STUBS = """
import spaces, spaces.zero.torch, spaces.zero.utils
spaces.zero.torch.init = lambda uuid: None
spaces.zero.torch.move = lambda callback=None: None
spaces.zero.utils.self_cgroup_device_path = lambda: "/"
"""


class Devices:
    """Start it with `with Devices() as devices`; `devices.env` is for the program that asks."""

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []  # the arguments of each call
        self.left: list[int] = []  # seconds of quota to tell the next callers, who are refused
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"devices": self}))
        self.server.daemon_threads = True
        url = f"http://127.0.0.1:{self.server.server_port}"
        self.env = {"SPACES_ZERO_GPU": "true", "SPACES_ZERO_DEVICE_API_URL": url}

    def __enter__(self) -> "Devices":
        Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    devices: Devices

    def do_POST(self) -> None:
        url = urlsplit(self.path)
        status, answer = 200, {}
        if url.path == "/schedule":
            self.devices.asked.append({key: values[0] for key, values in parse_qs(url.query).items()})
            answer = {"idle": True, "nvidiaIndex": 0, "nvidiaUUID": "x", "allowToken": "t"}
            if self.devices.left:
                status, answer = 429, {"left": self.devices.left.pop(0), "wait": 3600}
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass
