# SPDX-License-Identifier: Apache-2.0
"""An example of a worker. Run it, then: mainstay jobs enqueue reports.make --args '{"parts": 5}'"""
import os
import signal

from mainstay_worker import Discard, Retry, Snooze, Worker

with open(os.environ['WORK_KEY_FILE'], encoding='utf-8') as file:
    key = file.read().strip()
worker = Worker(os.environ.get('WORK_ADDRESS', '127.0.0.1:8090'), key, credits=int(os.environ.get('WORK_CREDITS', '10')),
                grace=float(os.environ.get('WORK_GRACE_SECONDS', '20')),
                # In production there is a proxy with a certificate in front of the service; then leave this out.
                insecure=os.environ.get('WORK_TLS', 'no') == 'no')


@worker.handler('reports.make')
def make_report(job):
    """A long job: goes on where it was after a crash or a deploy, and stops when it is told to."""
    part = (job.checkpoint or {}).get('part', 0)
    if part > 0:
        job.log(f'going on at part {part}')
    while part < job.args['parts']:
        job.wait(job.args.get('ms', 50) / 1000)
        part += 1
        job.progress(100 * part / job.args['parts'], f'part {part}', {'parts': part})
        job.save_checkpoint({'part': part})
    return {'parts': part, 'attempt': job.attempt}


@worker.handler('snakes.end')
def end(job):
    """Every way in which a job can end."""
    how, seconds = job.args['how'], job.args.get('seconds', 0.1)
    if how == 'done':
        return {'fence': job.fence, 'tenant': job.tenant}
    if how == 'retry':
        raise Retry('the other side is busy', code='busy', after=seconds)
    if how == 'snooze':
        if job.checkpoint:
            return 'awake'
        job.save_checkpoint({'slept': True})
        raise Snooze(after=seconds)
    if how == 'discard':
        raise Discard('nobody wants it any more')
    raise ValueError(f'how: {how}')


signal.signal(signal.SIGTERM, lambda *_: worker.stop())
signal.signal(signal.SIGINT, lambda *_: worker.stop())
worker.run()
