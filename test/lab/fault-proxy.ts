/**
 * A TCP proxy that misbehaves as it is told, for any protocol: connections refused, swallowed, reset, slowed, cut, or an
 * answer lost after the request got through. What stands behind it must tell its clients the proxy's port:
 *
 *   await using proxy = await FaultProxy.start(port);          // clients connect to proxy.port
 *   await proxy.during({ kind: 'blackhole' }, work);           // or set(), reset()
 *   KafkaLab.start({ brokers: 3, advertise: async (port) => (await FaultProxy.start(port)).port })
 *
 * `drawFaults(seed)` draws the same faults again for the same seed.
 */
import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { labPort } from './ports.ts';

const host = '127.0.0.1';
const portionsPerSecond = 20;

/**
 * `pass` · `refuse`: nobody listens · `blackhole`: taken, and nothing is heard either way until the fault is over, as in a
 * network that is parted · `delay`: each part is held back so long · `throttle`: not more than so many bytes a second, each
 * way of each connection · `reset-after`: reset once so many bytes went that way through a connection · `lose-answer`: what is
 * asked gets through, the answer does not: reset instead. With `times`: `pass` again after so many resets.
 */
export type TcpFault =
  | { kind: 'pass' | 'refuse' | 'blackhole' }
  | { kind: 'lose-answer'; times?: number }
  | { kind: 'delay'; ms: number }
  | { kind: 'throttle'; bytesPerSecond: number }
  | { kind: 'reset-after'; bytes: number; direction: Direction; times?: number };

/** `up`: from the client to the server. */
type Direction = 'up' | 'down';

export class FaultProxy implements AsyncDisposable {
  readonly target: number;
  readonly #server: Server;
  readonly #pairs = new Set<Pair>();
  #port: number;
  #fault: TcpFault = { kind: 'pass' };

  private constructor(target: number, port: number) {
    this.target = target;
    this.#port = port;
    this.#server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (client) => this.#take(client));
  }

  /** Before `target`, on a free port or the one given. */
  static async start(target: number, port = 0): Promise<FaultProxy> {
    const proxy = new FaultProxy(target, port);
    await proxy.#listen();
    return proxy;
  }

  get port(): number {
    return this.#port;
  }

  get fault(): TcpFault {
    return this.#fault;
  }

  /** Connections of clients that are not over yet. */
  get connections(): number {
    return this.#pairs.size;
  }

  /** From now on, for connections that are open as well. */
  async set(fault: TcpFault): Promise<void> {
    const refused = this.#fault.kind === 'refuse';
    this.#fault = fault;
    if (fault.kind === 'refuse' && !refused) {
      this.reset();
      await this.#close();
    }
    if (refused && fault.kind !== 'refuse') await this.#listen();
    for (const pair of this.#pairs) pair.wake();
  }

  /** Every open connection, both sides; new ones are taken as before. */
  reset(): void {
    for (const pair of this.#pairs) pair.reset();
  }

  /** `work` under a fault, and then none again. */
  async during<T>(fault: TcpFault, work: () => Promise<T>): Promise<T> {
    await this.set(fault);
    try {
      return await work();
    } finally {
      await this.set({ kind: 'pass' });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.reset();
    if (this.#server.listening) await this.#close();
  }

  async #listen(): Promise<void> {
    this.#port ||= await labPort();
    this.#server.listen(this.#port, host);
    await once(this.#server, 'listening');
  }

  async #close(): Promise<void> {
    const closed = once(this.#server, 'close');
    this.#server.close();
    await closed;
  }

  #take(client: Socket): void {
    const server = connect({ port: this.target, host, allowHalfOpen: true });
    const pair = new Pair(client, server, { present: () => this.#fault, used: (fault) => this.#used(fault) });
    this.#pairs.add(pair);
    void pair.run().finally(() => this.#pairs.delete(pair));
  }

  /** A connection was reset by this fault. */
  #used(fault: TcpFault): void {
    if (fault !== this.#fault || !('times' in fault) || fault.times === undefined) return;
    this.#fault = fault.times > 1 ? { ...fault, times: fault.times - 1 } : { kind: 'pass' };
  }
}

interface Luck {
  present(): TcpFault;
  used(fault: TcpFault): void;
}

/** One client's connection and ours to the server. */
class Pair {
  readonly #client: Socket;
  readonly #server: Socket;
  readonly #luck: Luck;
  readonly #sleepers = new Set<() => void>();
  #isReset = false;

  constructor(client: Socket, server: Socket, luck: Luck) {
    this.#client = client;
    this.#server = server;
    this.#luck = luck;
    // What fails on one side ends both; there is nobody to tell.
    for (const socket of [client, server]) socket.setNoDelay(true).on('error', () => this.reset());
  }

  async run(): Promise<void> {
    await Promise.all([this.#pump(this.#client, this.#server, 'up'), this.#pump(this.#server, this.#client, 'down')]);
  }

  reset(): void {
    this.#isReset = true;
    for (const socket of [this.#client, this.#server]) if (!socket.destroyed) socket.resetAndDestroy();
    this.wake();
  }

  /** The fault is another one now. */
  wake(): void {
    for (const done of this.#sleepers) done();
  }

  async #pump(from: Socket, to: Socket, direction: Direction): Promise<void> {
    let passed = 0;
    try {
      for await (const part of from) {
        for (let rest = part as Buffer; rest.length > 0; ) {
          const size = await this.#allowed(rest.length, passed, direction);
          if (this.#isReset) return;
          if (size > 0) await written(to, rest.subarray(0, size));
          rest = rest.subarray(size);
          passed += size;
          const fault = this.#luck.present();
          if (fault.kind === 'reset-after' && fault.direction === direction && passed >= fault.bytes)
            return this.#resetBy(fault);
        }
      }
      await this.#untilHeard();
      to.end();
    } catch {
      this.reset();
    }
  }

  /** How many of these bytes go on now; resolves when they may. */
  async #allowed(size: number, passed: number, direction: Direction): Promise<number> {
    await this.#untilHeard();
    const fault = this.#luck.present();
    if (fault.kind === 'lose-answer' && direction === 'down') this.#resetBy(fault);
    if (fault.kind === 'delay') await this.#pause(fault.ms);
    if (fault.kind === 'reset-after' && fault.direction === direction)
      return Math.max(0, Math.min(size, fault.bytes - passed));
    if (fault.kind !== 'throttle') return size;
    const portion = Math.min(size, Math.ceil(fault.bytesPerSecond / portionsPerSecond));
    await this.#pause((portion / fault.bytesPerSecond) * 1000);
    return portion;
  }

  #resetBy(fault: TcpFault): void {
    if (!this.#isReset) this.#luck.used(fault);
    this.reset();
  }

  async #untilHeard(): Promise<void> {
    while (this.#luck.present().kind === 'blackhole' && !this.#isReset) await this.#pause(null);
  }

  /** So long, or until the fault is another one. */
  async #pause(ms: number | null): Promise<void> {
    await new Promise<void>((resolve) => {
      const done = () => {
        clearTimeout(timer);
        this.#sleepers.delete(done);
        resolve();
      };
      const timer = ms === null ? undefined : setTimeout(done, ms);
      this.#sleepers.add(done);
    });
  }
}

/** Resolves when the kernel has it, or rejects when the connection is over: so is a slow reader felt by the sender. */
function written(to: Socket, bytes: Buffer): Promise<void> {
  return new Promise((resolve, reject) => {
    to.write(bytes, (error) => (error ? reject(error) : resolve()));
  });
}

/** One fault each, from what `below(bound)` draws. */
export type FaultMaker<T> = (below: (bound: number) => number) => T;

export const tcpFaults: readonly FaultMaker<TcpFault>[] = [
  () => ({ kind: 'refuse' }),
  () => ({ kind: 'blackhole' }),
  () => ({ kind: 'lose-answer' }),
  (below) => ({ kind: 'delay', ms: 1 + below(300) }),
  (below) => ({ kind: 'throttle', bytesPerSecond: 1000 * (1 + below(1000)) }),
  (below) => ({ kind: 'reset-after', bytes: 1 + below(100_000), direction: below(2) === 0 ? 'up' : 'down' }),
];

/** Draws faults one after the other, always the same for one seed; `pass` comes before each. */
export function* drawFaults<T = never>(
  seed: number,
  makers: readonly FaultMaker<T | TcpFault>[] = tcpFaults,
): Generator<T | TcpFault, never> {
  const next = seededRandom(seed);
  const below = (bound: number) => Math.floor(next() * bound);
  for (;;) {
    yield { kind: 'pass' };
    yield makers[below(makers.length)]?.(below) ?? { kind: 'pass' };
  }
}

/** mulberry32: small, and the same everywhere. Numbers in [0, 1). */
function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
