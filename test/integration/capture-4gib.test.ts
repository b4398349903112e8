/**
 * A binlog file beyond 4 GiB, which event headers (u32 LogPos) cannot address. A server would need minutes to write one, so
 * it is made: a closed file of the server is replaced by one with the same GTIDs, whose first transaction is stretched by
 * events of zeros (holes on disk, each with a right checksum).
 */
import { open, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { captureEntries } from '../../agent/capture/capture.ts';
import type { CapturedEntry, ResumePoint } from '../../agent/capture/types.ts';
import { eventTypes, headerBytes, writeChecksum } from '../../core/binlog/events.ts';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { eventsOf } from '../made/dump-stream.ts';
import { CaptureLab, chainId } from './capture-lab.ts';

const stretches = 9;
const stretchBytes = 500 * 1024 * 1024;

let lab: CaptureLab;
beforeAll(async () => {
  lab = await CaptureLab.start();
}, 120_000);
afterAll(async () => {
  await lab[Symbol.asyncDispose]();
});

/** transaction_length in a Gtid event: nine bytes (0xFE) in place of the three or fewer of a small one. */
function stretchedGtid(event: Buffer, length: number): Buffer {
  const at = (event.readUIntLE(headerBytes + 46, 3) & 0x800000) === 0 ? headerBytes + 49 : headerBytes + 56;
  const old = event.readUInt8(at) === 0xfc ? 3 : event.readUInt8(at) === 0xfd ? 4 : 1;
  const wide = Buffer.alloc(9);
  wide.writeUInt8(0xfe, 0);
  wide.writeBigUInt64LE(BigInt(length), 1);
  const result = Buffer.concat([event.subarray(0, at), wide, event.subarray(at + old)]);
  result.writeUInt32LE(result.length, 9);
  return result;
}

/** Header and checksum of a Rows_query event of zeros. */
function zeros(end: number): { header: Buffer; sum: Buffer } {
  const header = Buffer.alloc(headerBytes);
  header.writeUInt8(eventTypes.rowsQuery, 4);
  header.writeUInt32LE(21, 5);
  header.writeUInt32LE(stretchBytes, 9);
  header.writeUInt32LE(end % 2 ** 32, 13);
  const block = Buffer.alloc(1024 * 1024);
  let left = stretchBytes - headerBytes - 4;
  let crc = crc32(header);
  for (; left > 0; left -= block.length) crc = crc32(block.subarray(0, Math.min(left, block.length)), crc);
  const sum = Buffer.alloc(4);
  sum.writeUInt32LE(crc);
  return { header, sum };
}

/** Rewrites the file with its first transaction stretched; returns its new size. */
async function stretch(path: string): Promise<number> {
  const bytes = await readFile(path);
  const events = eventsOf(bytes);
  const gtidAt = events.findIndex((event) => event.readUInt8(4) === eventTypes.gtid);
  const next = events.findIndex((event, index) => index > gtidAt && event.readUInt8(4) === eventTypes.gtid);
  const first = events.slice(gtidAt, next);
  const gtid = first[0] ?? Buffer.alloc(0);
  const length = first.reduce((sum, event) => sum + event.length, 0) + stretches * stretchBytes;
  const grown = stretchedGtid(gtid, length).length - gtid.length;
  await using file = await open(path, 'w');
  let at = 0;
  const put = async (event: Buffer) => {
    event.writeUInt32LE((at + event.length) % 2 ** 32, 13);
    writeChecksum(event);
    await file.write(event, 0, event.length, at);
    at += event.length;
  };
  const head = bytes.subarray(
    0,
    events.slice(0, gtidAt).reduce((sum, event) => sum + event.length, 4),
  );
  await file.write(head, 0, head.length, 0);
  at = head.length;
  await put(stretchedGtid(gtid, length + grown));
  await put(Buffer.from(first[1] ?? Buffer.alloc(0)));
  for (let count = 0; count < stretches; count++) {
    const { header, sum } = zeros(at + stretchBytes);
    await file.write(header, 0, header.length, at);
    at += stretchBytes;
    await file.write(sum, 0, sum.length, at - sum.length);
  }
  for (const event of [...first.slice(2), ...events.slice(next)]) await put(Buffer.from(event));
  return at;
}

test('a file of 4.4 GiB is captured, and resumed beyond 4 GiB', async () => {
  await lab.sql('CREATE DATABASE g', 'CREATE TABLE g.t (i INT PRIMARY KEY)', 'FLUSH BINARY LOGS');
  for (let i = 0; i < 5; i++) await lab.sql(`INSERT INTO g.t VALUES (${i})`);
  await lab.sql('FLUSH BINARY LOGS');
  const files = (await lab.sql('SHOW BINARY LOGS')).map((row) => String(row.Log_name));
  const large = files.at(-2) ?? '';
  const size = await stretch(join(lab.dataDir, large));
  expect(size).toBeGreaterThan(2 ** 32);

  const options = { endpoint: lab.endpoint, chainId, start: 'oldest' as const, logger: silentLogger() };
  const capture = async (resume: ResumePoint | null): Promise<CapturedEntry[]> => {
    const entries: CapturedEntry[] = [];
    const stop = new AbortController();
    const gtids = resume?.gtids.clone() ?? new GtidSet();
    const wanted = await lab.gtidExecuted();
    for await (const batch of captureEntries({ ...options, resume }, stop.signal)) {
      for (const item of batch.items) {
        gtids.addAll(item.gtidsAdded);
        entries.push({ ...item, body: Buffer.alloc(0) });
      }
      batch.release();
      if (gtids.containsAll(wanted)) break;
    }
    return entries;
  };
  const all = (await capture(null)).filter((entry) => entry.kind === 'events' && entry.file === large);
  expect(all.at(-1)?.end).toBe(size);
  for (const [index, entry] of all.entries()) expect(entry.start).toBe(all[index - 1]?.end ?? 4);

  // As if the agent had ended in the last of the stretched events, and between two transactions after it.
  const inside = all.findLastIndex((entry) => entry.end > 2 ** 32 && entry.boundary < entry.end);
  for (const index of [inside, all.length - 1]) {
    const last = all[index];
    if (!last) throw new Error('no entry beyond 4 GiB');
    const gtids = GtidSet.parse(String(all[0]?.gtidsBefore ?? ''));
    for (const entry of all.slice(0, index + 1)) gtids.addAll(entry.gtidsAdded);
    const rest = await capture({ sourceUuid: last.sourceUuid, range: last, gtids, prefixCrc: null });
    const [next] = rest.filter((entry) => entry.kind === 'events');
    expect(next?.file === large ? next.start : size).toBe(last.end);
  }
}, 180_000);
