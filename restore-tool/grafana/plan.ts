/** What a Grafana was like at an instant: all of it, in memory. */
import { loadState } from '../../core/grafana/load.ts';
import type { GrafanaState } from '../../core/grafana/state.ts';
import { findServiceBase, type ServiceBase, type ServiceBaseRequest } from '../service-base.ts';

export interface GrafanaPlan extends ServiceBase {
  state: GrafanaState;
}

/** Throws QZ2925, QZ2926 when there is nothing to restore from, QZ333x and QZ3950 when the archive is damaged on the way. */
export async function planGrafana(request: ServiceBaseRequest): Promise<GrafanaPlan> {
  const { store, signal } = request;
  const base = await findServiceBase(request);
  return { ...base, state: await loadState({ store, ...base, signal }) };
}
