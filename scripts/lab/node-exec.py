"""The calling side of `lab node-exec`: node-exec.py ADDRESS PORT [OPTIONS] -- CMD…

Standard input, output and error, the signals INT, TERM, HUP and USR1/2, and the exit
status are the command's own. The frames are described in guest/agent.py. Status 255: the
node could not be reached or died meanwhile; 127: the command does not exist there.

What a reader gets wrong: killing this process with SIGKILL kills the command as well,
since the agent ends whatever lost its caller.
"""

import json
import os
import signal
import socket
import struct
import sys
import termios
import threading
import tty

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def parse(arguments):
    """The request for the agent from what stands after ADDRESS and PORT."""
    request = {"env": {}}
    while arguments and arguments[0] != "--":
        option = arguments.pop(0)
        if option == "--env":
            name, _, value = arguments.pop(0).partition("=")
            request["env"][name] = value
        else:
            request[option.lstrip("-")] = True
    request["argv"] = arguments[1:]
    if not os.isatty(0):
        request["tty"] = False
    if request.get("tty"):
        request["env"].setdefault("TERM", os.environ.get("TERM", "linux"))
    return request


class Connection:
    """The agent's socket; frames are sent whole, from any thread."""

    def __init__(self, address, port):
        self.socket = socket.create_connection((address, port), timeout=5)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(None)
        # A node that was killed or stopped sends nothing, not even a reset.
        for option, value in (("KEEPIDLE", 5), ("KEEPINTVL", 5), ("KEEPCNT", 4)):
            self.socket.setsockopt(socket.IPPROTO_TCP, getattr(socket, "TCP_" + option), value)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.sending = threading.RLock()

    def send(self, letter, content):
        with self.sending:
            self.socket.sendall(struct.pack("!cI", letter, len(content)) + content)

    def read(self, length):
        content = b""
        while len(content) < length:
            piece = self.socket.recv(length - len(content))
            if not piece:
                raise ConnectionError("the node closed the connection")
            content += piece
        return content

    def receive(self):
        letter, length = struct.unpack("!cI", self.read(5))
        return letter, self.read(length)


def send_input(connection):
    try:
        while True:
            piece = os.read(0, 65536)
            connection.send(b"I", piece)
            if not piece:
                return
    except OSError:
        pass  # the main thread sees the same and says so


def write_all(descriptor, content):
    while content:
        content = content[os.write(descriptor, content):]


def talk(connection):
    """Writes what the command writes; returns its exit status."""
    while True:
        letter, content = connection.receive()
        if letter == b"O":
            write_all(1, content)
        elif letter == b"E":
            write_all(2, content)
        elif letter == b"F":
            print("node-exec:", content.decode(), file=sys.stderr)
            return 127
        elif letter == b"X":
            return int(content)


def run(address, port, request):
    connection = Connection(address, port)
    connection.send(b"R", json.dumps(request).encode())
    if request.get("poweroff"):
        return 0
    for number in FORWARDED:
        if request.get("tty"):
            # A terminal carries its own signals; one for this process is its end, after
            # which the agent hangs up. An interactive shell would ignore SIGTERM.
            signal.signal(number, lambda number, _: sys.exit(128 + number))
        else:
            signal.signal(number, lambda number, _: connection.send(b"S", str(number).encode()))
    threading.Thread(target=send_input, args=(connection,), daemon=True).start()
    return talk(connection)


def main():
    address, port = sys.argv[1], int(sys.argv[2])
    request = parse(sys.argv[3:])
    before = None
    if request.get("tty"):
        before = termios.tcgetattr(0)
        tty.setraw(0, termios.TCSADRAIN)  # not the default, which throws typed text away
    try:
        status = run(address, port, request)
    except OSError as error:
        print(f"node-exec: node at {address}: {error}", file=sys.stderr)
        status = 255
    finally:
        if before:
            termios.tcsetattr(0, termios.TCSADRAIN, before)
    sys.stdout.flush()
    os._exit(status)


main()
