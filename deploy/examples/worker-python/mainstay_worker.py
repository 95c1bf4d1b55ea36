# SPDX-License-Identifier: Apache-2.0
"""A worker for Mainstay's jobs: opens a stream to the worker service, takes the kinds that it has handlers for, reports
how they ended. One file to copy; it needs grpcio, protobuf, and the modules that protoc makes (README.md).

A job may run again after a crash or a long silence, under a higher fence: handlers are idempotent. The server knows who
holds a job; this side only keeps what it needs to come back after a cut: its jobs with their receipts, and the results
that were not acknowledged, which are said again. A job that was handed to someone else meanwhile is cancelled, and what
its handler returns is dropped. Handlers run on threads, heartbeats on another, so a handler that computes for long still
keeps its jobs; one that never lets go of the interpreter's lock for a lease loses them.
"""
import json
import os
import platform
import queue
import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
from mainstay.jobs.v1 import work_pb2 as pb


class Retry(Exception):
    """Again, by the queue's policy or after so many seconds. Costs an attempt, as any other exception does."""

    def __init__(self, message, code='retry', after=None):
        super().__init__(message)
        self.code, self.after = code, after


class Snooze(Exception):
    """Not now: after so many seconds, or at a datetime. Costs no attempt."""

    def __init__(self, after=None, until=None):
        super().__init__('snoozed')
        self.after, self.until = after, until


class Discard(Exception):
    """No longer wanted."""


class Dead(Exception):
    """Never again by itself."""

    def __init__(self, message, code='dead'):
        super().__init__(message)
        self.code = code


class Cancelled(Exception):
    """Raised by job.check() once the handler should stop."""


class Job:
    """What a handler gets. `args` and `checkpoint` are what the JSON holds; `attempt` counts from 1."""

    def __init__(self, worker, message):
        self._worker, self._message, self._cancelled = worker, message, threading.Event()
        self._receipt, self.fence = message.receipt, message.fence
        self._result = None  # said, and said again until it is acknowledged
        self._lost_on = None  # the stream that took it away: it waits for the credit
        self._gone = self._ended = False
        self._saves, self._next_number = {}, 1
        self.reason = ''  # why it should stop
        self.id, self.kind, self.version, self.queue = message.id, message.kind, message.version, message.queue
        self.tenant, self.attempt, self.max_attempts = message.tenant, message.attempt, message.max_attempts
        self.traceparent, self.request_id = message.traceparent, message.request_id
        self.args = json.loads(message.args_json)
        self.checkpoint = json.loads(message.checkpoint_json) if message.checkpoint_json else None

    @property
    def cancelled(self):
        """True at the soft limit, when the job was cancelled or handed to someone else, and when this worker ends."""
        return self._cancelled.is_set()

    def check(self):
        """Raises Cancelled when the handler should stop."""
        if self.cancelled:
            raise Cancelled(self.reason)

    def wait(self, seconds):
        """Sleeps, but not longer than the job may run; raises Cancelled then."""
        self._cancelled.wait(seconds)
        self.check()

    def progress(self, percent, message='', counters=None):
        self._worker._say(pb.WorkerMessage(progress=pb.WorkerProgress(
            id=self.id, fence=self.fence, percent=percent, message=message, counters=counters or {})))

    def log(self, message, level='info'):
        self._worker._say(pb.WorkerMessage(log=pb.WorkerLog(id=self.id, fence=self.fence, level=level, message=message)))

    def save_checkpoint(self, value):
        """Returns once it is stored; raises Cancelled when the job is not ours any more."""
        saved = threading.Event()
        with self._worker._lock:
            if self._gone:
                raise Cancelled(self.reason)
            number, self._next_number = self._next_number, self._next_number + 1
            self._saves[number] = (json.dumps(value), saved)
            self._worker._say_locked(self._checkpoint_message(number))
        saved.wait()
        if self._gone:
            raise Cancelled(self.reason)
        if number in self._saves:  # the server would not have it
            raise ValueError(self._saves.pop(number)[2])
        self.checkpoint = value

    # ---- under the worker's lock ----

    def _checkpoint_message(self, number):
        return pb.WorkerMessage(checkpoint=pb.WorkerCheckpoint(
            id=self.id, fence=self.fence, json=self._saves[number][0], number=number))

    def _saved(self, number):
        for n in [n for n in self._saves if n <= number]:  # a later one replaced those before it
            self._saves.pop(n)[1].set()

    def _refuse_saves(self, why):
        for n, (text, saved, *_) in list(self._saves.items()):
            self._saves[n] = (text, saved, why)
            saved.set()

    def _lose(self, reason):
        self._gone = True
        self._stop(reason)
        self._saved(self._next_number)

    def _stop(self, reason):
        self.reason = self.reason or reason
        self._cancelled.set()


class Worker:
    """worker = Worker('127.0.0.1:8090', key); @worker.handler('mail.send') …; worker.run()"""

    def __init__(self, address, key, credits=10, name=None, grace=20, credentials=None, insecure=False, log=print):
        self._address, self._key, self._credits, self._grace = address, key, credits, grace
        self._name = name or f'{socket.gethostname()}:{os.getpid()}'
        self._channel_credentials, self._insecure, self._log = credentials, insecure, log
        self._kinds, self._jobs = {}, {}
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._out = None  # of the stream that was welcomed
        self._session = b''
        self._stop = threading.Event()

    def handler(self, kind, version=0, schema=None):
        """Decorator. `version`: of the arguments; `schema`: JSON Schema of them: enqueues that do not match are refused."""

        def register(function):
            self._kinds[(kind, version)] = (function, json.dumps(schema) if schema else '')
            return function

        return register

    def stop(self):
        """Lets jobs finish within the grace, gives the others back, and ends run(). May be called by a signal handler."""
        self._stop.set()

    def run(self):
        """Works until stop(). Raises when the server will not have this worker."""
        options = [('grpc.lb_policy_name', 'round_robin'), ('grpc.max_reconnect_backoff_ms', 2000), ('grpc.keepalive_time_ms', 30000)]
        channel = (grpc.insecure_channel(self._address, options) if self._insecure else
                   grpc.secure_channel(self._address, self._channel_credentials or grpc.ssl_channel_credentials(), options))
        work = channel.stream_stream('/mainstay.jobs.v1.WorkService/Work', request_serializer=pb.WorkerMessage.SerializeToString,
                                     response_deserializer=pb.ServerMessage.FromString)
        stopper = threading.Thread(target=self._finish, daemon=True)
        stopper.start()
        trouble = 0
        # A thread more than credits: a job that was taken away may still hold one.
        self._pool = ThreadPoolExecutor(max_workers=2 * self._credits + 1)
        try:
            while not (self._stop.is_set() and not self._jobs):
                welcomed, error = self._connect(work)
                trouble = 0 if welcomed else trouble + 1
                if error is not None and error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED,
                                                          grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED):
                    raise error
                if self._stop.is_set() and (not self._jobs or trouble > 5):
                    break  # what it still holds is handed over once its lease is over
                if error is not None:
                    self._log(f'the stream ended: {error.code()} {error.details()}')
                time.sleep(random.random() * min(5, 0.1 * 2**trouble))
        finally:
            self._stop.set()
            with self._lock:
                for job in self._jobs.values():
                    job._lose('the worker has ended')
            self._pool.shutdown(wait=False, cancel_futures=True)
            channel.close()

    # ---- one stream, from hello to its end ----

    def _connect(self, work):
        out = queue.SimpleQueue()
        with self._lock:
            out.put(pb.WorkerMessage(hello=pb.WorkerHello(
                name=self._name, credits=0 if self._stop.is_set() else self._credits, session=self._session,
                kinds=[pb.WorkerKind(kind=kind, version=version, schema_json=schema) for (kind, version), (_, schema) in self._kinds.items()],
                held=[pb.HeldJob(id=job.id, fence=job.fence, receipt=job._receipt) for job in self._jobs.values() if not job._gone],
                language=f'python {platform.python_version()}', version='1')))
        ended, welcomed = threading.Event(), False
        stream = work(iter(out.get, None), metadata=[('authorization', f'Bearer {self._key}')])
        try:
            for message in stream:
                what = message.WhichOneof('message')
                if what == 'welcome':
                    welcomed = True
                    self._welcome(message.welcome, out)
                    seconds = message.welcome.heartbeat.ToMicroseconds() / 1e6
                    threading.Thread(target=self._beat, args=(out, seconds, ended), daemon=True).start()
                elif what == 'goaway':
                    self._log(f'moving over: {message.goaway.reason}')
                    stream.cancel()  # its jobs go on; the next hello names them
                else:
                    self._hear(what, message)
            return welcomed, None
        except grpc.RpcError as error:
            return welcomed, error
        finally:
            ended.set()
            with self._lock:
                if self._out is out:
                    self._out = None
            out.put(None)

    def _beat(self, out, seconds, ended):
        while not ended.wait(max(0.05, seconds)):
            out.put(pb.WorkerMessage(heartbeat=pb.WorkerHeartbeat()))

    def _say(self, message):
        with self._lock:
            self._say_locked(message)

    def _say_locked(self, message):
        if self._out is not None:
            self._out.put(message)

    def _welcome(self, welcome, out):
        with self._lock:
            self._out, self._session = out, welcome.session
            resumed = {held.id: held for held in welcome.held}
            for job in list(self._jobs.values()):
                if job.id in resumed:
                    job.fence, job._receipt = resumed[job.id].fence, resumed[job.id].receipt
                    if job._result is not None:
                        self._report(job)
                    else:
                        for number in sorted(job._saves):
                            self._say_locked(job._checkpoint_message(number))
                elif job.id in welcome.stored:
                    self._forget(job)
                else:
                    job._lose('it was handed to someone else while the stream was cut')
                    if job._ended:
                        self._forget(job)

    def _hear(self, what, message):
        if what == 'job':
            job = Job(self, message.job)
            with self._lock:
                self._jobs[job.id] = job
            self._pool.submit(self._run, job)
            return
        if what not in ('cancel', 'fenced', 'ack', 'error'):
            return
        about = getattr(message, what)
        if what == 'error':
            self._log(f'the server refused a message: {about.field}: {about.message} {about.id}')
        with self._lock:
            job = self._jobs.get(about.id)
            if job is None:
                return
            if what == 'cancel':
                job._stop(about.reason)
            elif what == 'fenced':
                job._lose(about.reason)
                job._lost_on = self._out
                if job._ended:
                    self._forget(job)
            elif what == 'ack' and about.checkpoint:
                job._saved(about.checkpoint)
            elif what == 'ack':
                self._forget(job)
            elif about.field.startswith('result') and job._result is not None and job._result.WhichOneof('outcome') != 'retry':
                # What cannot be taken as a result is an error of the handler.
                job._result = pb.WorkerResult(retry=pb.JobRetry(code='bad_result', message=f'{about.field}: {about.message}'))
                self._report(job)
            elif about.field.startswith('checkpoint'):
                job._refuse_saves(f'{about.field}: {about.message}')

    # ---- handlers ----

    def _run(self, job):
        result = self._outcome(job)
        with self._lock:
            job._ended, job._result = True, result
            # One that was taken away is reported too, where that was said: it gives the credit back.
            if not job._gone or (self._out is not None and job._lost_on is self._out):
                self._report(job)
            if job._gone:
                self._forget(job)

    def _outcome(self, job):
        try:
            result = self._kinds[(job.kind, job.version)][0](job)
            return pb.WorkerResult(done=pb.JobDone(result_json='' if result is None else json.dumps(result)))
        except Cancelled:
            return pb.WorkerResult(cancelled=pb.JobCancelled())
        except Snooze as snooze:
            out = pb.WorkerResult(snooze=pb.JobSnooze())
            if snooze.until is not None:
                out.snooze.until.FromDatetime(snooze.until)
            else:
                out.snooze.after.FromMicroseconds(int((snooze.after or 1) * 1e6))
            return out
        except Discard as discard:
            return pb.WorkerResult(discard=pb.JobDiscard(reason=str(discard)))
        except Dead as dead:
            return pb.WorkerResult(dead=pb.JobFailure(code=dead.code, message=str(dead)))
        except Retry as retry:
            out = pb.WorkerResult(retry=pb.JobRetry(code=retry.code, message=str(retry)))
            if retry.after is not None:
                out.retry.after.FromMicroseconds(int(retry.after * 1e6))
            return out
        except Exception as error:  # whatever a handler throws is an error of the job
            return pb.WorkerResult(retry=pb.JobRetry(code=type(error).__name__, message=str(error)))

    def _report(self, job):
        message = pb.WorkerMessage(result=job._result)
        message.result.id, message.result.fence = job.id, job.fence
        self._say_locked(message)

    def _forget(self, job):
        job._saved(job._next_number)
        self._jobs.pop(job.id, None)
        self._changed.notify_all()

    def _finish(self):
        self._stop.wait()
        with self._lock:
            self._say_locked(pb.WorkerMessage(credit=pb.WorkerCredit(credits=0)))
            self._changed.wait_for(lambda: not self._jobs, timeout=self._grace)
            for job in self._jobs.values():
                job._stop('this worker ends')
            self._changed.wait_for(lambda: not self._jobs, timeout=2)
            for job in list(self._jobs.values()):
                job._lose('this worker ends')
                self._forget(job)
            self._say_locked(pb.WorkerMessage(goodbye=pb.WorkerGoodbye()))  # the server gives back what is left, and ends the stream
