/**
 * `restore --tables`: chosen tables as they were at T, as a dump or under another name in a live server. A scratch server replays
 * them alone where a look through the history shows that nothing can go wrong by that, else everything; in the end its
 * gtid_executed equals the plan's either way. Then the tables are taken out of it, and it is removed.
 */
import { randomBytes } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { crashPoint } from '../../core/errors/crash-points.ts';
import { configurationError, QazynaError } from '../../core/errors/error.ts';
import { connectMysql, type MysqlConnection } from '../../core/mysql/connection.ts';
import { atPlace } from '../../core/restore/place-error.ts';
import { requireEqual } from '../../core/restore/replay.ts';
import { type ScratchServer, startScratchServer } from '../../core/restore/scratch-server.ts';
import { replayOptions } from '../../core/restore/server-options.ts';
import type { TargetPaths } from '../../core/restore/target.ts';
import type { SnapshotManifest } from '../../core/snapshot/types.ts';
import { isDone, type RestoreState, type TableLoad, type TablesState, writeState } from '../restore/journal.ts';
import { bytesOf, type Planned, RestoreSteps } from '../restore/steps.ts';
import { isNamed, requireNoFile, writeDump } from './dump-file.ts';
import { judgeHistory } from './judge.ts';
import { loadTable, requireFree } from './load-into.ts';
import { nameText, parseTables, type TableName, type TablePattern, TableScope } from './patterns.ts';
import { RecoveryFailed, recoverWithoutFiles, tiedTables } from './prepare.ts';
import { findTables, noSuchTables } from './table-sql.ts';
import type { RestoredTable, TablesReport, TablesRequest } from './types.ts';

const longestName = 64;

/** Errors: those of `restore`; QZ2610–QZ2617, QZ3611, QZ3612. */
export async function restoreTables(request: TablesRequest): Promise<TablesReport> {
  const patterns = parseTables(request.tables);
  requireOneName(request, patterns);
  const steps = await RestoreSteps.open(request, { kind: `--tables ${request.tables}`, clear: removeData });
  const live = request.load === undefined ? null : await connectMysql(request.load.endpoint, request.signal);
  try {
    return await new TablesRun(request, steps, patterns, live).go();
  } finally {
    await live?.close();
  }
}

class TablesRun {
  readonly #request: TablesRequest;
  readonly #steps: RestoreSteps;
  readonly #patterns: readonly TablePattern[];
  readonly #live: MysqlConnection | null;
  readonly #dump: string | null;
  #fetchedBytes = 0;

  constructor(
    request: TablesRequest,
    steps: RestoreSteps,
    patterns: readonly TablePattern[],
    live: MysqlConnection | null,
  ) {
    this.#request = request;
    this.#steps = steps;
    this.#patterns = patterns;
    this.#live = live;
    const usual = request.load === undefined ? join(steps.paths.into, 'tables.sql') : null;
    this.#dump = request.dump === undefined ? usual : request.dump && resolve(request.dump);
  }

  async go(): Promise<TablesReport> {
    const steps = this.#steps;
    const plan = await steps.timed('plan', () => steps.plan());
    const chosen = this.#scope(plan.manifest);
    let state = steps.earlier ?? (await this.#begin(plan, chosen));
    if (!isDone(state, 'replayed')) state = await this.#bring(plan, chosen, state);
    const { tables, state: last } = await steps.timed('hand over', () => this.#handOver(plan, chosen, state));
    const { cut } = plan.planned;
    const { replay, because, tied } = tablesOf(last);
    return {
      source: this.#request.sourceName,
      into: steps.paths.into,
      tables,
      dump: this.#dump,
      loadedInto: this.#live?.name ?? null,
      replay,
      because,
      tied: tied ?? [],
      fetchedBytes: this.#fetchedBytes,
      snapshotBytes: bytesOf(plan.manifest),
      snapshot: plan.manifest.id,
      generation: cut.generation,
      gtids: cut.gtids.toString(),
      lastGtid: cut.lastGtid,
      lastCommitMicros: cut.lastCommitMicros,
      transactions: steps.transactions,
      seconds: steps.seconds,
      resumed: steps.earlier !== null,
    };
  }

  #scope(manifest: SnapshotManifest): TableScope {
    return new TableScope(this.#patterns, {
      lowerCaseNames: (manifest.settings.lower_case_table_names ?? '0') !== '0',
    });
  }

  /** Everything that can be refused is refused here, before a byte is fetched. */
  async #begin(plan: Planned, chosen: TableScope): Promise<RestoreState> {
    if (this.#dump !== null) await requireNoFile(this.#dump);
    const harm = await this.#judge(plan, chosen, (named) => this.#requireKnown(plan.manifest, named));
    const isFiltered = harm === '';
    const tables: TablesState = {
      replay: isFiltered ? 'chosen' : 'everything',
      because: harm,
      tied: null,
      filesLeftOut: isFiltered && plan.manifest.engine === 'clone',
    };
    if (this.#live !== null) {
      const exact = this.#patterns.flatMap(({ database, table }) => (table === null ? [] : [{ database, table }]));
      await requireFree(
        this.#live,
        exact.map((one) => this.#targetOf(one)),
      );
    }
    const wanted = tables.filesLeftOut ? partOf(plan.manifest, chosen) : plan.manifest;
    return await this.#steps.begin(plan, bytesOf(wanted), tables);
  }

  async #judge(plan: Planned, scope: TableScope, known?: (named: ReadonlySet<string>) => void): Promise<string> {
    const total = plan.source.totalBytes();
    const onProgress = (done: number) =>
      this.#steps.progress({ step: 'looking for statements that cannot be filtered', unit: 'bytes', done, total });
    const { harm, named } = await judgeHistory(plan.source, {
      scope,
      known: plan.manifest.gtidsBefore,
      signal: this.#request.signal,
      onProgress,
    });
    if (harm === '') known?.(named);
    return harm;
  }

  /** QZ2612 for a pattern that neither the snapshot nor a statement behind it knows. */
  #requireKnown(manifest: SnapshotManifest, named: ReadonlySet<string>): void {
    const known = [...Object.keys(manifest.columns), ...named];
    const unknown = this.#patterns.filter((pattern) => {
      const scope = new TableScope([pattern], { lowerCaseNames: manifest.settings.lower_case_table_names !== '0' });
      return !known.some((text) => scope.has(splitName(text)));
    });
    if (unknown.length > 0)
      throw noSuchTables(unknown.map(patternText), `in ${this.#request.sourceName} at this instant`);
  }

  /** To `replayed`. What a filter or missing files make fail is begun again once, with everything. */
  async #bring(plan: Planned, chosen: TableScope, begun: RestoreState): Promise<RestoreState> {
    let state = begun;
    for (;;) {
      try {
        return await this.#bringOnce(plan, chosen, state);
      } catch (error) {
        if (error instanceof TiesFound) state = await this.#beginAgain(state, { tied: error.tied, filesLeftOut: true });
        else if (tablesOf(state).replay === 'chosen' && isByFilter(error))
          state = await this.#beginAgain(state, { ...everything, because: error.message });
        else throw error;
      }
    }
  }

  async #bringOnce(plan: Planned, chosen: TableScope, begun: RestoreState): Promise<RestoreState> {
    const steps = this.#steps;
    const { manifest } = plan;
    let state = await this.#removeGivenUp(begun);
    let tables = tablesOf(state);
    const scope = chosen.with((tables.tied ?? []).map(splitName));
    const wanted = tables.filesLeftOut ? partOf(manifest, scope) : manifest;
    if (!isDone(state, 'fetched')) {
      await steps.timed('fetch', () => steps.fetch(wanted));
      this.#fetchedBytes = bytesOf(wanted);
      state = await steps.reach(state, 'fetched');
    }
    if (!isDone(state, 'loaded')) {
      if (manifest.engine === 'logical') await steps.timed('load', () => steps.load(manifest, state));
      else if (tables.filesLeftOut)
        await steps.timed('recover', () =>
          recoverWithoutFiles(steps.scratch(replayOptions(manifest.settings, state.serverId), null)),
        );
      state = await steps.reach(state, 'loaded');
    }
    if (tables.replay === 'chosen') {
      const tied = await this.#tied(plan, scope, state);
      if (tied.length > 0 || tables.tied === null) {
        tables = { ...tables, tied: [...(tables.tied ?? []), ...tied] };
        const harm = tied.length === 0 ? '' : await this.#judge(plan, scope.with(tied.map(splitName)));
        if (harm !== '') throw new FilterUnsafe(harm);
        if (tied.length > 0 && tables.filesLeftOut) throw new TiesFound(tables.tied ?? []);
        state = { ...state, tables };
        await writeState(steps.paths.into, state);
      }
    }
    const filter = tables.replay === 'chosen' ? chosen.with((tables.tied ?? []).map(splitName)).filter() : null;
    state = await steps.timed('replay', () => steps.replay(plan, state, filter));
    return await steps.reach(state, 'replayed');
  }

  /** Asked before any replay: the replay could only change them by statements that are refused. */
  async #tied({ manifest }: Planned, scope: TableScope, state: RestoreState): Promise<string[]> {
    if (tablesOf(state).tied !== null && !tablesOf(state).filesLeftOut) return [];
    return await this.#withServer(manifest, state, async ({ connection }) =>
      (await tiedTables(connection, scope)).map(nameText),
    );
  }

  async #beginAgain(state: RestoreState, change: Partial<TablesState>): Promise<RestoreState> {
    const { logger, onProgress } = this.#request;
    const why = change.because === undefined ? `foreign keys tie them to ${change.tied?.join(', ')}` : change.because;
    logger.warn(`the tables are fetched again: ${why}`, { component: 'tables' });
    onProgress?.({ step: 'fetching the snapshot', unit: 'bytes', done: 0, total: null });
    const { events: _, ...rest } = state;
    const tables = { ...tablesOf(state), ...change, isGivenUp: true };
    const next: RestoreState = { ...rest, step: 'planned', tables };
    await writeState(this.#steps.paths.into, next);
    return next;
  }

  /** Noted only once all of it is gone: what is left, with its own journal of what was fetched, must not pass for the new attempt's. */
  async #removeGivenUp(state: RestoreState): Promise<RestoreState> {
    const { isGivenUp, ...tables } = tablesOf(state);
    if (isGivenUp !== true) return state;
    crashPoint('restore:before-clear');
    await removeData(this.#steps.paths);
    const next = { ...state, tables };
    await writeState(this.#steps.paths.into, next);
    return next;
  }

  async #handOver(plan: Planned, chosen: TableScope, state: RestoreState) {
    const { manifest, planned } = plan;
    const done = await this.#withServer(manifest, state, async (server) => {
      requireEqual(await server.executed(), planned.cut.gtids);
      const names = await this.#foundTables(server.connection, manifest, chosen);
      if (this.#dump !== null) return await this.#writeDump(server.connection, names, plan, state);
      return await this.#load(server.connection, names, state);
    });
    return { tables: done.tables, state: await this.#steps.handOver(done.state) };
  }

  async #foundTables(connection: MysqlConnection, manifest: SnapshotManifest, chosen: TableScope) {
    const names = await findTables(connection, chosen);
    const lowerCaseNames = manifest.settings.lower_case_table_names !== '0';
    const missing = this.#patterns.filter((pattern) => {
      const scope = new TableScope([pattern], { lowerCaseNames });
      return !names.some((name) => scope.has(name));
    });
    if (missing.length > 0)
      throw noSuchTables(missing.map(patternText), `in ${this.#request.sourceName} at this instant`);
    return names;
  }

  async #writeDump(connection: MysqlConnection, names: TableName[], plan: Planned, begun: RestoreState) {
    const file = this.#dump ?? '';
    let state = begun;
    let counts = tablesOf(state).dumped;
    if (counts === undefined || !(await isNamed(file)))
      counts = await writeDump(connection, names, file, {
        ...this.#dumpOptions(names, plan),
        beforeNamed: async (dumped) => {
          state = { ...state, tables: { ...tablesOf(state), dumped } };
          await writeState(this.#steps.paths.into, state);
        },
      });
    const tables = names.map(
      (name, index): RestoredTable => ({ table: nameText(name), rows: counts[index] ?? 0, loadedAs: null }),
    );
    return { tables, state };
  }

  #dumpOptions(names: TableName[], plan: Planned) {
    const { request } = this.#steps;
    let rows = 0;
    const about = [
      `qazyna: ${names.map(nameText).join(', ')} of ${request.sourceName}`,
      `as of ${request.to}: up to ${plan.planned.cut.lastGtid || 'the snapshot'}, MySQL ${plan.manifest.serverVersion}`,
      'Existing tables of these names make it fail; views, routines and events are not in it.',
    ].map((line) => line.replaceAll(/[\r\n]/g, ' '));
    const onRows = (more: number) => {
      rows += more;
      this.#steps.progress({ step: 'writing the dump', unit: 'rows', done: rows, total: null });
    };
    return { about, signal: request.signal, onRows };
  }

  async #load(scratch: MysqlConnection, names: TableName[], begun: RestoreState) {
    const live = this.#live;
    if (live === null) throw new Error('neither a dump nor a server was asked for');
    let state = begun;
    let loads = tablesOf(state).loads;
    const save = async (next: TableLoad[]) => {
      loads = next;
      state = { ...state, tables: { ...tablesOf(state), loads: next } };
      await writeState(this.#steps.paths.into, state);
      await this.#request.onStep?.('replayed');
    };
    if (loads === undefined) {
      await requireFree(
        live,
        names.map((name) => this.#targetOf(name)),
      );
      await save(names.map((name) => newLoad(name, this.#targetOf(name))));
    }
    for (const [index, name] of names.entries()) {
      const load = loads?.[index];
      if (load === undefined || load.from !== nameText(name)) throw otherTables(this.#steps.paths.into);
      const target = splitName(load.to);
      await loadTable(
        {
          scratch,
          live,
          onRows: (one, doing, done, total) =>
            this.#steps.progress({ step: `${doing} ${one.to}`, unit: 'rows', done, total }),
          save: (changed) => save((loads ?? []).map((one, at) => (at === index ? changed : one))),
        },
        load,
        name,
        target,
      );
    }
    const tables = (loads ?? []).map(({ from, to, rows }): RestoredTable => ({ table: from, rows, loadedAs: to }));
    return { tables, state };
  }

  #targetOf(name: TableName): TableName {
    const { load } = this.#request;
    if (load === undefined) return name;
    const target = 'name' in load.as ? splitName(load.as.name) : { ...name, table: name.table + load.as.suffix };
    if ([...target.table].length <= longestName && target.table !== '') return target;
    throw configurationError(
      'QZ2616',
      `${nameText(target)} is no name that a table can have.`,
      'Choose a shorter one.',
    );
  }

  async #withServer<T>(
    manifest: SnapshotManifest,
    state: RestoreState,
    work: (server: ScratchServer) => Promise<T>,
  ): Promise<T> {
    const server = await startScratchServer(
      this.#steps.scratch(replayOptions(manifest.settings, state.serverId), null),
    );
    try {
      return await work(server);
    } finally {
      await server.stop();
    }
  }
}

/** What is left of the server may hold a part of the tables only: nobody is to take it for the whole. */
async function removeData({ into, dataDir, dumpDir }: TargetPaths): Promise<void> {
  await atPlace(into, () => rm(dataDir, { recursive: true, force: true }));
  await atPlace(into, () => rm(dumpDir, { recursive: true, force: true }));
}

const everything = { replay: 'everything', filesLeftOut: false, tied: null } as const;

class FilterUnsafe extends Error {}

class TiesFound extends Error {
  readonly tied: string[];

  constructor(tied: string[]) {
    super('tables outside the scope are tied to it');
    this.tied = tied;
  }
}

/** The applier met what a filter took away (QZ3601), or mysqld could not be opened without the other files. */
function isByFilter(error: unknown): error is Error {
  if (error instanceof FilterUnsafe || error instanceof RecoveryFailed) return true;
  return error instanceof QazynaError && ['QZ3601', 'QZ2814', 'QZ4606'].includes(error.code);
}

function tablesOf({ tables }: RestoreState): TablesState {
  if (tables !== undefined) return tables;
  throw new Error('the journal holds no tables');
}

function partOf(manifest: SnapshotManifest, scope: TableScope): SnapshotManifest {
  return { ...manifest, files: manifest.files.filter((file) => !scope.mayLeaveOut(file)) };
}

function newLoad(from: TableName, to: TableName): TableLoad {
  const staging = `qazyna_${randomBytes(6).toString('hex')}`;
  return { from: nameText(from), to: nameText(to), staging, step: 'planned', rows: 0 };
}

/** `db.table` as we write it; a database's name with a dot in it is not supported by `--tables`. */
function splitName(text: string): TableName {
  const dot = text.indexOf('.');
  return { database: text.slice(0, dot), table: text.slice(dot + 1) };
}

function patternText({ database, table }: TablePattern): string {
  return `${database}.${table ?? '*'}`;
}

function requireOneName({ load }: TablesRequest, patterns: readonly TablePattern[]): void {
  if (load === undefined || !('name' in load.as)) return;
  if (patterns.length === 1 && patterns[0]?.table !== null && load.as.name.includes('.')) return;
  throw configurationError(
    'QZ2617',
    '--as gives one table one name, as db.table.',
    'For several tables use --suffix, e.g. --suffix _restored.',
  );
}

function otherTables(into: string) {
  return configurationError(
    'QZ2602',
    `The journal in ${into} names other tables than are to be loaded now.`,
    'Continue with the flags that the restore was begun with, or name another folder.',
  );
}
