/** One look at a Grafana at a time, and restores of what it saw, without a process of their own. */
import { Poller } from '../../agent/grafana/poller.ts';
import { openFrame } from '../../core/grafana/frames.ts';
import { type GrafanaEndpoint, GrafanaServer } from '../../core/grafana/server.ts';
import { GrafanaState } from '../../core/grafana/state.ts';
import { readJournal } from '../../core/journal/read.ts';
import { JournalWriter } from '../../core/journal/writer.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { restoreGrafana } from '../../restore-tool/grafana/restore.ts';
import type { GrafanaRestoreRequest } from '../../restore-tool/grafana/types.ts';
import type { GrafanaStandIn } from '../lab/grafana.ts';
import { never } from '../made/archive.ts';
import { MadeLog } from '../made/log.ts';

type Patience = Pick<GrafanaEndpoint, 'answerMs' | 'patienceMs'>;

const logger = silentLogger();

/** A poller with a journal in memory. */
export async function watching(grafana: GrafanaStandIn, endpoint: Patience = {}, everyMs = 60_000) {
  const log = new MadeLog();
  const chainName = 'agama=grafana.main';
  const journal = await JournalWriter.open(log, {
    chainName,
    base: null,
    first: 0,
    continued: null,
    signal: never,
    logger,
  });
  const state = new GrafanaState();
  const counters = { looks_total: 0, failed_looks_total: 0, changes_total: 0, deletions_total: 0 };
  const poller = new Poller({ journal, state, counters, everyMs, logger, signal: never });
  const server = new GrafanaServer({ url: grafana.url, token: grafana.token, ...endpoint });
  let version: string | null = null;
  const look = async () => {
    version ??= await server.requireVersion(never);
    return await poller.look(server, version);
  };
  const kinds = async () => {
    const found: string[] = [];
    for await (const { frame } of readJournal({ history: null, log, signal: never }))
      found.push(openFrame(frame, '').kind);
    return found;
  };
  return { state, counters, look, kinds, [Symbol.dispose]: () => server.close() };
}

/** What a restore of all of it did. */
export async function restoring(
  state: GrafanaState,
  grafana: GrafanaStandIn,
  more: Partial<GrafanaRestoreRequest> = {},
  endpoint: Patience = {},
) {
  const server = new GrafanaServer({ url: grafana.url, token: grafana.token, ...endpoint });
  try {
    const { org, name } = await server.organization(never);
    const targets = [{ fromOrg: 1, server, org, name, version: grafana.version }];
    const options = {
      dashboard: null,
      withProvisioned: false,
      message: 'restored',
      isDryRun: false,
      onStep: () => undefined,
    };
    const { steps } = await restoreGrafana({ state, targets, ...options, signal: never, ...more });
    return steps.map(({ action, type, uid, reason }) => ({ what: `${action} ${type} ${uid}`, reason }));
  } finally {
    server.close();
  }
}
