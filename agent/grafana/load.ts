/** What the journal held when this agent started: read back from an archive and the log behind it. */
import { isKind, QazynaError, transientError } from '../../core/errors/error.ts';
import { openFrame } from '../../core/grafana/frames.ts';
import { loadState } from '../../core/grafana/load.ts';
import { GrafanaState } from '../../core/grafana/state.ts';
import { ArchiveHistory } from '../../core/history/open.ts';
import { readJournal } from '../../core/journal/read.ts';
import { listCompleteSnapshots } from '../../core/snapshot/manifest.ts';
import type { ServiceContext } from '../journaled/types.ts';

type From = Pick<ServiceContext, 'chainName' | 'archives' | 'log' | 'logger' | 'signal'>;

/** Throws QZ4954 while no archive can be read and the log alone does not hold all of it. */
export async function loadJournaled(from: From): Promise<GrafanaState> {
  const { archives, log, logger, signal } = from;
  let failure: unknown = null;
  let isEmpty = false;
  for (const archive of archives) {
    try {
      const state = await fromArchive(from, archive);
      if (state !== null) return state;
      isEmpty = true;
    } catch (error) {
      signal.throwIfAborted();
      if (!(error instanceof QazynaError)) throw error;
      logger.warn(`what is known of Grafana cannot be read from ${archive.name}: ${error.message}`, {
        code: error.code,
      });
      failure ??= error;
    }
  }
  // No archive holds anything of it: then the log holds all, or there is nothing.
  if (isEmpty && failure === null && (await log.base()).state === null) return await fromLog(from);
  throw transientError(
    'QZ4954',
    'What is known of Grafana stands in the archives, and none of them can be read.',
    'It goes on by itself once an archive can be read again; the archives’ own alarms say more.',
    { cause: failure },
  );
}

async function fromArchive(
  { chainName, log, logger, signal }: From,
  { store }: From['archives'][number],
): Promise<GrafanaState | null> {
  try {
    const history = await ArchiveHistory.open(store, chainName, { signal, logger });
    const [snapshot] = await listCompleteSnapshots(store, { source: chainName, signal });
    return await loadState({ store, history, snapshot: snapshot ?? null, log, signal });
  } catch (error) {
    if (isKind(error, 'configuration') && error.code === 'QZ2410') return null;
    throw error;
  }
}

async function fromLog({ log, signal }: From): Promise<GrafanaState> {
  const state = new GrafanaState();
  for await (const { frame, end } of readJournal({ history: null, log, signal }))
    state.apply(openFrame(frame, `${end.file}:${end.offset}`), end);
  signal.throwIfAborted();
  return state;
}
