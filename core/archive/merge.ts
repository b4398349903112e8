/** Several consecutive segments as one: which may become one, and what its header says. Pure. */
import { GtidSet } from '../binlog/gtid-set.ts';
import { type DecodedHeader, firstSequence, type SealedBody, type SegmentHeader } from './segment.ts';

/** Whether `next`, which follows `last` in the chain, may become one with it: never across binlog files, timelines or logs. */
export function mayMerge(last: DecodedHeader, next: DecodedHeader): boolean {
  const [from, to] = [last.header, next.header];
  if (opensGeneration(from) || opensGeneration(to)) return false;
  return (
    from.generation === to.generation &&
    from.logChainId === to.logChainId &&
    from.archiveChainId === to.archiveChainId &&
    (from.file === to.file || from.file === '')
  );
}

/** These stand alone: everybody has to find them. */
export function opensGeneration({ kind }: SegmentHeader): boolean {
  return kind === 'promotion' || kind === 'timeline';
}

/** What a run of mergeable segments says as one, with the body that holds theirs one behind the other. */
export function mergedHeader(run: readonly DecodedHeader[], sealed: SealedBody): SegmentHeader {
  const [first, last] = [run[0], run.at(-1)];
  if (first === undefined || last === undefined) throw new Error('nothing is merged of nothing');
  const events = run.filter(({ header }) => header.kind === 'events');
  const commits = run.map(({ header }) => header.firstCommitMicros).filter((micros) => micros > 0);
  const gtidsAdded = new GtidSet();
  for (const { header } of run) gtidsAdded.addAll(header.gtidsAdded);
  return {
    // State at the end.
    ...last.header,
    kind: events.length > 0 ? 'events' : last.header.kind,
    start: events[0]?.header.start ?? last.header.start,
    firstLogNumber: first.header.firstLogNumber,
    previousSha256: first.header.previousSha256,
    gtidsBefore: first.header.gtidsBefore,
    gtidsAdded,
    transactions: run.reduce((sum, { header }) => sum + header.transactions, 0),
    firstCommitMicros: commits.length === 0 ? 0 : Math.min(...commits),
    lastCommitMicros: Math.max(...run.map(({ header }) => header.lastCommitMicros)),
    note: opensGeneration(last.header) ? last.header.note : '',
    rawBytes: sealed.rawBytes,
    rawSha256: sealed.rawSha256,
    storedBytes: sealed.stored.length,
  };
}

/** Sequence numbers that a run covers, both included. */
export function rangeOfRun(run: readonly DecodedHeader[]): { first: number; last: number } {
  const [first, last] = [run[0], run.at(-1)];
  if (first === undefined || last === undefined) throw new Error('an empty run covers nothing');
  return { first: firstSequence(first), last: last.header.sequence };
}
