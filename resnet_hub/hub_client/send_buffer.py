"""Read how many bytes wait in the operating system's send buffers."""

from contextlib import suppress
from pathlib import Path

_LISTENING = "0A"  # a state in /proc/net/tcp


def read_unsent_bytes() -> dict[str, int]:
    """Read how many bytes this process has written to each TCP connection that no peer has received yet.

    A slow upload disappears into the send buffer at once, megabytes of it, and only these numbers then show that it
    moves. Connections that this process accepted are left out.

    Returns:
        Bytes by the connection's inode, without zeros. Empty where there is no /proc, as on macOS and Windows.
    """
    rows: list[tuple[str, str, int, str]] = []  # local port, state, unsent bytes, inode
    for name in ("tcp", "tcp6"):
        with suppress(OSError), Path(f"/proc/self/net/{name}").open(encoding="ascii") as table:
            next(table, None)
            columns = (line.split() for line in table)
            rows += [(row[1].rpartition(":")[2], row[3], int(row[4].partition(":")[0], 16), row[9]) for row in columns]
    served = {port for port, state, _, _ in rows if state == _LISTENING}
    unsent = {inode: size for port, _, size, inode in rows if size and port not in served}
    own = _list_socket_inodes() if unsent else set()
    return {inode: size for inode, size in unsent.items() if inode in own}


def _list_socket_inodes() -> set[str]:
    inodes = set()
    with suppress(OSError):
        for descriptor in Path("/proc/self/fd").iterdir():
            with suppress(OSError):  # closed meanwhile
                target = str(descriptor.readlink())
                if target.startswith("socket:["):
                    inodes.add(target[len("socket:[") : -1])
    return inodes
