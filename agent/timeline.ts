/**
 * `timeline new`: the only way on after the source lost or replaced history, and the way to protect a restored server. The
 * chain's next generation begins with the fork set: what both histories share. A new snapshot is due at once.
 */
import { GtidSet } from '../core/binlog/gtid-set.ts';
import type { ChainState } from '../core/chain/types.ts';
import { ChainWriter } from '../core/chain/writer.ts';
import { configurationError } from '../core/errors/error.ts';
import type { ChainLog } from '../core/log/types.ts';
import type { Logger } from '../core/logging/logger.ts';
import { connectMysql, type MysqlConnection, type MysqlEndpoint } from '../core/mysql/connection.ts';
import { readSourceFacts, type SourceFacts } from '../core/mysql/source-facts.ts';
import { readFileHead } from './capture/file-head.ts';
import { checkSettings, unloggedGtids } from './capture/source-checks.ts';

const firstEventAt = 4;
const eventsPerPage = 10_000;

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
  const { state: inLog, next } = await log.checkpoint();
  const before = inLog ?? continued;
  if (before === null)
    throw configurationError(
      'QZ2309',
      'There is no history of this source yet, so no new timeline can branch off from it.',
      'Start the agent: it begins the first timeline by itself.',
    );
  let compared = await compareWithServer(endpoint, before, signal);
  let old = before;
  if (!dryRun) {
    const writer = await ChainWriter.open(log, { signal, logger, base: inLog, first: next, sourceUuid: '', continued });
    // The claim has stopped an agent that may have gone on until now: only what is known from here on is all there is.
    old = writer.state;
    compared = await compareWithServer(endpoint, old, signal);
    const { forkSet, facts } = compared;
    await writer.appendTimeline({ reason, forkSet, sourceUuid: facts.serverUuid });
  }
  const { facts, forkSet } = compared;
  const { generation, sourceUuid, lastCommitMicros } = old;
  return {
    generation: generation + 1,
    sourceUuid: facts.serverUuid,
    previous: { generation, sourceUuid, lastCommitMicros },
    forkSet,
    leftBehind: old.gtids.subtract(forkSet),
  };
}

async function compareWithServer(
  endpoint: MysqlEndpoint,
  before: ChainState,
  signal: AbortSignal,
): Promise<{ facts: SourceFacts; forkSet: GtidSet }> {
  const connection = await connectMysql(endpoint, signal);
  try {
    const facts = await readSourceFacts(connection);
    checkSettings(facts, connection.name);
    return { facts, forkSet: await provenShared(connection, endpoint, before, facts, signal) };
  } finally {
    await connection.close();
  }
}

/**
 * Equal GTIDs need not be equal transactions: a server that lost its end, or was RESET, counts again from where it was. So
 * under the same server_uuid only what stands in the same binlog file is shared; what cannot be proved is not. Under another
 * server_uuid (a restored server) new commits cannot reuse the old one's GTIDs, and what it has executed is shared.
 */
async function provenShared(
  connection: MysqlConnection,
  endpoint: MysqlEndpoint,
  before: ChainState,
  facts: SourceFacts,
  signal: AbortSignal,
): Promise<GtidSet> {
  if (facts.serverUuid !== before.sourceUuid) return before.gtids.intersect(facts.gtidExecuted);
  const { range } = before;
  if (range === null || !facts.files.some(({ name }) => name === range.file)) return new GtidSet();
  const head = await readFileHead(endpoint, range.file, signal);
  if (!head.sha256.equals(range.fileHeadSha256)) return new GtidSet();
  const shared = head.gtidsBefore.clone();
  shared.addAll(await unloggedGtids(facts, endpoint, signal));
  for await (const gtid of gtidsIn(connection, range.file, range.boundary)) shared.addAll(gtid);
  // One that was captured in part is not in the chain's set.
  return shared.intersect(before.gtids);
}

/** GTIDs of the transactions of one binlog file that begin before `until`, a page of events at a time. */
async function* gtidsIn(connection: MysqlConnection, file: string, until: number): AsyncGenerator<GtidSet> {
  for (let from = firstEventAt; from < until; ) {
    const events = await connection.query(`SHOW BINLOG EVENTS IN ? FROM ${from} LIMIT ${eventsPerPage}`, [file]);
    for (const { Pos, Event_type: type, Info: info } of events) {
      const gtid = /^gtid/i.test(String(type)) ? /GTID_NEXT= '([^']+)'/.exec(String(info))?.[1] : undefined;
      if (gtid !== undefined && Number(Pos) < until) yield GtidSet.parse(gtid);
    }
    if (events.length < eventsPerPage) return;
    from = Number(events.at(-1)?.End_log_pos);
  }
}
