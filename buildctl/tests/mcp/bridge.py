"""Connects a client that starts its server as a program (standard input and output) to one that listens on a port."""

import socket
import sys
import threading

server = socket.create_connection(("127.0.0.1", int(sys.argv[1])))


def from_client():
    while line := sys.stdin.buffer.readline():
        server.sendall(line)
    server.shutdown(socket.SHUT_WR)


threading.Thread(target=from_client, daemon=True).start()
while chunk := server.recv(65536):
    sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()
