"""A worker without torch that speaks the engine's protocol and fails in every way that a test asks it to.

    fake_worker.py [how it starts]

How it starts: "" (ready at once), "slow" (after a second), "never", "crash", "exit", "no-torch", "chatter" (lines that
are no events before it is ready).
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time

ALIVE_SECONDS = 0.1
requests: queue.Queue[dict] = queue.Queue()
cancelled: set[int] = set()
stubborn = threading.Event()
lock = threading.Lock()


def write(data: bytes) -> None:
    with lock:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def send(number: int | None, event: str, **values: object) -> None:
    write(json.dumps({"id": number, "event": event, **values}, ensure_ascii=False).encode() + b"\n")


def read() -> None:
    for line in sys.stdin.buffer:
        request = json.loads(line)
        if request["do"] == "quit" and not stubborn.is_set():
            break
        if request["do"] == "cancel":
            cancelled.add(request["target"])
        else:
            requests.put(request)
    if not stubborn.is_set():
        os._exit(0)


def breathe() -> None:
    while True:
        send(None, "alive")
        time.sleep(ALIVE_SECONDS)


def work(request: dict) -> None:
    number, do = request["id"], request["do"]
    send(number, "started")
    if do == "double":
        for step in range(request.get("steps", 0)):
            send(number, "progress", stage="work", step=step, total=request["steps"], values={}, message="")
            send(number, "preview", step=step)
    elif do == "until cancelled":
        while number not in cancelled:
            time.sleep(0.02)
        send(number, "error", kind="Cancelled", message="cancelled", hint="", out_of_memory=False)
        return
    elif do == "deaf":
        time.sleep(request["seconds"])
    elif do == "stubborn":
        stubborn.set()
        time.sleep(600)
    elif do == "stop breathing":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif do == "signal":
        sys.stderr.write("about to fall\n")
        sys.stderr.flush()
        os.kill(os.getpid(), request["signal"])
        time.sleep(600)
    elif do == "exit":
        sys.stderr.write("an unfinished last word")
        sys.stderr.flush()
        os._exit(request["code"])
    elif do == "garbage":
        for line in (b"\xff\xfe\x00", b"{}", b"[1]", b'{"event": 3}', b'{"event": "result"', b"null", b"{" * 100000):
            write(line + b"\n")
        send(number + 1000, "result", value="somebody else's")
        send(number, "unheard of")
    elif do == "half lines":
        line = (
            json.dumps({"id": number, "event": "result", "value": "größer – 値"}, ensure_ascii=False).encode() + b"\n"
        )
        with lock:
            for byte in line:
                sys.stdout.buffer.write(bytes((byte,)))
                sys.stdout.buffer.flush()
                time.sleep(0.002)
        return
    elif do == "flood":
        for index in range(request["lines"]):
            sys.stderr.write(f"line {index} " + "x" * 200 + "\n")
        sys.stderr.flush()
    elif do == "print":
        write(b"a library prints this\n50%|#####     |\r100%|##########|\n")
    elif do == "out of memory":
        send(number, "error", kind="DeviceError", message="out of memory", hint="use less", out_of_memory=True)
        return
    elif do == "unreadable":
        send(None, "error", kind="WorkerError", message="no such request", hint="", out_of_memory=False)
        return
    send(number, "result", value=2 * request.get("value", 0))


def main() -> None:
    how = sys.argv[1] if len(sys.argv) > 1 else ""
    threading.Thread(target=read, daemon=True).start()
    if how == "slow":
        time.sleep(1.2)
    elif how == "never":
        time.sleep(600)
    elif how == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif how == "exit":
        sys.stderr.write("No module named AtlasISTNLib\n")
        sys.stderr.flush()
        os._exit(1)
    elif how == "no-torch":
        send(None, "error", kind="ImportError", message="no torch", hint="install it", out_of_memory=False)
        time.sleep(600)
    elif how == "chatter":
        write(b"hello from site-packages\n\n{not json}\n")
    devices = [{"name": "cpu", "title": "Processor", "memory_mb": None}]
    send(None, "ready", version="0", torch="2.0", python="3", pid=os.getpid(), devices=devices)
    threading.Thread(target=breathe, daemon=True).start()
    while True:
        work(requests.get())


main()
