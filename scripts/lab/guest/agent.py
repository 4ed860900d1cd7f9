"""Runs commands in a node for `lab node-exec`; ends, and with it the node, on a power-off.

One connection is one command. Both sides send frames: a letter, four bytes of length,
the content. To the agent: R the request (JSON: argv, env, cwd, tty or poweroff), I a piece
of standard input (empty: its end), S a signal's number. From it: O and E pieces of output,
X the exit status, F why the command could not be started.

What a reader gets wrong: a command's whole process group is killed when the connection
ends, so nothing that a test started outlives it. Whoever wants that uses setsid.
"""

import json
import os
import pty
import signal
import socket
import struct
import subprocess
import sys
import threading


def receive(connection):
    """The next frame as (letter, content), or None when the other side is gone."""
    head = b""
    while len(head) < 5:
        piece = connection.recv(5 - len(head))
        if not piece:
            return None
        head += piece
    letter, length = struct.unpack("!cI", head)
    content = b""
    while len(content) < length:
        piece = connection.recv(length - len(content))
        if not piece:
            return None
        content += piece
    return letter, content


class Command:
    """One command and the connection that asked for it."""

    def __init__(self, connection):
        self.connection = connection
        self.sending = threading.Lock()
        self.terminal = None

    def send(self, letter, content):
        with self.sending:
            try:
                self.connection.sendall(struct.pack("!cI", letter, len(content)) + content)
            except OSError:
                pass  # the reader of input sees the same and ends the command

    def start(self, request):
        environment = dict(os.environ, **request.get("env", {}))
        options = {"env": environment, "cwd": request.get("cwd") or "/"}
        if not request.get("tty"):
            pipe = subprocess.PIPE
            options.update(stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0, start_new_session=True)
            return subprocess.Popen(request["argv"], **options)
        self.terminal, side = pty.openpty()
        argv = ["setsid", "--ctty", "--wait"] + request["argv"]
        process = subprocess.Popen(argv, stdin=side, stdout=side, stderr=side, start_new_session=False, **options)
        os.close(side)
        return process

    def pump(self, descriptor, letter):
        while True:
            try:
                piece = os.read(descriptor, 65536)
            except OSError:
                return  # a terminal whose last process has ended gives EIO
            if not piece:
                return
            self.send(letter, piece)

    def feed(self, process):
        """Carries input and signals to the process until the connection ends."""
        descriptor = self.terminal if self.terminal is not None else process.stdin.fileno()
        while True:
            frame = receive(self.connection)
            if frame is None:
                kill(process, signal.SIGKILL)
                return
            letter, content = frame
            if letter == b"S":
                kill(process, int(content))
            elif content:
                try:
                    os.write(descriptor, content)
                except OSError:
                    pass  # it has closed its input
            elif self.terminal is None:
                process.stdin.close()

    def run(self, request):
        try:
            process = self.start(request)
        except OSError as error:
            self.send(b"F", f"{request['argv'][0]}: {error.strerror}".encode())
            return
        threading.Thread(target=self.feed, args=(process,), daemon=True).start()
        if self.terminal is not None:
            outputs = [(self.terminal, b"O")]
        else:
            outputs = [(process.stdout.fileno(), b"O"), (process.stderr.fileno(), b"E")]
        pumps = [threading.Thread(target=self.pump, args=output, daemon=True) for output in outputs]
        for pump in pumps:
            pump.start()
        status = process.wait()
        for pump in pumps:
            # Not for ever: a grandchild in a session of its own may keep the pipe open.
            pump.join(2)
        self.send(b"X", str(status if status >= 0 else 128 - status).encode())


def kill(process, number):
    try:
        os.killpg(process.pid, number)
    except OSError:
        pass


def serve(connection, power_off):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        frame = receive(connection)
        if frame is None:
            return
        request = json.loads(frame[1])
        if request.get("poweroff"):
            power_off.set()
            return
        Command(connection).run(request)
    finally:
        # Tells the other threads, too; close alone would leave them in recv.
        try:
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        connection.close()


def accept(listener, power_off):
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection, power_off), daemon=True).start()


def main():
    listener = socket.create_server((sys.argv[1], int(sys.argv[2])), backlog=128)
    power_off = threading.Event()
    threading.Thread(target=accept, args=(listener, power_off), daemon=True).start()
    power_off.wait()


main()
