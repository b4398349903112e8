/** Where a replica that brings its GTID set is served from, and what it is told when it cannot be. */
import { GtidSet } from '../binlog/gtid-set.ts';
import { integrityError, transientError } from '../errors/error.ts';
import type { BinlogSource, HistoryReach, StreamFile } from './types.ts';

const uuidLength = 36;
/** A set of a client's making may have hundreds of thousands. */
const maxShownIntervals = 100;

/**
 * The newest file before which the replica has everything. QZ3704 when that is gone, QZ3705 when the replica is ahead for
 * good; QZ4708 where it may be only for now.
 */
export function chooseFile(
  { reach }: Pick<BinlogSource, 'reach'>,
  files: readonly StreamFile[],
  executed: GtidSet,
): StreamFile {
  const end = reach?.gtids ?? files.at(-1)?.gtidsAfter;
  if (end) refuseIfAhead(end, executed, reach);
  const file = files.findLast((candidate) => executed.containsAll(candidate.gtidsBefore));
  if (file !== undefined) return file;
  if (files.length === 0) throw nothingYet();
  const missing = files[0]?.gtidsBefore.subtract(executed).toString(maxShownIntervals) ?? '';
  throw integrityError(
    'QZ3704',
    'Cannot replicate because the source purged required binary logs. Replicate the missing transactions from ' +
      'elsewhere, or provision a new replica from backup. ' +
      `The GTID set sent by the replica lacks '${missing}', which this history does not hold.`,
    'Seed the replica again from a newer snapshot.',
  );
}

/** Only sources named in the history count: what a replica did on its own is its own affair. */
function refuseIfAhead(history: GtidSet, executed: GtidSet, reach: HistoryReach | undefined): void {
  const ahead = new GtidSet();
  for (const uuid of new Set([...history.keys()].map((key) => key.slice(0, uuidLength)))) {
    ahead.addAll(executed.ofSource(uuid).subtract(history));
  }
  if (ahead.isEmpty) return;
  const lost = reach === undefined ? ahead : reach.lost(ahead);
  if (lost.isEmpty) throw aheadForNow(ahead);
  throw integrityError(
    'QZ3705',
    `Replica has more GTIDs than this history, which does not hold ${lost.toString(maxShownIntervals)} and never will.`,
    'The replica was fed from elsewhere, or the history was cut at an earlier instant: seed it again.',
  );
}

/**
 * A replica ignores events that carry its own server_id, in silence. QZ3707 when one of these files was written under it, and
 * holds what the replica lacks (`executed` null: not known). A server that wrote for an earlier timeline itself has all of that.
 */
export function refuseOwnServerId(
  { serverIds }: Pick<BinlogSource, 'serverIds'>,
  files: readonly StreamFile[],
  replicaServerId: number,
  executed: GtidSet | null,
): void {
  for (const file of files) {
    if (!(file.serverIds ?? serverIds).has(replicaServerId)) continue;
    const held = file.gtidsAfter?.subtract(file.gtidsBefore);
    if (held !== undefined && executed?.containsAll(held)) continue;
    throw integrityError(
      'QZ3707',
      `The replica's server_id ${replicaServerId} is one of this history's own: it would ignore transactions of ${file.name} in silence.`,
      'Give the replica a server_id of its own.',
    );
  }
}

export function nothingYet() {
  return transientError(
    'QZ4709',
    'The history has no binlog file from its beginning yet.',
    'The replica asks again; the next file comes when the source rotates (FLUSH BINARY LOGS).',
  );
}

function aheadForNow(ahead: GtidSet) {
  return transientError(
    'QZ4708',
    `The replica already has ${ahead.toString(maxShownIntervals)}, which this history does not hold yet.`,
    'It asks again until it does; if it lasts, see how far behind the history is that is served here.',
  );
}

export function fileGone(name: string) {
  return transientError(
    'QZ4704',
    `${name} is not part of the served history any more.`,
    'The replica reconnects and is told where it stands.',
  );
}
