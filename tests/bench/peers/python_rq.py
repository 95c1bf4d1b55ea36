# SPDX-License-Identifier: Apache-2.0
"""RQ on the same Redis, with Debian's python3-rq: the protocol of loop.mjs, in Python.

SimpleWorker runs a job in its own process, which is RQ's fastest (its Worker forks for each). Results are not kept.
"""
import json
import logging
import signal
import sys
import threading
import time
from queue import SimpleQueue

from redis import Redis
from rq import Queue, SimpleWorker

settings = json.loads(sys.argv[1])
redis = Redis(host="127.0.0.1", port=settings["port"], db=2)
queue = Queue(settings["queue"], connection=redis)
logging.disable(logging.CRITICAL)
state = {"done": 0, "first": None, "last": None}


class CountingWorker(SimpleWorker):
    """Notes the first start and the last end."""

    def execute_job(self, job, queue):
        if state["first"] is None:
            state["first"] = time.time() * 1000
        super().execute_job(job, queue)
        state["done"] += 1
        state["last"] = time.time() * 1000


def fill(question):
    begun = time.monotonic()
    left = question["count"]
    while left > 0:
        size = min(question["batch"], left)
        left -= size
        queue.enqueue_many([Queue.prepare_data("builtins.len", (question["args"],), result_ttl=0) for _ in range(size)])
    seconds = time.monotonic() - begun
    return {"seconds": seconds, "per_s": question["count"] / seconds}


def single(question):
    begun = time.monotonic()
    for _ in range(question["count"]):
        queue.enqueue("builtins.len", question["args"], result_ttl=0)
    seconds = time.monotonic() - begun
    return {"seconds": seconds, "per_s": question["count"] / seconds}


def answer(what):
    with answering:
        print(json.dumps(what), flush=True)


def listen():
    """Answers what may be asked while a worker runs, and leaves the rest to the main thread: a worker needs it, for its signals."""
    for line in sys.stdin:
        question = json.loads(line)
        if question["do"] == "progress":
            answer(state)
        else:
            questions.put(question)
    questions.put(None)


answering = threading.Lock()
questions = SimpleQueue()
handlers = {"fill": fill, "single": single, "left": lambda _: {"left": queue.count}, "rest": lambda _: {}}
answer({"ready": True})
threading.Thread(target=listen, daemon=True).start()
while (question := questions.get()) is not None:
    try:
        if question["do"] == "work":
            state.update(done=0, first=None, last=None)
            answer({})
            CountingWorker([queue], connection=redis).work(burst=True)  # until the queue is empty
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # it left its own handlers
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        else:
            answer(handlers[question["do"]](question))
    except Exception as error:  # the asker is told, whatever it was
        answer({"error": repr(error)})
