/** What stays is looked at as a restore would look at it, before anything goes. */

import { ownerOf } from '../../core/archive/layout.ts';
import { integrityError, isKind } from '../../core/errors/error.ts';
import { findCut } from '../../core/history/cut.ts';
import { utcText } from '../../core/history/instant.ts';
import type { ArchiveHistory } from '../../core/history/open.ts';
import { runsTo } from '../../core/history/path.ts';
import { chooseSnapshot, isUnknownBefore, planCut } from '../../core/history/plan.ts';
import type { CompleteSnapshot } from '../../core/snapshot/manifest.ts';
import { type Anchor, type AnchorOptions, journalNeededBy, neededBy, runAt } from './anchors.ts';

export interface ProofOptions extends AnchorOptions {
  /** `history` as it will be. */
  after: ArchiveHistory;
  anchors: readonly Anchor[];
  /** Those that stay. */
  snapshots: readonly CompleteSnapshot[];
}

/**
 * The window's beginning and its end must still lead to the same transactions and the same snapshot, and each snapshot that could
 * be restored and stays must still find its history. Throws QZ3443 otherwise: that would be a bug, or damage that came just now.
 */
export async function prove(options: ProofOptions): Promise<void> {
  const isService = ownerOf(options.history.sourceName).service !== null;
  const sound: CompleteSnapshot[] = [];
  for (const one of options.snapshots) if (await options.isSound(one)) sound.push(one);
  if (!isService) for (const anchor of options.anchors) await proveWindow(options, anchor, sound);
  const needed = isService ? journalNeededBy : neededBy;
  for (const one of sound) {
    const before = await needed(options, one);
    const after = await needed({ ...options, history: options.after }, one);
    const isLess = before !== null && (after === null || after.last < before.last);
    if (isLess) throw unproved(options, `snapshot ${one.id} would no longer find its history`);
  }
}

async function proveWindow(options: ProofOptions, anchor: Anchor, sound: readonly CompleteSnapshot[]): Promise<void> {
  const { after, windowMicros, signal } = options;
  const { snapshot, gtids } = anchor;
  const timeline = after.timelines.find(({ generation }) => generation === anchor.timeline.generation);
  if (timeline === undefined) throw unproved(options, `timeline ${anchor.timeline.generation} would be gone`);
  if (snapshot === null || gtids === null) return;
  const runs = await runsTo(after, timeline.generation, signal);
  const run = runAt(runs, windowMicros);
  if (run === null) throw unproved(options, `timeline ${timeline.generation} would have no history`);
  try {
    const { cut } = await findCut(after, run, { type: 'time', micros: windowMicros }, signal);
    const beforeAllMicros = isUnknownBefore(after, run, cut) ? windowMicros : null;
    const chosen = chooseSnapshot(after, { cut, run, timeline, disorder: null, beforeAllMicros }, sound);
    if (!cut.gtids.equals(gtids) || chosen.id !== snapshot.id)
      throw unproved(options, `${utcText(windowMicros)} would be another state`);
    await proveEnd(options, timeline.generation, sound);
  } catch (error) {
    if (isKind(error, 'transient') || (isKind(error, 'integrity') && error.code === 'QZ3443')) throw error;
    throw unproved(options, `${utcText(windowMicros)} could not be restored any more`, error);
  }
}

/** Where the newest instant can be restored now, it can be afterwards. */
async function proveEnd(options: ProofOptions, generation: number, sound: readonly CompleteSnapshot[]): Promise<void> {
  const { history, after, signal } = options;
  const plan = async (of: ArchiveHistory) => {
    const planned = await planCut(of, { type: 'latest' }, { timeline: generation, signal });
    return { gtids: planned.cut.gtids, id: chooseSnapshot(of, planned, sound).id };
  };
  const before = await plan(history).catch((error: unknown) => {
    if (isKind(error, 'transient')) throw error;
    return null;
  });
  if (before === null) return;
  const now = await plan(after);
  if (now.id !== before.id || !now.gtids.equals(before.gtids))
    throw unproved(options, `the newest instant of timeline ${generation} would be another state`);
}

function unproved({ history }: ProofOptions, what: string, cause?: unknown) {
  return integrityError(
    'QZ3443',
    `Nothing of ${history.sourceName} in ${history.store.url} is deleted, because it cannot be proved that what is left could be restored: ${what}.`,
    'See `qazyna windows`; please report it when that shows nothing wrong.',
    cause === undefined ? {} : { cause },
  );
}
