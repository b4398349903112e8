/** What a pair refuses, waits for and fences, in words. */
import type { GtidSet } from '../core/binlog/gtid-set.ts';
import { configurationError, integrityError, isKind, transientError } from '../core/errors/error.ts';

/** Before the first snapshot there is nothing to be filled from, and nothing wrong either. */
export function waitForSnapshot(error: unknown): never {
  if (!isKind(error, 'configuration') || !['QZ2065', 'QZ2067', 'QZ2410'].includes(error.code)) throw error;
  throw transientError(
    'QZ4715',
    `The standby waits: ${error.message}`,
    'It is filled once the agent has taken a snapshot.',
    {
      cause: error,
    },
  );
}

export function notNow(role: string) {
  return configurationError(
    'QZ2712',
    `This host cannot be promoted now: it is ${role === 'standby' ? 'being promoted already, or has not followed yet' : role}.`,
    'See `qazyna status` on this host.',
  );
}

export function notVouchedFor() {
  return configurationError(
    'QZ2713',
    'Nothing vouches for the old primary: RPO 0 was not in force at the end of the log, so it may hold commits that are not in it, and may go on taking them.',
    'Make sure that it is off, or cannot be reached by clients; then say so: --old-primary-is-off.',
  );
}

export function holdsMore(errant: GtidSet) {
  return integrityError(
    'QZ3726',
    `This server was the primary, and has executed ${errant}, which the history does not hold.`,
    '`qazyna rejoin --reseed` saves the binlog that holds them and makes this server a copy again; until then nobody can use it.',
    { details: { errant: errant.toString() } },
  );
}

export function notCopiedNow(role: string) {
  return transientError(
    'QZ4722',
    `The server of this host cannot be copied now: it is ${role === 'standby' ? 'not following yet' : role}.`,
    'See `qazyna status` on this host; or take the snapshot on the other host.',
  );
}

export function copyOfNoHistory(errant: GtidSet) {
  return integrityError(
    'QZ3727',
    `The copy of the standby's server holds ${errant}, which is in no history: it was thrown away.`,
    'Somebody wrote to that server. It is filled anew by itself; until then take snapshots of the source.',
    { details: { errant: errant.toString() } },
  );
}

export function notCompared(cause: Error) {
  return integrityError(
    'QZ3751',
    `This server was the primary, and whether it holds more than the history cannot be told. ${cause.message}`,
    'Mend it and start this daemon again; or `qazyna rejoin --reseed` keeps its binlog files and makes it a copy again.',
    { cause },
  );
}

export function cameToNothing() {
  return transientError(
    'QZ4754',
    'The promotion that was asked for before this daemon ended had not begun, and came to nothing.',
    'Ask again.',
  );
}
