/**
 * The fold: what every reader makes of a chain, entry by entry. Pure. FORMAT.md ("The chain") states the rules in full.
 *
 * An entry counts only where it landed at the number it was meant for. Everything else (duplicates, late arrivals, the
 * loser of a race) is passed over, by every reader alike.
 */
import { GtidSet } from '../binlog/gtid-set.ts';
import { integrityError, type QazynaError } from '../errors/error.ts';
import type { BinlogRange, ChainState, Entry, LandedEntry } from './types.ts';

const firstEventAt = 4;

/** The state after `landed`; the same object (but for `next`) when the entry does not count. Throws QZ33xx at a hole. */
export function fold(state: ChainState | null, landed: LandedEntry): ChainState | null {
  const { entry } = landed;
  if (!counts(state, landed)) return state === null ? null : { ...state, next: landed.landed + 1 };
  if (state === null) return begin(entry);
  const next = entry.number + 1;
  switch (entry.kind) {
    case 'claim':
      return { ...state, next, writer: entry.writer };
    case 'heartbeat':
      return {
        ...state,
        next,
        completeThroughMicros: Math.max(state.completeThroughMicros, entry.completeThroughMicros),
        semiSync: entry.semiSync,
      };
    case 'promotion':
    case 'timeline':
      return newGeneration(state, entry);
    case 'events':
      return { ...state, ...continued(state, entry), next };
  }
}

/** Whether an entry is part of the history at all; `state` is what came before it. */
export function counts(state: ChainState | null, { landed, entry }: LandedEntry): boolean {
  if (state === null) return landed === entry.number && entry.kind === 'claim';
  // Also where the entry does not count: what stood at the number left out might have.
  if (landed !== state.next) throw notNext(state.next, landed);
  if (landed !== entry.number) return false;
  if (entry.chainId !== state.chainId)
    throw chainError('QZ3302', `Entry ${landed} belongs to chain ${entry.chainId}, not to ${state.chainId}`);
  const opens = entry.kind === 'promotion' || entry.kind === 'timeline';
  if (entry.generation > state.generation + (opens ? 1 : 0))
    throw chainError(
      'QZ3304',
      `Entry ${landed} is of generation ${entry.generation}, but the chain is at ${state.generation}`,
    );
  return entry.generation === state.generation + (opens ? 1 : 0);
}

/** Whether a new chain, begun with the state `begun`, goes on exactly where an older history stands. */
export function continuesAt(older: ChainState, begun: ChainState): boolean {
  const sameEnd = older.range?.file === begun.range?.file && older.range?.end === begun.range?.end;
  return sameEnd && older.generation === begun.generation && older.gtids.equals(begun.gtids);
}

/** A chain begins with a claim. Where it continues an older history (a lost log), the claim carries where that stood. */
function begin(entry: Entry): ChainState {
  return {
    chainId: entry.chainId,
    next: entry.number + 1,
    generation: entry.generation,
    writer: entry.writer,
    sourceUuid: entry.sourceUuid,
    range: entry.file === '' ? null : rangeOf(entry),
    gtids: entry.gtidsBefore ?? new GtidSet(),
    lastCommitMicros: entry.lastCommitMicros,
    completeThroughMicros: entry.completeThroughMicros,
    semiSync: entry.semiSync,
  };
}

function newGeneration(state: ChainState, entry: Entry): ChainState {
  return {
    ...state,
    next: entry.number + 1,
    generation: entry.generation,
    writer: entry.writer,
    sourceUuid: entry.sourceUuid,
    range: null,
    gtids: entry.gtidsBefore ?? state.gtids,
    semiSync: false,
  };
}

/** Events must start where the last ones ended, or open the next file with a set that is the one before. */
function continued(state: ChainState, entry: Entry): Pick<ChainState, 'range' | 'gtids' | 'lastCommitMicros'> {
  const gtids = entry.gtidsBefore === null ? state.gtids : entry.gtidsBefore;
  if (state.range === null) requireFileStart(entry);
  else requireNeighbour(state, state.range, entry);
  return {
    range: rangeOf(entry),
    gtids: entry.gtidsAdded.isEmpty ? gtids : joined(gtids, entry),
    lastCommitMicros: Math.max(state.lastCommitMicros, entry.lastCommitMicros),
  };
}

function requireFileStart(entry: Entry): void {
  if (entry.start === firstEventAt && entry.gtidsBefore !== null) return;
  throw hole(entry, 'the beginning of a binlog file', `${entry.file}:${entry.start}`);
}

function requireNeighbour(state: ChainState, range: BinlogRange, entry: Entry): void {
  if (entry.file === range.file) {
    if (entry.start !== range.end) throw hole(entry, `${range.file}:${range.end}`, `${entry.file}:${entry.start}`);
    if (entry.gtidsBefore === null) return;
    throw chainError('QZ3315', `Entry ${entry.number} goes on in ${entry.file} but brings a GTID set of its own`);
  }
  const next = followingFile(range.file);
  if (entry.file !== next || entry.start !== firstEventAt)
    throw hole(entry, `${range.file}:${range.end} or ${next}:${firstEventAt}`, `${entry.file}:${entry.start}`);
  // A transaction left open at the end of a file (a crash) never counted, so the set needs no correction here.
  if (entry.gtidsBefore?.equals(state.gtids)) return;
  const before = entry.gtidsBefore ?? new GtidSet();
  throw chainError(
    'QZ3306',
    `Entry ${entry.number} opens ${entry.file} after the GTIDs ${before}, but ${range.file} ended after ${state.gtids}`,
    { missing: state.gtids.subtract(before).toString(), unexpected: before.subtract(state.gtids).toString() },
  );
}

function joined(before: GtidSet, entry: Entry): GtidSet {
  const repeated = before.intersect(entry.gtidsAdded);
  if (!repeated.isEmpty)
    throw chainError('QZ3307', `Entry ${entry.number} (${entry.file}:${entry.start}) holds ${repeated} a second time`);
  const set = before.clone();
  set.addAll(entry.gtidsAdded);
  return set;
}

function rangeOf(entry: Entry): BinlogRange {
  const { file, start, end, boundary, transactionStart, fileHeadSha256 } = entry;
  return { file, start, end, boundary, transactionStart, fileHeadSha256 };
}

/** `base.000009` → `base.000010`, as the server counts (MYSQL_BIN_LOG::generate_new_name, sql/binlog.cc). */
export function followingFile(file: string): string {
  const dot = file.lastIndexOf('.');
  const digits = file.slice(dot + 1);
  return `${file.slice(0, dot)}.${String(Number(digits) + 1).padStart(digits.length, '0')}`;
}

function notNext(next: number, landed: number): QazynaError {
  if (landed > next) {
    return chainError('QZ3303', `Entries ${next} to ${landed - 1} are missing`, { first: next, last: landed - 1 });
  }
  return chainError('QZ3317', `Entry ${landed} was read after ${next - 1}: the store went back behind what it held`, {
    next,
    landed,
  });
}

function hole(entry: Entry, expected: string, found: string): QazynaError {
  const at =
    entry.firstCommitMicros === 0
      ? ''
      : `, committed from ${new Date(entry.firstCommitMicros / 1000).toISOString()} on`;
  return chainError(
    'QZ3305',
    `There is a hole before entry ${entry.number}: it should start at ${expected} but starts at ${found}${at}`,
    {
      entry: entry.number,
      expected,
      found,
    },
  );
}

function chainError(code: `QZ33${string}`, sentence: string, details: Record<string, unknown> = {}): QazynaError {
  return integrityError(
    code,
    `${sentence}.`,
    'History is not continuous here. Restore up to this point still works; `qazyna timeline new --reason …` protects what comes next.',
    { details },
  );
}
