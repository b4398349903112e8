/** A topic of a bench's own, made anew. */
import { join } from 'node:path';
import type { ChainLog } from '../core/log/types.ts';
import { silentLogger } from '../core/logging/logger.ts';

export async function openBenchTopic(brokers: readonly string[], dir: string): Promise<ChainLog> {
  // Only where it is needed, as the program does: an agent with a local log never loads it.
  const { KafkaLog } = await import('../core/log/kafka/log.ts');
  return await KafkaLog.open({
    brokers,
    topic: `bench-${process.pid}`,
    retentionMs: 24 * 3_600_000,
    clientId: 'bench',
    acknowledges: false,
    maxBytes: 0,
    states: () => Promise.resolve([]),
    stateFile: join(dir, 'topic.json'),
    create: true,
    logger: silentLogger(),
    signal: new AbortController().signal,
  });
}
