/**
 * What of an unfinished event is in the log already. Its own checksum stands at its end, which is not captured yet; after a
 * restart the source sends the event again, and its first part must be what the log holds.
 */
import { crc32 } from 'node:zlib';
import type { BinlogRange, ChainState, LandedEntry } from '../../core/chain/types.ts';
import type { ChainLog } from '../../core/log/types.ts';

type ReadableLog = Pick<ChainLog, 'read' | 'bounds'>;

/** CRC-32 of [boundary, end) of the last events entry's range; null when that is empty, or the log no longer holds it all. */
export async function capturedPrefixCrc(
  log: ReadableLog,
  state: ChainState,
  signal: AbortSignal,
): Promise<number | null> {
  const { range } = state;
  if (range === null || range.boundary >= range.end) return null;
  const { first } = await log.bounds();
  for (let back = 2; ; back *= 2) {
    const from = Math.max(first, state.next - back);
    if (await beginsBefore(log, from, range, signal)) return await crcFrom(log, from, range, signal);
    if (from === first) return null;
  }
}

/** Whether all of the range's [boundary, end) lies at or behind entry `from`. */
async function beginsBefore(log: ReadableLog, from: number, range: BinlogRange, signal: AbortSignal): Promise<boolean> {
  for await (const { entry } of log.read(from, { follow: false, signal })) {
    if (entry.kind === 'events') return entry.file !== range.file || entry.start <= range.boundary;
  }
  return false;
}

async function crcFrom(
  log: ReadableLog,
  from: number,
  range: BinlogRange,
  signal: AbortSignal,
): Promise<number | null> {
  let crc = 0;
  let at = range.boundary;
  for await (const landed of log.read(from, { follow: false, signal })) {
    const part = partOf(landed, range, at);
    if (part === null) continue;
    crc = crc32(part, crc);
    at += part.length;
  }
  return at === range.end ? crc : null;
}

/** The bytes of an entry that continue at `at`; null for entries that do not count or hold none of them. */
function partOf({ landed, entry }: LandedEntry, range: BinlogRange, at: number): Buffer | null {
  if (landed !== entry.number || entry.kind !== 'events' || entry.file !== range.file) return null;
  if (entry.start > at || entry.end <= at) return null;
  return entry.body.subarray(at - entry.start, range.end - entry.start);
}
