/**
 * `timeline new`: the only way on after the source lost or replaced history, and the way to protect a restored server. The
 * chain's next generation begins with the fork set: what both histories share. A new snapshot is due at once.
 */
import type { GtidSet } from '../core/binlog/gtid-set.ts';
import type { ChainState } from '../core/chain/types.ts';
import { ChainWriter, emptyDraft } from '../core/chain/writer.ts';
import { configurationError } from '../core/errors/error.ts';
import type { ChainLog } from '../core/log/types.ts';
import type { Logger } from '../core/logging/logger.ts';
import { connectMysql, type MysqlEndpoint } from '../core/mysql/connection.ts';
import { readSourceFacts } from '../core/mysql/source-facts.ts';
import { checkSettings } from './capture/source-checks.ts';

export interface NewTimeline {
  generation: number;
  sourceUuid: string;
  previous: { generation: number; sourceUuid: string; lastCommitMicros: number };
  /** What the old timeline and the server have in common. */
  forkSet: GtidSet;
  /** Captured once, and not in this server: restorable from the old timeline only. */
  leftBehind: GtidSet;
}

export interface TimelineOptions {
  log: ChainLog;
  endpoint: MysqlEndpoint;
  /** Where history stands in the archives, for a log that is empty. */
  continued: ChainState | null;
  reason: string;
  signal: AbortSignal;
  logger: Logger;
  /** Decide only, append nothing. */
  dryRun: boolean;
}

/** Throws QZ2309 when there is no history to go on from, and what connecting or claiming throws. */
export async function newTimeline(options: TimelineOptions): Promise<NewTimeline> {
  const { log, endpoint, continued, reason, signal, logger, dryRun } = options;
  const connection = await connectMysql(endpoint, signal);
  const facts = await readSourceFacts(connection).finally(() => connection.close());
  checkSettings(facts, connection.name);
  const { state: inLog, next } = await log.checkpoint();
  const before = inLog ?? continued;
  if (before === null)
    throw configurationError(
      'QZ2309',
      'There is no history of this source yet, so no new timeline can branch off from it.',
      'Start the agent: it begins the first timeline by itself.',
    );
  const forkSet = before.gtids.intersect(facts.gtidExecuted);
  const { generation, sourceUuid, lastCommitMicros } = before;
  if (!dryRun) {
    const writer = await ChainWriter.open(log, { signal, logger, base: inLog, first: next, sourceUuid: '', continued });
    const draft = emptyDraft('timeline', facts.serverUuid);
    await writer.append([{ ...draft, generation: generation + 1, gtidsBefore: forkSet, note: reason }]);
  }
  return {
    generation: generation + 1,
    sourceUuid: facts.serverUuid,
    previous: { generation, sourceUuid, lastCommitMicros },
    forkSet,
    leftBehind: before.gtids.subtract(forkSet),
  };
}
