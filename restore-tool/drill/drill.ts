/**
 * A drill: a restore for real, into a scratch server that nobody else reaches, timed; then what the user says must hold there, and
 * the rows compared with what they were on the source. Afterwards nothing of it is left but what it found.
 */
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { QazynaError } from '../../core/errors/error.ts';
import { parseInstant } from '../../core/history/instant.ts';
import { ArchiveHistory } from '../../core/history/open.ts';
import type { MysqlConnection } from '../../core/mysql/connection.ts';
import { defaultOsUser, Mysqld } from '../../core/mysql/mysqld.ts';
import { tableSum } from '../../core/mysql/table-sums.ts';
import { atPlace } from '../../core/restore/place-error.ts';
import { type ScratchServer, startScratchServer, stopOrphan } from '../../core/restore/scratch-server.ts';
import { finalOptions } from '../../core/restore/server-options.ts';
import { pathsIn } from '../../core/restore/target.ts';
import { readManifest } from '../../core/snapshot/manifest.ts';
import { listRecords, type RowsRecord } from '../../core/verify/record.ts';
import { restore } from '../restore/restore.ts';
import type { RestoreReport } from '../restore/types.ts';
import { chooseInstant } from './choose.ts';
import { compareSums } from './compare-rows.ts';
import type { DrillOutcome, DrillRequest } from './types.ts';

const assertionMs = 600_000;
/** Older ones lie outside of every window that a drill looks into. */
const countedSinceMs = 400 * 24 * 3_600_000;
const answerMax = 200;

/** Never rejects for what the drill found; `error` is what stopped it, and then it is not good. */
export async function drill(request: DrillRequest): Promise<{ outcome: DrillOutcome; error: QazynaError | null }> {
  const startedMicros = Date.now() * 1000;
  const run = new Drill(request);
  let error: QazynaError | null = null;
  try {
    await run.go();
  } catch (thrown) {
    if (!(thrown instanceof QazynaError)) throw thrown;
    error = thrown;
  } finally {
    await run.clean();
  }
  const problem = error?.message ?? run.problem;
  const outcome = { ...run.found, startedMicros, finishedMicros: Date.now() * 1000, good: problem === '', problem };
  return { outcome, error };
}

class Drill {
  readonly #request: DrillRequest;
  readonly #into: string;
  /** Of the server that the snapshot was taken from. */
  #sourceVersion = '';
  readonly found: Omit<DrillOutcome, 'startedMicros' | 'finishedMicros' | 'good' | 'problem'>;

  constructor(request: DrillRequest) {
    this.#request = request;
    this.#into = join(request.dir, 'drill');
    this.found = {
      to: request.to ?? '',
      gtids: '',
      lastCommitMicros: 0,
      snapshot: '',
      restoreMs: 0,
      seconds: {},
      assertions: [],
      rows: null,
    };
  }

  /** What is wrong with what was restored; '' where nothing is. */
  get problem(): string {
    const failed = this.found.assertions.filter(({ held }) => !held).map(({ sql }) => sql);
    const different = this.found.rows?.different ?? [];
    return [
      ...(failed.length === 0 ? [] : [`${failed.length} of ${this.found.assertions.length} assertions failed`]),
      ...(different.length === 0 ? [] : [`rows differ from the source in ${different.join(', ')}`]),
    ].join('; ');
  }

  async go(): Promise<void> {
    const { store, sourceName, signal, logger } = this.#request;
    await this.clean();
    const history = await ArchiveHistory.open(store, sourceName, { signal, logger });
    const counted = await listRecords(store, sourceName, 'rows', { sinceMs: Date.now() - countedSinceMs, signal });
    const chosen = await this.#choose(history, counted);
    this.found.to = chosen.to;
    await atPlace(this.#request.dir, () => mkdir(this.#request.dir, { recursive: true, mode: 0o755 }));
    const startMs = performance.now();
    const report = await this.#restore(chosen);
    const server = await this.#start(report);
    this.found.restoreMs = Math.round(performance.now() - startMs);
    try {
      await this.#request.onServer?.(server.connection);
      await this.#assert(server.connection);
      await this.#compare(server.connection, report, counted);
    } finally {
      await server.stop();
    }
  }

  /** Also a server that an earlier drill left running when it was killed. */
  async clean(): Promise<void> {
    await stopOrphan(pathsIn(this.#into));
    await atPlace(this.#into, () => rm(this.#into, { recursive: true, force: true }));
  }

  async #choose(history: ArchiveHistory, counted: readonly RowsRecord[]) {
    const { to, timeline, random = Math.random, signal } = this.#request;
    if (to !== null) return { to, ...(timeline === undefined ? {} : { timeline }) };
    return await chooseInstant(history, counted, random, signal);
  }

  async #restore({ to, timeline }: { to: string; timeline?: number }): Promise<RestoreReport> {
    const { store, sourceName, mysqldPath, osUser, signal, logger, onProgress } = this.#request;
    const report = await restore({
      store,
      sourceName,
      to,
      instant: parseInstant(to),
      timeline,
      into: this.#into,
      mysqldPath,
      osUser,
      stop: true,
      signal,
      logger,
      ...(onProgress === undefined ? {} : { onProgress }),
    });
    const { gtids, lastCommitMicros, snapshot, seconds } = report;
    Object.assign(this.found, { gtids, lastCommitMicros, snapshot, seconds });
    return report;
  }

  /** By the options that it was handed over with, but for its events; reached by its socket alone. */
  async #start(report: RestoreReport): Promise<ScratchServer> {
    const { store, mysqldPath, osUser, signal } = this.#request;
    const { settings, serverVersion } = await readManifest(store, report.snapshot);
    this.#sourceVersion = serverVersion;
    return await startScratchServer({
      mysqld: await Mysqld.find(mysqldPath),
      paths: pathsIn(this.#into),
      osUser: osUser ?? (await defaultOsUser()),
      options: { ...finalOptions(settings, report.serverId), 'event-scheduler': 'DISABLED' },
      port: null,
      signal,
    });
  }

  async #assert(connection: MysqlConnection): Promise<void> {
    for (const sql of this.#request.assertions) {
      await connection.query('START TRANSACTION READ ONLY');
      const answer = await this.#ask(connection, sql);
      await connection.query('ROLLBACK');
      this.found.assertions.push({ sql, ...answer });
    }
  }

  async #ask(connection: MysqlConnection, sql: string): Promise<{ held: boolean; answer: string }> {
    try {
      const rows = await connection.query(sql, [], assertionMs);
      if (rows.length !== 1) return { held: false, answer: `${rows.length} rows` };
      const value: unknown = Object.values(rows[0] ?? {})[0];
      const answer = String(value ?? 'NULL').slice(0, answerMax);
      return { held: value != null && !['0', '', 'false'].includes(String(value)) && Number(value) !== 0, answer };
    } catch (error) {
      if (!(error instanceof QazynaError)) throw error;
      return { held: false, answer: error.message.slice(0, answerMax) };
    }
  }

  /** With rows that were counted up at exactly these transactions, if they were. */
  async #compare(connection: MysqlConnection, report: RestoreReport, counted: readonly RowsRecord[]): Promise<void> {
    const restored = GtidSet.parse(report.gtids);
    const record = counted.findLast(({ gtids }) => GtidSet.parse(gtids).equals(restored));
    if (record === undefined) return;
    const sums: Record<string, number | null> = {};
    for (const name of Object.keys(record.tables)) {
      this.#request.signal.throwIfAborted();
      sums[name] = await tableSum(connection, name);
    }
    const versions = { source: this.#sourceVersion, server: connection.serverVersion };
    this.found.rows = { record: record.id, ...compareSums(record.tables, sums, versions) };
  }
}
