/** What a restore of a Grafana is asked for, and what it tells. */

import type { ObjectKey } from '../../core/grafana/objects.ts';
import type { GrafanaServer } from '../../core/grafana/server.ts';
import type { GrafanaState } from '../../core/grafana/state.ts';

/** Into which organization of which server what was one organization goes. */
export interface Target {
  /** As it was archived. */
  fromOrg: number;
  server: GrafanaServer;
  org: number;
  name: string;
  version: string;
}

export interface GrafanaRestoreRequest {
  state: GrafanaState;
  targets: readonly Target[];
  /** null: everything. Else this dashboard, and of what it needs that which is not there. */
  dashboard: string | null;
  /** Also what came from provisioning files, as ordinary objects. */
  withProvisioned: boolean;
  /** Stands in the history of each dashboard that is saved. */
  message: string;
  /** Only look. */
  isDryRun: boolean;
  onStep: (step: RestoreStep) => void;
  signal: AbortSignal;
}

export type Action = 'create' | 'update' | 'same' | 'refused';

export interface RestoreStep extends ObjectKey {
  title: string;
  action: Action;
  /** Why it was refused; '' otherwise. */
  reason: string;
  /** What is not quite as it was. */
  notes: string[];
}

/** What Grafana tells nobody, so that somebody has to enter it again. */
export interface Secret extends ObjectKey {
  title: string;
  fields: string[];
}

export interface GrafanaRestoreReport {
  steps: RestoreStep[];
  secrets: Secret[];
}
