/**
 * Rows 18 to 20 at random, and kill -9 of the service: what was said to be created is there, byte for byte, and was said by
 * exactly one. QZ_SEED replays the faults; they hang on the seed, the object and how often it was asked for, not on timing.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { openStore } from '../../core/archive/open.ts';
import { openS3Store } from '../../core/archive/s3.ts';
import { probeKey } from '../../core/archive/s3-puts.ts';
import type { ObjectStore } from '../../core/archive/store.ts';
import type { CrashPoint } from '../../core/errors/crash-points.ts';
import { isKind } from '../../core/errors/error.ts';
import { drawn, drawnBytes, seed } from '../made/drawn.ts';
import { S3World } from '../made/s3.ts';
import { type Fault, S3Proxy } from '../made/s3-proxy.ts';

const attemptsMax = 200;
const faults: Fault[] = [
  { kind: 'lost' },
  { kind: 'twice' },
  { kind: 'reset' },
  { kind: 'half' },
  { kind: 'cut-request' },
  { kind: 'slow', ms: 700 },
  { kind: 'status', status: 500, code: 'InternalError' },
  { kind: 'status', status: 503, code: 'SlowDown' },
  { kind: 'status', status: 409, code: 'ConditionalRequestConflict' },
  { kind: 'status-after', status: 500, code: 'InternalError' },
  { kind: 'status-after', status: 409, code: 'OperationAborted' },
];

let world: S3World;
beforeAll(async () => {
  world = await S3World.start();
}, 120_000);
afterAll(async () => {
  await world[Symbol.asyncDispose]();
});

function content(...words: (string | number)[]): Buffer {
  const size = [0, 10, 3_000, 70_000, 400_000][drawn(5, 'size', ...words)] ?? 0;
  return Buffer.alloc(size, drawnBytes(...words));
}

/** Every passing fault again, as the callers of a store do. */
async function patiently<T>(work: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await work();
    } catch (error) {
      if (!isKind(error, 'transient') || attempt === attemptsMax) throw error;
      await sleep(20);
    }
  }
}

async function withProxy(
  work: (open: () => Promise<ObjectStore>, straight: ObjectStore) => Promise<void>,
): Promise<void> {
  await using proxy = await S3Proxy.start(world.endpoint, world.root);
  const prefix = world.newPrefix();
  const asked = new Map<string, number>();
  proxy.misbehave = ({ method, url }) => {
    const what = `${method} ${url.split('?')[0]?.split('/').slice(3).join('/')}`;
    const count = (asked.get(what) ?? 0) + 1;
    asked.set(what, count);
    if (drawn(100, 'fails', what, count) >= 40) return { kind: 'pass' };
    return faults[drawn(faults.length, 'how', what, count)] ?? { kind: 'pass' };
  };
  const deadlines = { connectMs: 250, answerMs: 250 };
  const open = async () => openS3Store(new URL(await world.url(prefix, { endpoint: proxy.endpoint })), { deadlines });
  await work(open, await openStore(await world.url(prefix), { create: true }));
}

describe(`s3: random faults, QZ_SEED=${seed}`, () => {
  test(
    'each object is created by exactly one of three, and holds what that one put',
    () =>
      withProxy(async (open, straight) => {
        const keys = Array.from({ length: 40 }, (_, n) => `o/${n}`);
        const claims = new Map<string, Buffer[]>();
        const writer = async (name: number) => {
          const store = await open();
          for (const key of keys) {
            // Every third is the same for all: equal bytes are no proof of who was first.
            const body = drawn(3, 'same', key) === 0 ? content(key) : content(key, name);
            const outcome = await patiently(() => store.putIfAbsent(key, [body.subarray(0, 9), body.subarray(9)]));
            if (outcome === 'created') claims.set(key, [...(claims.get(key) ?? []), body]);
          }
        };
        await Promise.all([writer(1), writer(2), writer(3)]);
        const store = await open();
        for (const key of keys) {
          const [claimed, ...more] = claims.get(key) ?? [];
          expect({ key, more: more.length, isThere: claimed !== undefined }).toEqual({ key, more: 0, isThere: true });
          const bytes = await patiently(() => store.get(key));
          expect({ key, same: bytes?.equals(claimed ?? Buffer.alloc(0)) }).toEqual({ key, same: true });
        }
        expect((await listed(straight)).sort()).toEqual([...keys].sort());
      }),
    120_000,
  );

  test(
    'a list that three add to through compare-and-swap holds each step once, and every one that was confirmed',
    () =>
      withProxy(async (open, straight) => {
        const adder = async (name: number) => {
          const store = await open();
          for (let step = 0; step < 12; ) {
            const info = await patiently(() => store.head('n'));
            const list = String((await patiently(() => store.get('n'))) ?? '');
            const entry = `${name}:${step};`;
            // A step whose answer was lost may be there, with another's behind it: then it is not taken twice.
            const isThere = list.includes(entry);
            const swap = () => store.putIfMatch('n', [Buffer.from(list + entry)], info?.etag ?? null);
            if (isThere || (await patiently(swap)) !== 'changed') step += 1;
          }
        };
        await Promise.all([adder(1), adder(2), adder(3)]);
        const entries = String(await straight.get('n'))
          .split(';')
          .slice(0, -1);
        const wanted = [1, 2, 3].flatMap((name) => Array.from({ length: 12 }, (_, step) => `${name}:${step}`));
        expect([...entries].sort()).toEqual(wanted.sort());
      }),
    120_000,
  );
});

describe('s3: kill -9 of the service', () => {
  test('everything acknowledged is there, whole; nothing is there that is not whole', async () => {
    const prefix = world.newPrefix();
    const acknowledged: string[] = [];
    const stop = new AbortController();
    const bodyOf = (key: string) => Buffer.alloc(20_000 + drawn(100_000, key), key);
    const putter = async (name: number) => {
      const store = await openStore(await world.url(prefix), { create: true });
      for (let n = 0; !stop.signal.aborted; n += 1) {
        const key = `p${name}/${String(n).padStart(6, '0')}`;
        const body = bodyOf(key);
        expect(await patiently(() => store.putIfAbsent(key, [body]))).toBe('created');
        acknowledged.push(key);
      }
    };
    const putters = [1, 2, 3].map(putter);
    for (let round = 0; round < 5; round += 1) {
      const before = acknowledged.length;
      while (acknowledged.length < before + 20) await sleep(5);
      await world.down('SIGKILL');
      await world.up();
    }
    stop.abort();
    await Promise.all(putters);
    const store = await openStore(await world.url(prefix), { create: false });
    expect(acknowledged.length).toBeGreaterThan(100);
    expect((await listed(store)).sort()).toEqual([...acknowledged].sort());
    for (const key of acknowledged) {
      expect({ key, same: (await store.get(key))?.equals(bodyOf(key)) }).toEqual({ key, same: true });
    }
  }, 120_000);
});

describe('s3: kill -9 of a writer', () => {
  const module = JSON.stringify(pathToFileURL(join(process.cwd(), 'core/archive/open.ts')).href);
  const program = `
    const { openStore } = await import(${module});
    const store = await openStore(process.argv[1], { create: true });
    await store.putIfAbsent('big', [Buffer.alloc(9 << 20, 1), Buffer.alloc(9 << 20, 2)]);
  `;
  const body = Buffer.concat([Buffer.alloc(9 << 20, 1), Buffer.alloc(9 << 20, 2)]);

  // The first put and the first part are of the probe, which goes before a first upload in parts.
  test.each<[CrashPoint, string, boolean]>([
    ['s3:before-put', '#1', false],
    ['s3:after-part', '#1', false],
    ['s3:after-part', '#2', false],
    ['s3:after-part', '#4', false],
    ['s3:after-upload', '#1', true],
    ['s3:after-put', '#2', true],
  ])(
    'at %s%s of an upload in parts: the whole object or none',
    async (point, nth, isThere) => {
      const url = await world.url(world.newPrefix());
      const child = spawn(process.execPath, ['--input-type=module', '-e', program, url], {
        stdio: ['ignore', 'ignore', 'inherit'],
        env: { ...process.env, NODE_OPTIONS: '', QZ_CRASH_AT: `${point}${nth}` },
      });
      expect((await once(child, 'exit'))[1]).toBe('SIGKILL');
      const store = await openStore(url, { create: true });
      expect((await listed(store)).filter((key) => key !== probeKey)).toEqual(isThere ? ['big'] : []);
      expect(await store.putIfAbsent('big', [body])).toBe(isThere ? 'exists' : 'created');
      expect((await store.get('big'))?.equals(body)).toBe(true);
    },
    120_000,
  );
});

async function listed(store: ObjectStore): Promise<string[]> {
  const keys: string[] = [];
  for await (const { key } of store.list('')) keys.push(key);
  return keys;
}
