/** What a child stands on that is an agent's way alone: a server on loopback, and a chain in a folder or a topic made anew. */
import { join } from 'node:path';
import type { AppendableChain } from '../core/chain/store.ts';
import { ChainWriter } from '../core/chain/writer.ts';
import { LocalLog } from '../core/log/local/log.ts';
import type { ChainLog } from '../core/log/types.ts';
import { createLogger, type Logger } from '../core/logging/logger.ts';
import { connectMysql, type MysqlEndpoint } from '../core/mysql/connection.ts';
import { readSourceFacts } from '../core/mysql/source-facts.ts';

export interface BenchChainOptions {
  port: number;
  dir: string;
  /** None: the log is in `dir`. */
  brokers: readonly string[];
  /** What the writer sees of the log. */
  through?: (log: ChainLog) => AppendableChain;
  signal: AbortSignal;
}

export interface BenchChain {
  endpoint: MysqlEndpoint;
  log: ChainLog;
  writer: ChainWriter;
  logger: Logger;
}

export async function openBenchChain(options: BenchChainOptions): Promise<BenchChain> {
  const { port, dir, brokers, through = (log) => log, signal } = options;
  const endpoint = { host: '127.0.0.1', port, user: 'root', password: '', tls: { mode: 'disabled' } } as const;
  const logger = createLogger({ level: 'warn' });
  const connection = await connectMysql(endpoint, signal);
  const { serverUuid: sourceUuid } = await readSourceFacts(connection);
  await connection.close();
  const log = brokers.length === 0 ? await LocalLog.open({ dir, logger }) : await openTopic(brokers, dir, logger);
  const { state, next } = await log.checkpoint();
  const chain = { base: state, first: next, sourceUuid, continued: null };
  const writer = await ChainWriter.open(through(log), { ...chain, signal, logger });
  return { endpoint, log, writer, logger };
}

async function openTopic(brokers: readonly string[], dir: string, logger: Logger): Promise<ChainLog> {
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
    logger,
    signal: new AbortController().signal,
  });
}
