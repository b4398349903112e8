/** What verification is made of: ends of zstd frames, records of checks, journals, the rate, what a day costs. */
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm, truncate } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from '@jest/globals';
import type { ArchiveUpkeep } from '../../agent/http/status.ts';
import { upkeepProblems, upkeepTopics } from '../../agent/http/upkeep.ts';
import { serviceChain } from '../../core/archive/layout.ts';
import { type SegmentHeader, sealBody, sealSegment } from '../../core/archive/segment.ts';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { zstdFrame } from '../../core/bytes/zstd.ts';
import { zstdFrameEnd } from '../../core/bytes/zstd-frame.ts';
import { encodeFrame } from '../../core/journal/frame.ts';
import { chainObjectProblem } from '../../core/verify/chain-objects.ts';
import { costByDay, meanDay } from '../../core/verify/cost.ts';
import { MarkFolder, prefixOf } from '../../core/verify/mark.ts';
import { Reading } from '../../core/verify/reading.ts';
import { decodeRecord, encodeRecord, type VerifiedRecord } from '../../core/verify/record.ts';
import { archive, openHistory, withStore } from '../made/archive.ts';
import { makeSample } from '../made/sample.ts';

const { signal } = new AbortController();

describe('the end of a zstd frame', () => {
  test.each([0, 1, 5, 300, 70_000, 3_000_000])('of %i bytes is found, and nothing else taken for it', async (bytes) => {
    const body = Buffer.concat([randomBytes(Math.min(bytes, 1000)), Buffer.alloc(Math.max(0, bytes - 1000), 'abc ')]);
    const frame = await zstdFrame(body, 3);
    expect(zstdFrameEnd(frame)).toBe(frame.length);
    expect(zstdFrameEnd(Buffer.concat([frame, Buffer.from('more')]))).toBe(frame.length);
    expect(zstdFrameEnd(frame.subarray(0, -1))).toBeNull();
    expect(zstdFrameEnd(randomBytes(40))).toBeNull();
  });

  test('a body of many parts is one frame, too', async () => {
    const { stored } = await sealBody(Array.from({ length: 9 }, () => Buffer.alloc(700, 'a part of it ')));
    expect(zstdFrameEnd(stored)).toBe(stored.length);
  });
});

describe('a record of a check', () => {
  const record: VerifiedRecord = {
    format: 1,
    id: '20261130T031500Z-0a1b2c3d',
    source: 'agama',
    startedMicros: 1,
    finishedMicros: 2,
    full: true,
    fullMicros: 2,
    objects: 3,
    bytes: 4,
    damaged: 1,
    healed: 0,
    findings: [{ object: 'tip.json', problem: 'is missing', healedBy: '' }],
    stored: { objects: 5, bytes: 6, aDay: { historyBytes: 7, historyObjects: 1, snapshots: 1, snapshotBytes: 2 } },
  };

  test('is read back as it was, in whatever order it was given', () => {
    const { id, ...rest } = record;
    expect(encodeRecord('verified', { ...rest, id })).toEqual(encodeRecord('verified', record));
    expect(decodeRecord('verified', encodeRecord('verified', record), 'here')).toEqual(record);
  });

  test('a bit changed anywhere in it is noticed', () => {
    const bytes = encodeRecord('verified', record);
    for (let at = 0; at < bytes.length; at += 1) {
      const changed = Buffer.from(bytes);
      changed.writeUInt8(changed.readUInt8(at) ^ (1 << (at % 8)), at);
      expect(() => decodeRecord('verified', changed, 'here')).toThrow(/here is damaged/);
    }
  });
});

describe('a service’s journal', () => {
  const chain = serviceChain('agama', { kind: 'influxdb', name: 'syslog' });
  const frame = (arrivalMicros: number) =>
    Buffer.concat(encodeFrame({ kind: 1, meta: {}, body: Buffer.from('cpu v=1 1'), arrivalMicros }));
  const problemOf = async (raw: Buffer): Promise<string | null> => {
    const { rawSha256, stored } = await sealBody([raw]);
    const header: SegmentHeader = {
      ...empty,
      end: 4 + raw.length,
      boundary: 4 + raw.length,
      transactionStart: 4 + raw.length,
      rawBytes: raw.length,
      rawSha256,
      storedBytes: stored.length,
    };
    const bytes = Buffer.concat(sealSegment(header, stored).body);
    const place = { chain, key: 'the journal', first: 0, last: 0, isCompacted: false };
    return await chainObjectProblem(bytes, place, { before: null, after: null });
  };

  test('whole frames in their order, whatever their hash says', async () => {
    expect(await problemOf(Buffer.concat([frame(1), frame(2), frame(5)]))).toBeNull();
    expect(await problemOf(Buffer.concat([frame(1), frame(2).subarray(0, -1)]))).toContain('ends inside a frame');
    expect(await problemOf(Buffer.concat([frame(2), frame(2)]))).toContain('goes back in time');
    const flipped = Buffer.concat([frame(1), frame(2)]);
    flipped.writeUInt8(flipped.readUInt8(30) ^ 1, 30);
    expect(await problemOf(flipped)).toContain('CRC-32');
  });

  const empty: SegmentHeader = {
    kind: 'events',
    sequence: 0,
    archiveChainId: '11'.repeat(16),
    logChainId: '22'.repeat(16),
    generation: 1,
    writer: '',
    sourceUuid: '',
    firstLogNumber: 0,
    lastLogNumber: 3,
    file: 'journal.000001',
    start: 4,
    end: 4,
    boundary: 4,
    transactionStart: 4,
    fileHeadSha256: Buffer.alloc(32),
    gtidsBefore: new GtidSet(),
    gtidsAdded: new GtidSet(),
    transactions: 0,
    firstCommitMicros: 1,
    lastCommitMicros: 5,
    chainLastCommitMicros: 5,
    completeThroughMicros: 0,
    semiSync: false,
    note: '',
    rawBytes: 0,
    rawSha256: Buffer.alloc(32),
    storedBytes: 0,
    previousSha256: Buffer.alloc(32),
  };
});

describe('what is told of an archive', () => {
  const day = 86_400_000;
  const now = 1_800_000_000_000_000;
  const good: ArchiveUpkeep = {
    name: 'onsite',
    createdMicros: now - 90 * day * 1000,
    verifyEveryMs: day,
    verified: { atMicros: now - day * 1000, damaged: 0, healed: 0, firstFinding: '' },
    verifiedFullMicros: 0,
    stored: null,
    drillEveryMs: 7 * day,
    drilled: { atMicros: now - day * 1000, good: true, problem: '', restoreMs: 1 },
    drilledGoodMicros: now - day * 1000,
  };
  const codes = (more: Partial<ArchiveUpkeep>) => upkeepProblems(now, { ...good, ...more }).map(({ code }) => code);

  test('damage, a drill that failed, and what is long due', () => {
    expect(codes({})).toEqual([]);
    expect(codes({ verified: { atMicros: now, damaged: 2, healed: 0, firstFinding: 'x is missing' } })).toEqual([
      'QZ4961',
    ]);
    const failed = { atMicros: now, good: false, problem: 'rows differ.', restoreMs: 1 };
    expect(codes({ drilled: failed })).toEqual(['QZ4962']);
    expect(codes({ drilled: failed, drilledGoodMicros: now - 20 * day * 1000 })).toEqual(['QZ4962', 'QZ4964']);
    expect(codes({ verified: null })).toEqual(['QZ4963']);
    expect(codes({ verified: null, createdMicros: now - day * 1000 })).toEqual([]);
    expect(codes({ verified: null, verifyEveryMs: 0, drilled: null, drilledGoodMicros: 0, drillEveryMs: 0 })).toEqual(
      [],
    );
  });

  test('each under the topic of its alarm', () => {
    const all = { verified: null, drilled: null, drilledGoodMicros: 0 };
    for (const { topic } of upkeepProblems(now, { ...good, ...all })) expect(upkeepTopics('onsite')).toContain(topic);
  });
});

describe('what was verified before', () => {
  test('is kept beside the process, and forgotten where it cannot be read', async () => {
    const dir = await mkdtemp(join(tmpdir(), 'qazyna-marks-'));
    try {
      const marks = await MarkFolder.open(dir, 'onsite');
      expect([await marks.read(), await marks.packsOf('a'), await marks.snapshots()]).toEqual([null, null, []]);
      const chains = {
        agama: { sequence: 7, sha256: 'ab'.repeat(32), archiveChainId: 'ef'.repeat(16), compacted: ['0-3'] },
      };
      const mark = { identity: 'cd', chains, suspects: ['packs/x'] };
      const packs = ['01'.repeat(32), 'fe'.repeat(32)];
      await marks.write(mark);
      await marks.writePacks('a', packs);
      const again = await MarkFolder.open(dir, 'onsite');
      expect(await again.read()).toEqual(mark);
      expect([await again.packsOf('a'), await again.snapshots()]).toEqual([packs.map(prefixOf), ['a']]);
      await truncate(join(dir, 'verified/onsite/a.packs'), 40);
      expect(await again.packsOf('a')).toBeNull();
      await again.forget('a');
      expect(await again.snapshots()).toEqual([]);
      await truncate(join(dir, 'verified/onsite/mark.json'), 30);
      expect(await again.read()).toBeNull();
    } finally {
      await rm(dir, { recursive: true });
    }
  });
});

describe('reading', () => {
  test('never holds more than its bound, and is not faster than allowed', async () => {
    const reading = new Reading({ signal, bytesPerSecondMax: 20_000 });
    const startMs = performance.now();
    let [now, most] = [0, 0];
    await reading.each(
      Array.from({ length: 40 }, () => 1000),
      (size) => size,
      async () => {
        now += 1;
        most = Math.max(most, now);
        await new Promise((resolve) => setImmediate(resolve));
        now -= 1;
      },
    );
    expect(performance.now() - startMs).toBeGreaterThan(800);
    expect([reading.objects, reading.bytes]).toEqual([40, 40_000]);
    const large = new Reading({ signal });
    [now, most] = [0, 0];
    const size = 20 * 1024 * 1024;
    await large.each(
      [size, size, size],
      () => size,
      async () => {
        now += 1;
        most = Math.max(most, now);
        await new Promise((resolve) => setTimeout(resolve, 5));
        now -= 1;
      },
    );
    expect(most).toBe(1);
  });

  test('the first failure ends it', async () => {
    const reading = new Reading({ signal });
    const work = async (item: number) => {
      if (item === 3) throw new Error('three');
    };
    await expect(reading.each([1, 2, 3, 4], () => 1, work)).rejects.toThrow('three');
  });
});

test('what a day costs follows from headers and marks', () =>
  withStore(async (store) => {
    await archive(store, makeSample().chain.folded, 1400);
    const history = await openHistory(store);
    const snapshot = { finishedMicros: 1_800_000_000_000_000 + 86_400_000_000, newBytes: 1000, manifestBytes: 24 };
    const days = costByDay([history], [snapshot]);
    const [first, second] = days;
    expect(days).toHaveLength(2);
    expect(first?.historyObjects).toBeGreaterThan(20);
    expect(second).toMatchObject({ day: '2027-01-16', historyObjects: 0, snapshots: 1, snapshotBytes: 1024 });
    let listed = 0;
    for await (const { key, sizeBytes } of store.list('sources/made/chain/')) listed += key === '' ? 0 : sizeBytes;
    expect(days.reduce((sum, { historyBytes }) => sum + historyBytes, 0)).toBe(listed);
    expect(meanDay(days, '2027-01-17')?.snapshotBytes).toBe(512);
    expect(meanDay([], '2027-01-17')).toBeNull();
  }));
