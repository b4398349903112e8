/** The agent of a pair's primary: captures from this host's server, into the log that the pair shares or into one of its own. */
import { join } from 'node:path';
import { Agent } from '../agent/agent.ts';
import type { Alarms } from '../agent/alarms.ts';
import { PrimaryWatch } from '../agent/primary-watch.ts';
import type { Acceptance } from '../core/archive/acceptance.ts';
import type { ChainState } from '../core/chain/types.ts';
import type { Config, LocalLogConfig } from '../core/config/config.ts';
import type { LiveSource } from '../core/live/live-source.ts';
import type { LocalLog } from '../core/log/local/log.ts';
import type { ChainLog } from '../core/log/types.ts';
import type { Logger } from '../core/logging/logger.ts';
import type { MysqlEndpoint } from '../core/mysql/connection.ts';
import type { ArchiveWatch } from './archive-watch.ts';
import { type ArchiveWorker, chainsOf, drained, whereHistoryStands } from './archive-worker.ts';
import { gatherFor, rowsFor } from './daemon.ts';
import type { StatusTeller } from './daemon-status.ts';
import { openLocalLog } from './log.ts';
import { Shipping } from './shipping.ts';

export interface PairCaptureOptions {
  config: Config;
  /** The log that both hosts share; null where an archive decides, and each host has its own. */
  shared: ChainLog | null;
  workers: readonly ArchiveWorker[];
  watch: ArchiveWatch;
  live: LiveSource;
  teller: StatusTeller;
  alarms: Alarms;
  /** Told who watches over the server while it is captured; null afterwards. */
  onWatch: (watch: PrimaryWatch | null) => void;
  logger: Logger;
}

interface Hooks {
  onAttached: () => void;
  signal: AbortSignal;
}

export class PairCapture {
  readonly #options: PairCaptureOptions;

  constructor(options: PairCaptureOptions) {
    this.#options = options;
  }

  /** Until the signal aborts; throws what stops it for good, QZ3310 when another server is the source by now. */
  async run(endpoint: MysqlEndpoint, hooks: Hooks): Promise<void> {
    const { shared, workers } = this.#options;
    if (shared === null) return await this.#intoOwnLog(endpoint, hooks);
    const into = { log: shared, acceptance: null, archived: chainsOf(workers) };
    await this.#capture(await this.#agent(into, endpoint, hooks), endpoint);
  }

  async #intoOwnLog(endpoint: MysqlEndpoint, hooks: Hooks): Promise<void> {
    const { config, workers, watch, live, teller } = this.#options;
    await using opened = new AsyncDisposableStack();
    const log = opened.adopt(await this.#ownLog(), (one) => one.close());
    teller.log = log;
    opened.defer(() => {
      teller.log = null;
    });
    await watch.stop();
    opened.defer(() => watch.start());
    const shipping = new Shipping(config, workers);
    const into = { log, acceptance: shipping.acceptance, archived: [live.state] };
    const agent = await this.#agent(into, endpoint, hooks);
    shipping.agent = agent;
    const stop = new AbortController();
    const working = shipping.run(log, stop.signal, live.lastSegment);
    try {
      await this.#capture(agent, endpoint);
      await drained(agent.chain?.next ?? 0, workers);
    } finally {
      stop.abort(new Error('this server is captured no more'));
      await working;
    }
  }

  /** Of this host, for the present generation: what is left of an earlier one counts no more. */
  async #ownLog(): Promise<ChainLog> {
    const { config, live, logger } = this.#options;
    const log = await openLocalLog(config.log as LocalLogConfig, logger);
    const { state } = await log.checkpoint();
    if (state !== null && state.generation < live.state.generation) await this.#setAside(log, state);
    return log;
  }

  async #setAside(log: LocalLog, state: ChainState): Promise<void> {
    const { config, live, logger } = this.#options;
    const { chainId, generation, gtids } = state;
    const lost = gtids.subtract(live.state.gtids);
    if (lost.isEmpty) return await log.beginAnew(null);
    const folder = join((config.log as LocalLogConfig).dir, `earlier-${generation}-${chainId.slice(0, 8)}`);
    logger.warn(
      `the log of generation ${generation} holds transactions that are in no history: it is kept in ${folder}`,
      {
        gtids: lost.toString(),
      },
    );
    await log.beginAnew(folder);
  }

  async #agent(
    { log, acceptance, archived }: { log: ChainLog; acceptance: Acceptance | null; archived: readonly ChainState[] },
    endpoint: MysqlEndpoint,
    { onAttached, signal }: Hooks,
  ): Promise<Agent> {
    const { config, workers, alarms, logger } = this.#options;
    const { source, snapshots } = config;
    return new Agent({
      sourceName: source.name,
      endpoint,
      start: 'current',
      gather: gatherFor(config),
      rows: rowsFor(config),
      isLogShared: this.#options.shared !== null,
      acknowledges: source.acknowledgeAfter !== 'none',
      acceptance,
      log,
      archives: workers,
      continued: await whereHistoryStands(log, archived),
      snapshots: { ...snapshots, scratchDir: snapshots.scratchDir ?? '' },
      onAttached,
      alarms,
      logger,
      signal,
    });
  }

  async #capture(agent: Agent, endpoint: MysqlEndpoint): Promise<void> {
    const { config, teller, onWatch, logger } = this.#options;
    teller.agent = agent;
    const needsLog = config.source.acknowledgeAfter !== 'none';
    const acceptedAtMs = () => (needsLog ? agent.acceptedAtMs : null);
    const watch = new PrimaryWatch({ endpoint, chain: () => agent.chain, acceptedAtMs, logger });
    const watched = new AbortController();
    onWatch(watch);
    void watch.run(watched.signal);
    try {
      await agent.run();
    } finally {
      watched.abort();
      onWatch(null);
      teller.agent = null;
    }
  }
}
