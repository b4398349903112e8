/** Each way in which the lab's proxies misbehave, before a small server of our own. */
import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { drawFaults, FaultProxy, type TcpFault } from '../lab/fault-proxy.ts';
import { labPort } from '../lab/ports.ts';

const shortMs = 150;
const longMs = 5_000;
/** Of a megabyte: more than all sockets on a way can hold together. */
const manyParts = 200;

/** Echoes, and remembers what it was asked. */
class Echo {
  readonly asked: string[] = [];
  readonly server: Server = createServer({ allowHalfOpen: true }, (socket) => {
    socket.on('error', () => {}).on('end', () => socket.end());
    socket.setEncoding('latin1').on('data', (text: string) => {
      this.asked.push(text);
      if (socket.write(text, 'latin1')) return;
      socket.pause().once('drain', () => socket.resume());
    });
  });

  get text(): string {
    return this.asked.join('');
  }
}

/** One connection that keeps what it hears, and how it ended. */
class Client {
  readonly socket: Socket;
  heard = '';
  end: 'open' | 'ended' | 'refused' | 'reset' = 'open';

  constructor(port: number) {
    this.socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true });
    this.socket.setEncoding('latin1').on('data', (text: string) => {
      this.heard += text;
    });
    this.socket.on('end', () => {
      this.end = 'ended';
    });
    this.socket.on('error', (error: NodeJS.ErrnoException) => {
      this.end = error.code === 'ECONNREFUSED' ? 'refused' : 'reset';
    });
  }

  say(text: string): this {
    this.socket.write(text, 'latin1');
    return this;
  }

  async until(holds: (client: this) => boolean): Promise<void> {
    for (const end = performance.now() + longMs; !holds(this); await sleep(5)) {
      if (performance.now() > end) throw new Error(`still ${this.end} after ${this.heard.length} bytes`);
    }
  }
}

let echo: Echo;
let proxy: FaultProxy;
let clients: Client[];

beforeEach(async () => {
  echo = new Echo();
  clients = [];
  echo.server.listen(0, '127.0.0.1');
  await once(echo.server, 'listening');
  const address = echo.server.address();
  proxy = await FaultProxy.start(typeof address === 'object' ? (address?.port ?? 0) : 0);
});

afterEach(async () => {
  await proxy[Symbol.asyncDispose]();
  for (const { socket } of clients) socket.destroy();
  echo.server.close();
  await once(echo.server, 'close');
});

function client(): Client {
  const made = new Client(proxy.port);
  clients.push(made);
  return made;
}

describe('the fault proxy', () => {
  test('pass: megabytes both ways, byte for byte, and both ends are told of the end', async () => {
    const text = Array.from({ length: 300_000 }, (_, n) => `${n};`).join('');
    const one = client().say(text);
    one.socket.end();
    await one.until(({ end }) => end === 'ended');
    expect(one.heard === text && echo.text === text).toBe(true);
    await one.until(() => proxy.connections === 0);
  });

  test('a client that does not read is felt by the server: nothing piles up in between', async () => {
    const one = client();
    one.socket.pause();
    const part = Buffer.alloc(1_000_000, 'x');
    let taken = 0;
    const takeNext = () =>
      one.socket.write(part, () => {
        taken += 1;
        if (taken < manyParts) takeNext();
      });
    takeNext();
    let before = -1;
    while (taken !== before) {
      before = taken;
      await sleep(2 * shortMs);
    }
    expect(taken).toBeLessThan(manyParts);
  });

  test('refuse: connections are cut, new ones refused; then the same port again', async () => {
    const { port } = proxy;
    const one = client().say('a');
    await one.until(({ heard }) => heard === 'a');
    await proxy.during({ kind: 'refuse' }, async () => {
      await one.until(({ end }) => end === 'reset');
      await client().until(({ end }) => end === 'refused');
    });
    expect(proxy.port).toBe(port);
    await client()
      .say('b')
      .until(({ heard }) => heard === 'b');
  });

  test('blackhole: neither bytes nor ends get through, until it is over: then all of them', async () => {
    const [old, quiet] = [client().say('a'), client().say('b')];
    await Promise.all([old.until(({ heard }) => heard === 'a'), quiet.until(({ heard }) => heard === 'b')]);
    await proxy.set({ kind: 'blackhole' });
    const fresh = client().say('new');
    old.say('more');
    quiet.socket.end();
    await fresh.until(({ socket }) => !socket.connecting && socket.writableLength === 0);
    await sleep(shortMs);
    expect([old.heard, quiet.end, fresh.heard, fresh.end]).toEqual(['a', 'open', '', 'open']);
    expect(echo.asked).toEqual(['a', 'b']);
    await proxy.set({ kind: 'pass' });
    await old.until(({ heard }) => heard === 'amore');
    await quiet.until(({ end }) => end === 'ended');
    await fresh.until(({ heard }) => heard === 'new');
  });

  test('reset: what is open is cut on both sides, and new connections are taken', async () => {
    const one = client().say('a');
    await one.until(({ heard }) => heard === 'a');
    proxy.reset();
    await one.until(({ end }) => end === 'reset');
    await client()
      .say('b')
      .until(({ heard }) => heard === 'b');
    expect(proxy.connections).toBe(1);
  });

  test.each(['up', 'down'] as const)('reset-after %s: not a byte more, and so many times', async (direction) => {
    await proxy.set({ kind: 'reset-after', bytes: 100_000, direction, times: 2 });
    for (const _ of [1, 2]) {
      echo.asked.length = 0;
      const one = client().say('x'.repeat(250_000));
      await one.until(({ end }) => end === 'reset');
      if (direction === 'down') expect(one.heard.length).toBeLessThanOrEqual(100_000);
      else expect(echo.text.length).toBeLessThanOrEqual(100_000);
      if (direction === 'down') expect(echo.text.length).toBeGreaterThanOrEqual(one.heard.length);
    }
    expect(proxy.fault).toEqual({ kind: 'pass' });
    const one = client().say('x'.repeat(250_000));
    await one.until(({ heard }) => heard.length === 250_000);
  });

  test('reset-after: bytes before the limit do get through', async () => {
    await proxy.set({ kind: 'reset-after', bytes: 10, direction: 'down' });
    const one = client().say('12345');
    await one.until(({ heard }) => heard === '12345');
    one.say('67890abc');
    await one.until(({ end }) => end === 'reset');
    expect(echo.text).toBe('1234567890abc');
    expect('1234567890'.startsWith(one.heard)).toBe(true);
  });

  test('lose-answer: the server did what it was asked, the client is cut without a word; once', async () => {
    await proxy.set({ kind: 'lose-answer', times: 1 });
    const one = client().say('do it');
    await one.until(({ end }) => end === 'reset');
    expect([echo.text, one.heard]).toEqual(['do it', '']);
    await client()
      .say('again')
      .until(({ heard }) => heard === 'again');
  });

  test('delay: late both ways; what waits goes on when it is over', async () => {
    await proxy.set({ kind: 'delay', ms: shortMs });
    const begun = performance.now();
    const one = client().say('a');
    await one.until(({ heard }) => heard === 'a');
    expect(performance.now() - begun).toBeGreaterThanOrEqual(2 * shortMs - 2);
    await proxy.set({ kind: 'delay', ms: 10 * longMs });
    one.say('b');
    await one.until(() => true);
    await sleep(50);
    await proxy.set({ kind: 'pass' });
    await one.until(({ heard }) => heard === 'ab');
  });

  test('throttle: no faster than said, and a whole part does not wait for its turn', async () => {
    await proxy.set({ kind: 'throttle', bytesPerSecond: 200_000 });
    const begun = performance.now();
    const one = client().say('x'.repeat(40_000));
    await one.until(({ heard }) => heard.length > 0);
    expect(performance.now() - begun).toBeLessThan(1000);
    await one.until(({ heard }) => heard.length === 40_000);
    expect(performance.now() - begun).toBeGreaterThan(180);
  });

  test('a server that is not there: the client is cut, and the proxy lives', async () => {
    await using nobody = await FaultProxy.start(await labPort());
    const one = new Client(nobody.port);
    clients.push(one);
    await one.until(({ end }) => end === 'reset');
    expect(nobody.connections).toBe(0);
  });

  test('ends at once, whatever waits in it', async () => {
    await proxy.set({ kind: 'delay', ms: 10 * longMs });
    const slow = client().say('a');
    await slow.until(({ socket }) => !socket.connecting && socket.writableLength === 0);
    await sleep(50);
    await proxy[Symbol.asyncDispose]();
    await slow.until(({ end }) => end === 'reset');
    await slow.until(() => proxy.connections === 0);
  });
});

describe('faults by lot', () => {
  const drawn = (seed: number): TcpFault[] => {
    const lot = drawFaults(seed);
    return Array.from({ length: 200 }, () => lot.next().value);
  };

  test('the same for one seed, others for another; pass between any two; every kind comes', () => {
    expect(drawn(1)).toEqual(drawn(1));
    expect(drawn(1)).not.toEqual(drawn(2));
    const faults = drawn(7);
    expect(faults.every(({ kind }, index) => index % 2 === 1 || kind === 'pass')).toBe(true);
    const kinds = new Set(faults.map(({ kind }) => kind));
    expect([...kinds].sort()).toEqual([
      'blackhole',
      'delay',
      'lose-answer',
      'pass',
      'refuse',
      'reset-after',
      'throttle',
    ]);
  });

  test('no draw is pass where a fault was due', () => {
    expect(drawn(11).filter((_, index) => index % 2 === 1 && _.kind === 'pass')).toEqual([]);
  });
});
