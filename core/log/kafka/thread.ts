/**
 * The thread that kafkajs runs in: it computes checksums and copies in JavaScript, 8 to 30 ms for a request of 1 MB, which the
 * agent's own event loop must not stand still for (its bars are in milliseconds). Messages are in thread-messages.ts.
 */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { parentPort, workerData } from 'node:worker_threads';
import { BrokerFault, type BrokersOptions, type Fetched } from './brokers.ts';
import type { Call, FetchedMessage, Reply } from './thread-messages.ts';

const tidyEveryBytes = 512 * 1024;

// These would have kafkajs print what it sends and receives, passwords included.
for (const name of ['KAFKAJS_DEBUG_PROTOCOL_BUFFERS', 'KAFKAJS_DEBUG_EXTENDED_PROTOCOL_BUFFERS', 'KAFKAJS_LOG_LEVEL'])
  delete process.env[name];

/**
 * kafkajs sets timers that lie in the past (src/network/requestQueue). Node runs them at once and says so, once for each
 * thread, on the terminal of a person who can do nothing about it: that once is used up here, unheard.
 */
function keepTimerWarningQuiet(): void {
  const { emitWarning } = process;
  process.emitWarning = () => {};
  clearTimeout(setTimeout(() => {}, -1));
  process.emitWarning = emitWarning;
}

/** One buffer for all values, copied: kafkajs' own may hold the beginning of the next answer, and a transfer takes all of it. */
function packed({ records, first, next }: Fetched): FetchedMessage {
  const bytes = new Uint8Array(records.reduce((sum, { value }) => sum + value.length, 0));
  let at = 0;
  const places = records.map(({ offset, timestampMs, value }) => {
    bytes.set(value, at);
    at += value.length;
    return { offset, timestampMs, end: at };
  });
  return { first, next, places, bytes: bytes.buffer };
}

/**
 * What kafkajs copies is garbage at once, but of the kind that V8 does not feel (memory outside its heap): left alone it grows
 * to a hundred megabytes before anything collects it.
 */
function tidier(): (sentBytes: number) => void {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as (options: { type: 'minor' }) => void;
  let sinceBytes = 0;
  return (sentBytes) => {
    sinceBytes += sentBytes;
    if (sinceBytes < tidyEveryBytes) return;
    sinceBytes = 0;
    collect({ type: 'minor' });
  };
}

async function serve(): Promise<void> {
  const port = parentPort;
  if (port === null) throw new Error('this file is run as a thread');
  keepTimerWarningQuiet();
  const { KafkajsBrokers } = await import('./kafkajs-brokers.ts');
  const say = (reply: Reply, transfer: ArrayBuffer[] = []) => port.postMessage(reply, transfer);
  const brokers = new KafkajsBrokers(workerData as BrokersOptions, (level, message) =>
    say({ kind: 'remark', level, message }),
  );
  const tidy = tidier();
  const answer = async (call: Call): Promise<void> => {
    const { id } = call;
    try {
      if (call.method === 'append') tidy(call.args[1].reduce((sum, value) => sum + value.length, 0));
      if (call.method === 'fetch') {
        const fetched = packed(await brokers.fetch(...call.args));
        return say({ kind: 'done', id, value: fetched }, [fetched.bytes]);
      }
      // One of five methods with its own arguments: the pairing is held by Call.
      const work = brokers[call.method] as (...args: unknown[]) => Promise<unknown>;
      say({ kind: 'done', id, value: await work.apply(brokers, call.args) });
    } catch (error) {
      const fault = error instanceof BrokerFault ? error : new BrokerFault('other', String(error));
      say({ kind: 'failed', id, reason: fault.reason, message: fault.message });
    }
  };
  port.on('message', (call: Call) => void answer(call));
}

await serve();
