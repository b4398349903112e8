/** How the present generation began: for whoever must not take over again too soon. */
import type { ChainState } from '../chain/types.ts';
import type { Archived } from './archived.ts';

export interface Began {
  generation: number;
  /** As in the entry: of a promotion its kind, a colon and the reason. */
  reason: string;
  /** How far the generation before had come then (µs, its source's clock). */
  atMicros: number;
}

/** By the entry that opened it. */
export function beganWith(before: ChainState, { generation }: ChainState, reason: string): Began {
  return { generation, reason, atMicros: Math.max(before.completeThroughMicros, before.lastCommitMicros) };
}

/** By an archive; null for the first one. */
export function beganIn({ history, state }: Archived): Began | null {
  const timeline = history.timelines.find(({ generation }) => generation === state.generation);
  if (timeline === undefined || timeline.forkGtids === null) return null;
  return { generation: timeline.generation, reason: timeline.reason, atMicros: timeline.beganMicros };
}
