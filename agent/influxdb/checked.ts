/** What was known to be well when the journal was last written to, read back from the journal itself. */
import { type Checked, frameKinds, openFrame } from '../../core/influxdb/frames.ts';
import { decodeFrame } from '../../core/journal/frame.ts';
import type { ChainLog } from '../../core/log/types.ts';

/** How many entries of the log's end are looked through, more each time. */
const looks = [500, 5000, 50_000, Number.POSITIVE_INFINITY];

/** Null when the log holds no such frame. */
export async function lastChecked(
  log: Pick<ChainLog, 'bounds' | 'read'>,
  signal: AbortSignal,
): Promise<Checked | null> {
  const { first, next } = await log.bounds();
  for (const entries of looks) {
    const from = Math.max(first, next - entries);
    const found = await lastCheckedFrom(log, from, signal);
    if (found !== null || from === first) return found;
  }
  return null;
}

async function lastCheckedFrom(
  log: Pick<ChainLog, 'read'>,
  from: number,
  signal: AbortSignal,
): Promise<Checked | null> {
  let last: Checked | null = null;
  for await (const { landed, entry } of log.read(from, { follow: false, signal })) {
    if (landed !== entry.number || entry.kind !== 'events') continue;
    for (let at = 0; at < entry.body.length; ) {
      const where = `${entry.file}:${entry.start + at}`;
      const decoded = decodeFrame(entry.body.subarray(at), where);
      if (decoded === null) break;
      at += decoded.sizeBytes;
      if (decoded.frame.kind !== frameKinds.checked) continue;
      const frame = openFrame(decoded.frame, where);
      if (frame.kind === 'checked') last = frame.checked;
    }
  }
  return last;
}
