/** The brokers by way of a thread (thread.ts). A thread that dies or hangs fails its calls; the next call begins a new one. */
import { extname } from 'node:path';
import { Worker } from 'node:worker_threads';
import type { Logger } from '../../logging/logger.ts';
import {
  BrokerFault,
  type Brokers,
  type BrokersOptions,
  type Fetched,
  type FetchOptions,
  type TopicFacts,
  type TopicPlan,
} from './brokers.ts';
import type { Call, FetchedMessage, Reply } from './thread-messages.ts';

/** More than kafkajs' own deadlines for connecting to every broker of a list and one request. */
const callDeadlineMs = 60_000;
const closeDeadlineMs = 2000;

interface Pending {
  resolve(value: unknown): void;
  reject(fault: BrokerFault): void;
  timer: NodeJS.Timeout;
}

export class ThreadBrokers implements Brokers {
  readonly #options: BrokersOptions;
  readonly #logger: Logger;
  readonly #pending = new Map<number, Pending>();
  #worker: Worker | null = null;
  #lastId = 0;
  #isClosed = false;

  constructor(options: BrokersOptions, logger: Logger) {
    this.#options = options;
    this.#logger = logger;
  }

  async describe(topic: string): Promise<{ brokers: number; topic: TopicFacts | null }> {
    return (await this.#call({ method: 'describe', args: [topic] })) as { brokers: number; topic: TopicFacts | null };
  }

  async create(topic: string, plan: TopicPlan): Promise<void> {
    await this.#call({ method: 'create', args: [topic, plan] });
  }

  async bounds(topic: string): Promise<{ first: number; next: number }> {
    return (await this.#call({ method: 'bounds', args: [topic] })) as { first: number; next: number };
  }

  async append(topic: string, values: Uint8Array<ArrayBuffer>[]): Promise<number> {
    const buffers = values.map(({ buffer }) => buffer);
    return (await this.#call({ method: 'append', args: [topic, values] }, buffers)) as number;
  }

  async fetch(topic: string, from: number, options: FetchOptions): Promise<Fetched> {
    const fetched = (await this.#call({ method: 'fetch', args: [topic, from, options] })) as FetchedMessage;
    let at = 0;
    const records = fetched.places.map(({ offset, timestampMs, end }) => {
      const value = Buffer.from(fetched.bytes, at, end - at);
      at = end;
      return { offset, timestampMs, value };
    });
    return { first: fetched.first, next: fetched.next, records };
  }

  async leave(lane: string): Promise<void> {
    if (this.#worker !== null) await this.#call({ method: 'leave', args: [lane] });
  }

  async close(): Promise<void> {
    const worker = this.#worker;
    const closing = worker === null ? null : this.#call({ method: 'close', args: [] }).catch(() => undefined);
    this.#isClosed = true;
    if (worker === null) return;
    let timer: NodeJS.Timeout | undefined;
    await Promise.race([closing, new Promise((resolve) => (timer = setTimeout(resolve, closeDeadlineMs)))]);
    clearTimeout(timer);
    this.#end(worker, new BrokerFault('unreachable', 'the connection was closed'));
  }

  #call(call: CallWithoutId, transfer: ArrayBuffer[] = []): Promise<unknown> {
    if (this.#isClosed) return Promise.reject(new BrokerFault('unreachable', 'the connection was closed'));
    this.#worker ??= this.#start();
    const worker = this.#worker;
    this.#lastId += 1;
    const id = this.#lastId;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#end(worker, new BrokerFault('timed-out', `no answer to ${call.method} within ${callDeadlineMs} ms`));
      }, callDeadlineMs);
      this.#pending.set(id, { resolve, reject, timer });
      // Only a thread that owes an answer keeps the process alive.
      worker.ref();
      worker.postMessage({ ...call, id }, transfer);
    });
  }

  #start(): Worker {
    // `.ts` as it is written, `.js` as it is shipped.
    const script = new URL(`./thread${extname(import.meta.url)}`, import.meta.url);
    const worker = new Worker(script, { workerData: this.#options, name: 'kafka' });
    worker.on('message', (reply: Reply) => this.#take(worker, reply));
    const ended = (error: unknown) => this.#end(worker, new BrokerFault('other', `the client ended: ${String(error)}`));
    worker.on('error', ended);
    worker.on('exit', (code) => ended(`exit ${code}`));
    return worker;
  }

  #take(worker: Worker, reply: Reply): void {
    if (reply.kind === 'remark') {
      this.#logger.log(reply.level, reply.message, { component: 'kafkajs' });
      return;
    }
    const pending = this.#pending.get(reply.id);
    if (pending === undefined) return;
    this.#pending.delete(reply.id);
    clearTimeout(pending.timer);
    if (this.#pending.size === 0) worker.unref();
    if (reply.kind === 'done') pending.resolve(reply.value);
    else pending.reject(new BrokerFault(reply.reason, reply.message));
  }

  /** The thread and all that it owes. */
  #end(worker: Worker, fault: BrokerFault): void {
    if (this.#worker !== worker) return;
    this.#worker = null;
    const owed = [...this.#pending.values()];
    this.#pending.clear();
    void worker.terminate();
    for (const { reject, timer } of owed) {
      clearTimeout(timer);
      reject(fault);
    }
  }
}

type WithoutId<T> = T extends unknown ? Omit<T, 'id'> : never;
type CallWithoutId = WithoutId<Call>;
