/**
 * A snapshot of a Grafana: all that the journal makes of it at one place, written down whole. Grafana itself is not asked,
 * so it is exact, and can be taken while Grafana is away.
 */
import { filesOf, objectLine, stateSettings } from '../../core/grafana/snapshot-files.ts';
import type { GrafanaState, KeptObject } from '../../core/grafana/state.ts';
import { takeServiceSnapshot } from '../journaled/snapshot.ts';
import type { TakenSnapshot } from '../snapshot/scheduler.ts';
import type { SidesRequest } from '../snapshot/sides.ts';

export interface GrafanaSnapshotRequest extends Omit<SidesRequest, 'engine'> {
  /** A copy that nobody changes. */
  state: GrafanaState;
}

export async function takeGrafanaSnapshot({ state, ...request }: GrafanaSnapshotRequest): Promise<TakenSnapshot> {
  const versions = [...state.organizations.values()].map(({ serverVersion }) => serverVersion);
  return await takeServiceSnapshot({
    ...request,
    kind: 'grafana',
    serverVersion: versions.at(-1) ?? '',
    began: state.position,
    startedMicros: Date.now() * 1000,
    settings: async () => stateSettings(state),
    copy: async (files) => {
      for (const { path, objects } of filesOf(state)) await files.write(path, lines(objects));
    },
  });
}

async function* lines(objects: readonly KeptObject[]): AsyncIterable<Buffer> {
  for (const object of objects) yield objectLine(object);
}
