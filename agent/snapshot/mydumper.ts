/**
 * A logical snapshot by mydumper, which dumps the rows with several threads, and mysqldump, which writes what mydumper is weak
 * at: definitions, accounts, and tables whose rows it would lose. All of it belongs to one instant (mydumper-freeze.ts); what
 * mydumper wrote is held against the server (columns by name, rows by number) and never believed. Where it does not do, the
 * caller lets mysqldump make the whole snapshot.
 *
 * Files: `schema.sql`, `data/NNNNN.sql` in any order or at once, `after.sql` (FORMAT.md).
 */
import { createReadStream } from 'node:fs';
import { mkdir, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { readerOfParts } from '../../core/chunks/chunk-pipeline.ts';
import { isKind, transientError } from '../../core/errors/error.ts';
import type { MysqlProgram } from '../../core/mysql/program.ts';
import { formatBytes } from '../../core/progress/format.ts';
import { clientOptions } from './client-options.ts';
import type { CopiedFile, EngineContext, EngineCopy } from './engine.ts';
import { dumpIntoFile, startDump } from './logical-child.ts';
import { baseOf, freeBytes } from './logical-folder.ts';
import { type DataFile, findDataFiles, leftOut, PieceReader, piecesOf, sessionHead } from './mydumper-files.ts';
import { attemptsMax, Freezer, type Frozen } from './mydumper-freeze.ts';
import {
  countRows,
  definitionsOf,
  isUnfit,
  judge,
  listed,
  type MydumperPlan,
  planTables,
  reasons,
  type Unfit,
} from './mydumper-plan.ts';
import { type Mydumper, mydumperArguments } from './mydumper-program.ts';
import { readInstant } from './source-facts.ts';

const threads = 2;
/** Of mydumper itself: what its threads do to each other now and then (`mydumperArguments`), they hardly do twice. */
const failuresMax = 2;
/** Text is often larger than the row it stands for; escaped bytes double. */
const textFactor = 1.5;
const spareBytes = 64 * 1024 * 1024;

export interface Programs {
  mydumper: Mydumper;
  mysqldump: MysqlProgram;
}

/** Nothing came of this attempt; the next may do better. */
type Again = 'definitions changed' | { failed: string };

type Outcome = EngineCopy | Unfit | Again;

/** Throws QZ2512, QZ4506, QZ4507, QZ4509–QZ4512; `unfit`: nothing is wrong, but mysqldump must do it alone. */
export async function copyByMydumper(
  context: EngineContext,
  programs: Programs,
  folder: string,
): Promise<EngineCopy | Unfit> {
  const unfit = await judge(context, programs.mydumper);
  if (unfit !== null) return unfit;
  let failures = 0;
  for (let attempt = 0; attempt < attemptsMax; attempt += 1) {
    const own = join(folder, String(attempt));
    await mkdir(own, { mode: 0o700 });
    const copied = await copyOnce(context, programs, own, attempt);
    if (copied !== 'definitions changed') {
      if (!('failed' in copied)) return copied;
      failures += 1;
      if (failures === failuresMax) return { unfit: copied.failed };
      context.logger.info(`${copied.failed} It is given another try.`, { component: 'snapshot' });
    }
    await rm(own, { recursive: true, force: true });
  }
  return { unfit: `definitions changed at the last of ${attemptsMax} attempts to begin, too` };
}

async function copyOnce(context: EngineContext, programs: Programs, folder: string, attempt: number): Promise<Outcome> {
  const lost = new AbortController();
  const signal = AbortSignal.any([context.signal, lost.signal]);
  const onLost = (cause: unknown) => lost.abort(connectionLost(cause));
  let freezer: Freezer;
  try {
    freezer = await Freezer.open(context, attempt, signal, onLost);
  } catch (error) {
    if (!isKind(error, 'configuration') || error.code !== 'QZ2116') throw error;
    return { unfit: `the account may not hold definitions still: ${error.message}` };
  }
  try {
    return await new Run({ ...context, signal }, programs, folder, freezer).go();
  } catch (error) {
    throw lost.signal.aborted ? lost.signal.reason : error;
  } finally {
    await freezer.close();
  }
}

function connectionLost(cause: unknown) {
  const sentence = 'The connection that kept definitions still was lost while the source was dumped.';
  return transientError('QZ4509', sentence, 'It is tried again by itself.', { cause });
}

interface Dumped {
  frozen: Frozen;
  /** Rows by `keyOf`. */
  counted: Map<string, number>;
}

function isDumped(value: Dumped | Again): value is Dumped {
  return typeof value === 'object' && 'frozen' in value;
}

class Run {
  readonly #context: EngineContext;
  readonly #programs: Programs;
  readonly #folder: string;
  readonly #freezer: Freezer;

  constructor(context: EngineContext, programs: Programs, folder: string, freezer: Freezer) {
    this.#context = context;
    this.#programs = programs;
    this.#folder = folder;
    this.#freezer = freezer;
  }

  async go(): Promise<Outcome> {
    const { mydumper } = this.#programs;
    const plan = await planTables(this.#freezer.connection, mydumper);
    if (isUnfit(plan)) return plan;
    const noRoom = await this.#room(plan);
    if (noRoom !== null) return noRoom;
    const dumped = await this.#dump(plan);
    // Everything is on this host's disk: definitions may change again.
    await this.#freezer.close();
    if (!isDumped(dumped)) return dumped;
    if (plan.others.length > 0) {
      const sentence = `mysqldump dumps what mydumper ${mydumper.version} would lose: ${reasons(plan.others)}`;
      this.#context.logger.info(sentence, { component: 'snapshot' });
    }
    const { frozen, counted } = dumped;
    const found = await findDataFiles(this.#data, plan.tables);
    if (isUnfit(found)) return found;
    const left = leftOut(found, counted);
    if (left.length > 0) return { failed: `mydumper ended well, and wrote no row of ${listed(left)}.` };
    const stored = await this.#store(plan, found, counted, frozen);
    if (isUnfit(stored)) return stored;
    const after = await readInstant(this.#context.connection);
    return {
      gtidsBefore: frozen.gtids,
      gtidsAfter: frozen.gtids,
      startedMicros: frozen.micros,
      finishedMicros: after.micros,
      directories: [{ path: 'data', mode: 0o700 }],
      files: stored,
      madeBy: this.madeBy,
    };
  }

  get madeBy(): string {
    const { mydumper, mysqldump } = this.#programs;
    return `mydumper ${mydumper.version}, mysqldump ${mysqldump.version}`;
  }

  get #data(): string {
    return join(this.#folder, 'data');
  }

  #path(name: string): string {
    return join(this.#folder, name);
  }

  async #room({ dataBytes }: MydumperPlan): Promise<Unfit | null> {
    const wanted = Math.ceil(dataBytes * textFactor) + spareBytes;
    const free = await freeBytes(this.#folder);
    if (free >= wanted) return null;
    const place = baseOf(this.#context);
    return { unfit: `${formatBytes(free)} are free in ${place}, and its files need about ${formatBytes(wanted)}` };
  }

  /** From the lock to the last row; everything on the disk of this host afterwards. */
  async #dump(plan: MydumperPlan): Promise<Dumped | Again> {
    const abort = new AbortController();
    const signal = AbortSignal.any([this.#context.signal, abort.signal]);
    const counter = await this.#freezer.connectBeside(signal);
    const running: Promise<unknown>[] = [];
    let problem: unknown = null;
    const run = (work: Promise<unknown>) => {
      running.push(
        work.catch((error: unknown) => {
          problem ??= error;
          abort.abort(error);
        }),
      );
    };
    try {
      await counter.query('SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ');
      const start = await this.#prepare(plan, signal);
      const frozen = await this.#freezer.freeze(
        async () => {
          await counter.query('START TRANSACTION WITH CONSISTENT SNAPSHOT');
          for (const begin of start) run(begin());
        },
        () => problem !== null,
      );
      this.#context.logger.debug('writes were held up for the dump', { component: 'snapshot', ms: frozen.heldMs });
      // From now on they cannot: what was planned before the lock must still be so.
      const now = await planTables(this.#freezer.connection, this.#programs.mydumper);
      if (isUnfit(now) || definitionsOf(now) !== definitionsOf(plan)) {
        abort.abort(new Error('definitions changed'));
        await Promise.all(running);
        return 'definitions changed';
      }
      run(this.#dumpDefinitions(plan, signal));
      const counts = countRows(counter, plan);
      run(counts);
      await Promise.all(running);
      if (problem !== null) throw problem;
      return { frozen, counted: await counts };
    } catch (error) {
      const first = problem ?? error;
      abort.abort(first);
      await Promise.all(running);
      this.#context.signal.throwIfAborted();
      if (isKind(first, 'transient') && first.code === 'QZ4513') return { failed: first.message };
      throw first;
    } finally {
      await this.#freezer.killReaders();
      await counter.close();
    }
  }

  /** Writes the option files; what is returned begins the programs whose reads must belong to the instant. */
  async #prepare(plan: MydumperPlan, signal: AbortSignal): Promise<(() => Promise<void>)[]> {
    const schemas = ['--databases', '--', ...plan.schemas];
    const isMixed = plan.others.length > 0;
    return [
      await this.#prepareMydumper(plan, signal),
      await this.#prepareMysqldump('accounts', ['--routines', '--events', '--databases', 'mysql'], [], signal),
      ...(isMixed
        ? [
            await this.#prepareMysqldump(
              'rest',
              ['--no-create-info', '--no-create-db', '--skip-triggers', '--complete-insert', ...schemas],
              plan.tables.map(({ db, name }) => `${db}.${name}`),
              signal,
            ),
          ]
        : []),
    ];
  }

  async #prepareMydumper(plan: MydumperPlan, signal: AbortSignal): Promise<() => Promise<void>> {
    const { endpoint, connection } = this.#context;
    await mkdir(this.#data, { mode: 0o700 });
    const omitFile = this.#path('omit');
    await writeFile(omitFile, plan.others.map(({ db, name }) => `${db}.${name}\n`).join(''), { mode: 0o600 });
    let hasEnded = false;
    const group = { role: 'mydumper', readers: threads, hasLeader: true, hasEnded: () => hasEnded };
    const first = this.#freezer.join(group);
    const args = mydumperArguments(this.#programs.mydumper, {
      optionFile: await this.#options('mydumper', clientOptions(endpoint, [['client', 'init-command', first]])),
      outputDir: this.#data,
      omitFile: plan.others.length > 0 ? omitFile : null,
      threads,
      rowsPerFile: plan.rowsPerFile,
      encrypted: connection.encrypted,
      omitSchemas: plan.omitSchemas,
      schemas: new Set(plan.tables.map(({ db }) => db)),
    });
    return async () => {
      const dumped = this.#runMydumper(args, signal).then(() => {
        hasEnded = true;
      });
      await Promise.all([dumped, this.#freezer.watch(group, signal)]);
    };
  }

  /** Into `NAME.sql`, in one consistent read. `ignored`: tables, as `db.table`. */
  async #prepareMysqldump(
    name: 'accounts' | 'rest',
    args: readonly string[],
    ignored: readonly string[],
    signal: AbortSignal,
  ): Promise<() => Promise<void>> {
    let hasEnded = false;
    const first = this.#freezer.join({ role: name, readers: 1, hasLeader: false, hasEnded: () => hasEnded });
    const more: [string, string, string][] = [['mysqldump', 'init-command', first]];
    for (const table of ignored) more.push(['mysqldump', 'ignore-table', table]);
    const optionFile = await this.#options(name, clientOptions(this.#context.endpoint, more));
    return async () => {
      await this.#mysqldump(optionFile, ['--single-transaction', ...args], `${name}.sql`, signal);
      hasEnded = true;
    };
  }

  async #options(name: string, text: string): Promise<string> {
    const path = this.#path(`${name}.cnf`);
    await writeFile(path, text, { mode: 0o600 });
    return path;
  }

  async #runMydumper(args: readonly string[], signal: AbortSignal): Promise<void> {
    const { path } = this.#programs.mydumper;
    const { code, stderr } = await startDump({ name: 'mydumper', path }, args, 'collect', signal).ended;
    if (code === 0) return;
    const critical = /CRITICAL \*\*:(?: [\d:.]+:)? (.*)/.exec(stderr)?.[1] ?? stderr.trim().split('\n')[0] ?? '';
    const why = critical === '' ? '' : `: ${critical}`;
    const hint = 'It is given another try, then mysqldump is used in its place.';
    throw transientError('QZ4513', `mydumper failed (exit ${code ?? 'by a signal'})${why}.`, hint);
  }

  async #mysqldump(optionFile: string, args: readonly string[], name: string, signal: AbortSignal): Promise<void> {
    const common = [
      `--defaults-file=${optionFile}`,
      '--set-gtid-purged=OFF',
      '--skip-lock-tables',
      '--skip-add-locks',
      '--skip-disable-keys',
      '--hex-blob',
      '--default-character-set=utf8mb4',
    ];
    const program = { name: 'mysqldump', path: this.#programs.mysqldump.path };
    await dumpIntoFile(program, [...common, ...args], this.#path(name), signal);
  }

  /** Later than the instant, which is the same: nothing but AUTO_INCREMENT has moved since, and only upwards. */
  async #dumpDefinitions({ schemas }: MydumperPlan, signal: AbortSignal): Promise<void> {
    const options = await this.#options('schema', clientOptions(this.#context.endpoint));
    const named = ['--databases', '--', ...schemas];
    const ofSchema = ['--no-data', '--skip-triggers', '--routines', '--events', ...named];
    await this.#mysqldump(options, ofSchema, 'schema.sql', signal);
    const ofTriggers = ['--no-data', '--no-create-info', '--no-create-db', '--triggers', ...named];
    await this.#mysqldump(options, ofTriggers, 'triggers.sql', signal);
  }

  /** Into the archives; what mydumper wrote is checked on its way. */
  async #store(
    plan: MydumperPlan,
    files: readonly DataFile[],
    counted: ReadonlyMap<string, number>,
    { gtids }: Frozen,
  ): Promise<CopiedFile[] | Unfit> {
    const { pipeline, onProgress } = this.#context;
    const reader = new PieceReader();
    const head = { text: sessionHead(null) };
    const file = (name: string) => ({ file: this.#path(name) });
    const made = `-- Made by ${this.madeBy}.\n`;
    const parts: { path: string; read: () => AsyncGenerator<Buffer> }[] = [
      { path: 'schema.sql', read: () => joined([{ text: made }, head, file('schema.sql')]) },
    ];
    const number = () => `data/${String(parts.length).padStart(6, '0')}.sql`;
    // The only one that cannot be split goes first: a restore begins with it.
    if (plan.others.length > 0) {
      parts.push({ path: number(), read: () => joined([head, file('rest.sql')]) });
    }
    for (const piece of piecesOf(files)) parts.push({ path: number(), read: () => reader.read(piece) });
    // The accounts come last: whoever loads them may have no rights any more.
    const purged = { text: gtids.toString() === '' ? '' : `SET @@GLOBAL.GTID_PURGED = /*!80000 '+'*/ '${gtids}';\n` };
    const after = [head, file('triggers.sql'), purged, file('accounts.sql')];
    parts.push({ path: 'after.sql', read: () => joined(after) });
    const totalBytes = await this.#sizeOf(plan, files);
    const stored: CopiedFile[] = [];
    let doneBytes = 0;
    for (const { path, read } of parts) {
      const written = await pipeline.writeFile(readerOfParts(read()), (bytes) => {
        doneBytes += bytes;
        onProgress(doneBytes, Math.max(totalBytes, doneBytes));
      });
      if (reader.problem !== null) break;
      stored.push({ ...written, path, mode: 0o600 });
    }
    return reader.unfit(counted) ?? stored;
  }

  async #sizeOf(plan: MydumperPlan, files: readonly DataFile[]): Promise<number> {
    let total = files.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
    const others = ['schema.sql', 'triggers.sql', 'accounts.sql', ...(plan.others.length > 0 ? ['rest.sql'] : [])];
    for (const name of others) total += (await stat(this.#path(name))).size;
    return total;
  }
}

async function* joined(parts: readonly ({ text: string } | { file: string })[]): AsyncGenerator<Buffer> {
  for (const part of parts) {
    if ('text' in part) yield Buffer.from(part.text);
    else {
      for await (const bytes of createReadStream(part.file)) {
        if (!Buffer.isBuffer(bytes)) throw new Error('a file is read as bytes');
        yield bytes;
      }
    }
  }
}
