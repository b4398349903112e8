/**
 * `INTO/.qazyna-restore.json`: what is being restored and how far it is. Replaced by rename and fsync'd before the next
 * step begins, so a restore that was killed anywhere goes on where it was. Holds no secret.
 */
import { lstat, mkdir, readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { replaceFile } from '../../core/bytes/durable-file.ts';
import { configurationError } from '../../core/errors/error.ts';
import { atPlace } from '../../core/restore/place-error.ts';
import type { EventRecord } from '../../core/snapshot/types.ts';
import { type RestoreStep, restoreSteps } from './types.ts';

export const journalFile = '.qazyna-restore.json';
const journalFormat = 1;

/** `kind` of a restore of everything. */
export const wholeServer = '';

/** One table on its way into a live server. */
export interface TableLoad {
  from: string;
  /** `db.table` in the live server. */
  to: string;
  /** Its name until it is whole and compared; made up by us, so whatever bears it is ours. */
  staging: string;
  step: 'planned' | 'compared' | 'done';
  rows: number;
}

/** What is special about a restore of chosen tables. */
export interface TablesState {
  /** `everything`: no filter was safe. */
  replay: 'chosen' | 'everything';
  /** Why everything is replayed, in words; '' for `chosen`. */
  because: string;
  /** Tables that foreign keys tie to the chosen ones; null until the snapshot's server was asked. */
  tied: string[] | null;
  /** Whether the files of other tables were left out of the fetch. */
  filesLeftOut: boolean;
  /** What the folder holds is of an attempt that was given up, and is removed before anything is fetched. */
  isGivenUp?: boolean;
  loads?: TableLoad[];
  /** Rows of each table in the dump, once all of it is written and may have its name. */
  dumped?: number[];
}

export interface RestoreState {
  format: number;
  source: string;
  to: string;
  timeline: number | null;
  snapshot: string;
  cut: { generation: number; file: string; position: number; gtids: string };
  serverId: number;
  /** What was asked for beside the instant: `wholeServer`, or in words. */
  kind: string;
  tables?: TablesState;
  /** Of a restore into a running server: it was compared, and only our account had to be dropped. */
  isCompared?: boolean;
  /** The snapshot's events, read before the replay begins. */
  events?: EventRecord;
  /** Of a server that was handed over: it lets clients in. */
  isOpen?: boolean;
  step: RestoreStep;
}

/** The state of an unfinished restore; null when the folder is missing or empty. QZ2601, QZ2602 for anything else. */
export async function readState(into: string): Promise<RestoreState | null> {
  const found = await atPlace(into, () => lstat(into).catch(absent));
  if (found === null) return null;
  if (!found.isDirectory()) throw notEmpty(into, 'is no folder');
  const names = await atPlace(into, () => readdir(into));
  // A write that was cut off before its rename left only this behind.
  const others = names.filter((name) => name !== `${journalFile}.new`);
  if (others.length === 0) return null;
  if (!names.includes(journalFile)) throw notEmpty(into, 'is not empty');
  const text = await atPlace(into, () => readFile(join(into, journalFile), 'utf8'));
  const state = parseState(text);
  if (state === null) throw notEmpty(into, `holds a ${journalFile} that cannot be read`);
  return state;
}

export async function writeState(into: string, state: RestoreState): Promise<void> {
  await atPlace(into, async () => {
    await mkdir(into, { recursive: true, mode: 0o755 });
    await replaceFile(join(into, journalFile), `${JSON.stringify(state, null, 2)}\n`, 0o644);
  });
}

export function isDone(state: RestoreState, step: RestoreStep): boolean {
  return restoreSteps.indexOf(state.step) >= restoreSteps.indexOf(step);
}

type Asked = Pick<RestoreState, 'source' | 'to' | 'kind'>;

export function isSame(state: RestoreState, wanted: Asked): boolean {
  return state.source === wanted.source && state.to === wanted.to && state.kind === wanted.kind;
}

/** `pid`: of the server that runs there. */
export function finished(into: string, state: RestoreState, pid: number | null) {
  const { source, to, kind, isOpen } = state;
  return configurationError(
    'QZ2605',
    `${into} holds a finished restore of ${source} to ${to}.`,
    kind !== wholeServer
      ? 'What was asked for was handed over; for another restore name another folder.'
      : pid === null
        ? 'Start that server by its my.cnf, or name another folder.'
        : isOpen === true
          ? `That server runs as process ${pid}; for another restore name another folder.`
          : `It was killed at its last step, and its server (process ${pid}) may let no clients in: end it (kill ${pid}), and start it by its my.cnf.`,
  );
}

/** QZ2602 unless the unfinished restore is the one that is asked for now. */
export function requireSame(into: string, state: RestoreState, wanted: Asked): void {
  if (isSame(state, wanted)) return;
  throw configurationError(
    'QZ2602',
    `${into} holds an unfinished restore of ${named(state)}, not of ${named(wanted)}.`,
    `Continue it with --source ${state.source} --to ${state.to}${state.kind && ` ${state.kind}`}, or name another folder.`,
  );
}

function named({ source, to, kind }: Asked): string {
  return `${source} to ${to}${kind && ` (${kind})`}`;
}

function parseState(text: string): RestoreState | null {
  try {
    const state = JSON.parse(text) as Partial<RestoreState>;
    const isKnown = state.format === journalFormat && restoreSteps.includes(state.step ?? ('' as RestoreStep));
    const hasCut = typeof state.cut?.file === 'string' && typeof state.cut.gtids === 'string';
    const isWhole =
      typeof state.source === 'string' && typeof state.to === 'string' && typeof state.snapshot === 'string';
    return isKnown && hasCut && isWhole && Number.isInteger(state.serverId)
      ? ({ ...state, kind: state.kind ?? wholeServer } as RestoreState)
      : null;
  } catch {
    return null;
  }
}

export function newState(facts: Omit<RestoreState, 'format' | 'step'>): RestoreState {
  return { format: journalFormat, ...facts, step: 'planned' };
}

function absent(error: NodeJS.ErrnoException): null {
  if (error.code === 'ENOENT') return null;
  throw error;
}

function notEmpty(into: string, how: string) {
  return configurationError(
    'QZ2601',
    `The folder ${into} ${how}; nothing was written to it.`,
    'Name a new or an empty folder; an interrupted restore is continued by the same command in its own folder.',
  );
}
