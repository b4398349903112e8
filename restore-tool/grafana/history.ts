/** Who changed what in a Grafana, and when: read from the journal of one archive. */
import { openFrame } from '../../core/grafana/frames.ts';
import { type Json, parseJson } from '../../core/grafana/json.ts';
import { snapshotState } from '../../core/grafana/load.ts';
import { keyText, type ObjectMeta } from '../../core/grafana/objects.ts';
import { bodyOf, GrafanaState } from '../../core/grafana/state.ts';
import type { ArchiveHistory } from '../../core/history/open.ts';
import { readJournal } from '../../core/journal/read.ts';
import { journalWindow } from '../../core/journal/window.ts';
import { listCompleteSnapshots } from '../../core/snapshot/manifest.ts';
import { type Difference, differences } from './diff.ts';

export interface GrafanaChange extends ObjectMeta {
  /** `kept`: it was so when what is kept of the journal begins. */
  change: 'kept' | 'made' | 'changed' | 'deleted';
  /** When the agent had it (µs). A restore to this instant, or later, holds it. */
  seenMicros: number;
  /** A dashboard's version that was replaced before the agent saw it; it is known from Grafana's own list. */
  isPast: boolean;
  /** Against what was known of it before; null unless asked for. */
  differences: Difference[] | null;
}

export interface GrafanaHistoryRequest {
  history: ArchiveHistory;
  /** null: of everything. */
  uid: string | null;
  withDifferences: boolean;
  sinceMicros?: number;
  untilMicros?: number;
  signal: AbortSignal;
}

/** What was there when what is kept of the journal begins; null where all of it is kept. */
interface Base {
  state: GrafanaState;
  micros: number;
}

/** In the order in which the agent saw them. Throws QZ3330, QZ3331 where the journal is damaged. */
export async function* grafanaHistory(request: GrafanaHistoryRequest): AsyncIterable<GrafanaChange> {
  const { history, uid, withDifferences, sinceMicros = 0, untilMicros, signal } = request;
  const base = await baseOf(history, signal);
  /** What each object was last, past versions included. */
  const known = new GrafanaState(base?.state);
  const isKept = base !== null && base.micros >= sinceMicros && base.micros <= (untilMicros ?? base.micros);
  for (const { meta } of isKept ? known.objects.values() : []) {
    if (uid !== null && meta.uid !== uid) continue;
    const differences = withDifferences ? [] : null;
    yield { ...meta, change: 'kept', seenMicros: base?.micros ?? 0, isPast: false, differences };
  }
  const after = base === null ? {} : { after: base.state.position };
  const through = untilMicros === undefined ? {} : { throughMicros: untilMicros };
  for await (const { frame, end } of readJournal({ history, signal, ...after, ...through })) {
    const opened = openFrame(frame, `${end.file}:${end.offset}`);
    if (opened.kind === 'organization') continue;
    const key = opened.kind === 'deleted' ? opened.key : opened.meta;
    if (uid !== null && key.uid !== uid) continue;
    const before = known.get(key);
    const seenMicros = frame.arrivalMicros;
    const isWanted = seenMicros >= sinceMicros;
    if (opened.kind === 'deleted') {
      known.objects.delete(keyText(key));
      if (before !== null && isWanted)
        yield {
          ...before.meta,
          ...nobody,
          change: 'deleted',
          seenMicros,
          isPast: false,
          differences: withDifferences ? [] : null,
        };
      continue;
    }
    const { meta, sha256, body } = opened;
    known.put(meta, sha256, body);
    // Told again after a start: nothing changed.
    if (before?.sha256 === sha256 && before.meta.version === meta.version) continue;
    if (!isWanted) continue;
    yield {
      ...meta,
      change: before === null ? 'made' : 'changed',
      seenMicros,
      isPast: opened.kind === 'version',
      differences:
        withDifferences && before !== null
          ? differences(content(bodyOf(before)), content(body))
          : withDifferences
            ? []
            : null,
    };
  }
  signal.throwIfAborted();
}

/** Who deleted an object is told by nobody. */
const nobody = { version: null, savedMicros: 0, author: '', message: '' };

function content(body: Buffer): Json {
  return parseJson(body.toString('utf8'));
}

interface FoundVersion {
  meta: ObjectMeta;
  sha256: string;
  body: Buffer;
}

/** Where retention has deleted the beginning, the oldest snapshot that is left stands for it. */
async function baseOf(history: ArchiveHistory, signal: AbortSignal): Promise<Base | null> {
  if (history.pruned.length === 0) return null;
  const { store, sourceName } = history;
  const snapshots = await listCompleteSnapshots(store, { source: sourceName, signal });
  const { fromMicros: micros } = journalWindow(history, snapshots);
  const oldest = snapshots.find(({ finishedMicros }) => finishedMicros === micros);
  return oldest === undefined ? null : { state: await snapshotState(store, oldest.id, signal), micros };
}

/** One version of a dashboard, whether the agent saw it or found it in Grafana's list; null: there is none. */
export async function findVersion(
  history: ArchiveHistory,
  uid: string,
  version: number,
  signal: AbortSignal,
): Promise<FoundVersion | null> {
  const base = await baseOf(history, signal);
  const kept = [...(base?.state.objects.values() ?? [])].find(
    ({ meta }) => meta.type === 'dashboard' && meta.uid === uid && meta.version === version,
  );
  let found: FoundVersion | null =
    kept === undefined ? null : { meta: kept.meta, sha256: kept.sha256, body: bodyOf(kept) };
  for await (const { frame, end } of readJournal({ history, signal })) {
    const opened = openFrame(frame, `${end.file}:${end.offset}`);
    if (opened.kind !== 'object' && opened.kind !== 'version') continue;
    const { meta, sha256, body } = opened;
    if (meta.type === 'dashboard' && meta.uid === uid && meta.version === version) found = { meta, sha256, body };
  }
  signal.throwIfAborted();
  return found;
}
