/** The journal of a service: frames, what the writer makes of them, and what a reader finds in archive and log. */

import { crc32 } from 'node:zlib';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { ownerOf, serviceChain } from '../../core/archive/layout.ts';
import type { ObjectStore } from '../../core/archive/store.ts';
import { ArchiveHistory } from '../../core/history/open.ts';
import { decodeFrame, encodeFrame, frameBytes, type JournalItem } from '../../core/journal/frame.ts';
import { type ReadFrame, type ReadJournalOptions, readJournal } from '../../core/journal/read.ts';
import { JournalWriter, type JournalWriterOptions } from '../../core/journal/writer.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { runShipper } from '../../shipper/shipper.ts';
import { never, withStore } from '../made/archive.ts';
import { MadeLog, StuckLog } from '../made/log.ts';

const chainName = 'agama=influxdb.syslog';
const logger = silentLogger();
const noon = Date.UTC(2026, 10, 23, 12) * 1000;
const hour = 3_600_000_000;

const item = (text: string, kind = 1): JournalItem => ({ kind, meta: { n: text.length }, body: Buffer.from(text) });

async function open(log: MadeLog, options: Partial<JournalWriterOptions> = {}): Promise<JournalWriter> {
  const defaults = { chainName, base: null, first: 0, continued: null, signal: never, logger };
  return await JournalWriter.open(log, { ...defaults, nowMicros: () => noon, ...options });
}

async function ship(log: MadeLog, store: ObjectStore, until: number): Promise<void> {
  const done = new AbortController();
  const onProgress = ({ nextLogNumber }: { nextLogNumber: number }) => nextLogNumber >= until && done.abort();
  const segment = { maxAgeMs: 5, idleAgeMs: 5 };
  await runShipper({
    log,
    store,
    archiveName: 'a',
    sourceName: chainName,
    segment,
    signal: done.signal,
    logger,
    onProgress,
  });
}

const historyOf = (store: ObjectStore) => ArchiveHistory.open(store, chainName, { signal: never, logger });

async function read(options: Omit<ReadJournalOptions, 'signal'>): Promise<ReadFrame[]> {
  const found: ReadFrame[] = [];
  for await (const one of readJournal({ ...options, signal: never })) found.push(one);
  return found;
}

const texts = (frames: readonly ReadFrame[]) => frames.map(({ frame }) => frame.body.toString());

describe('frames', () => {
  const anyFrame = fc.record({
    kind: fc.integer({ min: 1, max: 255 }),
    meta: fc.dictionary(fc.string(), fc.jsonValue()).map((meta) => JSON.parse(JSON.stringify(meta))),
    body: fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes)),
    arrivalMicros: fc.maxSafeNat(),
  });

  test('what was encoded is decoded, and nothing that is cut short', () => {
    fc.assert(
      fc.property(anyFrame, (frame) => {
        const bytes = Buffer.concat([...encodeFrame(frame), Buffer.from('rest')]);
        expect(decodeFrame(bytes, 'here')).toEqual({ frame, sizeBytes: bytes.length - 4 });
        for (let end = 0; end < bytes.length - 4; end += 7)
          expect(decodeFrame(bytes.subarray(0, end), 'here')).toBeNull();
      }),
    );
  });

  test('no flipped bit passes', () => {
    const bytes = Buffer.concat(encodeFrame({ ...item('cpu v=1'), arrivalMicros: noon }));
    for (let bit = 0; bit < bytes.length * 8; bit += 1) {
      const copy = Buffer.from(bytes);
      copy[bit >> 3] = (copy[bit >> 3] ?? 0) ^ (1 << (bit & 7));
      // A length that grew asks for more bytes, which are not there.
      const decoded = () => decodeFrame(copy, 'here');
      try {
        expect(decoded()).toBeNull();
      } catch (error) {
        expect(error).toMatchObject({ code: 'QZ3330' });
      }
    }
  });

  test('what a forger writes under a right CRC is refused', () => {
    const bytes = Buffer.concat(encodeFrame({ kind: 1, meta: {}, body: Buffer.alloc(0), arrivalMicros: noon }));
    const forged = (change: (copy: Buffer) => void) => {
      const copy = Buffer.from(bytes);
      change(copy);
      copy.writeUInt32LE(crc32(copy.subarray(0, copy.length - 4)), copy.length - 4);
      return () => decodeFrame(copy, 'here');
    };
    expect(forged((copy) => copy.writeUInt16LE(2, 4))).toThrow(/version 2/);
    expect(forged((copy) => copy.writeUInt8(0, 6))).toThrow(/kind/);
    expect(forged((copy) => copy.writeUInt8(1, 7))).toThrow(/kind/);
    expect(forged((copy) => copy.writeBigUInt64LE(2n ** 60n, 8))).toThrow(/bounds/);
    expect(forged((copy) => copy.writeUInt32LE(2 ** 30, 20))).toThrow(/bounds/);
    expect(forged((copy) => copy.write('[]', 24))).toThrow(/JSON/);
    expect(() => encodeFrame({ ...item(''), kind: 256, arrivalMicros: 1 })).toThrow(RangeError);
  });
});

describe('the names of services’ chains', () => {
  test('lead back to source and service, and no source can be called so', () => {
    expect(serviceChain('agama', { kind: 'influxdb', name: 'syslog' })).toBe(chainName);
    expect(ownerOf(chainName)).toEqual({ source: 'agama', service: { kind: 'influxdb', name: 'syslog' } });
    expect(ownerOf('agama.influxdb.syslog')).toEqual({ source: 'agama.influxdb.syslog', service: null });
    expect(ownerOf('agama=other.x')).toEqual({ source: 'agama=other.x', service: null });
  });
});

describe('writing a journal', () => {
  test('frames that come at once go together, in order, and each promise knows where it ends', async () => {
    const log = new MadeLog();
    const journal = await open(log);
    const positions = await Promise.all(['a', 'bb', 'ccc'].map((text) => journal.append([item(text)])));
    await journal.heartbeat(noon + 5);
    const size = (length: number) => frameBytes(JSON.stringify({ n: length }).length, length);
    expect(positions.map(({ offset }) => offset)).toEqual([
      4 + size(1),
      4 + size(1) + size(2),
      4 + size(1) + size(2) + size(3),
    ]);
    expect(journal.position).toEqual(positions[2]);
    const frames = await read({ history: null, log });
    expect(texts(frames)).toEqual(['a', 'bb', 'ccc']);
    expect(frames.map(({ frame }) => frame.arrivalMicros)).toEqual([noon, noon + 1, noon + 2]);
    expect(journal.state).toMatchObject({ lastCommitMicros: noon + 2, completeThroughMicros: noon + 5 });
    // One append for the first, one for those that came meanwhile.
    expect(journal.state.next).toBe(1 + 2 + 1);
  });

  test('a day’s end and a full file begin the next file; so does no restart', async () => {
    const log = new MadeLog();
    let now = noon;
    const journal = await open(log, { nowMicros: () => now, fileMaxBytes: 200 });
    await journal.append([item('x'.repeat(300))]);
    await journal.append([item('second')]);
    now += 13 * hour;
    await journal.append([item('next day')]);
    const again = await open(log, { nowMicros: () => now });
    await again.append([item('same day')]);
    const frames = await read({ history: null, log });
    expect(frames.map(({ end }) => end.file)).toEqual([
      'journal.000001',
      'journal.000002',
      'journal.000003',
      'journal.000003',
    ]);
  });

  test('a clock that goes back never turns arrivals around', async () => {
    const log = new MadeLog();
    let now = noon;
    const journal = await open(log, { nowMicros: () => now });
    await journal.append([item('a')]);
    now -= hour;
    await journal.append([item('b')]);
    const again = await open(log, { nowMicros: () => now });
    await again.append([item('c')]);
    expect((await read({ history: null, log })).map(({ frame }) => frame.arrivalMicros)).toEqual([
      noon,
      noon + 1,
      noon + 2,
    ]);
    // What the clock told is kept where it no longer is the arrival.
    const frames = (await read({ history: null, log })).map(({ frame }) => frame.meta.clockMicros);
    expect(frames).toEqual([undefined, noon - hour, noon - hour]);
  });

  test('what waits for the log is bounded: more is refused at once, and taken again later', async () => {
    const log = new StuckLog();
    const journal = await open(log, { waitingMaxBytes: 900 });
    log.stuck = true;
    const waiting = [1, 2, 3].map(() => journal.append([item('y'.repeat(300))]));
    await expect(journal.append([item('z')])).rejects.toMatchObject({ code: 'QZ4330' });
    log.free();
    await Promise.all(waiting);
    await journal.room();
    await journal.append([item('z')]);
    expect(texts(await read({ history: null, log }))).toHaveLength(4);
  });

  test('a writer that was superseded tells everybody who waits, and takes nothing more', async () => {
    const log = new MadeLog();
    const first = await open(log);
    await first.append([item('a')]);
    const second = await open(log);
    await expect(first.append([item('lost')])).rejects.toMatchObject({ code: 'QZ3311' });
    await expect(first.append([item('lost')])).rejects.toMatchObject({ code: 'QZ3311' });
    await second.append([item('b')]);
    expect(texts(await read({ history: null, log }))).toEqual(['a', 'b']);
  });

  test('the journal of another service is refused', async () => {
    const log = new MadeLog();
    await open(log);
    await expect(open(log, { chainName: 'agama=influxdb.other' })).rejects.toMatchObject({ code: 'QZ3310' });
  });
});

describe('reading a journal', () => {
  test('from the archive as far as it goes, then from the log, each frame once', async () => {
    await withStore(async (store) => {
      const log = new MadeLog();
      let now = noon;
      const journal = await open(log, { nowMicros: () => now });
      for (const text of ['a', 'b', 'c']) {
        await journal.append([item(text)]);
        now += 13 * hour;
      }
      await ship(log, store, journal.state.next);
      const archived = await read({ history: await historyOf(store) });
      expect(texts(archived)).toEqual(['a', 'b', 'c']);
      await journal.append([item('d')]);
      const history = await historyOf(store);
      expect(texts(await read({ history, log }))).toEqual(['a', 'b', 'c', 'd']);
      const after = archived[1]?.end ?? { file: '', offset: 0 };
      expect(texts(await read({ history, log, after }))).toEqual(['c', 'd']);
      expect(texts(await read({ history, log, throughMicros: noon + 13 * hour }))).toEqual(['a', 'b']);
      expect(texts(await read({ history, log, after, throughMicros: noon + 13 * hour }))).toEqual([]);
    });
  });

  test('a log that was lost goes on in a new one, and nothing is read twice', async () => {
    await withStore(async (store) => {
      const log = new MadeLog();
      const journal = await open(log);
      await journal.append([item('a')]);
      await ship(log, store, journal.state.next);
      const fresh = new MadeLog();
      const next = await open(fresh, { continued: journal.state });
      await next.append([item('b')]);
      expect(texts(await read({ history: await historyOf(store), log: fresh }))).toEqual(['a', 'b']);
      await ship(fresh, store, next.state.next);
      const history = await historyOf(store);
      expect(history.gaps).toEqual([]);
      expect(texts(await read({ history, log: fresh }))).toEqual(['a', 'b']);
    });
  });

  test('a missing segment stops whoever needs it, and nobody else', async () => {
    await withStore(async (store) => {
      const log = new MadeLog();
      let now = noon;
      const journal = await open(log, { nowMicros: () => now });
      for (const text of ['a', 'b', 'c']) {
        await journal.append([item(text)]);
        await ship(log, store, journal.state.next);
        now += hour;
      }
      const whole = await read({ history: await historyOf(store) });
      const [first] = (await historyOf(store)).items.flatMap((one) =>
        one.type === 'segment' && one.decoded.header.start > 4 ? [one.decoded.header.sequence] : [],
      );
      await store.remove(`sources/${chainName}/chain/${String(first).padStart(20, '0')}`);
      const history = await historyOf(store);
      await expect(read({ history })).rejects.toMatchObject({ code: 'QZ3331' });
      expect(texts(await read({ history, throughMicros: noon }))).toEqual(['a']);
      expect(texts(await read({ history, after: whole[1]?.end ?? { file: '', offset: 0 } }))).toEqual(['c']);
      await expect(read({ history, after: whole[0]?.end ?? { file: '', offset: 0 } })).rejects.toMatchObject({
        code: 'QZ3331',
      });
    });
  });
});
