// SPDX-License-Identifier: Apache-2.0
// A worker for Mainstay's jobs: opens a stream to the worker service, takes the kinds that it has handlers for, reports
// how they ended. One file to copy; it needs @grpc/grpc-js, @grpc/proto-loader and two .proto files (README.md).
//
// A job may run again after a crash or a long silence, under a higher fence: handlers are idempotent. The server knows
// who holds a job; this side only keeps what it needs to come back after a cut: its jobs with their receipts, and the
// results that were not acknowledged, which are said again. A job that was handed to someone else meanwhile is aborted,
// and what its handler returns is dropped. Everything runs on Node's one thread: a handler that blocks it for a lease
// loses all of its worker's jobs.
import { hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import * as grpc from '@grpc/grpc-js';
import * as loader from '@grpc/proto-loader';

export interface Job<Args = any> {
  readonly id: string;
  /** Raised whenever the job is handed out anew. It can rise while the handler runs, after the worker moved to another server. */
  readonly fence: bigint;
  readonly kind: string;
  readonly version: number;
  readonly queue: string;
  readonly tenant: string;
  readonly args: Args;
  /** From 1 on. */
  readonly attempt: number;
  readonly maxAttempts: number;
  /** What saveCheckpoint stored last, in this run or an earlier one. */
  readonly checkpoint: any;
  /** W3C trace context of this run, and the id of the request that caused the job. */
  readonly traceparent: string;
  readonly requestId: string;
  /** Aborted at the soft limit, when the job was cancelled or handed to someone else, and when this worker ends. Stop soon. */
  readonly signal: AbortSignal;
  progress(percent: number, message?: string, counters?: Record<string, number>): void;
  log(message: string, level?: 'debug' | 'info' | 'warn' | 'error'): void;
  /** Resolves once it is stored; rejects when the job is not ours any more. */
  saveCheckpoint(value: unknown): Promise<void>;
}

/** What it returns becomes the job's result (JSON, at most 64 KiB). An error is tried again, by the queue's policy. */
export type Handler<Args = any> = (job: Job<Args>) => unknown | Promise<unknown>;

/** Thrown by handlers, to end in another way than by a result. */
export class Retry extends Error {
  constructor(message: string, readonly options: { code?: string; afterSeconds?: number } = {}) {
    super(message);
  }
}
/** Not now; costs no attempt. */
export class Snooze extends Error {
  constructor(readonly when: { afterSeconds: number } | { until: Date }) {
    super('snoozed');
  }
}
/** No longer wanted. */
export class Discard extends Error {}
/** Never again by itself. */
export class Dead extends Error {
  constructor(message: string, readonly code = 'dead') {
    super(message);
  }
}

export interface WorkerOptions {
  /** host:port of the worker service. */
  address: string;
  /** An API key whose role has the scope jobs:work. */
  key: string;
  /** Folder that holds mainstay/jobs/v1/work.proto. */
  protos: string;
  /** Jobs at once. */
  credits?: number;
  name?: string;
  /** What jobs may take to finish when the worker is told to stop. */
  graceSeconds?: number;
  /** TLS unless told otherwise. */
  credentials?: grpc.ChannelCredentials;
  log?: (message: string, fields?: Record<string, unknown>) => void;
}

type Kind = { kind: string; version: number; schema_json: string; handler: Handler };
type Message = Record<string, any>;

class Running {
  readonly controller = new AbortController();
  fence: string;
  receipt: Buffer;
  checkpoint: any;
  result?: Message; // said, and said again until it is acknowledged
  gone = false; // handed to someone else
  lostOn?: unknown; // the stream that said so: it waits for the credit
  ended = false;
  private nextNumber = 1;
  private readonly saves = new Map<number, { json: string; done: () => void; failed: (error: Error) => void }>();

  constructor(readonly message: Message) {
    this.fence = message.fence;
    this.receipt = message.receipt;
    this.checkpoint = message.checkpoint_json === '' ? undefined : JSON.parse(message.checkpoint_json);
  }
  ref() {
    return { id: this.message.id as string, fence: this.fence };
  }
  abort(reason: string) {
    if (!this.controller.signal.aborted) this.controller.abort(new Error(reason));
  }
  save(json: string, say: (message: Message) => void) {
    return new Promise<void>((done, failed) => {
      const number = this.nextNumber++;
      this.saves.set(number, { json, done, failed });
      say({ checkpoint: { ...this.ref(), json, number } });
    });
  }
  saved(number: number) {
    for (const [n, save] of this.saves) {
      if (n > number) continue; // a later one replaced those before it
      this.saves.delete(n);
      save.done();
    }
  }
  saveAgain(say: (message: Message) => void) {
    for (const [number, { json }] of this.saves) say({ checkpoint: { ...this.ref(), json, number } });
  }
  dropSaves(reason: string) {
    for (const save of this.saves.values()) save.failed(new Error(reason));
    this.saves.clear();
  }
}

export class Worker {
  private readonly kinds: Kind[] = [];
  private readonly jobs = new Map<string, Running>();
  private stream?: grpc.ClientDuplexStream<Message, Message>;
  private session = Buffer.alloc(0);
  private credits: number;
  private stopping = false;
  private drained = () => {};

  constructor(private readonly options: WorkerOptions) {
    this.credits = options.credits ?? 10;
  }

  /** `version`: of the arguments, 0 unless producers say another. `schema`: JSON Schema of them; enqueues that do not match are refused. */
  handle<Args = any>(kind: string, handler: Handler<Args>, { version = 0, schema }: { version?: number; schema?: object } = {}): this {
    this.kinds.push({ kind, version, schema_json: schema === undefined ? '' : JSON.stringify(schema), handler });
    return this;
  }

  /** Works until `signal` is aborted; then lets jobs finish within the grace, gives the others back, and returns. Throws when the server will not have it. */
  async run(signal: AbortSignal): Promise<void> {
    const definition = loader.loadSync('mainstay/jobs/v1/work.proto', { includeDirs: [this.options.protos], keepCase: true, longs: String, defaults: true, oneofs: true });
    const Service = (grpc.loadPackageDefinition(definition) as any).mainstay.jobs.v1.WorkService as grpc.ServiceClientConstructor;
    const client = new Service(this.options.address, this.options.credentials ?? grpc.credentials.createSsl(), {
      'grpc.service_config': JSON.stringify({ loadBalancingConfig: [{ round_robin: {} }] }), // the next try may meet another server
      'grpc.max_reconnect_backoff_ms': 2000,
      'grpc.keepalive_time_ms': 30000,
    });
    signal.addEventListener('abort', () => void this.stop(), { once: true });
    if (signal.aborted) void this.stop();
    try {
      for (let trouble = 0; !this.stopping || this.jobs.size > 0; ) {
        const { welcomed, error } = await this.connect(client);
        trouble = welcomed ? 0 : trouble + 1;
        if (error && [grpc.status.UNAUTHENTICATED, grpc.status.PERMISSION_DENIED, grpc.status.INVALID_ARGUMENT, grpc.status.UNIMPLEMENTED].includes(error.code)) throw error;
        if (this.stopping && this.jobs.size === 0) break;
        if (this.stopping && trouble > 5) break; // what it holds is handed over once its lease is over
        if (error) this.log('the stream ended', { code: error.code, details: error.details });
        await sleep(Math.random() * Math.min(5000, 100 * 2 ** trouble));
      }
    } finally {
      for (const job of this.jobs.values()) job.abort('the worker has ended');
      client.close();
    }
  }

  private log(message: string, fields: Record<string, unknown> = {}) {
    (this.options.log ?? ((text, more) => console.error(text, more)))(message, fields);
  }

  private say = (message: Message) => {
    this.stream?.write(message);
  };

  /** One stream, from hello to its end. */
  private connect(client: any): Promise<{ welcomed: boolean; error?: grpc.ServiceError }> {
    return new Promise((ended) => {
      const metadata = new grpc.Metadata();
      metadata.set('authorization', `Bearer ${this.options.key}`);
      const stream: grpc.ClientDuplexStream<Message, Message> = client.Work(metadata);
      let welcomed = false;
      let heartbeat: NodeJS.Timeout | undefined;
      const end = (error?: grpc.ServiceError) => {
        clearInterval(heartbeat);
        if (this.stream === stream) this.stream = undefined;
        ended({ welcomed, error });
      };
      stream.on('error', (error) => end(error as grpc.ServiceError));
      stream.on('end', () => end());
      stream.on('data', (message: Message) => {
        if (message.welcome) {
          welcomed = true;
          this.stream = stream;
          this.welcome(message.welcome);
          const seconds = Number(message.welcome.heartbeat.seconds) + message.welcome.heartbeat.nanos / 1e9;
          heartbeat = setInterval(() => stream.write({ heartbeat: {} }), Math.max(50, seconds * 1000));
        } else if (message.goaway) {
          this.log('moving over', { reason: message.goaway.reason });
          stream.cancel(); // its jobs go on; the next hello names them
        } else {
          this.hear(message);
        }
      });
      const held = [...this.jobs.values()].filter((job) => !job.gone).map((job) => ({ ...job.ref(), receipt: job.receipt }));
      stream.write({
        hello: {
          name: this.options.name ?? `${hostname()}:${process.pid}`,
          kinds: this.kinds.map(({ kind, version, schema_json }) => ({ kind, version, schema_json })),
          credits: this.credits,
          held,
          language: `node ${process.versions.node}`,
          version: '1',
          session: this.session,
        },
      });
    });
  }

  private welcome(welcome: Message) {
    this.session = welcome.session;
    const resumed = new Map<string, Message>(welcome.held.map((held: Message) => [held.id, held]));
    for (const [id, job] of [...this.jobs]) {
      const held = resumed.get(id);
      if (held) {
        job.fence = held.fence;
        job.receipt = held.receipt;
        if (job.result) this.say({ result: { ...job.result, ...job.ref() } });
        else job.saveAgain(this.say);
      } else if (welcome.stored.includes(id)) {
        this.forget(id);
      } else {
        this.lose(job, 'it was handed to someone else while the stream was cut');
        if (job.ended) this.forget(id);
      }
    }
    if (this.stopping) this.drained();
  }

  private hear(message: Message) {
    if (message.job) return void this.start(new Running(message.job));
    const about = message.cancel ?? message.fenced ?? message.ack ?? message.error;
    const job = this.jobs.get(about?.id);
    if (message.error) this.log('the server refused a message', { field: about.field, message: about.message, id: about.id });
    if (!job) return;
    if (message.cancel) {
      job.abort(about.reason);
    } else if (message.fenced) {
      this.lose(job, about.reason);
      job.lostOn = this.stream;
      if (job.ended) this.forget(about.id);
    } else if (message.ack) {
      if (about.checkpoint !== '0') job.saved(Number(about.checkpoint));
      else this.forget(about.id);
    } else if (about.field.startsWith('result') && job.result && !job.result.retry) {
      // What cannot be taken as a result is an error of the handler.
      job.result = { retry: { code: 'bad_result', message: `${about.field}: ${about.message}` } };
      this.say({ result: { ...job.result, ...job.ref() } });
    } else if (about.field.startsWith('checkpoint')) {
      job.dropSaves(`${about.field}: ${about.message}`);
    }
  }

  private lose(job: Running, reason: string) {
    job.gone = true;
    job.abort(reason);
    job.dropSaves(reason);
  }

  private forget(id: string) {
    this.jobs.get(id)?.dropSaves('the job has ended');
    this.jobs.delete(id);
    if (this.stopping) this.drained();
  }

  private async start(running: Running) {
    const { message } = running;
    this.jobs.set(message.id, running);
    const say = this.say;
    const job: Job = {
      id: message.id,
      get fence() {
        return BigInt(running.fence);
      },
      kind: message.kind,
      version: message.version,
      queue: message.queue,
      tenant: message.tenant,
      args: JSON.parse(message.args_json),
      attempt: message.attempt,
      maxAttempts: message.max_attempts,
      get checkpoint() {
        return running.checkpoint;
      },
      traceparent: message.traceparent,
      requestId: message.request_id,
      signal: running.controller.signal,
      progress: (percent, text = '', counters = {}) => say({ progress: { ...running.ref(), percent, message: text, counters } }),
      log: (text, level = 'info') => say({ log: { ...running.ref(), level, message: text } }),
      saveCheckpoint: async (value) => {
        if (running.gone) throw new Error('the job was handed to someone else');
        await running.save(JSON.stringify(value), say);
        running.checkpoint = value;
      },
    };
    const kind = this.kinds.find(({ kind: name, version }) => name === message.kind && version === message.version);
    const result = await this.outcome(kind!.handler, job);
    running.ended = true;
    running.result = result;
    // One that was taken away is reported too, where that was said: it gives the credit back.
    if (!running.gone || (this.stream && running.lostOn === this.stream)) say({ result: { ...result, ...running.ref() } });
    if (running.gone) this.forget(message.id);
  }

  private async outcome(handler: Handler, job: Job): Promise<Message> {
    try {
      const result = await handler(job);
      return { done: { result_json: result === undefined ? '' : JSON.stringify(result) } };
    } catch (error) {
      const after = (seconds: number) => ({ seconds: String(Math.floor(seconds)), nanos: Math.floor((seconds % 1) * 1e9) });
      if (error instanceof Snooze) {
        if ('until' in error.when) return { snooze: { until: { seconds: String(Math.floor(error.when.until.getTime() / 1000)), nanos: (error.when.until.getTime() % 1000) * 1e6 } } };
        return { snooze: { after: after(error.when.afterSeconds) } };
      }
      if (error instanceof Discard) return { discard: { reason: error.message } };
      if (error instanceof Dead) return { dead: { code: error.code, message: error.message } };
      if (error instanceof Retry) {
        const { code = 'retry', afterSeconds } = error.options;
        return { retry: { code, message: error.message, ...(afterSeconds === undefined ? {} : { after: after(afterSeconds) }) } };
      }
      // It stopped because it was told to.
      if (job.signal.aborted && (error === job.signal.reason || (error as Error)?.name === 'AbortError')) return { cancelled: {} };
      return { retry: { code: (error as Error)?.name ?? 'error', message: (error as Error)?.message ?? String(error) } };
    }
  }

  private async stop() {
    this.stopping = true;
    this.credits = 0;
    this.say({ credit: { credits: 0 } });
    const grace = (this.options.graceSeconds ?? 20) * 1000;
    const empty = new Promise<void>((done) => {
      this.drained = () => {
        if (this.jobs.size === 0) done();
      };
      this.drained();
    });
    const patience = new AbortController();
    const late = sleep(grace, undefined, { signal: patience.signal }).catch(() => {});
    await Promise.race([empty, late]);
    patience.abort();
    for (const job of this.jobs.values()) job.abort('this worker ends');
    await Promise.race([empty, sleep(2000)]);
    for (const id of [...this.jobs.keys()]) this.forget(id);
    this.say({ goodbye: {} }); // the server gives back what is left, and ends the stream
    this.stream?.end();
  }
}
