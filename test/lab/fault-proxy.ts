/**
 * A TCP proxy that misbehaves as it is told, for any protocol: connections refused, swallowed, reset, slowed, cut, or an
 * answer lost after the request got through. What stands behind it must tell its clients the proxy's port.
 */
import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

const host = '127.0.0.1';

/**
 * `pass` · `refuse`: nobody listens · `blackhole`: taken, and nothing more is heard either way · `delay`: each part is held
 * back so long · `throttle`: not more than so many bytes a second, each way · `reset-after`: reset once so many bytes went
 * that way through a connection · `lose-answer`: what is asked gets through, the answer does not: reset instead.
 */
export type TcpFault =
  | { kind: 'pass' | 'refuse' | 'blackhole' | 'lose-answer' }
  | { kind: 'delay'; ms: number }
  | { kind: 'throttle'; bytesPerSecond: number }
  | { kind: 'reset-after'; bytes: number; direction: 'up' | 'down' };

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

  /** From now on, for connections that are open as well. */
  async set(fault: TcpFault): Promise<void> {
    const refused = this.#fault.kind === 'refuse';
    this.#fault = fault;
    if (fault.kind === 'refuse' && !refused) {
      this.reset();
      const closed = once(this.#server, 'close');
      this.#server.close();
      await closed;
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
    if (!this.#server.listening) return;
    const closed = once(this.#server, 'close');
    this.#server.close();
    await closed;
  }

  async #listen(): Promise<void> {
    this.#server.listen(this.#port, host);
    await once(this.#server, 'listening');
    const address = this.#server.address();
    if (typeof address === 'object' && address !== null) this.#port = address.port;
  }

  #take(client: Socket): void {
    const pair = new Pair(client, connect({ port: this.target, host, allowHalfOpen: true }), () => this.#fault);
    this.#pairs.add(pair);
    void pair.run().finally(() => this.#pairs.delete(pair));
  }
}

/** One client's connection and ours to the server. */
class Pair {
  readonly #client: Socket;
  readonly #server: Socket;
  readonly #fault: () => TcpFault;
  #wake: (() => void)[] = [];

  constructor(client: Socket, server: Socket, fault: () => TcpFault) {
    this.#client = client;
    this.#server = server;
    this.#fault = fault;
    // What fails on one side ends both; there is nobody to tell.
    for (const socket of [client, server]) socket.setNoDelay(true).on('error', () => this.reset());
  }

  async run(): Promise<void> {
    await Promise.all([this.#pump(this.#client, this.#server, 'up'), this.#pump(this.#server, this.#client, 'down')]);
  }

  reset(): void {
    for (const socket of [this.#client, this.#server]) if (!socket.destroyed) socket.resetAndDestroy();
    this.wake();
  }

  /** The fault is another one now. */
  wake(): void {
    for (const resolve of this.#wake.splice(0)) resolve();
  }

  async #pump(from: Socket, to: Socket, direction: 'up' | 'down'): Promise<void> {
    let passed = 0;
    try {
      for await (const part of from) {
        const bytes = part as Buffer;
        while (this.#fault().kind === 'blackhole' && !from.destroyed)
          await new Promise<void>((resolve) => this.#wake.push(resolve));
        const fault = this.#fault();
        if (fault.kind === 'lose-answer' && direction === 'down') return this.reset();
        if (fault.kind === 'delay') await sleep(fault.ms);
        if (fault.kind === 'throttle') await sleep((bytes.length / fault.bytesPerSecond) * 1000);
        if (fault.kind === 'reset-after' && fault.direction === direction && passed + bytes.length >= fault.bytes) {
          to.write(bytes.subarray(0, Math.max(0, fault.bytes - passed)), () => this.reset());
          return;
        }
        passed += bytes.length;
        if (!to.write(bytes)) await once(to, 'drain', { signal: AbortSignal.timeout(60_000) });
      }
      to.end();
    } catch {
      this.reset();
    }
  }
}

/** Draws faults one after the other, always the same for one seed; `pass` comes between any two. */
export function* drawFaults(seed: number): Generator<TcpFault, never> {
  const next = seededRandom(seed);
  const below = (bound: number) => Math.floor(next() * bound);
  const faults: (() => TcpFault)[] = [
    () => ({ kind: 'refuse' }),
    () => ({ kind: 'blackhole' }),
    () => ({ kind: 'lose-answer' }),
    () => ({ kind: 'delay', ms: 1 + below(300) }),
    () => ({ kind: 'throttle', bytesPerSecond: 1000 * (1 + below(1000)) }),
    () => ({ kind: 'reset-after', bytes: 1 + below(100_000), direction: below(2) === 0 ? 'up' : 'down' }),
  ];
  for (;;) {
    yield { kind: 'pass' };
    yield faults[below(faults.length)]?.() ?? { kind: 'pass' };
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
