/**
 * The agent's way of a byte alone: capture → chain writer → log, in a process of its own, until everything below a position is
 * durable. `node bench/capture-child.ts PORT DIR FILE POSITION [BROKER,…]`: the log is in DIR, or with brokers in a topic of
 * its own. Prints one JSON object. Without arguments it only loads.
 */
import { captureEntries } from '../agent/capture/capture.ts';
import { compareFiles } from '../agent/capture/file-name.ts';
import { peakRssBytes } from '../test/lab/processes.ts';
import { openBenchChain } from './bench-chain.ts';
import { StallMeter } from './stall-meter.ts';

const warmUpMs = 1000;

/** What the child prints. */
export interface CaptureOutcome {
  bytes: number;
  entries: number;
  /** Peak resident set of the whole process (VmHWM of /proc/self/status), and what it was before capture began. */
  peakRssBytes: number;
  idleRssBytes: number;
  /** The longest stalls of the event loop from the second second on: by our own code, and in all. */
  ownStallMs: number;
  stallMs: number;
}

async function main(
  port: number,
  dir: string,
  file: string,
  position: number,
  brokers: readonly string[],
): Promise<CaptureOutcome> {
  const { signal } = new AbortController();
  const { endpoint, log, writer, logger } = await openBenchChain({ port, dir, brokers, signal });
  const idleRssBytes = peakRssBytes();
  const stall = new StallMeter();
  const warm = setTimeout(() => stall.reset(), warmUpMs);
  let bytes = 0;
  let entries = 0;
  const options = { endpoint, chainId: writer.state.chainId, resume: null, start: 'oldest' as const, logger };
  for await (const batch of captureEntries(options, signal)) {
    await writer.room();
    bytes += batch.bodyBytes;
    entries += batch.items.length;
    const accepted = writer.append(batch.items).then(() => batch.release());
    const last = batch.items.findLast((item) => item.kind === 'events');
    const ahead = last ? compareFiles(last.file, file) : -1;
    if (last && (ahead > 0 || (ahead === 0 && last.end >= position))) {
      await accepted;
      break;
    }
  }
  clearTimeout(warm);
  stall.stop();
  await log.close();
  const { ownMs, wallMs } = stall;
  return { bytes, entries, peakRssBytes: peakRssBytes(), idleRssBytes, ownStallMs: ownMs, stallMs: wallMs };
}

const [port, dir = '', file = '', position = '', brokers = ''] = process.argv.slice(2);
if (port !== undefined) {
  const outcome = await main(Number(port), dir, file, Number(position), brokers.split(',').filter(Boolean));
  process.stdout.write(`${JSON.stringify(outcome)}\n`);
}
