/** What a writer is given: entries that have no place in the chain yet. */
import { GtidSet } from '../binlog/gtid-set.ts';
import type { ChainState, Entry } from './types.ts';

/** An entry before it has its place in the chain. */
export type EntryDraft = Omit<Entry, 'chainId' | 'generation' | 'writer' | 'number'> & { generation?: number };

/** Whether the next generation begins with it. */
export function opensGeneration({ kind }: { kind: Entry['kind'] }): boolean {
  return kind === 'promotion' || kind === 'timeline';
}

/** Entry 0 of a chain carries where an older history ended, when there is one; later claims carry nothing but their writer. */
export function claimDraft(
  state: ChainState | null,
  { continued, sourceUuid }: { continued: ChainState | null; sourceUuid: string },
): EntryDraft {
  const from = state === null ? continued : null;
  const draft = emptyDraft('claim', state?.sourceUuid ?? from?.sourceUuid ?? sourceUuid);
  if (from === null) return draft;
  const range = from.range === null ? {} : { ...from.range, start: from.range.end };
  return {
    ...draft,
    ...range,
    generation: from.generation,
    gtidsBefore: from.gtids,
    lastCommitMicros: from.lastCommitMicros,
    completeThroughMicros: from.completeThroughMicros,
  };
}

/** An entry without events; callers set what their kind adds. */
export function emptyDraft(kind: Entry['kind'], sourceUuid: string): EntryDraft {
  return {
    kind,
    sourceUuid,
    file: '',
    start: 0,
    end: 0,
    boundary: 0,
    transactionStart: 0,
    fileHeadSha256: Buffer.alloc(32),
    firstCommitMicros: 0,
    lastCommitMicros: 0,
    gtidsAdded: new GtidSet(),
    gtidsBefore: null,
    completeThroughMicros: 0,
    semiSync: false,
    note: '',
    body: Buffer.alloc(0),
  };
}
