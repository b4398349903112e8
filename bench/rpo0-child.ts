/**
 * The acknowledging agent's way alone: capture → chain writer → log → acknowledgement, in a process of its own, until SIGTERM.
 * `node bench/rpo0-child.ts PORT DIR [BROKER,…]`: the log is in DIR, or with brokers in a topic of its own. Prints `attached`
 * once commits are acknowledged, and in the end one JSON object. (The programs refuse to acknowledge from a local log, which
 * does not survive its host; here it is what a stock replica's relay log is.) Without arguments it only loads.
 */
import { captureEntries } from '../agent/capture/capture.ts';
import type { AppendableChain } from '../core/chain/store.ts';
import type { ChainLog } from '../core/log/types.ts';
import { openBenchChain } from './bench-chain.ts';
import { median } from './figure.ts';

/** What the child prints in the end. */
export interface AcknowledgingOutcome {
  appends: number;
  /** Of one append to the log, from its call to its answer. */
  appendP50Ms: number;
}

async function main(port: number, dir: string, brokers: readonly string[]): Promise<AcknowledgingOutcome> {
  const stop = new AbortController();
  process.once('SIGTERM', () => stop.abort());
  const appendsMs: number[] = [];
  const timed = (log: ChainLog): AppendableChain => ({
    name: log.name,
    read: (from, options) => log.read(from, options),
    append: async (entries) => {
      const beganMs = performance.now();
      const outcome = await log.append(entries);
      appendsMs.push(performance.now() - beganMs);
      return outcome;
    },
  });
  // Not by `stop`: what was captured by then is still appended.
  const { signal } = new AbortController();
  const { endpoint, log, writer, logger } = await openBenchChain({ port, dir, brokers, through: timed, signal });
  const options = {
    endpoint,
    chainId: writer.state.chainId,
    resume: null,
    start: 'current' as const,
    semiSync: true,
    // As the daemon has it for a log that commits wait for: nothing waits for a timer.
    flushMs: 5,
    isIdle: () => writer.isIdle,
    logger,
    onConnection: (trouble: unknown) => trouble === null && process.stdout.write('attached\n'),
  };
  let last = Promise.resolve();
  for await (const batch of captureEntries(options, stop.signal)) {
    await writer.room();
    last = writer.append(batch.items).then(() => {
      batch.accepted();
      batch.release();
    });
    last.catch((error: unknown) => stop.abort(error));
  }
  await last;
  await log.close();
  return { appends: appendsMs.length, appendP50Ms: median(appendsMs) };
}

const [port, dir = '', brokers = ''] = process.argv.slice(2);
if (port !== undefined) {
  const outcome = await main(Number(port), dir, brokers.split(',').filter(Boolean));
  process.stdout.write(`${JSON.stringify(outcome)}\n`);
  process.exit(0);
}
