/** What a live source says. Transient: the connection is dropped, and the replica comes back; integrity: it is told so. */
import { integrityError, transientError } from '../errors/error.ts';
import { gapText } from '../history/plan.ts';
import type { HistoryGap } from '../history/timelines.ts';

export function discarded(name: string, position: number, end: number) {
  return transientError(
    'QZ4705',
    `${name} ends at ${end} with its last complete transaction; what was sent up to ${position} was never complete.`,
    'The replica reconnects, forgets the half transaction, and goes on with the next file.',
  );
}

export function notYet(name: string, position: number, end: number) {
  return transientError(
    'QZ4706',
    `${name} is known up to ${end} here, and position ${position} was asked for.`,
    'The replica asks again; if it lasts, it was fed from somewhere that knew more: see what this server reads from.',
  );
}

export function beyondEnd(name: string, position: number, end: number) {
  return integrityError(
    'QZ3709',
    `Client requested source to start replication from position ${position} > file size: ${name} ends at ${end}.`,
    'What the replica has of that file was never complete; seed it again, or let it ask by GTIDs (SOURCE_AUTO_POSITION = 1).',
  );
}

export function notReached(archive: string, log: string | null, gap: HistoryGap | null, wanted: number) {
  const what = gap === null ? '' : ` (${gapText(gap)})`;
  return integrityError(
    'QZ3710',
    `The archive ${archive} does not lead to the present${what}, and ${log ?? 'there is no log that'} holds what follows` +
      `${log === null ? '' : ` no entry ${wanted}`}.`,
    'Follow from another archive of this source; `windows` shows every gap.',
  );
}

export function otherArchive(archive: string) {
  return integrityError(
    'QZ3713',
    `The archive ${archive} is another one than when it was read first: its chain was begun anew.`,
    'Check that the right disk is mounted there; if it was replaced on purpose, start this program again.',
  );
}

export function otherLog(log: string, archive: string) {
  return integrityError(
    'QZ3711',
    `The ${log} is another chain than the one in ${archive}, and does not begin where that one stands.`,
    'Check that log and archive are of the same source; a new log must go on from the archives, or begin a new timeline.',
  );
}

export function notShown(name: string, position: number) {
  return transientError(
    'QZ4707',
    `The bytes of ${name} from position ${position} on were seen, and are not shown now.`,
    'They are asked for again when the replica comes back.',
  );
}
